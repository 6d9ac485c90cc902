package hub

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"time"

	"strake/internal/auth"
	"strake/internal/jobs"
	"strake/internal/sqldb"
)

// Collection is a garbage collection that was begun or asked for.
type Collection struct {
	ID     int64           `json:"id"`
	State  CollectionState `json:"state"`
	Began  time.Time       `json:"began,omitzero"`
	Ended  time.Time       `json:"ended,omitzero"`
	Result GCResult        `json:"result"`
	Error  string          `json:"error,omitempty"` // why it ended early
}

// CollectionState is how a collection stands.
type CollectionState string

// The states of collections.
const (
	CollectionWaiting     CollectionState = "waiting"
	CollectionRunning     CollectionState = "running"
	CollectionDone        CollectionState = "done"
	CollectionFailed      CollectionState = "failed"
	CollectionInterrupted CollectionState = "interrupted" // its process ended
)

// longestCollection is after which time one that did not end was interrupted: the
// longest that its job may take, twice.
const longestCollection = 2 * collectTimeout

// state is how the collection stands by its other fields.
func (c Collection) state() CollectionState {
	switch {
	case c.Began.IsZero():
		return CollectionWaiting
	case c.Error != "":
		return CollectionFailed
	case !c.Ended.IsZero():
		return CollectionDone
	case time.Since(c.Began) > longestCollection:
		return CollectionInterrupted
	}
	return CollectionRunning
}

// keptCollections is how many are remembered.
const keptCollections = 100

// runNoted is runAll for a collection that is remembered.
func (c *collector) runNoted(ctx context.Context, steps []func(context.Context) error) error {
	var id int64
	err := c.db.Update(ctx, func(tx *sql.Tx) error {
		if _, err := tx.ExecContext(ctx, `DELETE FROM collections WHERE id NOT IN (SELECT id FROM collections ORDER BY id DESC LIMIT $1)`, keptCollections-1); err != nil {
			return err
		}
		err := tx.QueryRowContext(ctx, `UPDATE collections SET began = $2 WHERE id = $1 AND began = 0 RETURNING id`, c.opts.noted, c.begun.Unix()).Scan(&id)
		if !errors.Is(err, sql.ErrNoRows) {
			return err
		}
		return tx.QueryRowContext(ctx, `INSERT INTO collections (began) VALUES ($1) RETURNING id`, c.begun.Unix()).Scan(&id)
	})
	if err != nil {
		return fmt.Errorf("note collection: %w", err)
	}
	failed, text := runAll(ctx, steps), ""
	if failed != nil {
		text = failed.Error()
	}
	r, ctx := c.result, context.WithoutCancel(ctx) // what was done is noted, too, where it was told to stop
	err = c.db.Update(ctx, func(tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, `UPDATE collections SET ended = $2, manifests = $3, links = $4, blobs = $5, bytes = $6, uploads = $7, orphans = $8, error = $9 WHERE id = $1`,
			id, time.Now().Unix(), r.Manifests, r.Links, r.Blobs, r.Bytes, r.Uploads, r.Orphans, text)
		return err
	})
	if failed != nil {
		return failed
	}
	return err
}

// Collections lists the last collections of all Hubs on the data, a hundred at
// most, the newest first, for administrators.
func Collections(ctx context.Context, h *Hub, limit int) (list []Collection, err error) {
	if err := auth.NeedAdmin(ctx); err != nil {
		return nil, err
	}
	err = h.db.View(ctx, func(tx *sql.Tx) error {
		list = []Collection{}
		return sqldb.Each(ctx, tx, `SELECT id, began, ended, manifests, links, blobs, bytes, uploads, orphans, error FROM collections ORDER BY id DESC LIMIT $1`,
			[]any{limit}, func(rows *sql.Rows) error {
				var c Collection
				var began, ended int64
				r := &c.Result
				err := rows.Scan(&c.ID, &began, &ended, &r.Manifests, &r.Links, &r.Blobs, &r.Bytes, &r.Uploads, &r.Orphans, &c.Error)
				if began > 0 {
					c.Began = time.Unix(began, 0)
				}
				if ended > 0 {
					c.Ended = time.Unix(ended, 0)
				}
				c.State = c.state()
				list = append(list, c)
				return err
			})
	})
	return list, err
}

// collectJob is the kind of the jobs that collect garbage when they are asked to.
const collectJob = "collect"

// collectTimeout is how long such a job may take.
const collectTimeout = 12 * time.Hour

// CollectSoon has one of the Hubs on the data collect garbage now, and returns the
// collection, which waits: Collections tells what becomes of it. Who asks while
// one waits gets that one. It is for administrators.
func CollectSoon(ctx context.Context, h *Hub) (Collection, error) {
	c := Collection{State: CollectionWaiting}
	if err := auth.NeedAdmin(ctx); err != nil {
		return c, err
	}
	err := h.db.Update(ctx, func(tx *sql.Tx) error {
		err := tx.QueryRowContext(ctx, `SELECT id FROM collections WHERE began = 0 ORDER BY id DESC LIMIT 1`).Scan(&c.ID)
		if errors.Is(err, sql.ErrNoRows) {
			err = tx.QueryRowContext(ctx, `INSERT INTO collections (began) VALUES (0) RETURNING id`).Scan(&c.ID)
		}
		if err != nil {
			return err
		}
		if err := auth.Audit(ctx, tx, "gc.start", "", map[string]int64{"collection": c.ID}); err != nil {
			return err
		}
		return jobs.Add(ctx, tx, jobs.Job{Kind: collectJob, Key: "now", Payload: strconv.FormatInt(c.ID, 10)})
	})
	return c, err
}

// CollectHandlers are the jobs of CollectSoon.
func CollectHandlers(h *Hub, opts GCOptions, log *slog.Logger) map[string]jobs.Handler {
	return map[string]jobs.Handler{collectJob: {
		Do: func(ctx context.Context, job jobs.Job) error {
			opts := opts
			opts.noted, _ = strconv.ParseInt(job.Payload, 10, 64) // a job without one is of an earlier version
			result, err := Collect(ctx, h, opts)
			logCollection(log, result, err)
			return err
		},
		Timeout: collectTimeout, Attempts: 1,
	}}
}

// logCollection tells of a collection.
func logCollection(log *slog.Logger, result GCResult, err error) {
	if err != nil {
		log.Error("garbage collection", "error", err)
		return
	}
	log.Info("garbage collection", "blobs", result.Blobs, "bytes", result.Bytes, "links", result.Links,
		"manifests", result.Manifests, "uploads", result.Uploads)
}

// Holding is what a repository holds.
type Holding struct {
	Repository string `json:"repository"`
	Bytes      int64  `json:"bytes"`
	Own        int64  `json:"own"` // of them: held by no other repository
}

// Holdings lists what repositories hold, the largest first, for administrators.
func Holdings(ctx context.Context, h *Hub, offset, limit int) (list []Holding, err error) {
	if err := auth.NeedAdmin(ctx); err != nil {
		return nil, err
	}
	err = h.db.View(ctx, func(tx *sql.Tx) error {
		list = []Holding{}
		var ids []int64
		err := sqldb.Each(ctx, tx, `
			SELECT r.id, r.name, b.held + COALESCE((SELECT sum(m.size) FROM manifests m WHERE m.repository = r.id), 0)
			FROM repositories r JOIN (SELECT repository, CAST(sum(size) AS BIGINT) AS held FROM blobs GROUP BY repository) AS b ON b.repository = r.id
			ORDER BY b.held DESC, r.name LIMIT $1 OFFSET $2`, []any{limit, offset}, func(rows *sql.Rows) error {
			var id int64
			var held Holding
			err := rows.Scan(&id, &held.Repository, &held.Bytes)
			list, ids = append(list, held), append(ids, id)
			return err
		})
		if err != nil {
			return err
		}
		for i, id := range ids {
			err := tx.QueryRowContext(ctx, `
				SELECT CAST(COALESCE(sum(b.size), 0) AS BIGINT) FROM blobs b
				WHERE b.repository = $1 AND NOT EXISTS (SELECT 1 FROM blobs o WHERE o.digest = b.digest AND o.repository <> b.repository)`, id).Scan(&list[i].Own)
			if err != nil {
				return err
			}
		}
		return nil
	})
	return list, err
}

// Stored counts the blobs and manifests whose bytes are kept, each once, whoever
// needs them, for administrators.
func Stored(ctx context.Context, h *Hub) (blobs, bytes int64, err error) {
	if err := auth.NeedAdmin(ctx); err != nil {
		return 0, 0, err
	}
	err = h.db.Get(ctx, `SELECT count(*), CAST(COALESCE(sum(size), 0) AS BIGINT) FROM contents`, nil, &blobs, &bytes)
	return blobs, bytes, err
}
