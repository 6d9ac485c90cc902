package sqldb

import (
	"context"
	"database/sql"
)

// Each calls scan for every row that a query finds, in its order.
func Each(ctx context.Context, tx *sql.Tx, query string, args []any, scan func(rows *sql.Rows) error) error {
	rows, err := tx.QueryContext(ctx, query, args...)
	if err != nil {
		return err
	}
	return ScanAll(rows, func() error { return scan(rows) })
}
