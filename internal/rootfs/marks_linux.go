package rootfs

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"strake/internal/layer"
	"strake/internal/userns"
)

// overlayMarks makes the directory dir, which the top one of layers was extracted to, one that overlayfs shows right over the
// directories of the others: with whiteouts and opaque directories where there is something to hide, and with directories that
// the layer only implies as lower layers name them.
func overlayMarks(ctx context.Context, layers []*layer.Layer, dir string) error {
	top := layers[len(layers)-1]
	m := marker{dir: dir, touched: map[string]bool{}, union: layer.Union(layers), lower: layer.Union(layers[:len(layers)-1])}
	err := fs.WalkDir(top, ".", func(name string, d fs.DirEntry, err error) error {
		if err = errors.Join(err, ctx.Err()); err != nil {
			return err
		}
		if !d.IsDir() && d.Type()&fs.ModeCharDevice == 0 {
			return nil
		}
		st, err := statOf(top, name)
		if err == nil {
			err = m.mark(name, st)
		}
		if err != nil {
			return fmt.Errorf("%q: %w", name, err)
		}
		return nil
	})
	if err != nil {
		return err
	}
	for name := range m.touched {
		if err := m.describe(name); err != nil {
			return fmt.Errorf("%q: %w", name, err)
		}
	}
	return nil
}

// A marker works on one extracted layer.
type marker struct {
	dir          string
	union, lower *layer.FS
	touched      map[string]bool // directories that do not look as they should yet
}

func (m *marker) mark(name string, st *layer.Stat) error {
	switch {
	case st.Whiteout():
		if _, err := m.lower.Lstat(name); err != nil {
			return ignoreMissing(err)
		}
		m.touched[path.Dir(name)] = true
		return unix.Mknod(filepath.Join(m.dir, name), unix.S_IFCHR, 0)
	case st.Implied:
		m.touched[name] = true
	}
	if !st.Opaque || name == "." {
		return nil
	}
	if _, err := m.lower.Lstat(name); err != nil {
		return ignoreMissing(err)
	}
	attribute := "trusted.overlay.opaque"
	if userns.IDs() > 0 {
		attribute = "user.overlay.opaque"
	}
	return unix.Lsetxattr(filepath.Join(m.dir, name), attribute, []byte("y"), 0)
}

func ignoreMissing(err error) error {
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR) {
		return nil
	}
	return err
}

// describe gives a directory the look that the union has.
func (m *marker) describe(name string) error {
	info, err := m.union.Lstat(name)
	if err != nil {
		return err
	}
	st, err := statOf(m.union, name)
	if err != nil {
		return err
	}
	full, ids := filepath.Join(m.dir, name), userns.IDs()
	uid, gid := userns.Owner(int(st.UID), int(st.GID))
	if err := unix.Lchown(full, uid, gid); err != nil {
		return err
	}
	for _, a := range st.Xattrs {
		if err := unix.Lsetxattr(full, a.Name, []byte(a.Value), 0); err != nil && !errors.Is(err, unix.ENOTSUP) && (ids == 0 || !errors.Is(err, unix.EPERM)) {
			return fmt.Errorf("set attribute %q: %w", a.Name, err)
		}
	}
	if err := unix.Chmod(full, st.Mode&0o7777); err != nil {
		return err
	}
	return setTimes(full, info.ModTime())
}

func setTimes(path string, t time.Time) error {
	at := unix.Timespec{Sec: t.Unix(), Nsec: int64(t.Nanosecond())}
	return unix.UtimesNanoAt(unix.AT_FDCWD, path, []unix.Timespec{at, at}, unix.AT_SYMLINK_NOFOLLOW)
}
