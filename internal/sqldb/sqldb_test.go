package sqldb

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"testing/fstest"
	"time"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
)

// childEnv names the database in which a child process of the test works.
const childEnv = "SQLDB_TEST_CHILD"

const (
	children     = 8
	transactions = 300
)

var schema = fstest.MapFS{
	"0001_counter.sql": {Data: []byte("CREATE TABLE counter (name TEXT PRIMARY KEY, n BIGINT NOT NULL);\nCREATE TABLE log (who TEXT NOT NULL, n BIGINT NOT NULL);")},
	"0002_start.sql":   {Data: []byte("INSERT INTO counter (name, n) VALUES ('all', 0);")},
	"README.md":        {Data: []byte("not a migration")},
}

func TestMain(m *testing.M) {
	if path := os.Getenv(childEnv); path != "" {
		if err := child(context.Background(), path); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// child counts up in the database at path, reading and then writing in one
// transaction: what deferred transactions fail at.
func child(ctx context.Context, path string) (err error) {
	db, err := Open(ctx, Options{Path: path})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	if err := db.Migrate(ctx, schema); err != nil {
		return err
	}
	who := fmt.Sprint(os.Getpid())
	for range transactions {
		err := db.Update(ctx, func(tx *sql.Tx) error {
			var n int64
			if err := tx.QueryRowContext(ctx, "SELECT n FROM counter WHERE name = $1", "all").Scan(&n); err != nil {
				return err
			}
			if _, err := tx.ExecContext(ctx, "UPDATE counter SET n = $2 WHERE name = $1", "all", n+1); err != nil {
				return err
			}
			_, err := tx.ExecContext(ctx, "INSERT INTO log (who, n) VALUES ($1, $2)", who, n+1)
			return err
		})
		if err != nil {
			return err
		}
		if err := db.View(ctx, consistent(ctx)); err != nil {
			return err
		}
	}
	return nil
}

// consistent checks that the counter is as long as the log.
func consistent(ctx context.Context) func(tx *sql.Tx) error {
	return func(tx *sql.Tx) error {
		var n, rows int64
		if err := tx.QueryRowContext(ctx, "SELECT n FROM counter").Scan(&n); err != nil {
			return err
		}
		if err := tx.QueryRowContext(ctx, "SELECT count(*) FROM log").Scan(&rows); err != nil {
			return err
		}
		if n != rows {
			return fmt.Errorf("counter is %d, log has %d rows", n, rows)
		}
		return nil
	}
}

func open(t *testing.T, path string) *DB {
	t.Helper()
	db, err := Open(t.Context(), Options{Path: path})
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

// TestProcesses lets many processes make, migrate and write one database.
func TestProcesses(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "x.db")
	var cmds []*exec.Cmd
	for range children {
		cmd := exec.CommandContext(t.Context(), self)
		cmd.Env = append(os.Environ(), childEnv+"="+path)
		cmd.Stderr = os.Stderr
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		cmds = append(cmds, cmd)
	}
	for _, cmd := range cmds {
		if err := cmd.Wait(); err != nil {
			t.Error(err)
		}
	}
	db := open(t, path)
	var n int64
	err = db.View(t.Context(), func(tx *sql.Tx) error {
		return errors.Join(consistent(t.Context())(tx), tx.QueryRow("SELECT n FROM counter").Scan(&n))
	})
	if err != nil || n != children*transactions {
		t.Errorf("counter %d, want %d: %v", n, children*transactions, err)
	}
}

// TestKill ends a writing process at bad moments; what was committed stays.
func TestKill(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "x.db")
	for i := range 10 {
		cmd := exec.CommandContext(t.Context(), self)
		cmd.Env = append(os.Environ(), childEnv+"="+path)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Duration(5+7*i) * time.Millisecond)
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		_ = cmd.Wait()
		db, err := Open(t.Context(), Options{Path: path})
		if err != nil {
			t.Fatal(err)
		}
		if err := db.Migrate(t.Context(), schema); err != nil {
			t.Fatal(err)
		}
		if err := db.View(t.Context(), consistent(t.Context())); err != nil {
			t.Error(err)
		}
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	}
}

func TestMigrate(t *testing.T) {
	ctx := t.Context()
	path := filepath.Join(t.TempDir(), "a %41?b#.db")
	db := open(t, path)
	if err := db.Migrate(ctx, schema); err != nil {
		t.Fatal(err)
	}
	fi, err := os.Stat(path)
	if err != nil || fi.Mode().Perm() != 0o600 {
		t.Fatalf("%v, %v", fi, err)
	}
	if err := open(t, path).Migrate(ctx, schema); err != nil {
		t.Errorf("again: %v", err)
	}
	older := fstest.MapFS{"0001_counter.sql": schema["0001_counter.sql"]}
	if err := db.Migrate(ctx, older); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("older program: %v", err)
	}
	newer := fstest.MapFS{"0003_bad.sql": {Data: []byte("CREATE TABLE extra (n BIGINT);\nCREATE TABLE counter (n BIGINT);")}}
	for name, f := range schema {
		newer[name] = f
	}
	if err := db.Migrate(ctx, newer); err == nil {
		t.Error("bad migration: no error")
	}
	newer["0003_bad.sql"] = &fstest.MapFile{Data: []byte("CREATE TABLE extra (n BIGINT);")}
	if err := db.Migrate(ctx, newer); err != nil {
		t.Errorf("after a bad migration: %v", err)
	}
	gap := fstest.MapFS{"0001_a.sql": {}, "0003_c.sql": {}}
	if err := db.Migrate(ctx, gap); !errdefs.IsInvalidArgument(err) {
		t.Errorf("gap: %v", err)
	}
}

func TestTransactions(t *testing.T) {
	ctx := t.Context()
	db := open(t, filepath.Join(t.TempDir(), "x.db"))
	if err := db.Migrate(ctx, schema); err != nil {
		t.Fatal(err)
	}
	failed := errors.New("failed")
	err := db.Update(ctx, func(tx *sql.Tx) error {
		if _, err := tx.Exec("DELETE FROM counter"); err != nil {
			return err
		}
		return failed
	})
	if !errors.Is(err, failed) {
		t.Error(err)
	}
	if err := db.View(ctx, consistent(ctx)); err != nil {
		t.Errorf("a failed update left something: %v", err)
	}
	err = db.View(ctx, func(tx *sql.Tx) error {
		_, err := tx.Exec("DELETE FROM counter")
		return err
	})
	if err == nil {
		t.Error("a view wrote")
	}
	canceled, cancel := context.WithCancel(ctx)
	cancel()
	if err := db.Update(canceled, func(*sql.Tx) error { return nil }); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	// Parameters are numbered as in PostgreSQL, whatever their order.
	var got [3]string
	err = db.View(ctx, func(tx *sql.Tx) error {
		return tx.QueryRow("SELECT $2, $1, $2", "one", "two").Scan(&got[0], &got[1], &got[2])
	})
	if diff := cmp.Diff([3]string{"two", "one", "two"}, got); err != nil || diff != "" {
		t.Error(err, diff)
	}
	var mode, sync string
	err = db.Update(ctx, func(tx *sql.Tx) error {
		return errors.Join(tx.QueryRow("PRAGMA journal_mode").Scan(&mode), tx.QueryRow("PRAGMA synchronous").Scan(&sync))
	})
	if err != nil || mode != "wal" || sync != "2" {
		t.Errorf("journal_mode %q, synchronous %q: %v", mode, sync, err)
	}
}

// BenchmarkOpen is what every command pays: open, check the version, close.
func BenchmarkOpen(b *testing.B) {
	ctx := b.Context()
	path := filepath.Join(b.TempDir(), "x.db")
	for b.Loop() {
		db, err := Open(ctx, Options{Path: path})
		if err != nil {
			b.Fatal(err)
		}
		if err := db.Migrate(ctx, schema); err != nil {
			b.Fatal(err)
		}
		if err := db.Close(); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkUpdate is one durable transaction.
func BenchmarkUpdate(b *testing.B) {
	ctx := b.Context()
	db, err := Open(ctx, Options{Path: filepath.Join(b.TempDir(), "x.db")})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		if err := db.Close(); err != nil {
			b.Error(err)
		}
	})
	if err := db.Migrate(ctx, schema); err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		err := db.Update(ctx, func(tx *sql.Tx) error {
			_, err := tx.Exec("UPDATE counter SET n = n + 1")
			return err
		})
		if err != nil {
			b.Fatal(err)
		}
	}
}

// A definition that was damaged is found, and mended without a row being lost.
func TestAltered(t *testing.T) {
	ctx := t.Context()
	path := filepath.Join(t.TempDir(), "db")
	open := func() *DB {
		t.Helper()
		db, err := Open(ctx, Options{Path: path})
		if err != nil {
			t.Fatal(err)
		}
		if err := db.Migrate(ctx, schema); err != nil {
			t.Fatal(err)
		}
		return db
	}
	db := open()
	altered, err := db.Altered(ctx, schema)
	if err != nil || len(altered) > 0 {
		t.Fatalf("of a new database: %q %v", altered, err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	file, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	bad := bytes.Replace(file, []byte("(who TEXT"), []byte("(wxo TEXT"), 1)
	if err := os.WriteFile(path, bad, 0o600); err != nil {
		t.Fatal(err)
	}
	db = open()
	defer db.Close()
	altered, err = db.Altered(ctx, schema)
	if diff := cmp.Diff([]string{"table log"}, altered); err != nil || diff != "" {
		t.Fatalf("of a damaged database: %s %v", diff, err)
	}
	for range 2 {
		if _, err := db.Redefine(ctx, schema); err != nil {
			t.Fatal(err)
		}
		altered, err = db.Altered(ctx, schema)
		if err != nil || len(altered) > 0 {
			t.Errorf("once it is mended: %q %v", altered, err)
		}
	}
	err = db.Update(ctx, func(tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, "INSERT INTO log (who, n) VALUES ('a', 1)")
		return err
	})
	if err != nil {
		t.Error(err)
	}
	if err := db.View(ctx, func(tx *sql.Tx) error { return tx.QueryRowContext(ctx, "SELECT who FROM log").Scan(new(string)) }); err != nil {
		t.Error(err)
	}
}

// A rehearsal waits for no writer, changes nothing, and sees what is committed.
func TestRehearse(t *testing.T) {
	ctx := t.Context()
	db, err := Open(ctx, Options{Path: filepath.Join(t.TempDir(), "db")})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if err := db.Migrate(ctx, schema); err != nil {
		t.Fatal(err)
	}
	count := func(tx *sql.Tx) (n int) {
		t.Helper()
		if err := tx.QueryRowContext(ctx, "SELECT n FROM counter").Scan(&n); err != nil {
			t.Error(err)
		}
		return n
	}
	err = db.Update(ctx, func(tx *sql.Tx) error {
		if _, err := tx.ExecContext(ctx, "UPDATE counter SET n = 1"); err != nil {
			return err
		}
		return db.Rehearse(ctx, func(tx *sql.Tx) error {
			if n := count(tx); n != 0 {
				t.Errorf("a rehearsal beside a writer sees %d", n)
			}
			_, err := tx.ExecContext(ctx, "UPDATE counter SET n = 7")
			return err
		})
	})
	if err != nil {
		t.Fatal(err)
	}
	err = db.View(ctx, func(tx *sql.Tx) error {
		if n := count(tx); n != 1 {
			t.Errorf("after a rehearsal: %d", n)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}
