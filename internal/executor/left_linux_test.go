package executor

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
)

// What an owner could not remove is for the next process, which finds it by the lock file.
func TestLeft(t *testing.T) {
	r := &Runc{path: "/bin/false", stateDir: filepath.Join(t.TempDir(), "state")}
	for _, failure := range []error{errors.New("busy"), nil} {
		o, err := newOwner(t.Context(), r.path, r.stateDir)
		if err != nil {
			t.Fatal(err)
		}
		_ = o.cleaned(failure)
		if err := o.close(t.Context()); err != nil {
			t.Fatal(err)
		}
		if kept := exists(o.dir + lockSuffix); kept != (failure != nil) {
			t.Errorf("after %v the lock file is there: %t", failure, kept)
		}
		if err := r.Reap(t.Context()); err != nil {
			t.Fatal(err)
		}
		if left, err := os.ReadDir(r.stateDir); err != nil || len(left) > 0 {
			t.Errorf("left: %v, %v", left, err)
		}
	}
}
