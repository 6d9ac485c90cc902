package layer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"strake/internal/archive"
)

// Diff writes what the upper directory of an overlay holds as the entries of a
// layer, sorted: overlayfs's whiteouts and opaque directories become those of a
// layer tar, its attributes fall away, sockets are passed over. A directory that
// was only copied up is an entry too, as for docker; the root directory is
// not, unless it is asked for. The overlay must not be mounted with redirects or metadata-only
// copies. Diff does not close w. Who writes to upper meanwhile never makes it read a file
// elsewhere, but may make it fail or find some of both states.
func Diff(ctx context.Context, upper string, w *archive.Writer, opts DiffOptions) error {
	d := &differ{w: w, opts: opts, links: map[inodeKey]string{}}
	if err := d.top(ctx, upper); err != nil {
		return fmt.Errorf("diff of %q: %w", upper, err)
	}
	return nil
}

// WriteTree writes the file or directory that root is open at, and what is below it, as entries of a tar. It is Diff for a tree
// that is in use, and whose whiteouts mean nothing: a file that shrinks meanwhile is filled up with zeros.
func WriteTree(ctx context.Context, root *os.File, w *archive.Writer, opts TreeOptions) error {
	d := &differ{w: w, links: map[inodeKey]string{}, live: true, plain: opts.Plain}
	n := handle{fd: int(root.Fd())}
	err := unix.Fstat(n.fd, &n.stat)
	if err == nil && opts.Name == "." {
		err = d.dir(ctx, &n, "")
	} else if err == nil {
		err = d.write(ctx, &n, opts.Name)
	}
	if err != nil {
		return fmt.Errorf("read %q: %w", opts.Name, err)
	}
	return nil
}

// inodeKey is what hard links have in common.
type inodeKey struct{ dev, ino uint64 }

type differ struct {
	w     *archive.Writer
	opts  DiffOptions
	links map[inodeKey]string // the first name of files that have several
	live  bool                // it is no upper directory, and somebody may write to it
	plain bool                // rights of the owner stay behind
}

// top writes all below upper.
func (d *differ) top(ctx context.Context, upper string) (err error) {
	fd, err := unix.Open(upper, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	n := handle{fd: fd}
	defer func() { err = errors.Join(err, n.close()) }()
	if err := unix.Fstat(fd, &n.stat); err != nil {
		return err
	}
	if !d.opts.Root {
		return d.dir(ctx, &n, "")
	}
	if d.opts.Skip != nil && d.opts.Skip("") {
		return nil
	}
	return d.write(ctx, &n, "")
}

// dir writes the entries below a directory, which is name in the layer.
func (d *differ) dir(ctx context.Context, n *handle, name string) error {
	names, err := n.names()
	if err != nil {
		return err
	}
	for _, base := range names {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := d.entry(ctx, n, base, path.Join(name, base)); err != nil {
			return err
		}
	}
	return nil
}

func (d *differ) entry(ctx context.Context, dir *handle, base, name string) (err error) {
	n, err := openHandle(dir.fd, base)
	if d.live && errors.Is(err, unix.ENOENT) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("stat %q: %w", name, err)
	}
	defer func() { err = errors.Join(err, n.close()) }()
	if d.opts.Skip != nil && d.opts.Skip(name) {
		return nil
	}
	if d.opts.Stub != nil && d.opts.Stub(name) {
		if empty, err := n.empty(); empty || err != nil {
			return err
		}
	}
	return d.write(ctx, &n, name)
}

func (d *differ) write(ctx context.Context, n *handle, name string) error {
	st := &n.stat
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
	if n.kind() == unix.S_IFSOCK {
		return nil
	}
	attrs, err := n.xattrs()
	if err != nil {
		return fmt.Errorf("attributes of %q: %w", name, err)
	}
	if !d.live && n.whiteout(attrs) {
		return d.w.Whiteout(name)
	}
	opaque := !d.live && n.opaque(attrs)
	e.Xattrs = slices.DeleteFunc(attrs, overlayXattr)
	if d.plain {
		e.Mode, e.Xattrs = e.Mode&^(unix.S_ISUID|unix.S_ISGID), nil
	}
	if n.kind() != unix.S_IFDIR && st.Nlink > 1 {
		key := inodeKey{dev: st.Dev, ino: st.Ino}
		if first, ok := d.links[key]; ok {
			return d.w.Write(&archive.Entry{Name: name, Linkname: first, HardLink: true, ModTime: e.ModTime, Mode: e.Mode}, nil)
		}
		d.links[key] = name
	}
	switch n.kind() {
	case unix.S_IFREG:
		return d.file(n, e)
	case unix.S_IFLNK:
		if e.Linkname, err = n.readLink(); err != nil {
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
		return d.dir(ctx, n, name)
	}
	return d.w.Write(e, nil)
}

func (d *differ) file(n *handle, e *archive.Entry) (err error) {
	f, err := n.open()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	e.Size = info.Size()
	if d.live {
		return d.w.Write(e, io.MultiReader(f, padding{}))
	}
	return d.w.Write(e, f)
}

// padding is zeros without end.
type padding struct{}

func (padding) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}
