package rootfs

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"

	"strake/internal/mount"
	"strake/internal/userns"
)

// A Room is a directory in memory that only the processes of a namespace see: for what a container is to be shown and the disk is
// not. What is in it is gone when it is closed, or the process dies. Its methods may be called from any goroutine.
type Room struct {
	ns    *mount.Namespace
	dir   string
	names int // used inside of the namespace only
}

// roomSize bounds what the files of a Room take, in bytes.
const roomSize = 64 << 20

// NewRoom makes a Room at dir, an existing directory. The caller closes it.
func NewRoom(ns *mount.Namespace, dir string) (*Room, error) {
	err := ns.Do(func() error {
		return mount.Tmpfs(mount.TmpfsOptions{Size: roomSize, Mode: 0o711}, dir)
	})
	if err != nil {
		return nil, fmt.Errorf("make a room in memory: %w", err)
	}
	return &Room{ns: ns, dir: dir}, nil
}

// Dir is where the Room is, as the namespace sees it.
func (r *Room) Dir() string { return r.dir }

// name returns a path in the room that nothing has yet.
func (r *Room) name() string {
	r.names++
	return filepath.Join(r.dir, strconv.Itoa(r.names))
}

// Attributes are the owner and the permissions of something in a Room.
type Attributes struct {
	UID, GID int
	Mode     fs.FileMode // permissions only
}

func (a Attributes) apply(path string) error {
	uid, gid := userns.Owner(a.UID, a.GID)
	return errors.Join(os.Lchown(path, uid, gid), os.Chmod(path, a.Mode.Perm()))
}

// File makes a file and returns its path.
func (r *Room) File(data []byte, a Attributes) (path string, err error) {
	err = r.ns.Do(func() error {
		path = r.name()
		return errors.Join(os.WriteFile(path, data, 0o600), a.apply(path))
	})
	if err != nil {
		return "", fmt.Errorf("make a file in memory: %w", err)
	}
	return path, nil
}

// Dirs makes a directory, and more inside of it, and returns its path.
func (r *Room) Dirs(inside ...string) (path string, err error) {
	err = r.ns.Do(func() error {
		path = r.name()
		for _, name := range append([]string{"."}, inside...) {
			if err := makeDir(filepath.Join(path, name)); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return "", fmt.Errorf("make a directory in memory: %w", err)
	}
	return path, nil
}

// Listen makes a unix socket and returns its path. The caller closes the listener.
func (r *Room) Listen(ctx context.Context, a Attributes) (l net.Listener, path string, err error) {
	err = r.ns.Do(func() error {
		path = r.name()
		dir, err := os.OpenFile(r.dir, unix.O_PATH|unix.O_DIRECTORY, 0)
		if err != nil {
			return err
		}
		defer func() { _ = dir.Close() }() // a path only
		// The path of a socket has 107 bytes at most.
		short := fmt.Sprintf("/proc/thread-self/fd/%d/%s", dir.Fd(), filepath.Base(path))
		var config net.ListenConfig
		if l, err = config.Listen(ctx, "unix", short); err != nil {
			return err
		}
		if u, ok := l.(*net.UnixListener); ok {
			u.SetUnlinkOnClose(false) // goes with the room
		}
		return a.apply(path)
	})
	if err != nil && l != nil {
		err = errors.Join(err, l.Close())
	}
	if err != nil {
		return nil, "", fmt.Errorf("make a socket in memory: %w", err)
	}
	return l, path, nil
}

// Show shows what name leads to in the directory root, and returns where. Links in name are resolved inside of root.
func (r *Room) Show(root, name string, readOnly bool) (path string, err error) {
	err = r.ns.Do(func() error {
		path = r.name()
		return mount.BindIn(root, name, path, readOnly)
	})
	return path, err
}

// Tmpfs makes an empty file system in memory and returns its path. Its root has the mode of the directory that name leads to in the
// directory root, as in Show, and 1777 where there is none. size is in bytes; 0 is the kernel's choice.
func (r *Room) Tmpfs(root, name string, size int64) (path string, err error) {
	err = r.ns.Do(func() error {
		o := mount.TmpfsOptions{Size: size, Mode: 0o1777}
		like := r.name()
		err := mount.BindIn(root, name, like, true)
		var st unix.Stat_t
		if err == nil {
			err = unix.Stat(like, &st)
			o.Mode = st.Mode & 0o7777
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		path = r.name()
		return errors.Join(makeDir(path), mount.Tmpfs(o, path))
	})
	if err != nil {
		return "", fmt.Errorf("make a file system in memory: %w", err)
	}
	return path, nil
}

// Close takes the Room away with all that was shown in it. Processes that use it keep it until they end.
func (r *Room) Close() error {
	if err := r.ns.Do(func() error { return mount.Unmount(r.dir) }); err != nil {
		return fmt.Errorf("take a room away: %w", err)
	}
	return nil
}
