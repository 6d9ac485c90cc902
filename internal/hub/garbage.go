package hub

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"strake/internal/sqldb"
)

const (
	batch    = 100 // rows that one transaction of a collection changes
	removers = 8   // blobs that it removes at once
)

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

// settle ends the wait of a candidate: for good, or until a grace that began at
// since is over.
func settle(ctx context.Context, tx *sql.Tx, row candidate, since int64) error {
	query, args := `DELETE FROM candidates WHERE id = $1 AND digest = $2`, []any{row.id, row.digest.String()}
	if since > 0 {
		query, args = `UPDATE candidates SET since = $3 WHERE id = $1 AND digest = $2`, append(args, since)
	}
	_, err := tx.ExecContext(ctx, query, args...)
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
		for n := int64(batch); n == batch; *table.count += n {
			err := c.db.Note(ctx, func(tx *sql.Tx) error {
				res, err := tx.ExecContext(ctx, table.query, before, batch)
				if err != nil {
					return err
				}
				n, err = res.RowsAffected()
				return err
			})
			if err != nil {
				return fmt.Errorf("expire the journal: %w", err)
			}
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
// is durable, for a mark makes it so.
func (c *collector) unlink(ctx context.Context) error {
	for {
		rows, err := c.candidates(ctx, `SELECT id, repository, digest, since FROM candidates WHERE repository <> 0 AND since < $1 ORDER BY since, id LIMIT $2`,
			c.ago(c.opts.Grace).Unix(), batch)
		if err != nil || len(rows) == 0 {
			return err
		}
		var gone int64
		err = c.db.Note(ctx, func(tx *sql.Tx) error {
			gone = 0
			find, err := tx.PrepareContext(ctx, findUnnamed)
			if err != nil {
				return err
			}
			defer find.Close() //nolint:errcheck // ends with the transaction
			for _, row := range rows {
				unlinked, err := c.unlinkOne(ctx, tx, find, row)
				if err != nil {
					return err
				}
				if unlinked {
					gone++
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
		c.result.Links += gone
	}
}

// findUnnamed is the link of the repository $2 to the blob $3, where nothing names it.
const findUnnamed = `
	SELECT b.linked, b.size, r.name FROM blobs b JOIN repositories r ON r.id = b.repository
	WHERE b.repository = $2 AND b.digest = $3 AND ` + unnamed

// unlinkOne settles a candidate: it deletes the link, by findUnnamed, unless
// that is named, or new.
func (c *collector) unlinkOne(ctx context.Context, tx *sql.Tx, find *sql.Stmt, row candidate) (gone bool, err error) {
	var linked int64
	change := Change{Kind: BlobDeleted, ID: row.repository, Desc: ocispec.Descriptor{MediaType: octetStream, Digest: row.digest}}
	err = find.QueryRowContext(ctx, c.ago(c.opts.Window).Unix(), row.repository, row.digest.String()).Scan(&linked, &change.Desc.Size, &change.Repository)
	switch {
	case errors.Is(err, sql.ErrNoRows):
		return false, settle(ctx, tx, row, 0)
	case err != nil:
		return false, err
	case linked >= c.ago(c.opts.Grace).Unix():
		return false, settle(ctx, tx, row, linked)
	}
	if _, err := tx.ExecContext(ctx, `DELETE FROM blobs WHERE repository = $1 AND digest = $2`, row.repository, row.digest.String()); err != nil {
		return false, err
	}
	if err := settle(ctx, tx, row, 0); err != nil {
		return false, err
	}
	return true, c.hooks.Call(ctx, tx, change)
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
		rows, err := c.candidates(ctx, `SELECT id, repository, digest, since FROM candidates WHERE repository = 0 AND since < $1 ORDER BY since, id LIMIT $2`,
			c.reserved(), batch)
		if err != nil || len(rows) == 0 {
			return err
		}
		var marked []condemned
		err = c.db.Update(ctx, func(tx *sql.Tx) error {
			marked = nil
			find, err := tx.PrepareContext(ctx, findUnheld)
			if err != nil {
				return err
			}
			defer find.Close() //nolint:errcheck // ends with the transaction
			for _, row := range rows {
				content, ok, err := c.condemn(ctx, tx, find, row)
				if err != nil {
					return err
				}
				if ok {
					marked = append(marked, content)
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
		if err := c.remove(ctx, marked); err != nil {
			return err
		}
	}
}

// findUnheld is the content $1, where nothing holds it and nobody removes it.
const findUnheld = `SELECT c.id, c.size, c.touched FROM contents c WHERE c.digest = $1 AND c.deleting = 0 AND ` + unheld

// condemn settles a candidate: it marks the bytes, by findUnheld, unless they
// are held, or were reserved lately.
func (c *collector) condemn(ctx context.Context, tx *sql.Tx, find *sql.Stmt, row candidate) (content condemned, ok bool, err error) {
	var touched int64
	content.digest = row.digest
	err = find.QueryRowContext(ctx, row.digest.String()).Scan(&content.id, &content.size, &touched)
	switch {
	case errors.Is(err, sql.ErrNoRows):
		return content, false, settle(ctx, tx, row, 0)
	case err != nil:
		return content, false, err
	case touched >= c.reserved():
		return content, false, settle(ctx, tx, row, touched)
	}
	if _, err := tx.ExecContext(ctx, `UPDATE contents SET deleting = $2, holder = $3 WHERE id = $1`, content.id, c.current().Unix(), c.holder); err != nil {
		return content, false, err
	}
	return content, true, settle(ctx, tx, row, 0)
}

// finish removes what a collection that ended early has marked.
func (c *collector) finish(ctx context.Context) error {
	for {
		var marked []condemned
		err := c.db.Update(ctx, func(tx *sql.Tx) error {
			marked = nil
			rows, err := tx.QueryContext(ctx, `
				UPDATE contents SET deleting = $1, holder = $2
				WHERE id IN (SELECT id FROM contents WHERE deleting <> 0 AND deleting < $3 ORDER BY deleting LIMIT $4) RETURNING id, digest, size`,
				c.current().Unix(), c.holder, c.ago(takeOver).Unix(), batch)
			if err != nil {
				return err
			}
			return sqldb.ScanAll(rows, func() error {
				marked = append(marked, condemned{})
				row := &marked[len(marked)-1]
				return rows.Scan(&row.id, &row.digest, &row.size)
			})
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
	for i, row := range marked {
		if had[i] {
			c.result.Blobs++
			c.result.Bytes += row.size
		}
	}
	return errors.Join(err, c.db.Note(ctx, func(tx *sql.Tx) error { // what is lost of it is finished later
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
