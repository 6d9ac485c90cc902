package vuln

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"strings"
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
	records := inserts{tx: tx, into: "vulns (source, id, since, sum, published, modified, summary, names)", columns: 8}
	packages := inserts{tx: tx, into: "vuln_affected (source, id, since, number, ecosystem, name, versions, severity, score, vector)", columns: 10}
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
		if err := records.add(ctx, p.Name, r.id, p.next, r.sum, r.published, r.modified, clean(r.summary), clean(string(names))); err != nil {
			return fmt.Errorf("%s: %w", r.id, err)
		}
	}
	if err := records.flush(ctx); err != nil {
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
			if err := packages.add(ctx, c.source.Name, c.id, c.source.next, int64(i), clean(a.ecosystem), clean(a.name), clean(string(versions)),
				int64(a.severity), a.score, clean(a.vector)); err != nil {
				return fmt.Errorf("%s: %w", c.id, err)
			}
		}
	}
	return packages.flush(ctx)
}

// together is how many rows one statement inserts.
const together = 50

// inserts writes rows of a table, several by one statement.
type inserts struct {
	tx      *sql.Tx
	into    string // the table with its columns
	columns int
	args    []any
	full    *sql.Stmt // of as many rows as go together
}

// add adds a row, which is written at the next flush at the latest.
func (in *inserts) add(ctx context.Context, values ...any) (err error) {
	if in.args = append(in.args, values...); len(in.args) < together*in.columns {
		return nil
	}
	if in.full == nil {
		if in.full, err = in.tx.PrepareContext(ctx, in.query()); err != nil {
			return err
		}
	}
	_, err = in.full.ExecContext(ctx, in.args...)
	in.args = in.args[:0]
	return err
}

// flush writes the rows that are left.
func (in *inserts) flush(ctx context.Context) error {
	if in.full != nil {
		defer in.full.Close() //nolint:errcheck // of a statement of a transaction that ends
	}
	if len(in.args) == 0 {
		return nil
	}
	_, err := in.tx.ExecContext(ctx, in.query(), in.args...)
	return err
}

// query inserts the rows that were added.
func (in *inserts) query() string {
	var b strings.Builder
	b.WriteString("INSERT INTO " + in.into + " VALUES ")
	for i := range in.args {
		switch {
		case i == 0:
			b.WriteString("(")
		case i%in.columns == 0:
			b.WriteString("), (")
		default:
			b.WriteString(", ")
		}
		fmt.Fprintf(&b, "$%d", i+1)
	}
	return b.String() + ")"
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
