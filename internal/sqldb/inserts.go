package sqldb

import (
	"context"
	"database/sql"
	"strings"
)

// together is how many rows one statement inserts.
const together = 50

// Inserts writes rows of a table in a transaction, several by one statement.
type Inserts struct {
	Tx      *sql.Tx
	Into    string // the table with its columns: "images (id, size)"; a constant
	Columns int

	args []any
	full *sql.Stmt // of as many rows as go together
}

// Add adds a row, which is written at the next Flush at the latest.
func (in *Inserts) Add(ctx context.Context, values ...any) (err error) {
	if in.args = append(in.args, values...); len(in.args) < together*in.Columns {
		return nil
	}
	if in.full == nil {
		if in.full, err = in.Tx.PrepareContext(ctx, in.query()); err != nil {
			return err
		}
	}
	_, err = in.full.ExecContext(ctx, in.args...)
	in.args = in.args[:0]
	return err
}

// Flush writes the rows that are left. Nothing is added after it.
func (in *Inserts) Flush(ctx context.Context) error {
	if in.full != nil {
		defer in.full.Close() //nolint:errcheck // of a statement of a transaction that ends
	}
	if len(in.args) == 0 {
		return nil
	}
	_, err := in.Tx.ExecContext(ctx, in.query(), in.args...)
	return err
}

// query inserts the rows that were added.
func (in *Inserts) query() string {
	return "INSERT INTO " + in.Into + " VALUES " + Tuples(1, len(in.args)/in.Columns, in.Columns)
}

// Tuples are so many rows of places for arguments, the first of which has the
// number from: "($1, $2), ($3, $4)".
func Tuples(from, rows, columns int) string {
	var b strings.Builder
	for i := range rows {
		if i > 0 {
			b.WriteString(", ")
		}
		b.WriteString("(" + Places(from+i*columns, columns) + ")")
	}
	return b.String()
}
