package mount

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

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

// Into shows the file or directory source, and what is mounted below, at target inside of the directory root, as BindIn resolves
// names. A missing target is made as an empty directory, or file if source is one.
func Into(source string, root *os.File, target string, readOnly bool) error {
	what := fmt.Sprintf("bind %q to %q in a container", source, target)
	tree, err := unix.OpenTree(unix.AT_FDCWD, source, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_RECURSIVE)
	if err != nil {
		return failed(what, err)
	}
	defer func() { _ = unix.Close(tree) }() // the mount, if any, does not need it
	if readOnly {
		attr := &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY}
		if err := unix.MountSetattr(tree, "", unix.AT_EMPTY_PATH|unix.AT_RECURSIVE, attr); err != nil {
			return failed(what+" read-only", err)
		}
	}
	var st unix.Stat_t
	if err := unix.Fstat(tree, &st); err != nil {
		return failed(what, err)
	}
	place, err := makeIn(root, target, st.Mode&unix.S_IFMT == unix.S_IFDIR, 0)
	if err != nil {
		return failed(what, err)
	}
	defer func() { _ = unix.Close(place) }() // a path only
	if err := unix.MoveMount(tree, "", place, "", unix.MOVE_MOUNT_F_EMPTY_PATH|unix.MOVE_MOUNT_T_EMPTY_PATH); err != nil {
		return failed(what, err)
	}
	return nil
}

// maxLinks is how many links that lead nowhere a name may lead over.
const maxLinks = 40

// makeIn opens a name in a directory tree, and makes what is missing of it, also of what links lead to.
func makeIn(root *os.File, name string, isDir bool, links int) (fd int, err error) {
	name = filepath.Join(".", filepath.Join("/", name))
	how := &unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS}
	fd, err = unix.Openat2(int(root.Fd()), name, how)
	if !errors.Is(err, unix.ENOENT) || name == "." {
		return fd, err
	}
	parent, err := makeIn(root, filepath.Dir(name), true, links)
	if err != nil {
		return -1, err
	}
	defer func() { _ = unix.Close(parent) }() // a path only
	base := filepath.Base(name)
	if isDir {
		err = unix.Mkdirat(parent, base, 0o755)
	} else {
		err = unix.Mknodat(parent, base, unix.S_IFREG|0o644, 0)
	}
	if errors.Is(err, unix.EEXIST) && links < maxLinks {
		var target [unix.PathMax]byte
		n, err := unix.Readlinkat(parent, base, target[:])
		if err != nil {
			return -1, err
		}
		to := string(target[:n])
		if !filepath.IsAbs(to) {
			to = filepath.Join("/", filepath.Dir(name), to)
		}
		return makeIn(root, to, isDir, links+1)
	}
	if err != nil {
		return -1, err
	}
	return unix.Openat(parent, base, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
}
