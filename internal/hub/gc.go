package hub

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strconv"
	"time"

	"github.com/containerd/errdefs"

	"strake/internal/auth"
	"strake/internal/sqldb"
)

// DefaultGrace is how long a blob that no manifest names stays in a repository:
// a push links blobs before it puts the manifest.
const DefaultGrace = 24 * time.Hour

// GCOptions say what Collect removes.
type GCOptions struct {
	Grace   time.Duration // 0: DefaultGrace
	Window  time.Duration // that the journal reaches back; 0: Window
	Full    bool          // look at all rows, not at what changed alone
	Orphans bool          // look for bytes that the database does not know, too: lists the whole content store
	DryRun  bool          // only count; orphans and uploads are left out; with Full among all rows

	noted int64 // the collection that was asked for; 0: none, it is noted when it begins
}

func (o *GCOptions) defaults() {
	if o.Grace == 0 {
		o.Grace = DefaultGrace
	}
	if o.Window == 0 {
		o.Window = Window
	}
}

// GCResult is what a collection removed.
type GCResult struct {
	Manifests int64 `json:"manifests"` // deleted ones, that can be restored no more
	Links     int64 `json:"links"`     // blobs of repositories that no manifest named
	Blobs     int64 `json:"blobs"`     // whose bytes were removed, manifests among them
	Bytes     int64 `json:"bytes"`     // that they had
	Uploads   int64 `json:"uploads"`   // unfinished
	Orphans   int64 `json:"orphans"`   // bytes that the database did not know; they go in a later collection
}

// collector is one collection.
type collector struct {
	*Hub
	opts   GCOptions
	now    time.Time // when it began
	begun  time.Time // the same, by the clock
	holder string
	pace   pace
	result GCResult
}

// Collect removes what nothing needs any more: deleted manifests after the
// journal's window, blobs that no manifest of their repository names after a
// grace, bytes that no repository holds, uploads that nobody goes on with. The
// Hub serves meanwhile; any number of Hubs on the same data may collect at once.
// What it costs is what changed since the last time, unless it is a full one.
// Where Collect fails the result says what it did until then.
func Collect(ctx context.Context, h *Hub, opts GCOptions) (GCResult, error) {
	return collectAt(ctx, h, opts, time.Now())
}

// collectAt is Collect at another time.
func collectAt(ctx context.Context, h *Hub, opts GCOptions, now time.Time) (GCResult, error) {
	opts.defaults()
	c := &collector{Hub: h, opts: opts, now: now, begun: time.Now(), holder: newID(), pace: pace{rows: startRows}}
	ctx = auth.With(ctx, auth.Identity{System: true})
	steps := []func(context.Context) error{c.forget, c.lookOver, c.unlink, c.finish, c.collect, c.uploads}
	if opts.DryRun {
		steps = []func(context.Context) error{c.count}
	} else if opts.Orphans {
		steps = append(steps, c.adopt)
	}
	run := c.runNoted
	if opts.DryRun {
		run = runAll
	}
	if err := run(ctx, steps); err != nil {
		return c.result, fmt.Errorf("collect garbage: %w", err)
	}
	return c.result, nil
}

// runAll runs the steps of a collection, until one fails.
func runAll(ctx context.Context, steps []func(context.Context) error) error {
	for _, step := range steps {
		if err := step(ctx); err != nil {
			return err
		}
	}
	return nil
}

// current is what time it is.
func (c *collector) current() time.Time { return c.now.Add(time.Since(c.begun)) }

func (c *collector) ago(d time.Duration) time.Time { return c.now.Add(-d) }

// reserved is before when bytes must have been reserved to be collected.
func (c *collector) reserved() int64 { return c.ago(min(c.opts.Grace, reserveFor)).Unix() }

// uploads drops unfinished blobs that nobody goes on with.
func (c *collector) uploads(ctx context.Context) error {
	n, err := c.expireUploads(ctx)
	c.result.Uploads += n
	if err != nil {
		return err
	}
	infos, err := c.content.Ingests(ctx)
	if err != nil {
		return err
	}
	old := c.ago(max(c.opts.Grace, reserveFor))
	for _, info := range infos {
		if info.Held || info.ModTime.After(old) {
			continue
		}
		var one int
		err := c.db.Get(ctx, `SELECT 1 FROM uploads WHERE id = $1`, []any{uploadID(info.Ref)}, &one)
		if err == nil {
			continue
		}
		if !errors.Is(err, sql.ErrNoRows) {
			return err
		}
		if err := c.content.Abort(ctx, info.Ref); errdefs.IsNotFound(err) || errdefs.IsUnavailable(err) {
			continue
		} else if err != nil {
			return err
		}
		c.result.Uploads++
	}
	if s, ok := c.content.(interface {
		Sweep(ctx context.Context, before time.Time) error
	}); ok {
		return s.Sweep(ctx, old)
	}
	return nil
}

// Of what a collection looks at: candidates, and what deleted manifests named that
// it forgets. $1, $2 and $3 are before when these were deleted, a link's grace
// began, and that of bytes.
const (
	linksAmong = `(SELECT repository, digest FROM candidates WHERE repository <> 0 AND since < $2
		UNION SELECT f.repository, f.child FROM trash t JOIN trash_refs f ON f.repository = t.repository AND f.manifest = t.digest WHERE t.deleted < $1)`
	contentsAmong = `(SELECT digest FROM candidates WHERE repository = 0 AND since < $3
		UNION SELECT digest FROM trash WHERE deleted < $1 UNION SELECT digest FROM ` + linksAmong + ` AS l)`
)

// count finds out what would go, among what changed or, as a full collection does,
// among all rows.
func (c *collector) count(ctx context.Context) error {
	full, err := c.full(ctx)
	if err != nil {
		return err
	}
	links, contents := `SELECT count(*) FROM blobs b WHERE b.linked < $2 AND `+unnamed, `
		SELECT count(*), COALESCE(sum(c.size), 0) FROM contents c WHERE c.touched < $3
		AND NOT EXISTS (SELECT 1 FROM manifests m WHERE m.digest = c.digest)
		AND NOT EXISTS (SELECT 1 FROM trash t WHERE t.digest = c.digest AND t.deleted >= $1)
		AND NOT EXISTS (SELECT 1 FROM blobs b WHERE b.digest = c.digest AND NOT (b.linked < $2 AND `+unnamed+`))`
	if !full {
		links += ` AND (b.repository, b.digest) IN ` + linksAmong
		contents += ` AND c.digest IN ` + contentsAmong
	}
	return c.db.View(ctx, func(tx *sql.Tx) error {
		grace, window := c.ago(c.opts.Grace).Unix(), c.ago(c.opts.Window).Unix()
		err := tx.QueryRowContext(ctx, `SELECT count(*) FROM trash WHERE deleted < $1`, window).Scan(&c.result.Manifests)
		if err != nil {
			return err
		}
		if err := tx.QueryRowContext(ctx, links, window, grace).Scan(&c.result.Links); err != nil {
			return err
		}
		return tx.QueryRowContext(ctx, contents, window, grace, c.reserved()).Scan(&c.result.Blobs, &c.result.Bytes)
	})
}

// CollectEvery collects garbage until ctx is done, about once in interval among
// all Hubs on the same data.
func CollectEvery(ctx context.Context, h *Hub, opts GCOptions, interval time.Duration, log *slog.Logger) {
	for {
		// Not all Hubs at once, and the first one soon.
		pause := min(interval, time.Minute)/2 + rand.N(min(interval, time.Minute)) //nolint:gosec // not a secret
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
		}
		mine, err := claim(ctx, h.db, interval)
		if err == nil && !mine {
			continue
		}
		var result GCResult
		if err == nil {
			result, err = Collect(ctx, h, opts)
		}
		if ctx.Err() != nil {
			return
		}
		logCollection(log, result, err)
	}
}

// claim tells whether no Hub has begun to collect within interval, and notes
// that this one does.
func claim(ctx context.Context, db *sqldb.DB, interval time.Duration) (mine bool, err error) {
	const name = "gc-begun"
	err = db.Update(ctx, func(tx *sql.Tx) error {
		mine = false
		var last string
		err := tx.QueryRowContext(ctx, `SELECT value FROM settings WHERE name = $1`, name).Scan(&last)
		if err != nil && !errors.Is(err, sql.ErrNoRows) {
			return err
		}
		begun, err := strconv.ParseInt(last, 10, 64)
		if err == nil && time.Since(time.UnixMilli(begun)) < interval {
			return nil
		}
		mine = true
		_, err = tx.ExecContext(ctx, `INSERT INTO settings (name, value) VALUES ($1, $2) ON CONFLICT (name) DO UPDATE SET value = excluded.value`,
			name, strconv.FormatInt(time.Now().UnixMilli(), 10))
		return err
	})
	return mine, err
}
