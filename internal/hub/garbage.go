package hub

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/errgroup"

	"strake/internal/sqldb"
)

const removers = 8 // blobs that a collection removes at once

// candidate is a row of candidates: something that a change may have made
// garbage. The row goes when that was looked at, or waits on where a grace is
// not over.
type candidate struct {
	id         int64
	repository int64 // whose link to a blob it is; 0: the bytes
	digest     digest.Digest
	since      int64 // when its grace began
}

// candidates reads rows by a query.
func (c *collector) candidates(ctx context.Context, query string, args ...any) (rows []candidate, err error) {
	err = c.db.View(ctx, func(tx *sql.Tx) error {
		return sqldb.Each(ctx, tx, query, args, func(r *sql.Rows) error {
			rows = append(rows, candidate{})
			row := &rows[len(rows)-1]
			return r.Scan(&row.id, &row.repository, &row.digest, &row.since)
		})
	})
	return rows, err
}

// due are candidates of one kind whose grace is over.
type due struct {
	kind string // the condition that candidates k are of it
	ids  []any
}

// due finds as many candidates as one transaction is to look at, whose grace
// began before.
func (c *collector) due(ctx context.Context, kind string, before int64) (due, error) {
	d := due{kind: kind}
	rows, err := c.candidates(ctx, `SELECT id, repository, digest, since FROM candidates k WHERE `+kind+` AND since < $1 ORDER BY since, id LIMIT $2`,
		before, c.pace.rows)
	for _, row := range rows {
		d.ids = append(d.ids, row.id)
	}
	return d, err
}

// where is the condition of d in a statement, in which the ids follow n other
// arguments. A row that was exchanged meanwhile for another one of the kind is
// looked at in its stead.
func (d due) where(n int) string {
	return d.kind + ` AND k.id IN (` + sqldb.Places(n+1, len(d.ids)) + `)`
}

// settle ends the wait of d: until a grace is over that began when later says, a
// query with args of what k is about, and for good where it says nothing. A grace
// is over that began before.
func (d due) settle(ctx context.Context, tx *sql.Tx, before int64, later string, args ...any) error {
	_, err := tx.ExecContext(ctx, `UPDATE candidates AS k SET since = (`+later+`) WHERE `+d.where(len(args))+` AND EXISTS (`+later+`)`, //nolint:gosec // constants and places
		append(args, d.ids...)...)
	if err != nil {
		return err
	}
	_, err = tx.ExecContext(ctx, `DELETE FROM candidates AS k WHERE since < $1 AND `+d.where(1), append([]any{before}, d.ids...)...) //nolint:gosec // the same
	return err
}

// forget drops what the journal need not know any more; what only the journal
// named is garbage from then on.
func (c *collector) forget(ctx context.Context) error {
	before := c.ago(c.opts.Window).Unix()
	for _, table := range []struct {
		query string
		count *int64
	}{
		{`DELETE FROM tag_history WHERE id IN (SELECT id FROM tag_history WHERE at < $1 ORDER BY at LIMIT $2)`, new(int64)},
		{`DELETE FROM trash WHERE (repository, digest) IN (SELECT repository, digest FROM trash WHERE deleted < $1 ORDER BY deleted LIMIT $2)`, &c.result.Manifests},
	} {
		for more := true; more; {
			var n int64
			limit := c.pace.rows
			err := c.write(ctx, c.db.Note, func(tx *sql.Tx) error {
				res, err := tx.ExecContext(ctx, table.query, before, limit)
				if err != nil {
					return err
				}
				n, err = res.RowsAffected()
				return err
			})
			if err != nil {
				return fmt.Errorf("expire the journal: %w", err)
			}
			*table.count += n
			more = n == int64(limit)
		}
	}
	return nil
}

// unnamed is the condition that no manifest of its repository, and none that was
// deleted since $1, names the blob b.
const unnamed = `NOT EXISTS (SELECT 1 FROM refs f WHERE f.repository = b.repository AND f.child = b.digest)
	AND NOT EXISTS (SELECT 1 FROM trash_refs f JOIN trash t ON t.repository = f.repository AND t.digest = f.manifest
	  WHERE f.repository = b.repository AND f.child = b.digest AND t.deleted >= $1)`

// unlink takes blobs from repositories of which no manifest names them. After a
// loss of power it may have to be done again: but no bytes are removed before it
// is durable, for a mark makes it so. Hooks are not told: no tag needs what goes.
func (c *collector) unlink(ctx context.Context) error {
	window, grace := c.ago(c.opts.Window).Unix(), c.ago(c.opts.Grace).Unix()
	for {
		d, err := c.due(ctx, `k.repository <> 0`, grace)
		if err != nil || len(d.ids) == 0 {
			return err
		}
		unlinked := `DELETE FROM blobs AS b ` + //nolint:gosec // constants and places
			`WHERE (b.repository, b.digest) IN (SELECT k.repository, k.digest FROM candidates k WHERE ` + d.where(2) + `) AND b.linked < $2 AND ` + unnamed
		var gone int64
		err = c.write(ctx, c.db.Note, func(tx *sql.Tx) error {
			res, err := tx.ExecContext(ctx, unlinked, append([]any{window, grace}, d.ids...)...)
			if err != nil {
				return err
			}
			if gone, err = res.RowsAffected(); err != nil {
				return err
			}
			return d.settle(ctx, tx, grace, `SELECT b.linked FROM blobs b WHERE b.repository = k.repository AND b.digest = k.digest AND `+unnamed, window)
		})
		if err != nil {
			return err
		}
		c.result.Links += gone
	}
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
	for {
		d, err := c.due(ctx, `k.repository = 0`, c.reserved())
		if err != nil || len(d.ids) == 0 {
			return err
		}
		var marked []condemned
		err = c.write(ctx, c.db.Update, func(tx *sql.Tx) error {
			marked, err = queryCondemned(ctx, tx, `
				UPDATE contents AS c SET deleting = $1, holder = $2
				WHERE c.digest IN (SELECT k.digest FROM candidates k WHERE `+d.where(3)+`) AND c.deleting = 0 AND c.touched < $3 AND `+unheld+`
				RETURNING id, digest, size`, append([]any{c.current().Unix(), c.holder, c.reserved()}, d.ids...)...)
			if err != nil {
				return err
			}
			return d.settle(ctx, tx, c.reserved(), `SELECT c.touched FROM contents c WHERE c.digest = k.digest AND c.deleting = 0 AND `+unheld)
		})
		if err != nil {
			return err
		}
		if err := c.remove(ctx, marked); err != nil {
			return err
		}
	}
}

// queryCondemned reads the contents that a statement marks.
func queryCondemned(ctx context.Context, tx *sql.Tx, query string, args ...any) (marked []condemned, err error) {
	err = sqldb.Each(ctx, tx, query, args, func(rows *sql.Rows) error {
		marked = append(marked, condemned{})
		row := &marked[len(marked)-1]
		return rows.Scan(&row.id, &row.digest, &row.size)
	})
	return marked, err
}

// finish removes what a collection that ended early has marked.
func (c *collector) finish(ctx context.Context) error {
	for {
		var marked []condemned
		err := c.write(ctx, c.db.Update, func(tx *sql.Tx) (err error) {
			marked, err = queryCondemned(ctx, tx, `
				UPDATE contents SET deleting = $1, holder = $2
				WHERE id IN (SELECT id FROM contents WHERE deleting <> 0 AND deleting < $3 ORDER BY deleting LIMIT $4) RETURNING id, digest, size`,
				c.current().Unix(), c.holder, c.ago(takeOver).Unix(), c.pace.rows)
			return err
		})
		if err != nil || len(marked) == 0 {
			return err
		}
		if err := c.remove(ctx, marked); err != nil {
			return err
		}
	}
}

// remove removes the bytes of contents that c has marked, and then their rows.
func (c *collector) remove(ctx context.Context, marked []condemned) error {
	if len(marked) == 0 {
		return nil
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
	err := group.Wait()
	gone := []any{c.holder}
	for i, row := range marked {
		if had[i] {
			c.result.Blobs++
			c.result.Bytes += row.size
		}
		if removed[i] {
			gone = append(gone, row.id)
		}
	}
	if len(gone) == 1 {
		return err
	}
	// Marks would keep their digests from who pushes them until they are taken over.
	ctx = context.WithoutCancel(ctx)
	return errors.Join(err, c.write(ctx, c.db.Note, func(tx *sql.Tx) error { // what is lost of it is finished later
		_, err := tx.ExecContext(ctx, `DELETE FROM contents WHERE holder = $1 AND id IN (`+sqldb.Places(2, len(gone)-1)+`)`, gone...) //nolint:gosec // places
		return err
	}))
}
