package vuln

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"strings"

	"strake/internal/sqldb"
)

// flush writes what is queued, where nobody sees it yet.
func (im *importer) flush(ctx context.Context) error {
	err := im.db.Update(ctx, func(tx *sql.Tx) error {
		if err := im.write(ctx, tx); err != nil {
			return err
		}
		return im.hold(ctx, tx)
	})
	if err != nil {
		return err
	}
	for _, c := range im.queue {
		c.source.changed++
	}
	clear(im.queue) // of the records' memory
	im.queue, im.queued = im.queue[:0], 0
	return nil
}

// write ends the rows of what changed, and writes the new ones.
func (im *importer) write(ctx context.Context, tx *sql.Tx) error {
	end, err := tx.PrepareContext(ctx, "UPDATE vulns SET until = $4 WHERE source = $1 AND id = $2 AND since = $3")
	if err != nil {
		return err
	}
	defer end.Close() //nolint:errcheck // of a statement of a transaction that ends
	records := sqldb.Inserts{Tx: tx, Into: "vulns (source, id, since, sum, published, modified, summary, names)", Columns: 8}
	packages := sqldb.Inserts{Tx: tx, Into: "vuln_affected (source, id, since, number, ecosystem, name, versions, severity, score, vector)", Columns: 10}
	for _, c := range im.queue {
		p := c.source
		if old, ok := p.live[c.id]; ok {
			if _, err := end.ExecContext(ctx, p.Name, c.id, old.since, p.next); err != nil {
				return err
			}
		}
		if c.row == nil {
			continue
		}
		names, err := json.Marshal(c.row.names)
		if err != nil {
			return err
		}
		r := c.row
		if err := records.Add(ctx, p.Name, r.id, p.next, r.sum, r.published, r.modified, clean(r.summary), clean(string(names))); err != nil {
			return fmt.Errorf("%s: %w", r.id, err)
		}
	}
	if err := records.Flush(ctx); err != nil {
		return err
	}
	for _, c := range im.queue {
		if c.row == nil {
			continue
		}
		for i, a := range c.row.affected {
			versions, err := json.Marshal(a.versions)
			if err != nil {
				return err
			}
			if err := packages.Add(ctx, c.source.Name, c.id, c.source.next, int64(i), clean(a.ecosystem), clean(a.name), clean(string(versions)),
				int64(a.severity), a.score, clean(a.vector)); err != nil {
				return fmt.Errorf("%s: %w", c.id, err)
			}
		}
	}
	return packages.Flush(ctx)
}

// dropUnfinished drops what an import of a source that did not end has left, and
// tells whether it left something.
func dropUnfinished(ctx context.Context, tx *sql.Tx, s *Source) (left bool, err error) {
	for _, query := range []string{
		"DELETE FROM vulns WHERE source = $1 AND since > $2",
		"UPDATE vulns SET until = 0 WHERE source = $1 AND until > $2",
	} {
		res, err := tx.ExecContext(ctx, query, s.Name, s.Generation)
		if err != nil {
			return false, err
		}
		n, err := res.RowsAffected()
		if err != nil {
			return false, err
		}
		left = left || n > 0
	}
	return left, nil
}

// clean takes out what PostgreSQL has no place for in a text.
func clean(s string) string { return strings.ToValidUTF8(strings.ReplaceAll(s, "\x00", ""), "?") }
