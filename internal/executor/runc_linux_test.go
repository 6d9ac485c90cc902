package executor_test

import (
	"os/exec"
	"testing"

	"strake/internal/conformance"
	"strake/internal/executor"
)

// open returns a function that makes an executor by the runtime name, for the suite.
func open(name string) func(t *testing.T) executor.Executor {
	return func(t *testing.T) executor.Executor {
		path, err := exec.LookPath(name)
		if err != nil {
			t.Skipf("no %s", name)
		}
		r, err := executor.NewRunc(executor.RuncOptions{Path: path, StateDir: t.TempDir()})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := r.Close(); err != nil {
				t.Error(err)
			}
		})
		return r
	}
}

func TestRunc(t *testing.T) { conformance.Executor(t, open("runc")) }
