package sqldb

import (
	"context"
	"database/sql"
	"strconv"
	"strings"
)

// Each calls scan for every row that a query finds, in its order.
func Each(ctx context.Context, tx *sql.Tx, query string, args []any, scan func(rows *sql.Rows) error) error {
	rows, err := tx.QueryContext(ctx, query, args...)
	if err != nil {
		return err
	}
	return ScanAll(rows, func() error { return scan(rows) })
}

// Places are n places for arguments, the first of them with the number from: "$3, $4".
func Places(from, n int) string {
	var b strings.Builder
	for i := range n {
		if i > 0 {
			b.WriteString(", ")
		}
		b.WriteString("$" + strconv.Itoa(from+i))
	}
	return b.String()
}

// Collect lists what scan makes of every row that a query finds, in its order.
// The list is never nil, but where it fails.
func Collect[T any](ctx context.Context, tx *sql.Tx, query string, args []any, scan func(rows *sql.Rows, v *T) error) ([]T, error) {
	list := []T{}
	err := Each(ctx, tx, query, args, func(rows *sql.Rows) error {
		var v T
		if err := scan(rows, &v); err != nil {
			return err
		}
		list = append(list, v)
		return nil
	})
	if err != nil {
		return nil, err
	}
	return list, nil
}
