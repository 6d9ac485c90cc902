// Package review keeps what is pushed to public community repositories from
// readers until a reviewer lets it through.
//
// What lands there is held: who may write to the repository pulls it, for readers
// it does not exist. A tag that readers see goes on naming what it named, while
// its new digest is pending. A review is of one tag. Automatic checks run over its
// image first; then a reviewer approves it, and it is published, or returns it with
// a comment, which its author sees, answers and mends by pushing again. Official
// and verified repositories, the namespaces of verified accounts, private
// repositories and administrators are exempt; a private repository that is made
// public has all that it holds reviewed first.
package review

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"

	"strake/internal/auth"
	"strake/internal/fault"
	"strake/internal/hub"
	"strake/internal/jobs"
	"strake/internal/sqldb"
)

// State is how far a review is.
type State string

// The states. The first three are open.
const (
	Checking  State = "checking"  // the checks run
	Waiting   State = "waiting"   // for a reviewer
	Returned  State = "returned"  // to its author
	Approved  State = "approved"  // and published
	Withdrawn State = "withdrawn" // the tag is gone, or was set by who needs no review
)

// Review is the review of a tag.
type Review struct {
	ID         int64         `json:"id"`
	Repository string        `json:"repository"`
	Tag        string        `json:"tag"`
	Digest     digest.Digest `json:"digest"`
	State      State         `json:"state"`
	Author     string        `json:"author"`
	Opened     time.Time     `json:"opened"`
	Changed    time.Time     `json:"changed"`
	Reviewer   string        `json:"reviewer,omitempty"`
	Published  digest.Digest `json:"published,omitempty"` // what readers get of the tag meanwhile; of Get
	Checks     []Result      `json:"checks,omitempty"`    // of Get
	Comments   []Comment     `json:"comments,omitempty"`  // of Get
}

// Comment is what somebody said or did.
type Comment struct {
	At     time.Time `json:"at"`
	Author string    `json:"author"`
	Kind   string    `json:"kind"` // push, comment, approve, return, withdraw
	Text   string    `json:"text"`
}

// maxComment is how long a comment may be, in bytes.
const maxComment = 16 << 10

// Board keeps the reviews. It is safe for concurrent use.
type Board struct {
	db  *sqldb.DB
	now func() time.Time
}

// New returns the board of a Hub.
func New(db *sqldb.DB) *Board { return &Board{db: db, now: time.Now} }

// checkJob is the kind of the jobs that run the checks; the key is a review's ID.
const checkJob = "review.check"

// Hook is the hub.Hook that holds what is to be reviewed.
func (b *Board) Hook(ctx context.Context, tx *sql.Tx, c hub.Change) error {
	switch c.Kind {
	case hub.ManifestPut:
		if !c.Fresh {
			return nil
		}
		must, err := mustReview(ctx, tx, c)
		if err != nil || !must {
			return err
		}
		return hold(ctx, tx, c)
	case hub.TagSet:
		if c.Held {
			return b.open(ctx, tx, c)
		}
		return b.withdraw(ctx, tx, c.ID, c.Tag, "the tag was set to what needs no review")
	case hub.TagDeleted:
		return b.withdraw(ctx, tx, c.ID, c.Tag, "the tag was deleted")
	case hub.TagPublished: // with another tag of the same image, perhaps
		_, err := tx.ExecContext(ctx, `
			UPDATE reviews SET state = 'approved', reviewer = $4, changed = $5
			WHERE repository = $1 AND tag = $2 AND digest = $3 AND state IN ('checking', 'waiting', 'returned')`,
			c.ID, c.Tag, c.Desc.Digest.String(), auth.From(ctx).Name, b.now().Unix())
		return err
	case hub.Visibility:
		return b.reveal(ctx, tx, c)
	}
	return nil
}

// mustReview reports whether what the caller pushes is to be reviewed.
func mustReview(ctx context.Context, tx *sql.Tx, c hub.Change) (bool, error) {
	if id := auth.From(ctx); id.System || id.Admin {
		return false, nil
	}
	return reviewed(ctx, tx, c.ID)
}

// reviewed reports whether readers of a repository see only what was approved.
func reviewed(ctx context.Context, tx *sql.Tx, repository int64) (bool, error) {
	var n int
	err := tx.QueryRowContext(ctx, `
		SELECT count(*) FROM repositories r WHERE r.id = $1 AND r.public = 1 AND r.kind = 'community'
		AND NOT EXISTS (SELECT 1 FROM accounts a WHERE a.name = r.namespace AND a.verified = 1)`, repository).Scan(&n)
	return n > 0, err
}

// hold hides a manifest from readers, unless it was approved before. An artifact
// that says something about what is published, as a signature does, is published
// with that.
func hold(ctx context.Context, tx *sql.Tx, c hub.Change) error {
	_, err := tx.ExecContext(ctx, `
		UPDATE manifests SET held = 1 WHERE repository = $1 AND digest = $2
		AND NOT EXISTS (SELECT 1 FROM reviews v WHERE v.repository = $1 AND v.digest = $2 AND v.state = 'approved')
		AND NOT (artifact = 1 AND EXISTS (SELECT 1 FROM manifests s WHERE s.repository = $1 AND s.digest = manifests.subject AND s.held = 0))`,
		c.ID, c.Desc.Digest.String())
	if err != nil {
		return fmt.Errorf("hold %s: %w", c.Desc.Digest, err)
	}
	return nil
}

// open begins the review of a tag, or goes on with the one that is open.
func (b *Board) open(ctx context.Context, tx *sql.Tx, c hub.Change) error {
	var id int64
	now, author := b.now().Unix(), auth.From(ctx).Name
	err := tx.QueryRowContext(ctx, `
		INSERT INTO reviews (repository, tag, digest, state, author, opened, changed) VALUES ($1, $2, $3, 'checking', $4, $5, $5)
		ON CONFLICT (repository, tag) WHERE state IN ('checking', 'waiting', 'returned')
		DO UPDATE SET digest = excluded.digest, state = 'checking', author = excluded.author, changed = excluded.changed, reviewer = ''
		RETURNING id`, c.ID, c.Tag, c.Desc.Digest.String(), author, now).Scan(&id)
	if err != nil {
		return fmt.Errorf("open review: %w", err)
	}
	if _, err := tx.ExecContext(ctx, `DELETE FROM review_checks WHERE review = $1`, id); err != nil {
		return err
	}
	if err := b.say(ctx, tx, id, "push", c.Desc.Digest.String()); err != nil {
		return err
	}
	return jobs.Add(ctx, tx, jobs.Job{Kind: checkJob, Key: strconv.FormatInt(id, 10)})
}

// withdraw ends the open review of a tag, if there is one.
func (b *Board) withdraw(ctx context.Context, tx *sql.Tx, repository int64, tag, why string) error {
	var id int64
	err := tx.QueryRowContext(ctx, `
		UPDATE reviews SET state = 'withdrawn', changed = $3 WHERE repository = $1 AND tag = $2 AND state IN ('checking', 'waiting', 'returned')
		RETURNING id`, repository, tag, b.now().Unix()).Scan(&id)
	if errors.Is(err, sql.ErrNoRows) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("withdraw review: %w", err)
	}
	return b.say(ctx, tx, id, "withdraw", why)
}

// reveal holds everything in a repository that became public, but what was
// approved before, and begins the reviews of its tags. Of one that needs no
// reviews any more everything is published.
func (b *Board) reveal(ctx context.Context, tx *sql.Tx, c hub.Change) error {
	must, err := reviewed(ctx, tx, c.ID)
	if err != nil {
		return err
	}
	if !must {
		return b.release(ctx, tx, c)
	}
	_, err = tx.ExecContext(ctx, `
		WITH RECURSIVE approved (digest) AS (
		  SELECT digest FROM reviews WHERE repository = $1 AND state = 'approved'
		  UNION SELECT f.child FROM approved a JOIN refs f ON f.repository = $1 AND f.manifest = a.digest
		)
		UPDATE manifests SET held = 1 WHERE repository = $1 AND digest NOT IN (SELECT digest FROM approved)
		AND NOT (artifact = 1 AND subject IN (SELECT digest FROM approved))`, c.ID)
	if err != nil {
		return fmt.Errorf("hold what %s has: %w", c.Repository, err)
	}
	type tag struct{ name, digest string }
	var tags []tag
	err = sqldb.Each(ctx, tx, `
		SELECT t.name, t.digest FROM tags t JOIN manifests m ON m.repository = t.repository AND m.digest = t.digest
		WHERE t.repository = $1 AND m.held = 1 ORDER BY t.name`, []any{c.ID}, func(rows *sql.Rows) error {
		var t tag
		err := rows.Scan(&t.name, &t.digest)
		tags = append(tags, t)
		return err
	})
	if err != nil {
		return err
	}
	for _, t := range tags {
		c.Tag, c.Desc.Digest = t.name, digest.Digest(t.digest)
		if err := b.open(ctx, tx, c); err != nil {
			return err
		}
	}
	return nil
}

// release publishes everything in a repository.
func (b *Board) release(ctx context.Context, tx *sql.Tx, c hub.Change) error {
	for _, text := range []string{
		`UPDATE manifests SET held = 0 WHERE repository = $1 AND held = 1`,
		`UPDATE tags SET digest = pending, pending = '' WHERE repository = $1 AND pending <> ''`,
	} {
		if _, err := tx.ExecContext(ctx, text, c.ID); err != nil {
			return fmt.Errorf("publish what %s has: %w", c.Repository, err)
		}
	}
	_, err := tx.ExecContext(ctx, `
		UPDATE reviews SET state = 'withdrawn', changed = $2 WHERE repository = $1 AND state IN ('checking', 'waiting', 'returned')`, c.ID, b.now().Unix())
	return err
}

// say adds to the thread of a review.
func (b *Board) say(ctx context.Context, tx *sql.Tx, id int64, kind, text string) error {
	_, err := tx.ExecContext(ctx, `INSERT INTO review_comments (review, at, author, kind, text) VALUES ($1, $2, $3, $4, $5)`,
		id, b.now().Unix(), auth.From(ctx).Name, kind, text)
	if err != nil {
		return fmt.Errorf("add to review: %w", err)
	}
	return nil
}

// checkText returns a comment without white space around it.
func checkText(text string, needed bool) (string, error) {
	text = strings.TrimSpace(text)
	if needed && text == "" {
		return "", fault.In("text", fmt.Errorf("a comment says something: %w", errdefs.ErrInvalidArgument))
	}
	if len(text) > maxComment {
		return "", fault.In("text", fmt.Errorf("a comment has at most %d bytes: %w", maxComment, errdefs.ErrInvalidArgument))
	}
	return text, nil
}
