package auth

import (
	"context"
	"database/sql"
	"errors"

	"strake/internal/sqldb"
)

// Setting reads a setting of the Hub; one that was never set is empty.
func Setting(ctx context.Context, db *sqldb.DB, name string) (value string, err error) {
	err = db.Get(ctx, `SELECT value FROM settings WHERE name = $1`, []any{name}, &value)
	if errors.Is(err, sql.ErrNoRows) {
		return "", nil
	}
	return value, err
}

// SetSetting changes a setting; administrators may.
func SetSetting(ctx context.Context, db *sqldb.DB, name, value string) error {
	if err := NeedAdmin(ctx); err != nil {
		return err
	}
	return db.Update(ctx, func(tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, `INSERT INTO settings (name, value) VALUES ($1, $2) ON CONFLICT (name) DO UPDATE SET value = excluded.value`, name, value)
		if err != nil {
			return err
		}
		return Audit(ctx, tx, "setting", name, map[string]string{"value": value})
	})
}
