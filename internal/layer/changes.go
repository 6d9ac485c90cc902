package layer

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"strake/internal/archive"
)

// ChangeKind is what becomes of a name, written as docker diff writes it.
type ChangeKind byte

// Kinds of changes.
const (
	Added   ChangeKind = 'A'
	Changed ChangeKind = 'C'
	Deleted ChangeKind = 'D'
)

func (k ChangeKind) String() string { return string(rune(k)) }

// Change is what a layer does to one name of those below it. A directory that
// goes away is one change, whatever was in it.
type Change struct {
	Path     string // clean; "" is the root
	Kind     ChangeKind
	Mode     uint32 // as st_mode; of a deleted name: what it was
	Target   string // of a symlink
	Size     int64  // bytes of the file, once for all its names; Deleted: bytes that are no longer seen
	HiddenBy int    // the layer (counted from 0) that replaces or deletes it; 0: it is seen
}

// IsDir tells whether the change is about a directory.
func (c *Change) IsDir() bool { return c.Mode&archive.TypeMask == archive.TypeDir }

// Changes is what one layer does to those below it. Counts are of files of all
// kinds, directories apart.
type Changes struct {
	Size    int64    // bytes of the layer's files, as their sizes say
	Waste   int64    // of these, those that later layers hide
	Added   int      // files that were not there
	Changed int      // files in the place of others
	Deleted int      // files that are no longer seen
	List    []Change // in the order of the paths' parts; empty unless asked for
}

// ChangesOptions say what FindChanges tells.
type ChangesOptions struct {
	List bool // every change, not the counts alone
}

// FindChanges tells what each of the layers, bottom first, does to those below
// it. The sum of the sizes without the waste is what Union shows. A file with
// several names counts once, and is wasted when the last of them is hidden.
func FindChanges(ctx context.Context, layers []*Layer, opts ChangesOptions) ([]Changes, error) {
	c := &changes{ended: ctx.Err, list: opts.List, out: make([]Changes, len(layers))}
	root := &shown{dir: true}
	for i, l := range layers {
		if err := c.apply(i, l, root); err != nil {
			return nil, fmt.Errorf("compare layer %s with those below: %w", l.files.DiffID, err)
		}
	}
	for i := range c.out {
		list := c.out[i].List
		for k := range list {
			list[k].HiddenBy = c.listed[i][k].hiddenBy
		}
		slices.SortStableFunc(list, func(a, b Change) int { return comparePaths(a.Path, b.Path) })
	}
	return c.out, nil
}

// comparePaths orders paths as a walk does: by their parts.
func comparePaths(a, b string) int {
	for i := range min(len(a), len(b)) {
		switch x, y := a[i], b[i]; {
		case x == y:
		case x == '/':
			return -1
		case y == '/':
			return 1
		default:
			return cmp.Compare(x, y)
		}
	}
	return cmp.Compare(len(a), len(b))
}

// shown is a name that is seen once some of the layers lie one over the other.
type shown struct {
	dir      bool
	children map[string]*shown // of a directory
	file     *bytesOf          // of anything else
	look     part
	named    bool // a layer names the directory
	hiddenBy int
}

// bytesOf is a file that some names lead to.
type bytesOf struct {
	layer int
	size  int64
	names int // that are seen
}

// changes is a FindChanges on its way.
type changes struct {
	ended  func() error // says why to stop
	list   bool
	out    []Changes
	listed [][]*shown // of each Change in a list: the name it is about

	index int // of the layer that is applied
	layer *Layer
	files map[uint64]*bytesOf // of that layer, those with several names
}

func (c *changes) apply(i int, l *Layer, root *shown) error {
	n, err := l.inode(rootNumber)
	if err != nil {
		return err
	}
	c.index, c.layer, c.files = i, l, map[uint64]*bytesOf{}
	c.listed = append(c.listed, nil)
	return c.directory("", root, &n, false)
}

// note lists a change.
func (c *changes) note(path string, kind ChangeKind, at *shown, mode uint32, size int64) error {
	if !c.list {
		return nil
	}
	change := Change{Path: path, Kind: kind, Mode: mode, Size: size}
	if kind != Deleted && mode&archive.TypeMask == archive.TypeSymlink {
		var err error
		if change.Target, err = c.layer.readLink(&at.look.inode); err != nil {
			return err
		}
	}
	if kind == Deleted {
		at = &shown{}
	}
	c.out[c.index].List = append(c.out[c.index].List, change)
	c.listed[c.index] = append(c.listed[c.index], at)
	return nil
}

// directory lays the layer's directory n over at. It is opaque when it or one
// that it is in says so.
func (c *changes) directory(path string, at *shown, n *inode, opaque bool) error {
	if err := c.ended(); err != nil {
		return err
	}
	_, own, err := n.attributes()
	if err != nil {
		return err
	}
	opaque = opaque || own
	if !n.implied() {
		at.look, at.named = part{layer: c.index, inode: *n}, true
	}
	kept := map[string]bool{}
	var failed error
	err = c.layer.readDir(n, func(d dirent) {
		if failed != nil {
			return
		}
		if opaque {
			kept[d.name] = true
		}
		var child inode
		if child, failed = c.layer.inode(d.number); failed == nil {
			failed = c.child(joinPath(path, d.name), at, d.name, &child, opaque)
		}
	})
	if err == nil {
		err = failed
	}
	if err != nil || !opaque {
		return err
	}
	for _, name := range slices.Sorted(maps.Keys(at.children)) {
		if !kept[name] {
			if err := c.remove(joinPath(path, name), at, name); err != nil {
				return err
			}
		}
	}
	return nil
}

func joinPath(dir, name string) string {
	if dir == "" {
		return name
	}
	return dir + "/" + name
}

// child lays the layer's inode n over the name in the directory dir.
func (c *changes) child(path string, dir *shown, name string, n *inode, opaque bool) error {
	old := dir.children[name]
	switch {
	case n.isWhiteout() && old == nil:
		return nil
	case n.isWhiteout():
		return c.remove(path, dir, name)
	case n.isDir() && old != nil && old.dir:
		differs, err := c.looksDifferent(old, n)
		if err == nil && differs {
			at := *old // what lies over the old look is not told twice
			old = &at
			dir.children[name] = old
			err = c.note(path, Changed, old, n.mode, 0)
		}
		if err != nil {
			return err
		}
		return c.directory(path, old, n, opaque)
	}
	out := &c.out[c.index]
	kind := Added
	if old != nil {
		kind = Changed
		if files, _ := c.hide(old); old.dir || n.isDir() {
			out.Deleted += files
		}
	}
	now := &shown{dir: n.isDir(), look: part{layer: c.index, inode: *n}}
	if dir.children == nil {
		dir.children = map[string]*shown{}
	}
	dir.children[name] = now
	if now.dir {
		if err := c.note(path, kind, now, n.mode, 0); err != nil {
			return err
		}
		return c.directory(path, now, n, opaque)
	}
	if kind == Added || old.dir {
		out.Added++
	} else {
		out.Changed++
	}
	size := c.count(now, n)
	return c.note(path, kind, now, n.mode, size)
}

// count makes the name lead to the file n, and returns the bytes that it adds.
func (c *changes) count(now *shown, n *inode) int64 {
	if f := c.files[n.number]; f != nil {
		f.names++
		now.file = f
		return 0
	}
	now.file = &bytesOf{layer: c.index, names: 1}
	if n.mode&archive.TypeMask == archive.TypeRegular {
		now.file.size = n.size
		c.out[c.index].Size += n.size
	}
	if n.nlink > 1 {
		c.files[n.number] = now.file
	}
	return now.file.size
}

// remove takes a name out of a directory.
func (c *changes) remove(path string, dir *shown, name string) error {
	old := dir.children[name]
	files, size := c.hide(old)
	delete(dir.children, name)
	c.out[c.index].Deleted += files
	return c.note(path, Deleted, old, old.look.inode.mode, size)
}

// hide tells how many files, and bytes of them, are seen no more without old.
func (c *changes) hide(old *shown) (files int, size int64) {
	old.hiddenBy = c.index
	if !old.dir {
		if old.file.names--; old.file.names == 0 {
			c.out[old.file.layer].Waste += old.file.size
			size = old.file.size
		}
		return 1, size
	}
	for _, child := range old.children {
		n, s := c.hide(child)
		files, size = files+n, size+s
	}
	return files, size
}

// looksDifferent tells whether the layer's directory n gives one that is seen
// another look.
func (c *changes) looksDifferent(old *shown, n *inode) (bool, error) {
	if n.implied() {
		return false, nil
	}
	o := &old.look.inode
	if !old.named || o.mode != n.mode || o.uid != n.uid || o.gid != n.gid || !o.mtime.Equal(n.mtime) {
		return true, nil
	}
	return differentAttributes(o, n)
}

// differentAttributes compares extended attributes.
func differentAttributes(a, b *inode) (bool, error) {
	if string(a.xattrs) == string(b.xattrs) {
		return false, nil
	}
	x, _, err := a.attributes()
	if err != nil {
		return false, err
	}
	y, _, err := b.attributes()
	less := func(p, q archive.Xattr) int { return strings.Compare(p.Name, q.Name) }
	slices.SortFunc(x, less)
	slices.SortFunc(y, less)
	return !slices.Equal(x, y), err
}
