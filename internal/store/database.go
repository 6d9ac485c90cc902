package store

import (
	"context"
	"database/sql"

	"strake/internal/sqldb"
)

// DB is the store's database, for the packages that keep tables of their own in it.
func (s *Store) DB() *sqldb.DB { return s.db }

// WriteEvent writes an event, which happens now, in a transaction of DB.
func WriteEvent(ctx context.Context, tx *sql.Tx, e Event) error {
	_, err := writeEvent(ctx, tx, e)
	return err
}
