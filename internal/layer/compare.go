package layer

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"

	"strake/internal/archive"
)

// Aspect is what two files of one name can differ in; several are added up.
type Aspect int

// Aspects.
const (
	Content    Aspect = 1 << iota // bytes of a file, the target of a symlink, the numbers of a device
	Type                          // one is a directory, say, and the other is not
	Mode                          // permissions
	Owner                         // user or group
	Time                          // of the last change
	Attributes                    // extended ones
)

// Difference is a name that two trees do not show alike.
type Difference struct {
	Path string      // clean; "." is the root
	Kind ChangeKind  // from the first tree to the second
	Old  fs.FileInfo // nil: not there
	New  fs.FileInfo
	What Aspect // of Changed
}

// Compare calls found with each name that a and b do not show alike, in the order
// of a walk. What both show of one layer is the same and not looked at; other
// files of one size are compared byte by byte. It ends with found's first error.
func Compare(ctx context.Context, a, b *FS, found func(Difference) error) error {
	c := &comparison{ended: ctx.Err, a: a, b: b, found: found}
	x, err := rootOf(a)
	if err != nil {
		return fmt.Errorf("compare: %w", err)
	}
	y, err := rootOf(b)
	if err != nil {
		return fmt.Errorf("compare: %w", err)
	}
	if err := c.either("", x, y); err != nil {
		return fmt.Errorf("compare: %w", err)
	}
	return nil
}

// rootOf is the root of a tree, nil where it has no layers.
func rootOf(f *FS) (*entry, error) {
	e, err := f.root()
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return &e, err
}

// comparison is a Compare on its way.
type comparison struct {
	ended func() error // says why to stop
	a, b  *FS
	found func(Difference) error

	left, right [compareBuffer]byte
}

// same tells whether two parts are one inode of one layer.
func (c *comparison) same(p, q part) bool {
	x, y := c.a.layers[p.layer], c.b.layers[q.layer]
	return p.inode.number == q.inode.number && (x == y || x.files.DiffID == y.files.DiffID && x.files.DiffID != "")
}

// pair compares what one name shows in both trees.
func (c *comparison) pair(path string, x, y *entry) error {
	if err := c.ended(); err != nil {
		return err
	}
	one := c.same(x.look, y.look)
	if one && slices.EqualFunc(x.dirs, y.dirs, c.same) {
		return nil
	}
	if !one {
		what, err := c.aspects(x, y)
		if err == nil && what != 0 {
			err = c.tell(path, Changed, x, y, what)
		}
		if err != nil {
			return err
		}
	}
	var left, right *entry
	if x.look.inode.isDir() {
		left = x
	}
	if y.look.inode.isDir() {
		right = y
	}
	return c.below(path, left, right)
}

func (c *comparison) tell(path string, kind ChangeKind, x, y *entry, what Aspect) error {
	d := Difference{Path: path, Kind: kind, What: what}
	if path == "" {
		d.Path = "."
	}
	for _, side := range []struct {
		fs *FS
		e  *entry
		to *fs.FileInfo
	}{{c.a, x, &d.Old}, {c.b, y, &d.New}} {
		if side.e == nil {
			continue
		}
		info, err := side.fs.info(side.e)
		if err != nil {
			return err
		}
		*side.to = info
	}
	return c.found(d)
}

// below compares what is in two directories, one of which may be nil.
func (c *comparison) below(path string, x, y *entry) error {
	left, err := childNames(c.a, x)
	if err != nil {
		return err
	}
	right, err := childNames(c.b, y)
	if err != nil {
		return err
	}
	for len(left) > 0 || len(right) > 0 {
		var name string
		var p, q *entry
		switch {
		case len(right) == 0 || len(left) > 0 && left[0] <= right[0]:
			name = left[0]
		default:
			name = right[0]
		}
		if len(left) > 0 && left[0] == name {
			if p, err = c.child(c.a, x, name); err != nil {
				return err
			}
			left = left[1:]
		}
		if len(right) > 0 && right[0] == name {
			if q, err = c.child(c.b, y, name); err != nil {
				return err
			}
			right = right[1:]
		}
		if err := c.either(joinPath(path, name), p, q); err != nil {
			return err
		}
	}
	return nil
}

func (c *comparison) child(f *FS, dir *entry, name string) (*entry, error) {
	e, err := f.child(dir, name)
	return &e, err
}

// either goes on with a name that one of the trees may not show.
func (c *comparison) either(path string, x, y *entry) error {
	switch {
	case x != nil && y != nil:
		return c.pair(path, x, y)
	case x == nil && y == nil:
		return nil
	}
	if err := c.ended(); err != nil {
		return err
	}
	kind, e := Deleted, x
	if x == nil {
		kind, e = Added, y
	}
	if err := c.tell(path, kind, x, y, 0); err != nil || !e.look.inode.isDir() {
		return err
	}
	return c.below(path, x, y)
}

func childNames(f *FS, dir *entry) ([]string, error) {
	if dir == nil {
		return nil, nil
	}
	list, err := f.list(dir)
	if err != nil {
		return nil, err
	}
	names := make([]string, len(list))
	for i, d := range list {
		names[i] = d.Name()
	}
	return names, nil
}

// aspects tells what two files differ in.
func (c *comparison) aspects(x, y *entry) (Aspect, error) {
	p, q := &x.look.inode, &y.look.inode
	var what Aspect
	for aspect, differs := range map[Aspect]bool{
		Type:  p.mode&archive.TypeMask != q.mode&archive.TypeMask,
		Mode:  p.mode&0o7777 != q.mode&0o7777,
		Owner: p.uid != q.uid || p.gid != q.gid,
		Time:  !p.mtime.Equal(q.mtime),
	} {
		if differs {
			what |= aspect
		}
	}
	differs, err := differentAttributes(p, q)
	if differs {
		what |= Attributes
	}
	if err != nil || what&Type != 0 {
		return what, err
	}
	if differs, err = c.contentDiffers(x, y); differs {
		what |= Content
	}
	return what, err
}

func (c *comparison) contentDiffers(x, y *entry) (bool, error) {
	p, q := &x.look.inode, &y.look.inode
	switch p.mode & archive.TypeMask {
	case archive.TypeRegular:
		if p.size != q.size {
			return true, nil
		}
		return c.bytesDiffer(x, y)
	case archive.TypeSymlink:
		s, err := c.a.readLink(x)
		if err != nil {
			return false, err
		}
		t, err := c.b.readLink(y)
		return s != t, err
	case archive.TypeChar, archive.TypeBlock:
		return p.data != q.data, nil
	}
	return false, nil
}

// compareBuffer is how much of two files is compared at a time.
const compareBuffer = 128 << 10

func (c *comparison) bytesDiffer(x, y *entry) (bool, error) {
	p, q := &openFile{fs: c.a, entry: *x}, &openFile{fs: c.b, entry: *y}
	for off := int64(0); off < x.look.inode.size; off += compareBuffer {
		if err := c.ended(); err != nil {
			return false, err
		}
		n, err := p.ReadAt(c.left[:], off)
		if err != nil && !errors.Is(err, io.EOF) {
			return false, err
		}
		m, err := q.ReadAt(c.right[:], off)
		if err != nil && !errors.Is(err, io.EOF) {
			return false, err
		}
		if !bytes.Equal(c.left[:n], c.right[:m]) {
			return true, nil
		}
	}
	return false, nil
}
