package executor

import (
	"errors"
	"os"
	"os/exec"
	"testing"

	"github.com/containerd/errdefs"

	"strake/internal/mount"
	"strake/internal/usertest"
)

// An execution that could not be started holds no end of a pipe.
func TestExecThatCannotStart(t *testing.T) {
	usertest.NeedRoot(t, "to make a mount namespace")
	ns, err := mount.New(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := ns.Close(); err != nil {
		t.Fatal(err)
	}
	p := &Process{x: &run{runc: &Runc{}, spec: Spec{NS: ns}}, children: map[int]bool{}}
	p.adopting.Store(1) // children of other tests are not reaped
	e := &execution{p: p, cmd: exec.Command("true"), faults: &faultFilter{}}
	if err := e.filter(); err != nil {
		t.Fatal(err)
	}
	if _, err := e.run(nil); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("run: %v", err)
	}
	e.drain()
	if err := e.cmd.Stderr.(*os.File).Close(); !errors.Is(err, os.ErrClosed) {
		t.Errorf("close the pipe's end: %v, want one that is closed", err)
	}
}
