package hub

import (
	"context"
	"database/sql"
	"errors"
	"slices"
	"strconv"

	"strake/internal/content"
)

// fullRows is how many rows one query of a full collection looks at.
const fullRows = 5000

// fullDone is the setting that says when all rows were looked at last, in Unix
// seconds. A database from before there were candidates has none.
const fullDone = "gc-full"

// lookOver looks for candidates among all rows when it is asked for, or was
// never done. It changes nothing but the lists of candidates, so that nothing is
// removed but by them; one that is there already it adds again, which does no harm.
func (c *collector) lookOver(ctx context.Context) error {
	if full, err := c.full(ctx); !full || err != nil {
		return err
	}
	if err := c.lookOverLinks(ctx); err != nil {
		return err
	}
	if err := c.lookOverContents(ctx); err != nil {
		return err
	}
	return c.db.Update(ctx, func(tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, `INSERT INTO settings (name, value) VALUES ($1, $2) ON CONFLICT (name) DO UPDATE SET value = excluded.value`,
			fullDone, strconv.FormatInt(c.now.Unix(), 10))
		return err
	})
}

// full tells whether all rows are to be looked at.
func (c *collector) full(ctx context.Context) (bool, error) {
	if c.opts.Full {
		return true, nil
	}
	var done string
	err := c.db.Get(ctx, `SELECT value FROM settings WHERE name = $1`, []any{fullDone}, &done)
	if errors.Is(err, sql.ErrNoRows) {
		return true, nil
	}
	return false, err
}

// lookOverLinks makes candidates of all links that no manifest names.
func (c *collector) lookOverLinks(ctx context.Context) error {
	var last candidate
	for more := true; more; {
		end := candidate{repository: 1<<63 - 1}
		err := c.db.Get(ctx, `
			SELECT repository, digest FROM blobs WHERE (repository, digest) > ($1, $2) ORDER BY repository, digest LIMIT 1 OFFSET $3`,
			[]any{last.repository, last.digest.String(), fullRows - 1}, &end.repository, &end.digest)
		if more = err == nil; !more && !errors.Is(err, sql.ErrNoRows) {
			return err
		}
		rows, err := c.candidates(ctx, `
			SELECT 0, b.repository, b.digest, b.linked FROM blobs b
			WHERE (b.repository, b.digest) > ($2, $3) AND (b.repository, b.digest) <= ($4, $5) AND `+unnamed,
			c.ago(c.opts.Window).Unix(), last.repository, last.digest.String(), end.repository, end.digest.String())
		if err != nil {
			return err
		}
		if err := c.add(ctx, rows); err != nil {
			return err
		}
		last = end
	}
	return nil
}

// lookOverContents makes candidates of all bytes that no repository holds.
func (c *collector) lookOverContents(ctx context.Context) error {
	var end int64
	if err := c.db.Get(ctx, `SELECT COALESCE(max(id), 0) FROM contents`, nil, &end); err != nil {
		return err
	}
	for from := int64(0); from < end; from += fullRows {
		rows, err := c.candidates(ctx, `SELECT 0, 0, c.digest, c.touched FROM contents c WHERE c.id > $1 AND c.id <= $2 AND c.deleting = 0 AND `+unheld,
			from, from+fullRows)
		if err != nil {
			return err
		}
		if err := c.add(ctx, rows); err != nil {
			return err
		}
	}
	return nil
}

// add writes candidates.
func (c *collector) add(ctx context.Context, rows []candidate) error {
	for some := range slices.Chunk(rows, startRows) {
		err := c.write(ctx, c.db.Update, func(tx *sql.Tx) error {
			for _, row := range some {
				if _, err := tx.ExecContext(ctx, `INSERT INTO candidates (repository, digest, since) VALUES ($1, $2, $3)`,
					row.repository, row.digest.String(), row.since); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// adopt makes rows for bytes that the database does not know, which a backup that
// was restored leaves, or a loss of power. They are collected as all others.
func (c *collector) adopt(ctx context.Context) error {
	old := c.ago(max(c.opts.Grace, reserveFor))
	var unknown []content.Info
	err := c.content.Walk(ctx, func(info content.Info) error {
		if info.ModTime.After(old) {
			return nil
		}
		var one int
		err := c.db.Get(ctx, `SELECT 1 FROM contents WHERE digest = $1`, []any{info.Digest.String()}, &one)
		if !errors.Is(err, sql.ErrNoRows) {
			return err
		}
		if unknown = append(unknown, info); len(unknown) < startRows {
			return nil
		}
		err = c.adoptRows(ctx, unknown)
		unknown = unknown[:0]
		return err
	})
	return errors.Join(err, c.adoptRows(ctx, unknown))
}

func (c *collector) adoptRows(ctx context.Context, unknown []content.Info) error {
	var added int64
	err := c.write(ctx, c.db.Update, func(tx *sql.Tx) error {
		added = 0
		for _, info := range unknown {
			res, err := tx.ExecContext(ctx, `INSERT INTO contents (digest, epoch, size, touched) VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING`,
				info.Digest.String(), newID(), info.Size, c.now.Unix())
			if err != nil {
				return err
			}
			n, err := res.RowsAffected()
			if err != nil {
				return err
			}
			added += n
		}
		return nil
	})
	c.result.Orphans += added
	return err
}
