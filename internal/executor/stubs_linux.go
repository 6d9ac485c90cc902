package executor

import (
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strings"

	securejoin "github.com/cyphar/filepath-securejoin"
	"golang.org/x/sys/unix"
)

// A stub is a file or directory that was made to be mounted on.
type stub struct {
	parent, name string // directory below the root without symbolic links, and the entry in it
}

// A stubMaker makes the missing targets of mounts in a root file system and takes them away again.
type stubMaker struct {
	root  *os.File
	stubs []stub // parents before what is in them
}

// make makes target, as the runtime would resolve it, where it is missing.
func (m *stubMaker) make(target string, isDir bool) error {
	full, err := securejoin.SecureJoin(m.root.Name(), target)
	if err != nil {
		return fmt.Errorf("make a place for a mount at %s: %w", target, err)
	}
	rel, err := filepath.Rel(m.root.Name(), full)
	if err != nil {
		return fmt.Errorf("make a place for a mount at %s: %w", target, err)
	}
	names := strings.Split(rel, "/")
	for i, name := range names {
		parent := path.Join(names[:i]...)
		if err := m.makeOne(parent, name, isDir || i < len(names)-1); err != nil {
			return fmt.Errorf("make a place for a mount at %s: %w", target, err)
		}
	}
	return nil
}

// makeOne makes one entry if it is missing, and leaves the times of its directory as they were.
func (m *stubMaker) makeOne(parent, name string, isDir bool) error {
	dir, err := m.openDir(parent)
	if err != nil {
		return err
	}
	defer func() { _ = dir.Close() }() // nothing was written through it
	fd := int(dir.Fd())
	var st, before unix.Stat_t
	err = unix.Fstatat(fd, name, &st, unix.AT_SYMLINK_NOFOLLOW)
	if !errors.Is(err, unix.ENOENT) {
		return err
	}
	if err := unix.Fstat(fd, &before); err != nil {
		return err
	}
	mode := uint32(0o644)
	if isDir {
		mode = 0o755
		err = unix.Mkdirat(fd, name, mode)
	} else {
		err = unix.Mknodat(fd, name, unix.S_IFREG|mode, 0)
	}
	if err == nil {
		err = unix.Fchmodat(fd, name, mode, 0) // whatever the umask
	}
	if err != nil {
		return err
	}
	m.stubs = append(m.stubs, stub{parent: parent, name: name})
	return setTimes(dir, &before)
}

// remove takes the stubs away that are empty, wherever their place still is the same directory of the root file system: nothing
// behind a symbolic link and nothing on another file system is touched.
func (m *stubMaker) remove() error {
	var failed []error
	for i := len(m.stubs) - 1; i >= 0; i-- {
		if err := m.removeOne(m.stubs[i]); err != nil {
			failed = append(failed, fmt.Errorf("remove the mount point %s: %w", path.Join("/", m.stubs[i].parent, m.stubs[i].name), err))
		}
	}
	m.stubs = nil
	return errors.Join(failed...)
}

// removeOne removes one stub, and leaves the times of its directory as they are.
func (m *stubMaker) removeOne(s stub) error {
	dir, err := m.openDir(s.parent)
	if err != nil {
		return nil // the process replaced the directory: what is there now is its own
	}
	defer func() { _ = dir.Close() }() // nothing was written through it
	fd := int(dir.Fd())
	var now, before unix.Stat_t
	if err := unix.Fstatat(fd, s.name, &now, unix.AT_SYMLINK_NOFOLLOW); err != nil || !empty(&now) {
		return nil // removed or filled by the process
	}
	if err := unix.Fstat(fd, &before); err != nil {
		return err
	}
	flags := 0
	if now.Mode&unix.S_IFMT == unix.S_IFDIR {
		flags = unix.AT_REMOVEDIR
	}
	if err := unix.Unlinkat(fd, s.name, flags); err != nil {
		if errors.Is(err, unix.ENOTEMPTY) {
			return nil // the process put something into it
		}
		return err
	}
	return setTimes(dir, &before)
}

// empty reports whether nothing was put into a stub, or into what took its place: BuildKit does not tell the two apart. A directory
// that has something in it cannot be removed anyway.
func empty(now *unix.Stat_t) bool {
	kind := now.Mode & unix.S_IFMT
	return kind == unix.S_IFDIR || kind == unix.S_IFREG && now.Size == 0
}

// openDir opens a directory of the root file system by a path that must not lead over links or mounts.
func (m *stubMaker) openDir(name string) (*os.File, error) {
	fd, err := unix.Openat2(int(m.root.Fd()), path.Join(".", name), &unix.OpenHow{
		Flags:   unix.O_RDONLY | unix.O_DIRECTORY | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_XDEV,
	})
	if err != nil {
		return nil, fmt.Errorf("open /%s: %w", name, err)
	}
	return os.NewFile(uintptr(fd), name), nil
}

// setTimes gives a directory the times in st.
func setTimes(dir *os.File, st *unix.Stat_t) error {
	return unix.UtimesNanoAt(int(dir.Fd()), "", []unix.Timespec{st.Atim, st.Mtim}, unix.AT_EMPTY_PATH)
}
