package layer

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"strake/internal/archive"
)

// A handle is a file of a directory tree, open by itself: what others do to the names that led to it does not matter any more.
type handle struct {
	fd   int // O_PATH
	stat unix.Stat_t
}

// openHandle opens a name in a directory, and does not follow it.
func openHandle(dir int, name string) (n handle, err error) {
	if n.fd, err = unix.Openat(dir, name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0); err != nil {
		return n, err
	}
	if err := unix.Fstat(n.fd, &n.stat); err != nil {
		return n, errors.Join(err, n.close())
	}
	return n, nil
}

func (n *handle) close() error { return unix.Close(n.fd) }

func (n *handle) kind() uint32 { return n.stat.Mode & unix.S_IFMT }

// path leads to the file and nowhere else, as long as it is open.
func (n *handle) path() string { return fmt.Sprintf("/proc/self/fd/%d", n.fd) }

// names lists a directory, sorted.
func (n *handle) names() (names []string, err error) {
	fd, err := unix.Openat(n.fd, ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), "directory")
	defer func() { err = errors.Join(err, f.Close()) }()
	names, err = f.Readdirnames(-1)
	slices.Sort(names)
	return names, err
}

// open opens a regular file for reading.
func (n *handle) open() (*os.File, error) { return os.Open(n.path()) }

// readLink reads a symlink.
func (n *handle) readLink() (string, error) {
	var buf [unix.PathMax]byte
	size, err := unix.Readlinkat(n.fd, "", buf[:])
	if err != nil {
		return "", err
	}
	return string(buf[:size]), nil
}

// xattrs lists the attributes, sorted.
func (n *handle) xattrs() ([]archive.Xattr, error) {
	path := n.path()
	var stack [4096]byte
	names := stack[:]
	size, err := unix.Listxattr(path, names)
	if errors.Is(err, unix.ERANGE) {
		names = make([]byte, 1<<16) // what the kernel bounds the list to
		size, err = unix.Listxattr(path, names)
	}
	if errors.Is(err, unix.ENOTSUP) || err == nil && size == 0 {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var list []archive.Xattr
	for name := range strings.SplitSeq(strings.TrimSuffix(string(names[:size]), "\x00"), "\x00") {
		value := make([]byte, 1<<16)
		size, err := unix.Getxattr(path, name, value)
		if errors.Is(err, unix.ENODATA) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("%q: %w", name, err)
		}
		list = append(list, archive.Xattr{Name: name, Value: string(value[:size])})
	}
	slices.SortFunc(list, func(a, b archive.Xattr) int { return strings.Compare(a.Name, b.Name) })
	return list, nil
}

// whiteout reports whether a file of an upper directory, with these attributes, hides what is below it.
func (n *handle) whiteout(attrs []archive.Xattr) bool {
	return n.kind() == unix.S_IFCHR && n.stat.Rdev == 0 || n.kind() == unix.S_IFREG && n.stat.Size == 0 && has(attrs, "overlay.whiteout")
}

// opaque reports whether a directory of an upper directory, with these attributes, hides all that is below it.
func (n *handle) opaque(attrs []archive.Xattr) bool {
	return n.kind() == unix.S_IFDIR && opaqueDir(attrs)
}

// empty reports whether there is nothing in a directory or file.
func (n *handle) empty() (bool, error) {
	switch n.kind() {
	case unix.S_IFREG:
		return n.stat.Size == 0, nil
	case unix.S_IFDIR:
		names, err := n.names()
		return len(names) == 0, err
	}
	return false, nil
}

func has(list []archive.Xattr, name string) bool {
	return slices.ContainsFunc(list, func(x archive.Xattr) bool {
		return x.Name == "trusted."+name || x.Name == "user."+name
	})
}

func opaqueDir(list []archive.Xattr) bool {
	return slices.ContainsFunc(list, func(x archive.Xattr) bool {
		return overlayXattr(x) && strings.HasSuffix(x.Name, ".overlay.opaque") && x.Value == "y"
	})
}

func overlayXattr(x archive.Xattr) bool {
	return strings.HasPrefix(x.Name, "trusted.overlay.") || strings.HasPrefix(x.Name, "user.overlay.")
}
