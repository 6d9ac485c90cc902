package strake_test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// Migrations count from 0001 without a gap, one or a pair of files each (package
// sqldb): two changes that each took the next number meet here, not in a database.
func TestMigrations(t *testing.T) {
	dirs, err := filepath.Glob("internal/*/migrations")
	if err != nil || len(dirs) == 0 {
		t.Fatal("no migrations: ", err)
	}
	for _, dir := range dirs {
		entries, err := os.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		var names []string // without what they are for
		for _, e := range entries {
			name := strings.TrimSuffix(e.Name(), ".sql")
			names = append(names, strings.TrimSuffix(strings.TrimSuffix(name, ".sqlite"), ".postgres"))
		}
		for i, name := range slices.Compact(names) {
			if want := fmt.Sprintf("%04d_", i+1); !strings.HasPrefix(name, want) {
				t.Errorf("%s: %s.sql is not named %sNAME.sql", dir, name, want)
			}
		}
	}
}
