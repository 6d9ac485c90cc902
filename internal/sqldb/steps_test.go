package sqldb

import (
	"io/fs"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/containerd/errdefs"
)

func TestSteps(t *testing.T) {
	file := func(text string) *fstest.MapFile { return &fstest.MapFile{Data: []byte(text)} }
	low := Steps(fstest.MapFS{"migrations/0001_low.sql": file("CREATE TABLE low (n INTEGER);\n")}, nil)
	high := Steps(fstest.MapFS{
		"migrations/0001_high.sql": file("CREATE TABLE high (n INTEGER);\n-- include low/0001_low.sql\nCREATE TABLE higher (n INTEGER);\n"),
	}, map[string]fs.FS{"low": low})
	db := open(t, filepath.Join(t.TempDir(), "a.db"))
	if err := db.Migrate(t.Context(), high); err != nil {
		t.Fatal(err)
	}
	for _, table := range []string{"low", "high", "higher"} {
		n := -1
		if err := db.Get(t.Context(), "SELECT count(*) FROM "+table, nil, &n); err != nil || n != 0 {
			t.Error(table, n, err)
		}
	}
	for _, text := range []string{"-- include other/0001_low.sql", "-- include low/0002_more.sql", "-- include low/../migrations/0001_low.sql"} {
		bad := Steps(fstest.MapFS{"migrations/0001_bad.sql": file(text)}, map[string]fs.FS{"low": low})
		if err := open(t, filepath.Join(t.TempDir(), "b.db")).Migrate(t.Context(), bad); err == nil || !strings.Contains(err.Error(), "0001_bad.sql: include ") {
			t.Errorf("%s: %v", text, err)
		}
	}
	if _, err := fs.ReadFile(Steps(fstest.MapFS{"migrations/0001_bad.sql": file("-- include x")}, nil), "0001_bad.sql"); !errdefs.IsNotFound(err) {
		t.Error(err)
	}
}
