// Package usertest runs the tests of a package as the program runs its code for an ordinary user: as root of a user namespace, with the
// ids that the machine gives him (userns.Enter).
package usertest

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"testing"

	"github.com/containerd/errdefs"

	"strake/internal/userns"
)

// Run is m.Run for a TestMain, first of all in it. Root's tests run where they are; those of an ordinary user in a process of their own, the
// test program again, as root of a namespace. Where the machine has none to give they run without, and say what they lack.
func Run(m *testing.M) (code int) {
	if err := userns.Wait(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	if os.Geteuid() == 0 {
		return m.Run()
	}
	plan, err := userns.NewPlan()
	if err == nil {
		code, err = plan.Enter(context.Background(), "", os.Args[1:], os.Stdin, os.Stdout, os.Stderr)
	}
	if errdefs.IsPermissionDenied(err) || errdefs.IsNotImplemented(err) {
		return m.Run()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return code
}

// TempDir is t.TempDir for the stores of programs that a test runs: there an ordinary user has files of all his ids, and directories
// that he may not write to, which only root of a namespace with these ids can remove.
func TempDir(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	if os.Geteuid() == 0 {
		return dir
	}
	t.Cleanup(func() {
		const remove = `unshare --map-root-user --map-auto rm -rf "$0" || unshare --map-root-user rm -rf "$0"`
		if out, err := exec.CommandContext(context.Background(), "sh", "-c", remove, dir).CombinedOutput(); err != nil { // that of the test has ended
			t.Errorf("remove %s: %v\n%s", dir, err, out)
		}
	})
	return dir
}

// NeedRoot skips a test of what root of the machine alone may do, which is for a sentence "needs root ...".
func NeedRoot(t testing.TB, what string) {
	t.Helper()
	if !userns.IsRoot() {
		t.Skip("needs root of the machine " + what)
	}
}

// IDs returns how many user ids a program has that a test starts; 0 is all of them, root's.
func IDs(t testing.TB) int {
	t.Helper()
	if os.Geteuid() == 0 {
		return userns.IDs()
	}
	plan, err := userns.NewPlan()
	if err != nil {
		t.Fatal(err)
	}
	return plan.IDs()
}

// NeedIDs skips a test that gives files to several users where the user has one id.
func NeedIDs(t testing.TB) {
	t.Helper()
	if IDs(t) == 1 {
		t.Skip("needs ids beside the user's own")
	}
}
