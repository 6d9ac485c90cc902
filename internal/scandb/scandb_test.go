package scandb

import (
	"io/fs"
	"testing"

	"strake/internal/vuln"
)

// The tables of vulnerabilities are those that package vuln works with.
func TestSchema(t *testing.T) {
	want, err := fs.ReadFile(vuln.Migrations(), "0001_vulns.sql")
	if err != nil {
		t.Fatal(err)
	}
	got, err := fs.ReadFile(migrations, "migrations/0001_vulns.sql")
	if err != nil || string(got) != string(want) {
		t.Errorf("not what package vuln has: %v", err)
	}
}
