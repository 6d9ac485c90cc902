package archive

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"sort"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// Extract applies a layer tar to the directory dir, as docker does to a lower
// layer: whiteouts remove, the rest is added or replaces what is there. Names go
// where a Tree puts them, so the layer's symlinks are followed within the layer
// alone and nothing outside dir is touched; a symlink of a lower layer is never
// followed but replaced where the layer needs a directory. Directories that the
// layer only implies keep the look and the times of lower ones. A failure leaves
// what is extracted so far. Nothing else may write to dir meanwhile.
func Extract(ctx context.Context, r io.Reader, dir string, opts ExtractOptions) (err error) {
	root, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("extract to %q: %w", dir, err)
	}
	x := &extractor{opts: opts, root: root, parent: -1, tree: NewTree(), kept: map[string]kept{}}
	defer func() {
		x.closeParent()
		err = errors.Join(err, unix.Close(root))
	}()
	tr := NewReader(r)
	for {
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("extract to %q: %w", dir, err)
		}
		e, err := tr.Next()
		if x.pending != nil {
			if perr := x.pending(); perr != nil {
				return fmt.Errorf("extract to %q: %w", dir, perr)
			}
			x.pending = nil
		}
		if errors.Is(err, io.EOF) {
			break
		}
		if err == nil {
			err = x.entry(e, tr)
		}
		if err != nil {
			return fmt.Errorf("extract to %q: %w", dir, err)
		}
	}
	if err := x.finishDirs(x.tree.Root, ""); err != nil {
		return fmt.Errorf("extract to %q: %w", dir, err)
	}
	return nil
}

// extractor applies one layer.
type extractor struct {
	opts   ExtractOptions
	root   int
	tree   *Tree
	kept   map[string]kept // directories by path
	parent int             // the open directory of the last entry, or -1
	path   string          // its path

	pending func() error // what is left of the last entry once its data has passed
}

// kept is what is known of a directory that is on the disk.
type kept struct {
	found bool          // it was there
	lower bool          // and if the layer does not say how it looks, it keeps its look
	mtime unix.Timespec // part of that
}

func (x *extractor) entry(e *Entry, content *Reader) error {
	p, err := x.tree.Add(e)
	if err != nil || p.Inode == nil {
		return err
	}
	err = x.place(e, &p, content)
	if err != nil {
		return fmt.Errorf("%q: %w", e.Name, err)
	}
	return nil
}

func (x *extractor) place(e *Entry, p *Placed, content *Reader) error {
	if x.opts.Merge && (p.Kind != NotWhiteout || p.Inode.IsWhiteout()) {
		return fmt.Errorf("a whiteout: %w", errdefs.ErrFailedPrecondition)
	}
	if p.Kind == Opaque {
		fd, err := x.openDir(p.Path)
		if err != nil {
			return err
		}
		return x.clear(fd, p.Path, p.Inode)
	}
	if p.Dir == nil {
		_, err := x.openDir("")
		return err
	}
	dir, base := splitName(p.Path)
	fd, err := x.openDir(dir)
	if err != nil {
		return err
	}
	switch {
	case p.Kind == Hides && !p.Inode.IsWhiteout():
		if !p.Inode.IsDir() {
			return nil
		}
		if fd, err = x.openDir(p.Path); err != nil {
			return err
		}
		return x.clear(fd, p.Path, p.Inode)
	case p.Kind == Hides, p.Inode.IsWhiteout():
		x.forget(p.Path)
		return removeAll(fd, base)
	case e.HardLink && p.Link == "":
		return nil
	case e.HardLink:
		return x.link(fd, base, p)
	case e.IsDir():
		_, err := x.openDir(p.Path)
		return err
	}
	x.forget(p.Path)
	if err := x.makeRoom(fd, base); err != nil {
		return err
	}
	return x.create(fd, base, p.Inode, content)
}

// makeRoom removes what is in the place of a file that is to be made.
func (x *extractor) makeRoom(fd int, base string) error {
	if !x.opts.Merge {
		return removeAll(fd, base)
	}
	err := unix.Unlinkat(fd, base, 0)
	switch {
	case err == nil || errors.Is(err, unix.ENOENT):
		return nil
	case errors.Is(err, unix.EISDIR):
		return fmt.Errorf("cannot overwrite directory with non-directory: %w", errdefs.ErrFailedPrecondition)
	}
	return fmt.Errorf("replace: %w", err)
}

// forget drops what is known of the directory at path, and below, which is
// about to go away.
func (x *extractor) forget(path string) {
	if _, ok := x.kept[path]; !ok {
		return
	}
	for p := range x.kept {
		if p == path || len(p) > len(path) && p[:len(path)] == path && p[len(path)] == '/' {
			delete(x.kept, p)
		}
	}
}

func (x *extractor) closeParent() {
	if x.parent >= 0 {
		_ = unix.Close(x.parent) // an O_PATH descriptor: nothing can be lost
	}
	x.parent = -1
}

// openDir opens the directory at a path of the tree, and makes what is missing
// of it. The descriptor is the extractor's, good until the next call.
func (x *extractor) openDir(path string) (int, error) {
	if x.parent >= 0 && x.path == path {
		return x.parent, nil
	}
	if _, ok := x.kept[path]; !ok {
		if err := x.makeDir(path); err != nil {
			return -1, err
		}
	}
	x.closeParent()
	name := path
	if name == "" {
		name = "."
	}
	fd, err := unix.Openat2(x.root, name, &unix.OpenHow{
		Flags:   unix.O_RDONLY | unix.O_DIRECTORY | unix.O_CLOEXEC | unix.O_NOFOLLOW,
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS,
	})
	if err != nil {
		return -1, fmt.Errorf("open directory: %w", err)
	}
	x.parent, x.path = fd, path
	return fd, nil
}

// makeDir makes a directory, and those on the way to it, unless it is there.
func (x *extractor) makeDir(path string) error {
	if path == "" {
		return x.keep(x.root, ".", path)
	}
	dir, base := splitName(path)
	fd, err := x.openDir(dir)
	if err != nil {
		return err
	}
	err = unix.Mkdirat(fd, base, 0o700)
	if err == nil {
		x.kept[path] = kept{}
		return nil
	}
	if !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("make directory: %w", err)
	}
	err = x.keep(fd, base, path)
	if !errors.Is(err, unix.ENOTDIR) {
		return err
	}
	if x.opts.Merge {
		return fmt.Errorf("cannot overwrite non-directory with directory: %w", errdefs.ErrFailedPrecondition)
	}
	if err := unix.Unlinkat(fd, base, 0); err != nil {
		return fmt.Errorf("replace by a directory: %w", err)
	}
	return x.makeDir(path)
}

// keep notes a lower layer's directory, or fails with ENOTDIR.
func (x *extractor) keep(fd int, base, path string) error {
	var st unix.Stat_t
	if err := unix.Fstatat(fd, base, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return fmt.Errorf("stat directory: %w", err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFDIR {
		return unix.ENOTDIR
	}
	x.kept[path] = kept{found: true, lower: true, mtime: st.Mtim}
	return nil
}

// link makes base another name of what p links to.
func (x *extractor) link(fd int, base string, p *Placed) error {
	x.forget(p.Path)
	dir, name := splitName(p.Link)
	own, err := unix.Dup(fd) // openDir takes fd away
	if err != nil {
		return fmt.Errorf("open directory: %w", err)
	}
	defer unix.Close(own) //nolint:errcheck // read only
	if err := x.makeRoom(own, base); err != nil {
		return err
	}
	from, err := x.openDir(dir)
	if err != nil {
		return err
	}
	err = unix.Linkat(from, name, own, base, 0)
	if x.opts.limited() && errors.Is(err, unix.ENOENT) && p.Inode.isDevice() {
		return nil // devices were left out
	}
	if err != nil {
		return fmt.Errorf("hard link: %w", err)
	}
	return nil
}

func (n *Inode) isDevice() bool {
	return n.Mode&TypeMask == TypeChar || n.Mode&TypeMask == TypeBlock
}

// create makes what is no directory.
func (x *extractor) create(fd int, base string, n *Inode, content *Reader) error {
	switch {
	case n.Mode&TypeMask == TypeRegular:
		return x.createFile(fd, base, n, content)
	case n.Mode&TypeMask == TypeSymlink:
		if err := unix.Symlinkat(n.Target, fd, base); err != nil {
			return fmt.Errorf("symlink: %w", err)
		}
	case n.isDevice() && x.opts.limited():
		return nil
	default:
		dev := unix.Mkdev(n.Major, n.Minor)
		if err := unix.Mknodat(fd, base, n.Mode, int(dev)); err != nil {
			return fmt.Errorf("make node: %w", err)
		}
	}
	return x.describe(fd, base, n)
}

func (x *extractor) createFile(fd int, base string, n *Inode, content *Reader) error {
	own, err := unix.Openat(fd, base, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return fmt.Errorf("create file: %w", err)
	}
	f := os.NewFile(uintptr(own), base)
	done := func(err error) error {
		if err = errors.Join(err, f.Close()); err != nil {
			return fmt.Errorf("write file: %w", err)
		}
		return x.describe(fd, base, n)
	}
	if !n.Sparse {
		_, err = io.CopyN(f, content, n.Size)
		return done(err)
	}
	content.Tap(func(off int64, p []byte) error { return writeExtents(f, n.Extents, off, p) })
	x.pending = func() error { return done(f.Truncate(n.Size)) }
	return nil
}

// writeExtents writes what p, the tar's bytes at off, has of the extents.
func writeExtents(f *os.File, extents []Extent, off int64, p []byte) error {
	end := off + int64(len(p))
	i := sort.Search(len(extents), func(i int) bool { return extents[i].Data+extents[i].Size > off })
	for ; i < len(extents) && extents[i].Data < end; i++ {
		e := extents[i]
		lo, hi := max(off, e.Data), min(end, e.Data+e.Size)
		if _, err := f.WriteAt(p[lo-off:hi-off], e.Offset+lo-e.Data); err != nil {
			return fmt.Errorf("write file: %w", err)
		}
	}
	return nil
}

// describe gives a file, or a directory, its owner, attributes, time and mode,
// in the order that none undoes another: an ordinary user cannot reach "." of
// a directory whose mode forbids it.
func (x *extractor) describe(fd int, base string, n *Inode) error {
	if !x.opts.Squash {
		uid, gid := x.opts.owner(n)
		if err := unix.Fchownat(fd, base, uid, gid, unix.AT_SYMLINK_NOFOLLOW); err != nil {
			return fmt.Errorf("set owner: %w", err)
		}
	}
	for _, a := range n.Xattrs {
		err := unix.Lsetxattr("/proc/self/fd/"+strconv.Itoa(fd)+"/"+base, a.Name, []byte(a.Value), 0)
		refused := errors.Is(err, unix.EPERM) || errors.Is(err, unix.EACCES) || errors.Is(err, unix.EINVAL)
		if err != nil && !errors.Is(err, unix.ENOTSUP) && (!x.opts.limited() || !refused) {
			return fmt.Errorf("set attribute %q: %w", a.Name, err)
		}
	}
	if err := setTime(fd, base, timespec(n.ModTime)); err != nil {
		return err
	}
	if n.Mode&TypeMask != TypeSymlink {
		if err := chmod(fd, base, n.Mode&0o7777); err != nil {
			return fmt.Errorf("set mode: %w", err)
		}
	}
	return nil
}

// chmod never follows a symlink, even one that has just taken the file's place.
func chmod(fd int, base string, mode uint32) error {
	err := unix.Fchmodat(fd, base, mode, unix.AT_SYMLINK_NOFOLLOW)
	if !errors.Is(err, unix.EOPNOTSUPP) {
		return err
	}
	file, err := unix.Openat(fd, base, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0) // before Linux 6.6
	if err != nil {
		return err
	}
	var st unix.Stat_t
	if err = unix.Fstat(file, &st); err == nil && st.Mode&unix.S_IFMT == unix.S_IFLNK {
		err = unix.ELOOP
	}
	if err == nil {
		err = unix.Chmod("/proc/self/fd/"+strconv.Itoa(file), mode)
	}
	return errors.Join(err, unix.Close(file))
}

func setTime(fd int, base string, t unix.Timespec) error {
	if err := unix.UtimesNanoAt(fd, base, []unix.Timespec{t, t}, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return fmt.Errorf("set time: %w", err)
	}
	return nil
}

func timespec(t time.Time) unix.Timespec {
	return unix.Timespec{Sec: t.Unix(), Nsec: int64(t.Nanosecond())}
}

// finishDirs gives the directories of the layer the look that it says, and those
// that it implies the time they had. What was created in them has changed it.
func (x *extractor) finishDirs(dir *Inode, path string) error {
	for name, child := range dir.Children {
		if child.IsDir() {
			if err := x.finishDirs(child, joinName(path, name)); err != nil {
				return err
			}
		}
	}
	if k, ok := x.kept[path]; !ok || x.opts.Merge && k.found {
		return nil
	}
	fd, err := x.openDir(path)
	if err != nil {
		return err
	}
	if k := x.kept[path]; dir.Implied && k.lower {
		return setTime(fd, ".", k.mtime)
	}
	if x.kept[path].found {
		if err := removeXattrs(fd, dir.Xattrs); err != nil {
			return err
		}
	}
	return x.describe(fd, ".", dir)
}

// removeXattrs removes a directory's attributes but those of list.
func removeXattrs(fd int, list []Xattr) error {
	names := make([]byte, 1<<16) // what the kernel bounds the list to
	n, err := unix.Flistxattr(fd, names)
	if errors.Is(err, unix.ENOTSUP) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("list attributes: %w", err)
	}
	for name := range strings.SplitSeq(string(names[:n]), "\x00") {
		if name == "" || slices.ContainsFunc(list, func(a Xattr) bool { return a.Name == name }) {
			continue
		}
		err := unix.Fremovexattr(fd, name)
		if err != nil && !errors.Is(err, unix.ENOTSUP) && !errors.Is(err, unix.EPERM) && !errors.Is(err, unix.EACCES) {
			return fmt.Errorf("remove attribute %q: %w", name, err)
		}
	}
	return nil
}

// clear removes what a lower layer has in a directory and the layer has not.
func (x *extractor) clear(fd int, path string, dir *Inode) error {
	names, err := readNames(fd, ".")
	if err != nil {
		return err
	}
	for _, name := range names {
		child := dir.Children[name]
		if child == nil || child.IsWhiteout() {
			if err := removeAll(fd, name); err != nil {
				return err
			}
			continue
		}
		if !child.IsDir() {
			continue
		}
		below := joinName(path, name)
		if k, ok := x.kept[below]; ok {
			k.lower = false
			x.kept[below] = k
		}
		sub, err := openBelow(fd, name)
		if err != nil {
			return err
		}
		err = x.clear(sub, below, child)
		if err = errors.Join(err, unix.Close(sub)); err != nil {
			return err
		}
	}
	return nil
}

func openBelow(fd int, name string) (int, error) {
	sub, err := unix.Openat(fd, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("open directory: %w", err)
	}
	return sub, nil
}

func readNames(fd int, name string) ([]string, error) {
	own, err := openBelow(fd, name)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(own), name)
	names, err := f.Readdirnames(-1)
	if err = errors.Join(err, f.Close()); err != nil {
		return nil, fmt.Errorf("read directory: %w", err)
	}
	return names, nil
}

// removeAll removes name in the directory fd, and all below it, and follows
// nothing. A name that is not there is no error.
func removeAll(fd int, name string) error {
	err := unix.Unlinkat(fd, name, 0)
	if err == nil || errors.Is(err, unix.ENOENT) {
		return nil
	}
	if !errors.Is(err, unix.EISDIR) && !errors.Is(err, unix.EPERM) {
		return fmt.Errorf("remove: %w", err)
	}
	if err := unix.Unlinkat(fd, name, unix.AT_REMOVEDIR); err == nil {
		return nil
	}
	names, err := readNames(fd, name)
	if err != nil {
		return err
	}
	sub, err := openBelow(fd, name)
	if err != nil {
		return err
	}
	for _, n := range names {
		if err = removeAll(sub, n); err != nil {
			break
		}
	}
	if err = errors.Join(err, unix.Close(sub)); err != nil {
		return err
	}
	if err := unix.Unlinkat(fd, name, unix.AT_REMOVEDIR); err != nil {
		return fmt.Errorf("remove directory: %w", err)
	}
	return nil
}
