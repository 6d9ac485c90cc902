package archive

import (
	"fmt"
	"strings"
	"time"

	"github.com/containerd/errdefs"
)

// Inode is one file of a Tree. Several names may lead to it.
type Inode struct {
	Mode     uint32
	UID, GID uint32
	Major    uint32
	Minor    uint32
	Nlink    uint32 // names that lead to it; of a directory: 2 and one for each directory in it
	ModTime  time.Time
	Size     int64
	Data     int64 // see Entry
	Sparse   bool
	Extents  []Extent
	Target   string // of a symlink
	Xattrs   []Xattr
	Children map[string]*Inode // of a directory
	Implied  bool              // the directory is used but not named: root's, 0755, from 1970
	Opaque   bool              // the directory hides those of lower layers
	Number   int64             // the caller's to use
}

// IsDir tells whether the inode is a directory.
func (n *Inode) IsDir() bool { return n.Mode&TypeMask == TypeDir }

// IsWhiteout tells whether the inode hides its name in lower layers. As for
// overlayfs, that is a character device 0:0.
func (n *Inode) IsWhiteout() bool {
	return n.Mode&TypeMask == TypeChar && n.Major == 0 && n.Minor == 0
}

// maxTreeBytes bounds what the entries of one layer take in memory beside their
// inodes. A file system of a million long names stays well below it.
const (
	maxTreeBytes = 192 << 20
	extentBytes  = 24
)

// Tree is what the entries of one layer come to. It follows docker, which
// applies a layer to an empty directory:
//
//   - A later entry replaces an earlier one of the same name, with all that is
//     below it; only a directory on a directory keeps what is there. A directory
//     in the place of something else is opaque: whatever was there had hidden
//     what lower layers have.
//   - Parents of an entry are resolved through the layer's own symlinks, which
//     stay inside its root; parents that do not exist are implied.
//   - A hard link needs its target earlier in the layer; it may be a symlink.
//   - A whiteout does not hide what its own layer has, in whatever order the two
//     come; a directory with a whiteout of the same name is opaque, and nothing
//     of a lower one shows in its look.
type Tree struct {
	Root *Inode

	inodes     int
	bytes      int64 // of names, links, attributes and extents
	implied    int
	lastParent string // the parent of the last entry, as it was named
	last       place
}

// place is a directory of the tree.
type place struct {
	dir  *Inode
	path string // clean, without symlinks
	up   []*Inode
}

// Placed says where an entry went.
type Placed struct {
	Inode *Inode // nil: the entry is ignored
	Dir   *Inode // the directory it is in; nil for the root
	Path  string // clean, and no part of it but the last is a symlink
	Kind  Whiteout
	Link  string // of a hard link: the path of the name it doubles, "" if it is the entry itself
}

// NewTree makes a tree of an implied root directory.
func NewTree() *Tree {
	return &Tree{Root: impliedDir()}
}

func impliedDir() *Inode {
	return &Inode{
		Mode: TypeDir | 0o755, Nlink: 2, ModTime: time.Unix(0, 0), Implied: true,
	}
}

// Inodes is how many files the tree was asked to hold, those since replaced included.
func (t *Tree) Inodes() int { return t.inodes }

// Add gives the entry its place.
func (t *Tree) Add(e *Entry) (Placed, error) {
	t.bytes += int64(len(e.Name)+len(e.Linkname)) + extentBytes*int64(len(e.Extents))
	for _, a := range e.Xattrs {
		t.bytes += int64(len(a.Name) + len(a.Value))
	}
	if t.bytes > maxTreeBytes {
		return Placed{}, fmt.Errorf("names and attributes of more than %d bytes: %w", maxTreeBytes, errdefs.ErrResourceExhausted)
	}
	kind, name, err := ParseWhiteout(e.Name)
	if err != nil {
		return Placed{}, err
	}
	p := Placed{Kind: kind}
	switch {
	case kind == Metadata:
	case kind == Opaque:
		err = t.addOpaque(&p, name)
	case name == "":
		err = t.addRoot(&p, e)
	default:
		err = t.addName(&p, name, e)
	}
	if err != nil {
		return Placed{}, fmt.Errorf("place %q: %w", e.Name, err)
	}
	return p, nil
}

func (t *Tree) addOpaque(p *Placed, name string) error {
	at, err := t.directory(name)
	if err != nil {
		return err
	}
	at.dir.Opaque = true
	p.Inode, p.Path = at.dir, at.path
	return nil
}

func (t *Tree) addRoot(p *Placed, e *Entry) error {
	if !e.IsDir() {
		return fmt.Errorf("the root is not a directory: %w", errdefs.ErrInvalidArgument)
	}
	t.Root.describe(e)
	p.Inode = t.Root
	return nil
}

func (t *Tree) addName(p *Placed, name string, e *Entry) error {
	parent, base := splitName(name)
	if len(base) > maxComponent {
		return fmt.Errorf("name of %d bytes: %w", len(base), errdefs.ErrInvalidArgument)
	}
	at, err := t.parent(parent)
	if err != nil {
		return err
	}
	p.Dir, p.Path = at.dir, joinName(at.path, base)
	old := at.dir.Children[base]
	switch {
	case p.Kind == Hides && old != nil:
		if old.IsDir() {
			old.Opaque, old.Implied = true, false
		}
		p.Inode = old
		return nil
	case p.Kind == Hides:
		p.Inode = &Inode{Mode: TypeChar, ModTime: time.Unix(0, 0)}
		return t.put(at.dir, base, p.Inode)
	case e.HardLink:
		return t.link(p, at, base, e.Linkname)
	case e.IsDir() && old != nil && old.IsDir():
		old.describe(e)
		p.Inode = old
		return nil
	}
	p.Inode = &Inode{}
	p.Inode.describe(e)
	p.Inode.Opaque = e.IsDir() && old != nil
	return t.put(at.dir, base, p.Inode)
}

// link makes base another name of the inode that target names.
func (t *Tree) link(p *Placed, at place, base, target string) error {
	dir, name := splitName(target)
	from, err := t.resolve(dir, false)
	if err != nil {
		return fmt.Errorf("hard link to %q: %w", target, err)
	}
	inode := from.dir.Children[name]
	if inode == nil {
		return fmt.Errorf("hard link to %q, which is not in the layer: %w", target, errdefs.ErrInvalidArgument)
	}
	if inode.IsDir() || inode.IsWhiteout() {
		return fmt.Errorf("hard link to %q, which is no file: %w", target, errdefs.ErrInvalidArgument)
	}
	p.Inode = inode
	if at.dir.Children[base] == inode {
		return nil
	}
	p.Link = joinName(from.path, name)
	if strings.HasPrefix(p.Link, p.Path+"/") {
		return fmt.Errorf("hard link to %q, which it replaces: %w", target, errdefs.ErrInvalidArgument)
	}
	return t.put(at.dir, base, inode)
}

// put makes name in dir lead to the inode and to nothing else.
func (t *Tree) put(dir *Inode, name string, inode *Inode) error {
	if t.inodes++; t.inodes > maxInodes {
		return fmt.Errorf("more than %d files: %w", maxInodes, errdefs.ErrResourceExhausted)
	}
	if old := dir.Children[name]; old != nil {
		if old.IsDir() {
			dir.Nlink--
			old.unlinkChildren()
		} else {
			old.Nlink--
		}
		t.last = place{}
	}
	if inode.IsDir() {
		inode.Nlink = 2
		dir.Nlink++
	} else {
		inode.Nlink++
	}
	if dir.Children == nil {
		dir.Children = map[string]*Inode{}
	}
	dir.Children[name] = inode
	return nil
}

// unlinkChildren takes the names below a directory that is going away from the
// link counts.
func (n *Inode) unlinkChildren() {
	for _, child := range n.Children {
		if child.IsDir() {
			child.unlinkChildren()
		} else {
			child.Nlink--
		}
	}
}

// describe gives the inode what the entry says of it; a directory keeps its
// children and whether it is opaque.
func (n *Inode) describe(e *Entry) {
	n.Mode, n.UID, n.GID, n.Major, n.Minor = e.Mode, e.UID, e.GID, e.Major, e.Minor
	n.ModTime, n.Xattrs, n.Implied = e.ModTime, e.Xattrs, false
	n.Size, n.Data, n.Sparse, n.Extents = e.Size, e.Data, e.Sparse, e.Extents
	if n.Mode&TypeMask == TypeSymlink {
		n.Target, n.Size = e.Linkname, int64(len(e.Linkname))
	}
}

// parent is directory with a memory: neighbours in a tar share their parent.
func (t *Tree) parent(name string) (place, error) {
	if t.last.dir != nil && name == t.lastParent {
		return t.last, nil
	}
	at, err := t.directory(name)
	if err != nil {
		return place{}, err
	}
	t.lastParent, t.last = name, at
	return at, nil
}

// directory finds the directory that name leads to, and makes what is missing.
func (t *Tree) directory(name string) (place, error) { return t.resolve(name, true) }

// resolve follows name and the symlinks on its way, never above the root. What
// is missing is made, as implied directories, or is an error.
func (t *Tree) resolve(name string, create bool) (place, error) {
	at := place{dir: t.Root}
	links := 0
	for rest := name; rest != ""; {
		var part string
		part, rest, _ = strings.Cut(rest, "/")
		switch part {
		case "", ".":
			continue
		case "..":
			at = at.parent()
			continue
		}
		child := at.dir.Children[part]
		if child == nil || child.IsWhiteout() {
			if !create {
				return at, fmt.Errorf("%q does not exist: %w", part, errdefs.ErrInvalidArgument)
			}
			if t.implied++; t.implied > maxImplied {
				return at, fmt.Errorf("more than %d implied directories: %w", maxImplied, errdefs.ErrResourceExhausted)
			}
			dir := impliedDir()
			dir.Opaque, dir.Implied = child != nil, child == nil
			if len(part) > maxComponent {
				return at, fmt.Errorf("name of %d bytes: %w", len(part), errdefs.ErrInvalidArgument)
			}
			if err := t.put(at.dir, part, dir); err != nil {
				return at, err
			}
			child = dir
		}
		switch {
		case child.IsDir():
			at = at.child(part, child)
		case child.Mode&TypeMask == TypeSymlink:
			if links++; links > maxSymlinks {
				return at, fmt.Errorf("more than %d symlinks: %w", maxSymlinks, errdefs.ErrInvalidArgument)
			}
			if strings.HasPrefix(child.Target, "/") {
				at = place{dir: t.Root}
			}
			rest = child.Target + "/" + rest
		default:
			return at, fmt.Errorf("%q is not a directory: %w", part, errdefs.ErrInvalidArgument)
		}
		if len(at.path) > maxPath || len(rest) > 2*maxPath {
			return at, fmt.Errorf("path is too long: %w", errdefs.ErrInvalidArgument)
		}
	}
	return at, nil
}

func (p place) child(name string, dir *Inode) place {
	return place{dir: dir, path: joinName(p.path, name), up: append(p.up, p.dir)}
}

func (p place) parent() place {
	if len(p.up) == 0 {
		return p
	}
	dir, _ := splitName(p.path)
	return place{dir: p.up[len(p.up)-1], path: dir, up: p.up[:len(p.up)-1]}
}

func splitName(name string) (dir, base string) {
	i := strings.LastIndexByte(name, '/')
	if i < 0 {
		return "", name
	}
	return name[:i], name[i+1:]
}

func joinName(dir, base string) string {
	if dir == "" {
		return base
	}
	return dir + "/" + base
}
