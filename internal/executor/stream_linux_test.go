package executor

import (
	"os"
	"path/filepath"
	"testing"
)

// A process that is run in a container is given pipes, /dev/null, and a terminal that is its own.
func TestCheckStream(t *testing.T) {
	check := func(f *os.File, err error, terminal, want bool) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		if err := CheckStream(f, terminal); (err == nil) != want {
			t.Errorf("%s, terminal %v: %v", f.Name(), terminal, err)
		}
	}
	read, write, err := os.Pipe()
	check(read, err, false, true)
	check(write, err, false, true)
	for path, want := range map[string]bool{os.DevNull: true, "/dev/zero": false, t.TempDir(): false} {
		f, err := os.Open(path)
		check(f, err, false, want)
		_ = f.Close() // only read
	}
	f, err := os.Create(filepath.Join(t.TempDir(), "log"))
	check(f, err, true, false)
	user, program, err := OpenTerminal()
	check(program, err, true, true)
	check(program, err, false, false)
	for _, f := range []*os.File{read, write, f, user, program} {
		_ = f.Close() // of no use any more
	}
}
