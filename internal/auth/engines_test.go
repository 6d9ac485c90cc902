package auth

import (
	"path/filepath"
	"testing"

	"strake/internal/hubdb"
	"strake/internal/sqldb"
)

// PostgreSQL is the URL of a fresh database; package conformance, which makes it,
// imports this one.
var PostgreSQL func(t testing.TB) string

// engines calls test with a fresh database of each kind.
func engines(t *testing.T, test func(t *testing.T, db *sqldb.DB)) {
	t.Run("SQLite", func(t *testing.T) { test(t, openDatabase(t, filepath.Join(t.TempDir(), "hub.db"))) })
	t.Run("PostgreSQL", func(t *testing.T) { test(t, openDatabase(t, PostgreSQL(t))) })
}

// openDatabase opens a Hub's database, which the end of the test closes.
func openDatabase(t *testing.T, database string) *sqldb.DB {
	t.Helper()
	db, err := hubdb.Open(t.Context(), database)
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
