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
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"strake/internal/auth"
	"strake/internal/content"
	"strake/internal/sqldb"
)

// DefaultGrace is how long a blob that no manifest names stays in a repository:
// a push links blobs before it puts the manifest.
const DefaultGrace = 24 * time.Hour

const (
	scanIDs  = 5000 // rows, by their IDs, that one query of a collection looks at
	batch    = 100  // rows that one transaction of it changes
	removers = 8    // blobs that it removes at once
)

// GCOptions say what Collect removes.
type GCOptions struct {
	Grace   time.Duration // 0: DefaultGrace
	Window  time.Duration // that the journal reaches back; 0: Window
	Orphans bool          // look for bytes that the database does not know, too: lists the whole content store
	DryRun  bool          // only count; orphans and uploads are left out
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
	Manifests int64 // deleted ones, that can be restored no more
	Links     int64 // blobs of repositories that no manifest named
	Blobs     int64 // whose bytes were removed, manifests among them
	Bytes     int64 // that they had
	Uploads   int64 // unfinished
	Orphans   int64 // bytes that the database did not know; they go in a later collection
}

// collector is one collection.
type collector struct {
	*Hub
	opts   GCOptions
	now    time.Time
	holder string
	result GCResult
}

// Collect removes what nothing needs any more: deleted manifests after the
// journal's window, blobs that no manifest of their repository names after a
// grace, bytes that no repository holds, uploads that nobody goes on with. The
// Hub serves meanwhile; any number of Hubs on the same data may collect at once.
// Where Collect fails the result says what it did until then.
func Collect(ctx context.Context, h *Hub, opts GCOptions) (GCResult, error) {
	opts.defaults()
	c := &collector{Hub: h, opts: opts, now: time.Now(), holder: newID()}
	ctx = auth.With(ctx, auth.Identity{System: true})
	steps := []func(context.Context) error{c.forget, c.unlink, c.finish, c.collect, c.uploads}
	if opts.DryRun {
		steps = []func(context.Context) error{c.count}
	} else if opts.Orphans {
		steps = append(steps, c.adopt)
	}
	for _, step := range steps {
		if err := step(ctx); err != nil {
			return c.result, fmt.Errorf("collect garbage: %w", err)
		}
	}
	return c.result, nil
}

func (c *collector) ago(d time.Duration) time.Time { return c.now.Add(-d) }

// reserved is before when bytes must have been reserved to be collected.
func (c *collector) reserved() int64 { return c.ago(min(c.opts.Grace, reserveFor)).Unix() }

// forget drops what the journal need not know any more.
func (c *collector) forget(ctx context.Context) error {
	return c.db.Update(ctx, func(tx *sql.Tx) (err error) {
		c.result.Manifests, err = ExpireJournal(ctx, tx, c.ago(c.opts.Window))
		return err
	})
}

// unnamed is the condition that no manifest of its repository, and none that was
// deleted since $1, names the blob b.
const unnamed = `NOT EXISTS (SELECT 1 FROM refs f WHERE f.repository = b.repository AND f.child = b.digest)
	AND NOT EXISTS (SELECT 1 FROM trash_refs f JOIN trash t ON t.repository = f.repository AND t.digest = f.manifest
	  WHERE f.repository = b.repository AND f.child = b.digest AND t.deleted >= $1)`

// linkRow is a row of blobs.
type linkRow struct {
	repository int64
	digest     digest.Digest
}

// unlink takes blobs from repositories of which no manifest names them.
func (c *collector) unlink(ctx context.Context) error {
	var end int64
	if err := c.db.Get(ctx, `SELECT COALESCE(max(id), 0) FROM repositories`, nil, &end); err != nil {
		return err
	}
	for from := int64(0); from < end; from += batch {
		var rows []linkRow
		err := c.db.View(ctx, func(tx *sql.Tx) error {
			return sqldb.Each(ctx, tx, `SELECT b.repository, b.digest FROM blobs b WHERE b.repository > $3 AND b.repository <= $4 AND b.linked < $2 AND `+unnamed,
				[]any{c.ago(c.opts.Window).Unix(), c.ago(c.opts.Grace).Unix(), from, from + batch}, func(r *sql.Rows) error {
					rows = append(rows, linkRow{})
					row := &rows[len(rows)-1]
					return r.Scan(&row.repository, &row.digest)
				})
		})
		if err != nil {
			return err
		}
		for ; len(rows) > 0; rows = rows[min(batch, len(rows)):] {
			if err := c.unlinkRows(ctx, rows[:min(batch, len(rows))]); err != nil {
				return err
			}
		}
	}
	return nil
}

// unlinkRows deletes links that are still as they were found.
func (c *collector) unlinkRows(ctx context.Context, rows []linkRow) error {
	var gone int64
	err := c.db.Update(ctx, func(tx *sql.Tx) error {
		gone = 0
		for _, row := range rows {
			change := Change{Kind: BlobDeleted, ID: row.repository, Desc: ocispec.Descriptor{MediaType: octetStream, Digest: row.digest}}
			err := tx.QueryRowContext(ctx, `
				DELETE FROM blobs AS b WHERE b.repository = $3 AND b.digest = $4 AND b.linked < $2 AND `+unnamed+`
				RETURNING size, (SELECT r.name FROM repositories r WHERE r.id = $3)`,
				c.ago(c.opts.Window).Unix(), c.ago(c.opts.Grace).Unix(), row.repository, row.digest.String()).Scan(&change.Desc.Size, &change.Repository)
			if errors.Is(err, sql.ErrNoRows) {
				continue
			}
			if err != nil {
				return err
			}
			gone++
			if err := c.hooks.Call(ctx, tx, change); err != nil {
				return err
			}
		}
		return nil
	})
	c.result.Links += gone
	return err
}

// unheld is the condition that no repository holds the content c.
const unheld = `NOT EXISTS (SELECT 1 FROM blobs b WHERE b.digest = c.digest)
	AND NOT EXISTS (SELECT 1 FROM manifests m WHERE m.digest = c.digest)
	AND NOT EXISTS (SELECT 1 FROM trash t WHERE t.digest = c.digest)`

// condemned is a row of contents whose bytes this collection removes.
type condemned struct {
	id     int64
	digest digest.Digest
	size   int64
}

// collect removes the bytes that no repository holds.
func (c *collector) collect(ctx context.Context) error {
	var end int64
	if err := c.db.Get(ctx, `SELECT COALESCE(max(id), 0) FROM contents`, nil, &end); err != nil {
		return err
	}
	for from := int64(0); from < end; from += scanIDs {
		var ids []int64
		err := c.db.View(ctx, func(tx *sql.Tx) error {
			return sqldb.Each(ctx, tx, `SELECT c.id FROM contents c WHERE c.id > $1 AND c.id <= $2 AND c.deleting = 0 AND c.touched < $3 AND `+unheld,
				[]any{from, from + scanIDs, c.reserved()}, func(r *sql.Rows) error {
					ids = append(ids, 0)
					return r.Scan(&ids[len(ids)-1])
				})
		})
		if err != nil {
			return err
		}
		for ; len(ids) > 0; ids = ids[min(batch, len(ids)):] {
			err := c.remove(ctx, ids[:min(batch, len(ids))], `c.deleting = 0 AND c.touched < $4 AND `+unheld, c.reserved())
			if err != nil {
				return err
			}
		}
	}
	return nil
}

// finish removes what a collection that ended early has marked.
func (c *collector) finish(ctx context.Context) error {
	for {
		var ids []int64
		before := c.ago(takeOver).Unix()
		err := c.db.View(ctx, func(tx *sql.Tx) error {
			return sqldb.Each(ctx, tx, `SELECT id FROM contents WHERE deleting <> 0 AND deleting < $1 ORDER BY id LIMIT $2`, []any{before, batch}, func(r *sql.Rows) error {
				ids = append(ids, 0)
				return r.Scan(&ids[len(ids)-1])
			})
		})
		if err != nil || len(ids) == 0 {
			return err
		}
		if err := c.remove(ctx, ids, `c.deleting <> 0 AND c.deleting < $4`, before); err != nil {
			return err
		}
	}
}

// remove marks those of the rows for which a condition, on $4, holds, removes
// their bytes, and then them.
func (c *collector) remove(ctx context.Context, ids []int64, condition string, arg int64) error {
	var marked []condemned
	err := c.db.Update(ctx, func(tx *sql.Tx) error {
		marked = nil
		for _, id := range ids {
			row := condemned{id: id}
			err := tx.QueryRowContext(ctx, `UPDATE contents AS c SET deleting = $2, holder = $3 WHERE c.id = $1 AND `+condition+` RETURNING digest, size`,
				id, time.Now().Unix(), c.holder, arg).Scan(&row.digest, &row.size)
			if errors.Is(err, sql.ErrNoRows) {
				continue
			}
			if err != nil {
				return err
			}
			marked = append(marked, row)
		}
		return nil
	})
	if err != nil {
		return err
	}
	begun := time.Now()
	had, removed := make([]bool, len(marked)), make([]bool, len(marked))
	var group errgroup.Group
	group.SetLimit(removers)
	for i, row := range marked {
		group.Go(func() error {
			if time.Since(begun) > takeOver/2 { // another will finish it
				return fmt.Errorf("remove blob %s: it took too long until its turn: %w", row.digest, errdefs.ErrUnavailable)
			}
			ctx, cancel := context.WithTimeout(ctx, removeTime)
			defer cancel()
			err := c.content.Delete(ctx, row.digest)
			had[i], removed[i] = err == nil, err == nil || errdefs.IsNotFound(err)
			if !removed[i] {
				return err
			}
			return nil
		})
	}
	err = group.Wait()
	for i, row := range marked {
		if had[i] {
			c.result.Blobs++
			c.result.Bytes += row.size
		}
	}
	return errors.Join(err, c.db.Update(ctx, func(tx *sql.Tx) error {
		for i, row := range marked {
			if !removed[i] {
				continue
			}
			if _, err := tx.ExecContext(ctx, `DELETE FROM contents WHERE id = $1 AND holder = $2`, row.id, c.holder); err != nil {
				return err
			}
		}
		return nil
	}))
}

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

// adopt makes rows for bytes that the database does not know, which a backup that
// was restored leaves. They are collected as all others.
func (c *collector) adopt(ctx context.Context) error {
	old := c.ago(max(c.opts.Grace, reserveFor))
	return c.content.Walk(ctx, func(info content.Info) error {
		if info.ModTime.After(old) {
			return nil
		}
		var one int
		err := c.db.Get(ctx, `SELECT 1 FROM contents WHERE digest = $1`, []any{info.Digest.String()}, &one)
		if !errors.Is(err, sql.ErrNoRows) {
			return err
		}
		return c.db.Update(ctx, func(tx *sql.Tx) error {
			_, err := tx.ExecContext(ctx, `INSERT INTO contents (digest, epoch, size, touched) VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING`,
				info.Digest.String(), newID(), info.Size, c.now.Unix())
			if err == nil {
				c.result.Orphans++
			}
			return err
		})
	})
}

// count finds out what would go.
func (c *collector) count(ctx context.Context) error {
	return c.db.View(ctx, func(tx *sql.Tx) error {
		grace, window := c.ago(c.opts.Grace).Unix(), c.ago(c.opts.Window).Unix()
		err := tx.QueryRowContext(ctx, `SELECT count(*) FROM trash WHERE deleted < $1`, window).Scan(&c.result.Manifests)
		if err != nil {
			return err
		}
		err = tx.QueryRowContext(ctx, `SELECT count(*) FROM blobs b WHERE b.linked < $2 AND `+unnamed, window, grace).Scan(&c.result.Links)
		if err != nil {
			return err
		}
		return tx.QueryRowContext(ctx, `
			SELECT count(*), COALESCE(sum(c.size), 0) FROM contents c WHERE c.touched < $3
			AND NOT EXISTS (SELECT 1 FROM manifests m WHERE m.digest = c.digest)
			AND NOT EXISTS (SELECT 1 FROM trash t WHERE t.digest = c.digest AND t.deleted >= $1)
			AND NOT EXISTS (SELECT 1 FROM blobs b WHERE b.digest = c.digest AND NOT (b.linked < $2 AND `+unnamed+`))`,
			window, grace, c.reserved()).Scan(&c.result.Blobs, &c.result.Bytes)
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
		switch {
		case ctx.Err() != nil:
			return
		case err != nil:
			log.Error("garbage collection", "error", err)
		default:
			log.Info("garbage collection", "blobs", result.Blobs, "bytes", result.Bytes, "links", result.Links,
				"manifests", result.Manifests, "uploads", result.Uploads)
		}
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
