package hubdb_test

import (
	"io/fs"
	"strings"
	"testing"

	"strake/internal/hubdb"
	"strake/internal/jobs"
	"strake/internal/scandb"
	"strake/internal/vuln"
)

// What a package adds to its tables comes to the Hub's database too.
func TestIncludes(t *testing.T) {
	var all strings.Builder
	each(t, hubdb.Migrations(), func(_, text string) { all.WriteString(text) })
	for name, of := range map[string]fs.FS{"jobs": jobs.Migrations(), "vuln": vuln.Migrations(), "scandb": scandb.Migrations()} {
		each(t, of, func(file, text string) {
			if n := strings.Count(all.String(), text); n != 1 {
				t.Errorf("the Hub's migrations have %s of package %s %d times", file, name, n)
			}
		})
	}
}

func each(t *testing.T, of fs.FS, do func(file, text string)) {
	t.Helper()
	entries, err := fs.ReadDir(of, ".")
	if err != nil || len(entries) == 0 {
		t.Fatal("no migrations: ", err)
	}
	for _, e := range entries {
		b, err := fs.ReadFile(of, e.Name())
		if err != nil {
			t.Fatal(err)
		}
		do(e.Name(), string(b))
	}
}
