package sqldb

import (
	"context"
	"database/sql"
	"fmt"
	"io/fs"
	"path"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
)

// Migrate applies the migrations in the root of fsys which the database has not
// seen, all in one transaction. On a database that is up to date it only reads.
// Any number of processes may call it at once. It fails with
// errdefs.ErrFailedPrecondition when a newer program has migrated the database.
func (db *DB) Migrate(ctx context.Context, fsys fs.FS) error {
	names, err := migrations(fsys)
	if err != nil {
		return fmt.Errorf("migrate database: %w", err)
	}
	have := 0
	if err = db.Get(ctx, versionQuery, nil, &have); err == nil {
		err = checkVersion(have, len(names))
	}
	if err == nil && have < len(names) {
		err = db.Update(ctx, func(tx *sql.Tx) error { return migrate(ctx, tx, fsys, names) })
	}
	if err != nil {
		return fmt.Errorf("migrate database %q: %w", db.path, err)
	}
	return nil
}

// migrations lists the migration files, in their order.
func migrations(fsys fs.FS) ([]string, error) {
	entries, err := fs.ReadDir(fsys, ".")
	if err != nil {
		return nil, err
	}
	var names []string
	for _, e := range entries {
		name := e.Name()
		if path.Ext(name) != ".sql" {
			continue
		}
		number, _, _ := strings.Cut(name, "_")
		if n, err := strconv.Atoi(number); err != nil || len(number) != 4 || n != len(names)+1 {
			return nil, fmt.Errorf("%s: not named %04d_name.sql: %w", name, len(names)+1, errdefs.ErrInvalidArgument)
		}
		names = append(names, name)
	}
	return names, nil
}

// versionQuery is how many migrations were applied.
const versionQuery = "PRAGMA user_version"

func checkVersion(n, known int) error {
	if n > known {
		return fmt.Errorf("it has version %d, this program knows %d: use a newer program: %w",
			n, known, errdefs.ErrFailedPrecondition)
	}
	return nil
}

// migrate applies what is missing inside tx. Another process may have done so.
func migrate(ctx context.Context, tx *sql.Tx, fsys fs.FS, names []string) error {
	have := 0
	if err := tx.QueryRowContext(ctx, versionQuery).Scan(&have); err != nil {
		return err
	}
	if err := checkVersion(have, len(names)); err != nil {
		return err
	}
	for _, name := range names[have:] {
		b, err := fs.ReadFile(fsys, name)
		if err != nil {
			return err
		}
		if _, err := tx.ExecContext(ctx, string(b)); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	if have == len(names) {
		return nil
	}
	_, err := tx.ExecContext(ctx, fmt.Sprintf("PRAGMA user_version = %d", len(names)))
	return err
}
