package review

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"strake/internal/auth"
	"strake/internal/hub"
	"strake/internal/sqldb"
)

// Decision is what a reviewer says of the image that they looked at.
type Decision struct {
	Digest  digest.Digest `json:"digest"` // which image that was: a push meanwhile makes the decision fail
	Comment string        `json:"comment"`
	// Override approves in spite of checks that failed; the audit log has it.
	Override bool `json:"override,omitempty"`
}

// Filter says which reviews to list; what is empty lets all through.
type Filter struct {
	Repository string
	State      State
	Before     int64 // an ID: older ones
	Limit      int   // 0 is 100, which is also the most
}

const columns = `SELECT v.id, r.name, v.tag, v.digest, v.state, v.author, v.opened, v.changed, v.reviewer, r.id
	FROM reviews v JOIN repositories r ON r.id = v.repository `

func scanReview(row interface{ Scan(dest ...any) error }) (v Review, repository int64, err error) {
	var opened, changed int64
	err = row.Scan(&v.ID, &v.Repository, &v.Tag, &v.Digest, &v.State, &v.Author, &opened, &changed, &v.Reviewer, &repository)
	v.Opened, v.Changed = time.Unix(opened, 0), time.Unix(changed, 0)
	return v, repository, err
}

// find returns a review that the caller may see: a reviewer, or who may write to
// the repository. For others it does not exist.
func find(ctx context.Context, tx *sql.Tx, id int64) (v Review, repository int64, err error) {
	unknown := fmt.Errorf("review %d: %w", id, errdefs.ErrNotFound)
	if auth.From(ctx).Anonymous() {
		return v, 0, fmt.Errorf("authentication required: %w", errdefs.ErrUnauthenticated)
	}
	v, repository, err = scanReview(tx.QueryRowContext(ctx, columns+`WHERE v.id = $1`, id))
	if errors.Is(err, sql.ErrNoRows) {
		return v, 0, unknown
	}
	if err != nil || auth.From(ctx).IsReviewer() {
		return v, repository, err
	}
	role, err := auth.RoleOf(ctx, tx, auth.From(ctx), v.Repository)
	if err == nil && role < auth.Write {
		err = unknown
	}
	return v, repository, err
}

// List lists reviews, the newest first: of one repository for who may write to
// it, of all for reviewers.
func (b *Board) List(ctx context.Context, f Filter) (list []Review, err error) {
	if f.Limit <= 0 || f.Limit > 100 {
		f.Limit = 100
	}
	err = b.db.View(ctx, func(tx *sql.Tx) error {
		list = []Review{}
		if !auth.From(ctx).IsReviewer() {
			if f.Repository == "" {
				return needReviewer(ctx)
			}
			if err := auth.Need(ctx, tx, f.Repository, auth.Write); err != nil {
				return err
			}
		}
		return sqldb.Each(ctx, tx, columns+`WHERE ($1 = '' OR r.name = $1) AND ($2 = '' OR v.state = $2) AND ($3 = 0 OR v.id < $3) ORDER BY v.id DESC LIMIT $4`,
			[]any{f.Repository, string(f.State), f.Before, f.Limit}, func(rows *sql.Rows) error {
				v, _, err := scanReview(rows)
				list = append(list, v)
				return err
			})
	})
	return list, err
}

func needReviewer(ctx context.Context) error {
	switch id := auth.From(ctx); {
	case id.IsReviewer():
		return nil
	case id.Anonymous():
		return fmt.Errorf("authentication required: %w", errdefs.ErrUnauthenticated)
	}
	return fmt.Errorf("only reviewers may do that: %w", errdefs.ErrPermissionDenied)
}

// Pushed is for registry.Options: it tells who pushed an image that it waits for a
// review.
func (b *Board) Pushed(ctx context.Context, repo string, dgst digest.Digest) (warning string, err error) {
	var open int
	err = b.db.Get(ctx, `
		SELECT count(*) FROM reviews v JOIN repositories r ON r.id = v.repository
		WHERE r.name = $1 AND v.digest = $2 AND v.state IN ('checking', 'waiting', 'returned')`, []any{repo, dgst.String()}, &open)
	if err != nil || open == 0 {
		return "", err
	}
	return "this image waits for a review: until it is approved, only who may push to " + repo + " can pull it", nil
}

// Get returns a review with its checks and its thread.
func (b *Board) Get(ctx context.Context, id int64) (v Review, err error) {
	err = b.db.View(ctx, func(tx *sql.Tx) error {
		var repository int64
		if v, repository, err = find(ctx, tx, id); err != nil {
			return err
		}
		err := tx.QueryRowContext(ctx, `
			SELECT t.digest FROM tags t JOIN manifests m ON m.repository = t.repository AND m.digest = t.digest
			WHERE t.repository = $1 AND t.name = $2 AND m.held = 0`, repository, v.Tag).Scan(&v.Published)
		if err != nil && !errors.Is(err, sql.ErrNoRows) {
			return err
		}
		err = sqldb.Each(ctx, tx, `SELECT name, result, message FROM review_checks WHERE review = $1 ORDER BY position`, []any{id}, func(rows *sql.Rows) error {
			var r Result
			err := rows.Scan(&r.Check, &r.Verdict, &r.Message)
			v.Checks = append(v.Checks, r)
			return err
		})
		if err != nil {
			return err
		}
		return sqldb.Each(ctx, tx, `SELECT at, author, kind, text FROM review_comments WHERE review = $1 ORDER BY id`, []any{id}, func(rows *sql.Rows) error {
			var c Comment
			var at int64
			err := rows.Scan(&at, &c.Author, &c.Kind, &c.Text)
			c.At = time.Unix(at, 0)
			v.Comments = append(v.Comments, c)
			return err
		})
	})
	return v, err
}

// Comment adds to the thread of a review, open or not.
func (b *Board) Comment(ctx context.Context, id int64, text string) error {
	text, err := checkText(text, true)
	if err != nil {
		return err
	}
	return b.db.Update(ctx, func(tx *sql.Tx) error {
		v, _, err := find(ctx, tx, id)
		if err != nil {
			return err
		}
		if err := b.say(ctx, tx, id, "comment", text); err != nil {
			return err
		}
		return auth.Audit(ctx, tx, "review.comment", v.Repository+":"+v.Tag, map[string]any{"review": id})
	})
}

// Approve publishes the image of a review, with what refers to it, and lets its
// tag name it for everybody. hooks are the Hub's. It is for reviewers, but not for
// the author; it fails with FailedPrecondition when the checks are not done or
// failed (see Decision.Override), or when another image was pushed meanwhile.
func (b *Board) Approve(ctx context.Context, hooks hub.Hooks, id int64, d Decision) error {
	return b.decide(ctx, id, d, false, func(tx *sql.Tx, v Review, repository int64) error {
		var failed int
		if err := tx.QueryRowContext(ctx, `SELECT count(*) FROM review_checks WHERE review = $1 AND result = 'fail'`, id).Scan(&failed); err != nil {
			return err
		}
		switch {
		case v.State == Checking:
			return fmt.Errorf("review %d: its checks are not done: %w", id, errdefs.ErrFailedPrecondition)
		case failed > 0 && !d.Override:
			return fmt.Errorf("review %d: %d checks failed; say override to approve all the same: %w", id, failed, errdefs.ErrFailedPrecondition)
		}
		if err := b.settle(ctx, tx, v, Approved, "approve", d); err != nil {
			return err
		}
		return hooks.Publish(ctx, tx, repository, v.Repository, v.Digest)
	})
}

// Return gives an image back to its author, with a comment that says why. It stays
// held. It is for reviewers. hooks are the Hub's.
func (b *Board) Return(ctx context.Context, hooks hub.Hooks, id int64, d Decision) error {
	return b.decide(ctx, id, d, true, func(tx *sql.Tx, v Review, repository int64) error {
		if err := b.settle(ctx, tx, v, Returned, "return", d); err != nil {
			return err
		}
		desc := ocispec.Descriptor{Digest: v.Digest}
		return hooks.Call(ctx, tx, hub.Change{Kind: hub.ReviewReturned, Repository: v.Repository, ID: repository, Desc: desc, Tag: v.Tag, Held: true})
	})
}

// decide checks that the caller may decide an open review, and about what.
func (b *Board) decide(ctx context.Context, id int64, d Decision, comment bool, run func(tx *sql.Tx, v Review, repository int64) error) error {
	if _, err := checkText(d.Comment, comment); err != nil {
		return err
	}
	return b.db.Update(ctx, func(tx *sql.Tx) error {
		v, repository, err := find(ctx, tx, id)
		if err != nil {
			return err
		}
		if err := needReviewer(ctx); err != nil {
			return err
		}
		switch who := auth.From(ctx); {
		case v.State == Approved || v.State == Withdrawn:
			return fmt.Errorf("review %d is %s: %w", id, v.State, errdefs.ErrFailedPrecondition)
		case v.Digest != d.Digest:
			return fmt.Errorf("review %d is of %s by now: %w", id, v.Digest, errdefs.ErrFailedPrecondition)
		case who.Name == v.Author && !who.System:
			return fmt.Errorf("review %d: nobody decides about their own push: %w", id, errdefs.ErrPermissionDenied)
		}
		return run(tx, v, repository)
	})
}

// settle writes a decision down.
func (b *Board) settle(ctx context.Context, tx *sql.Tx, v Review, state State, kind string, d Decision) error {
	_, err := tx.ExecContext(ctx, `UPDATE reviews SET state = $2, reviewer = $3, changed = $4 WHERE id = $1`,
		v.ID, string(state), auth.From(ctx).Name, b.now().Unix())
	if err != nil {
		return fmt.Errorf("decide review: %w", err)
	}
	text, err := checkText(d.Comment, false)
	if err != nil {
		return err
	}
	if err := b.say(ctx, tx, v.ID, kind, text); err != nil {
		return err
	}
	return auth.Audit(ctx, tx, "review."+kind, v.Repository+":"+v.Tag,
		map[string]any{"review": v.ID, "digest": v.Digest, "comment": text, "override": d.Override})
}
