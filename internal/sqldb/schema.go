package sqldb

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"

	"github.com/containerd/errdefs"
	"modernc.org/sqlite"
)

// Altered lists the tables and indexes, as "table images", whose definitions are
// not those that the migrations give: of a database that Migrate has brought up
// to date, those that are damaged. What is stored in them is not looked at. Of
// SQLite only.
func (db *DB) Altered(ctx context.Context, fsys fs.FS) ([]string, error) {
	if err := db.needSQLite(); err != nil {
		return nil, fmt.Errorf("check schema: %w", err)
	}
	want, err := migrated(ctx, fsys)
	if err != nil {
		return nil, fmt.Errorf("check schema: %w", err)
	}
	var have map[string]definition
	err = db.View(ctx, func(tx *sql.Tx) error {
		have, err = definitions(ctx, tx)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("check schema of %q: %w", db.path, err)
	}
	return differences(want, have), nil
}

// Redefine gives the tables and indexes that are there the definitions that the
// migrations give them, and returns those that had others. It changes no row of
// theirs. What is not known by its name stays as it is. Of SQLite only.
func (db *DB) Redefine(ctx context.Context, fsys fs.FS) (mended []string, err error) {
	if err := db.needSQLite(); err != nil {
		return nil, fmt.Errorf("mend schema: %w", err)
	}
	want, err := migrated(ctx, fsys)
	if err != nil {
		return nil, fmt.Errorf("mend schema: %w", err)
	}
	err = db.Update(ctx, func(tx *sql.Tx) error {
		have, err := definitions(ctx, tx)
		if err == nil {
			mended, err = redefine(ctx, tx, want, have)
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("mend schema of %q: %w", db.path, err)
	}
	return mended, nil
}

func redefine(ctx context.Context, tx *sql.Tx, want, have map[string]definition) (mended []string, err error) {
	if _, err := tx.ExecContext(ctx, "PRAGMA writable_schema = ON"); err != nil {
		return nil, err
	}
	defer func() { // reads the schema again, too
		_, offErr := tx.ExecContext(context.WithoutCancel(ctx), "PRAGMA writable_schema = RESET")
		err = errors.Join(err, offErr)
	}()
	for _, name := range differences(want, have) {
		is, ok := want[name]
		if _, also := have[name]; !ok || !also {
			continue
		}
		if _, err := tx.ExecContext(ctx, "UPDATE sqlite_schema SET tbl_name = $2, sql = $3 WHERE type || ' ' || name = $1", name, is.table, is.text); err != nil {
			return nil, err
		}
		mended = append(mended, name)
	}
	var version int64
	if err := tx.QueryRowContext(ctx, "PRAGMA schema_version").Scan(&version); err != nil {
		return nil, err
	}
	_, err = tx.ExecContext(ctx, fmt.Sprintf("PRAGMA schema_version = %d", version+1)) // for all connections
	return mended, err
}

// migrated is what the migrations define in an empty database.
func migrated(ctx context.Context, fsys fs.FS) (defined map[string]definition, err error) {
	names, err := migrations(fsys, SQLite)
	if err != nil {
		return nil, err
	}
	c, err := sqlite.NewConnector(":memory:")
	if err != nil {
		return nil, err
	}
	pool := sql.OpenDB(c)
	defer func() { err = errors.Join(err, pool.Close()) }()
	err = transact(ctx, pool, nil, func(tx *sql.Tx) error {
		if err := migrate(ctx, tx, fsys, names, sqliteVersion); err != nil {
			return err
		}
		defined, err = definitions(ctx, tx)
		return err
	})
	return defined, err
}

// needSQLite fails with errdefs.ErrNotImplemented for other databases.
func (db *DB) needSQLite() error {
	if db.dialect != SQLite {
		return fmt.Errorf("a database of %s: %w", db.dialect, errdefs.ErrNotImplemented)
	}
	return nil
}

// definition is a row of the schema.
type definition struct{ table, text string }

// definitions are the rows of the schema, but those that SQLite makes by itself,
// by what they define: "table images".
func definitions(ctx context.Context, tx *sql.Tx) (map[string]definition, error) {
	defined := map[string]definition{}
	err := Each(ctx, tx, "SELECT type || ' ' || name, tbl_name, sql FROM sqlite_schema WHERE sql IS NOT NULL", nil, func(rows *sql.Rows) error {
		var name string
		var d definition
		err := rows.Scan(&name, &d.table, &d.text)
		defined[name] = d
		return err
	})
	return defined, err
}

// differences lists the names under which two sets of definitions differ, sorted.
func differences(want, have map[string]definition) []string {
	all := maps.Clone(have)
	maps.Copy(all, want)
	maps.DeleteFunc(all, func(name string, _ definition) bool {
		a, ok := want[name]
		b, also := have[name]
		return ok && also && a == b
	})
	return slices.Sorted(maps.Keys(all))
}
