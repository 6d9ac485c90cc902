package store

import (
	"database/sql"
	"errors"
	"io/fs"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"

	"strake/internal/sqldb"
)

// No table keeps blobs in the tree of its keys, and what older stores kept there is found where it is now.
func TestLongValuesBesideKeys(t *testing.T) {
	ctx, root := t.Context(), t.TempDir()
	older := fstest.MapFS{}
	names, err := fs.Glob(migrations, "migrations/000[1-6]_*.sql")
	if err != nil || len(names) != 6 {
		t.Fatal(names, err)
	}
	for _, name := range names {
		text, err := migrations.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		older[filepath.Base(name)] = &fstest.MapFile{Data: text}
	}
	db, err := sqldb.Open(ctx, sqldb.Options{Path: filepath.Join(root, "strake.db")})
	if err == nil {
		err = db.Migrate(ctx, older)
	}
	if err != nil {
		t.Fatal(err)
	}
	long := strings.Repeat("long ", 10_000)
	err = db.Update(ctx, func(tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, "INSERT INTO cache (key, slot, value, created, used) VALUES ('k', 's', $1, 1, $2)", []byte(long), now())
		_, err2 := tx.ExecContext(ctx, "INSERT INTO contexts (dir, value, used) VALUES ('/d', $1, $2)", []byte(long), now())
		return errors.Join(err, err2)
	})
	if err = errors.Join(err, db.Close()); err != nil {
		t.Fatal(err)
	}

	s := open(t, root)
	if value, err := s.LoadCache(ctx, "k"); err != nil || string(value) != long {
		t.Errorf("a step of an older store: %d bytes, %v", len(value), err)
	}
	if value, err := s.LoadContextIndex(ctx, "/d"); err != nil || string(value) != long {
		t.Errorf("a stat cache of an older store: %d bytes, %v", len(value), err)
	}
	err = s.db.View(ctx, func(tx *sql.Tx) error {
		return eachPair(ctx, tx, "SELECT name, sql FROM sqlite_schema WHERE type = 'table'", nil, func(name, text string) {
			if strings.Contains(text, " BLOB") && strings.Contains(text, "WITHOUT ROWID") {
				t.Errorf("table %s keeps blobs in the tree of its keys", name)
			}
		})
	})
	if err != nil {
		t.Error(err)
	}
}
