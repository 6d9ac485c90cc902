package pgdb_test

import (
	"context"
	"database/sql"
	"errors"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/fstest"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"

	"strake/internal/conformance"
	"strake/internal/pgdb"
	"strake/internal/sqldb"
)

var schema = fstest.MapFS{
	"0001_tables.sql": {Data: []byte(`
		CREATE TABLE counter (name TEXT PRIMARY KEY, n BIGINT NOT NULL);
		CREATE TABLE files (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, bytes BLOB NOT NULL);`)},
	"0002_words.sqlite.sql":   {Data: []byte(`CREATE VIRTUAL TABLE words USING fts5 (word);`)},
	"0002_words.postgres.sql": {Data: []byte(`CREATE TABLE words (word tsvector NOT NULL);`)},
	"0003_start.sql":          {Data: []byte(`INSERT INTO counter (name, n) VALUES ('all', 0); CREATE INDEX files_bytes ON files (bytes);`)},
}

func open(t *testing.T, url string) *sqldb.DB {
	t.Helper()
	db, err := pgdb.Open(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	return db
}

// dialects calls test with a database of each, fresh and migrated.
func dialects(t *testing.T, test func(t *testing.T, db *sqldb.DB)) {
	for _, d := range []sqldb.Dialect{sqldb.SQLite, sqldb.PostgreSQL} {
		t.Run(string(d), func(t *testing.T) {
			var db *sqldb.DB
			if d == sqldb.PostgreSQL {
				db = open(t, conformance.PostgreSQL(t))
			} else {
				var err error
				if db, err = sqldb.Open(t.Context(), sqldb.Options{Path: filepath.Join(t.TempDir(), "x.db")}); err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() {
					if err := db.Close(); err != nil {
						t.Error(err)
					}
				})
			}
			if err := db.Migrate(t.Context(), schema); err != nil {
				t.Fatal(err)
			}
			if got := db.Dialect(); got != d {
				t.Errorf("dialect %q, want %q", got, d)
			}
			test(t, db)
		})
	}
}

// The same statements give the same rows.
func TestDialects(t *testing.T) {
	dialects(t, func(t *testing.T, db *sqldb.DB) {
		ctx := t.Context()
		var id int64
		insert := func(name string, b []byte) error {
			return db.Update(ctx, func(tx *sql.Tx) error {
				return tx.QueryRowContext(ctx, `INSERT INTO files (name, bytes) VALUES ($1, $2) RETURNING id`, name, b).Scan(&id)
			})
		}
		for i, b := range [][]byte{{0, 1, 255}, {}, {1}, {2}} {
			if err := insert([]string{"f0", "f1", "F2", "_"}[i], b); err != nil || id != int64(i+1) {
				t.Errorf("row %d: %v", id, err)
			}
		}
		if err := insert("f0", nil); err == nil || sqldb.IsUnique(err) {
			t.Errorf("NULL: %v", err)
		}
		if err := insert("f0", []byte("x")); !sqldb.IsUnique(err) {
			t.Errorf("twice: %v", err)
		}
		var name string
		var got []byte
		if err := db.Get(ctx, `SELECT name, bytes FROM files WHERE id = $1`, []any{1}, &name, &got); err != nil || name != "f0" || !cmp.Equal(got, []byte{0, 1, 255}) {
			t.Errorf("%q %v %v", name, got, err)
		}
		if err := db.Get(ctx, `SELECT name FROM files WHERE id = $1`, []any{77}, &name); !errors.Is(err, sql.ErrNoRows) {
			t.Error(err)
		}
		var names []string
		err := db.View(ctx, func(tx *sql.Tx) error {
			rows, err := tx.QueryContext(ctx, `SELECT name FROM files WHERE ($2 = '' OR name = $2) ORDER BY name LIMIT $1`, 10, "") //nolint:sqlclosecheck // ScanAll closes them
			if err != nil {
				return err
			}
			return sqldb.ScanAll(rows, func() error {
				names = append(names, "")
				return rows.Scan(&names[len(names)-1])
			})
		})
		if diff := cmp.Diff([]string{"F2", "_", "f0", "f1"}, names); err != nil || diff != "" {
			t.Error(err, diff)
		}
		err = db.View(ctx, func(tx *sql.Tx) error {
			_, err := tx.ExecContext(ctx, `DELETE FROM files`)
			return err
		})
		if err == nil {
			t.Error("a view wrote")
		}
		err = db.Note(ctx, func(tx *sql.Tx) error {
			_, err := tx.ExecContext(ctx, `DELETE FROM files WHERE name = $1`, "f1")
			return err
		})
		if err != nil {
			t.Error(err)
		}
	})
}

// Transactions that read and then write count to the sum of them.
func TestConcurrentUpdates(t *testing.T) {
	const workers, each = 8, 25
	dialects(t, func(t *testing.T, db *sqldb.DB) {
		ctx := t.Context()
		var wg sync.WaitGroup
		for range workers {
			wg.Go(func() {
				for range each {
					if err := db.Update(ctx, count(ctx)); err != nil {
						t.Error(err)
					}
				}
			})
		}
		wg.Wait()
		var n int
		if err := db.Get(ctx, `SELECT n FROM counter`, nil, &n); err != nil || n != workers*each {
			t.Errorf("counted %d, want %d: %v", n, workers*each, err)
		}
	})
}

func count(ctx context.Context) func(tx *sql.Tx) error {
	return func(tx *sql.Tx) error {
		var n int
		if err := tx.QueryRowContext(ctx, `SELECT n FROM counter WHERE name = $1`, "all").Scan(&n); err != nil {
			return err
		}
		_, err := tx.ExecContext(ctx, `UPDATE counter SET n = $2 WHERE name = $1`, "all", n+1)
		return err
	}
}

// Many processes migrate one database at once; an older one is refused.
func TestConcurrentMigrations(t *testing.T) {
	ctx := t.Context()
	url := conformance.PostgreSQL(t)
	var wg sync.WaitGroup
	for range 8 {
		db := open(t, url)
		wg.Go(func() {
			if err := db.Migrate(ctx, schema); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	db := open(t, url)
	if err := db.Migrate(ctx, fstest.MapFS{"0001_tables.sql": schema["0001_tables.sql"]}); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("older program: %v", err)
	}
	newer := fstest.MapFS{"0004_bad.sql": {Data: []byte("CREATE TABLE extra (n BIGINT); CREATE TABLE counter (n BIGINT);")}}
	for name, f := range schema {
		newer[name] = f
	}
	if err := db.Migrate(ctx, newer); err == nil || !strings.Contains(err.Error(), "0004_bad.sql") {
		t.Errorf("bad migration: %v", err)
	}
	newer["0004_bad.sql"] = &fstest.MapFile{Data: []byte("CREATE TABLE extra (n BIGINT);")}
	if err := db.Migrate(ctx, newer); err != nil {
		t.Errorf("after a bad migration: %v", err)
	}
}

func TestOpenErrors(t *testing.T) {
	for _, url := range []string{"", "x.db", "mysql://h/x", "postgres://h/x?pool_max_conns=1", "postgres://h/x?pool_max_conns=many", "postgres://u:hunter2@h:port/x", "postgres://u:hunter2@h/x?sslmode=no"} {
		_, err := pgdb.Open(t.Context(), url)
		if !errdefs.IsInvalidArgument(err) || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%q: %v", url, err)
		}
	}
	_, err := pgdb.Open(t.Context(), "postgres://u:hunter2@/x?host="+t.TempDir())
	if err == nil || strings.Contains(err.Error(), "hunter2") {
		t.Errorf("no server: %v", err)
	}
}
