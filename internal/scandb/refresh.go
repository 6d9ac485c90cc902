package scandb

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"time"

	"github.com/opencontainers/go-digest"

	"strake/internal/jobs"
	"strake/internal/sqldb"
	"strake/internal/vuln"
)

// Feed is where vulnerability data comes from, and how often.
type Feed struct {
	From       string // see vuln.ImportOptions
	Ecosystems []string
	Every      time.Duration // 0: once
}

// Schedule has the vulnerability data brought up to date, now or when it is as old as
// feed.Every, and from then on as often. Of feeds that replicas schedule at once the last one counts.
func Schedule(ctx context.Context, db *sqldb.DB, feed Feed) error {
	sources, err := vuln.Sources(ctx, db)
	if err != nil {
		return err
	}
	due := time.Now()
	for i, s := range sources {
		if at := s.Imported.Add(feed.Every); i == 0 && feed.Every > 0 || at.Before(due) {
			due = at
		}
	}
	return db.Update(ctx, func(tx *sql.Tx) error { return addFeed(ctx, tx, feed, due) })
}

func addFeed(ctx context.Context, tx *sql.Tx, feed Feed, due time.Time) error {
	payload, err := json.Marshal(feed)
	if err != nil {
		return err
	}
	return jobs.Add(ctx, tx, jobs.Job{Kind: RefreshJob, Key: refreshKey, Payload: string(payload), NotBefore: due})
}

func (s *Scanner) refreshJob(ctx context.Context, job jobs.Job) error {
	var feed Feed
	if err := json.Unmarshal([]byte(job.Payload), &feed); err != nil {
		return fmt.Errorf("%w: %w", err, jobs.ErrGiveUp)
	}
	if _, err := s.Refresh(ctx, vuln.ImportOptions{From: feed.From, Ecosystems: feed.Ecosystems}); err != nil {
		return err
	}
	if feed.Every <= 0 {
		return nil
	}
	return s.DB.Update(ctx, func(tx *sql.Tx) error { return addFeed(ctx, tx, feed, time.Now().Add(feed.Every)) })
}

// Refresh imports vulnerability data, and has the images matched again that have a
// package of which it says something else than before.
func (s *Scanner) Refresh(ctx context.Context, opts vuln.ImportOptions) (vuln.Imported, error) {
	before := map[string]int64{}
	list, err := vuln.Sources(ctx, s.DB)
	if err != nil {
		return vuln.Imported{}, err
	}
	for _, source := range list {
		before[source.Name] = source.Generation
	}
	result, err := vuln.Import(ctx, s.DB, opts)
	if err != nil {
		return result, err
	}
	for _, source := range result.Sources {
		if err := s.DB.Update(ctx, func(tx *sql.Tx) error { return stale(ctx, tx, source, before) }); err != nil {
			return result, fmt.Errorf("find what %s is about: %w", source, err)
		}
	}
	return result, nil
}

// stale has images matched again of which a source may say something else than it
// did at the generations before.
func stale(ctx context.Context, tx *sql.Tx, source string, before map[string]int64) error {
	images := map[string]bool{}
	add := func(rows *sql.Rows) error {
		var image string
		if err := rows.Scan(&image); err != nil {
			return err
		}
		images[image] = true
		return nil
	}
	type pair struct{ ecosystem, name string }
	var touched []pair
	known := false
	if since, ok := before[source]; ok {
		var err error
		known, err = vuln.Touched(ctx, tx, source, since, func(ecosystem, name string) error {
			touched = append(touched, pair{ecosystem, name})
			return nil
		})
		if err != nil {
			return err
		}
	}
	if !known {
		err := sqldb.Each(ctx, tx, "SELECT DISTINCT image FROM scan_packages WHERE ecosystem = $1 OR ecosystem LIKE $2", []any{source, source + ":%"}, add)
		if err != nil {
			return err
		}
	}
	for _, p := range touched {
		// What is said of an ecosystem without its release is about all of them.
		err := sqldb.Each(ctx, tx, "SELECT DISTINCT image FROM scan_packages WHERE key = $1 AND (ecosystem = $2 OR ecosystem LIKE $3)",
			[]any{p.name, p.ecosystem, p.ecosystem + ":%"}, add)
		if err != nil {
			return err
		}
	}
	for image := range images {
		if err := jobs.Add(ctx, tx, jobs.Job{Kind: MatchJob, Key: digest.Digest(image).String()}); err != nil {
			return err
		}
	}
	return nil
}
