package rootfs

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"strake/internal/mount"
	"strake/internal/userns"
)

// A scratch is a directory in memory that is only there in the namespace: for mount points and small directories. All its
// methods are to be called inside of the namespace.
type scratch struct {
	parent string // directory on disk, made if missing
	dir    string // "" until first used
	points int
	stubs  string
}

// open makes the scratch. A Mounter of the same namespace may have put a file system there already.
func (s *scratch) open() error {
	if s.dir != "" {
		return nil
	}
	point := filepath.Join(s.parent, MountPoints)
	if err := os.MkdirAll(point, 0o700); err != nil {
		return fmt.Errorf("make mount points: %w", err)
	}
	var outer, inner unix.Stat_t
	if err := errors.Join(unix.Stat(s.parent, &outer), unix.Stat(point, &inner)); err != nil {
		return fmt.Errorf("make mount points in %q: %w", point, err)
	}
	if outer.Dev == inner.Dev {
		if err := mount.Tmpfs(mount.TmpfsOptions{}, point); err != nil {
			return fmt.Errorf("make mount points: %w", err)
		}
	}
	dir, err := os.MkdirTemp(point, "")
	if err != nil {
		return fmt.Errorf("make mount points: %w", err)
	}
	s.dir = dir
	return nil
}

// newPoint returns a new empty directory.
func (s *scratch) newPoint() (string, error) {
	if err := s.open(); err != nil {
		return "", err
	}
	dir := filepath.Join(s.dir, strconv.Itoa(s.points))
	if err := makeDir(dir); err != nil {
		return "", fmt.Errorf("make a mount point: %w", err)
	}
	s.points++
	return dir, nil
}

// makeDir makes a directory of mode 0755, whatever the umask.
func makeDir(dir string) error {
	if err := os.Mkdir(dir, 0o755); err != nil { //nolint:gosec // as in an image
		return err
	}
	return os.Chmod(dir, 0o755) //nolint:gosec // as in an image
}

// stubDir returns the directory of MountOptions.Stubs.
func (s *scratch) stubDir() (string, error) {
	if s.stubs != "" {
		return s.stubs, nil
	}
	dir, err := s.newPoint()
	if err != nil {
		return "", err
	}
	dirs, files := []string{"etc"}, []string{"etc/hosts", "etc/resolv.conf"}
	for _, name := range dirs {
		if err := makeDir(filepath.Join(dir, name)); err != nil {
			return "", fmt.Errorf("make stubs: %w", err)
		}
	}
	for _, name := range files {
		path := filepath.Join(dir, name)
		err := os.WriteFile(path, nil, 0o644)
		if err == nil {
			err = os.Chmod(path, 0o644) //nolint:gosec // as in an image
		}
		if err != nil {
			return "", fmt.Errorf("make stubs: %w", err)
		}
	}
	epoch := time.Unix(0, 0)
	for _, name := range append(append(files, dirs...), "") {
		if err := os.Chtimes(filepath.Join(dir, name), epoch, epoch); err != nil {
			return "", fmt.Errorf("make stubs: %w", err)
		}
	}
	s.stubs = dir
	return dir, nil
}

// unite mounts the union of lower, the top one first, as o says. Its root directory has the attributes of the directory root;
// "" = those of an empty image.
func (s *scratch) unite(lower []string, root string, o MountOptions) error {
	if o.Stubs {
		dir, err := s.stubDir()
		if err != nil {
			return err
		}
		lower = append(lower, dir)
	}
	for len(lower) == 0 || o.Upper == "" && len(lower) == 1 {
		dir, err := s.newPoint()
		if err != nil {
			return err
		}
		lower = append(lower, dir)
	}
	if root == "" {
		root = lower[0]
	}
	if o.Upper != "" {
		if err := copyRoot(root, o.Upper, o.Work); err != nil {
			return err
		}
	} else if root != lower[0] {
		dir, err := s.newPoint()
		if err != nil {
			return err
		}
		if err := copyAttributes(root, dir); err != nil {
			return err
		}
		lower = append([]string{dir}, lower...)
	}
	overlay := mount.OverlayOptions{Lower: lower, Upper: o.Upper, Work: o.Work, Volatile: o.Volatile && o.Upper != "", UserXattr: userns.IDs() > 0}
	return mount.Overlay(overlay, o.Target)
}

// copyRoot gives a fresh upper directory the attributes of the union's root directory, because it is the one that is seen. The
// kernel keeps something in the work directory of one that was mounted before.
func copyRoot(root, upper, work string) error {
	used, err := os.ReadDir(work)
	if err != nil {
		return fmt.Errorf("look at the work directory: %w", err)
	}
	if len(used) > 0 {
		return nil
	}
	return copyAttributes(root, upper)
}

// copyAttributes gives the directory to the mode, owner and times of from.
func copyAttributes(from, to string) error {
	var st unix.Stat_t
	if err := unix.Stat(from, &st); err != nil {
		return fmt.Errorf("look at the root directory: %w", err)
	}
	err := errors.Join(
		unix.Chown(to, int(st.Uid), int(st.Gid)),
		unix.Chmod(to, st.Mode&0o7777),
		unix.UtimesNanoAt(unix.AT_FDCWD, to, []unix.Timespec{st.Atim, st.Mtim}, 0),
	)
	if err != nil {
		return fmt.Errorf("prepare the root directory: %w", err)
	}
	return nil
}
