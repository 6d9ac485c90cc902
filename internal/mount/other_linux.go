package mount

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// BindOf shows the directory source, as the process pid sees it, at the directory target. The calling thread, which needs a mount
// namespace of its own, enters that of the process for as long as it takes to find source; symbolic links are followed there.
func BindOf(pid int, source, target string) (err error) {
	what := fmt.Sprintf("bind %q of process %d to %q", source, pid, target)
	own, err := unix.Open("/proc/thread-self/ns/mnt", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return failed(what, err)
	}
	defer func() { _ = unix.Close(own) }() // a name only
	other, err := unix.Open(fmt.Sprintf("/proc/%d/ns/mnt", pid), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return failed(what, err)
	}
	defer func() { _ = unix.Close(other) }() // a name only
	if err := unix.Setns(other, unix.CLONE_NEWNS); err != nil {
		return failed(what, err)
	}
	tree, err := unix.OpenTree(unix.AT_FDCWD, source, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if back := unix.Setns(own, unix.CLONE_NEWNS); back != nil {
		return failed(what+": return", errors.Join(err, back))
	}
	if err != nil {
		return failed(what, err)
	}
	defer func() { _ = unix.Close(tree) }() // the mount, if any, does not need it
	return attach(tree, what, target)
}
