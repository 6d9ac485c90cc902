package layer

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"strake/internal/archive"
)

// Diff writes what the upper directory of an overlay holds as the entries of a
// layer, sorted: overlayfs's whiteouts and opaque directories become those of a
// layer tar, its attributes fall away, sockets are passed over. A directory that
// was only copied up is an entry too, as for docker; the root directory is
// not, unless it is asked for. The overlay must not be mounted with redirects or metadata-only
// copies. Diff does not close w. Nothing may write to upper meanwhile.
func Diff(ctx context.Context, upper string, w *archive.Writer, opts DiffOptions) error {
	d := &differ{w: w, opts: opts, links: map[inodeKey]string{}}
	write := d.dir
	if opts.Root {
		write = d.entry
	}
	if err := write(ctx, upper, ""); err != nil {
		return fmt.Errorf("diff of %q: %w", upper, err)
	}
	return nil
}

// inodeKey is what hard links have in common.
type inodeKey struct{ dev, ino uint64 }

type differ struct {
	w     *archive.Writer
	opts  DiffOptions
	links map[inodeKey]string // the first name of files that have several
}

// dir writes the entries below the directory at path, which is name in the layer.
func (d *differ) dir(ctx context.Context, path, name string) error {
	list, err := os.ReadDir(path)
	if err != nil {
		return err
	}
	for _, de := range list {
		if err := ctx.Err(); err != nil {
			return err
		}
		base := de.Name()
		if err := d.entry(ctx, filepath.Join(path, base), strings.TrimPrefix(name+"/"+base, "/")); err != nil {
			return err
		}
	}
	return nil
}

func (d *differ) entry(ctx context.Context, path, name string) error {
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		return fmt.Errorf("stat %q: %w", name, err)
	}
	if d.opts.Skip != nil && d.opts.Skip(name) {
		return nil
	}
	e := &archive.Entry{
		Name: name, Mode: st.Mode, UID: st.Uid, GID: st.Gid,
		Major: unix.Major(st.Rdev), Minor: unix.Minor(st.Rdev),
		ModTime: time.Unix(st.Mtim.Unix()),
	}
	if d.opts.Owner != nil {
		if uid, gid, known := d.opts.Owner(name); known {
			e.UID, e.GID = uid, gid
		}
	}
	kind := st.Mode & unix.S_IFMT
	if kind == unix.S_IFSOCK {
		return nil
	}
	attrs, err := readXattrs(path)
	if err != nil {
		return fmt.Errorf("attributes of %q: %w", name, err)
	}
	if kind == unix.S_IFCHR && st.Rdev == 0 || kind == unix.S_IFREG && st.Size == 0 && has(attrs, "overlay.whiteout") {
		return d.w.Whiteout(name)
	}
	opaque := kind == unix.S_IFDIR && opaqueDir(attrs)
	e.Xattrs = slices.DeleteFunc(attrs, overlayXattr)
	if kind != unix.S_IFDIR && st.Nlink > 1 {
		key := inodeKey{dev: st.Dev, ino: st.Ino}
		if first, ok := d.links[key]; ok {
			return d.w.Write(&archive.Entry{Name: name, Linkname: first, HardLink: true, ModTime: e.ModTime, Mode: e.Mode}, nil)
		}
		d.links[key] = name
	}
	switch kind {
	case unix.S_IFREG:
		return d.file(path, e)
	case unix.S_IFLNK:
		if e.Linkname, err = os.Readlink(path); err != nil {
			return err
		}
		return d.w.Write(e, nil)
	case unix.S_IFDIR:
		if err := d.w.Write(e, nil); err != nil {
			return err
		}
		if opaque {
			if err := d.w.Opaque(name); err != nil {
				return err
			}
		}
		return d.dir(ctx, path, name)
	}
	return d.w.Write(e, nil)
}

func (d *differ) file(path string, e *archive.Entry) (err error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	e.Size = info.Size()
	return d.w.Write(e, f)
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

// readXattrs lists the attributes of the file itself, sorted.
func readXattrs(path string) ([]archive.Xattr, error) {
	var stack [4096]byte
	names := stack[:]
	n, err := unix.Llistxattr(path, names)
	if errors.Is(err, unix.ERANGE) {
		names = make([]byte, 1<<16) // what the kernel bounds the list to
		n, err = unix.Llistxattr(path, names)
	}
	if errors.Is(err, unix.ENOTSUP) || err == nil && n == 0 {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var list []archive.Xattr
	for name := range strings.SplitSeq(strings.TrimSuffix(string(names[:n]), "\x00"), "\x00") {
		value := make([]byte, 1<<16)
		n, err := unix.Lgetxattr(path, name, value)
		if errors.Is(err, unix.ENODATA) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("%q: %w", name, err)
		}
		list = append(list, archive.Xattr{Name: name, Value: string(value[:n])})
	}
	slices.SortFunc(list, func(a, b archive.Xattr) int { return strings.Compare(a.Name, b.Name) })
	return list, nil
}
