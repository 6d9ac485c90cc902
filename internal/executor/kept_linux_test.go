package executor

import (
	"os"
	"path/filepath"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"strake/internal/userns"
)

// A kept filter is used as long as it is what was kept, and is made again where it is not.
func TestKeptFilter(t *testing.T) {
	dir := t.TempDir()
	made := 0
	filter := func() {
		t.Helper()
		r := &Runc{path: "/bin/sh", stateDir: dir, filters: map[string][]byte{}}
		f, err := r.filter(&specs.LinuxSeccomp{}, func() ([]byte, error) {
			made++
			return []byte("12345678"), nil
		})
		if err != nil || string(f) != "12345678" {
			t.Fatalf("%q, %v", f, err)
		}
	}
	filter()
	filter()
	if made != 1 {
		t.Errorf("made %d times", made)
	}
	kept, err := filepath.Glob(dir + "/filter-*")
	if err != nil || len(kept) != 1 {
		t.Fatal(kept, err)
	}
	good, err := os.ReadFile(kept[0])
	if err != nil {
		t.Fatal(err)
	}
	other := append([]byte{}, good...)
	other[len(other)-1]++
	for i, bad := range [][]byte{{}, good[:32], good[:39], other} {
		if err := os.WriteFile(kept[0], bad, 0o600); err != nil {
			t.Fatal(err)
		}
		filter()
		filter()
		if made != i+2 {
			t.Errorf("made %d times after %q", made, bad)
		}
	}
}

// Nobody else may write where the runtime keeps its state.
func TestSafeDir(t *testing.T) {
	dir := t.TempDir()
	open, link := filepath.Join(dir, "open"), filepath.Join(dir, "link")
	if err := os.Mkdir(open, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(open, link); err != nil {
		t.Fatal(err)
	}
	check := func(path string, shared, want bool) {
		t.Helper()
		if err := safeDir(path, shared); (err == nil) != want {
			t.Errorf("%s: %v", path, err)
		}
	}
	check(open, false, true)
	check(link, false, false)
	check(link, true, false)
	if err := os.Chmod(open, 0o777|os.ModeSticky); err != nil {
		t.Fatal(err)
	}
	check(open, false, false)
	check(open, true, true)
	if _, err := newOwner(t.Context(), "/bin/sh", open); err == nil {
		t.Error("an owner in a directory that all may write to")
	}
	if os.Geteuid() == 0 && userns.IDs() != 1 {
		if err := os.Chown(open, 1, 1); err != nil {
			t.Fatal(err)
		}
		check(open, true, false)
	}
}
