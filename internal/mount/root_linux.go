package mount

import (
	"context"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// Bare opens the file system that is the root directory of a process, as it is without what is mounted on it. The caller closes
// it. Nothing of what the process sees is resolved or run. Who calls makes sure that pid still is that process afterwards.
func Bare(ctx context.Context, pid int) (root *os.File, err error) {
	ns, err := New(ctx) // whose thread goes into the other namespace, and ends
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, ns.Close()) }()
	what := fmt.Sprintf("open the root file system of process %d", pid)
	err = ns.Do(func() error {
		own, err := unix.Open(fmt.Sprintf("/proc/%d/ns/mnt", pid), unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			return failed(what, err)
		}
		defer func() { _ = unix.Close(own) }() // a name only
		if err := unix.Setns(own, unix.CLONE_NEWNS); err != nil {
			return failed(what, err)
		}
		tree, err := unix.OpenTree(unix.AT_FDCWD, "/", unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
		if err != nil {
			return failed(what, err)
		}
		root = os.NewFile(uintptr(tree), "/")
		return nil
	})
	return root, err
}
