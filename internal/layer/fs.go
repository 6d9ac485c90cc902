package layer

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"

	"strake/internal/archive"
)

const maxSymlinks = 40

// FS shows layers as one tree, in this process, without a mount: Union makes it
// of many layers, a Layer is it of one. It implements fs.FS, fs.StatFS,
// fs.ReadDirFS and fs.ReadLinkFS. Names are those of package io/fs but for being
// any bytes, not UTF-8 alone. Symlinks are followed as if the tree's root were
// the system's, so nothing leads out of it. FileInfo.Sys is a *Stat. Files are
// io.ReaderAt and io.Seeker too. An FS is safe for concurrent use.
type FS struct {
	layers []*Layer // bottom first
	raw    bool     // whiteouts are shown
}

// Union shows layers, bottom first, as overlayfs would: whiteouts and opaque
// directories hide what is below, and implied directories look as the highest
// layer that names them says. The caller closes the layers, after the last use.
func Union(layers []*Layer) *FS { return &FS{layers: slices.Clone(layers)} }

// Stat is what fs.FileInfo does not say.
type Stat struct {
	Mode    uint32 // type and permissions, as st_mode
	UID     uint32
	GID     uint32
	Major   uint32 // of a device
	Minor   uint32
	Nlink   uint32
	Ino     uint64 // the same for two names of one file; unique in the FS
	Xattrs  []archive.Xattr
	Implied bool // no layer names the directory
	Opaque  bool // of a directory, in a Layer: it hides those of lower layers
}

// Whiteout tells whether the file hides its name in lower layers.
func (s *Stat) Whiteout() bool {
	return s.Mode&archive.TypeMask == archive.TypeChar && s.Major == 0 && s.Minor == 0
}

// part is an inode of one of the layers.
type part struct {
	layer int
	inode inode
}

// entry is one name of the tree and what it leads to.
type entry struct {
	name   string
	look   part   // what the name looks like
	dirs   []part // of a directory: those that are merged, top first
	found  bool
	sealed bool // one of dirs is opaque
}

// add lays the entry over p, and tells whether what is below p matters too.
func (e *entry) add(p part) (more bool, err error) {
	switch {
	case !e.found:
		e.found, e.look = true, p
	case p.inode.isDir() && e.look.inode.implied():
		e.look = p
	}
	if !p.inode.isDir() {
		return false, nil
	}
	if !e.sealed {
		e.dirs = append(e.dirs, p)
		_, e.sealed, err = p.inode.attributes()
	}
	return !e.sealed || e.look.inode.implied(), err
}

func (f *FS) root() (entry, error) {
	e := entry{name: "."}
	for i, more := len(f.layers)-1, true; i >= 0 && more; i-- {
		n, err := f.layers[i].inode(rootNumber)
		if err == nil {
			more, err = e.add(part{layer: i, inode: n})
		}
		if err != nil {
			return entry{}, err
		}
	}
	if !e.found {
		return entry{}, fs.ErrNotExist
	}
	return e, nil
}

// child finds a name in a directory.
func (f *FS) child(dir *entry, name string) (entry, error) {
	e := entry{name: name}
	for i, more := 0, true; i < len(dir.dirs) && more; i++ {
		d := &dir.dirs[i]
		l := f.layers[d.layer]
		number, ok, err := l.lookup(&d.inode, name)
		if err == nil && !ok {
			continue
		}
		p := part{layer: d.layer}
		if err == nil {
			p.inode, err = l.inode(number)
		}
		if err == nil {
			more, err = e.add(p)
		}
		if err != nil {
			return entry{}, err
		}
	}
	if !e.found || e.look.inode.isWhiteout() && !f.raw {
		return entry{}, fs.ErrNotExist
	}
	return e, nil
}

// resolve finds what name leads to. The symlinks on its way are followed, one at
// its end only if follow says so.
func (f *FS) resolve(name string, follow bool) (entry, error) {
	root, err := f.root()
	if err != nil {
		return entry{}, err
	}
	way := []entry{root}
	links := 0
	for rest := name; rest != ""; {
		var step string
		step, rest, _ = strings.Cut(rest, "/")
		at := &way[len(way)-1]
		switch {
		case !at.look.inode.isDir():
			return entry{}, errNotDir
		case step == "" || step == ".":
			continue
		case step == "..":
			way = way[:max(1, len(way)-1)]
			continue
		}
		e, err := f.child(at, step)
		if err != nil {
			return entry{}, err
		}
		if e.look.inode.mode&archive.TypeMask != archive.TypeSymlink || rest == "" && !follow {
			way = append(way, e)
			continue
		}
		target, err := f.readLink(&e)
		if links++; err != nil || links > maxSymlinks || len(rest) > maxRest {
			return entry{}, errors.Join(errLoop, err)
		}
		if strings.HasPrefix(target, "/") {
			way = way[:1]
		}
		if rest != "" {
			target += "/" + rest
		}
		rest = target
	}
	return way[len(way)-1], nil
}

const maxRest = 1 << 16 // bytes of a path once symlinks are put in

var (
	errNotDir = fmt.Errorf("not a directory: %w", fs.ErrNotExist)
	errLoop   = errors.New("too many symlinks")
)

func (f *FS) readLink(e *entry) (string, error) {
	return f.layers[e.look.layer].readLink(&e.look.inode)
}

// entry resolves name for the operation op.
func (f *FS) entry(op, name string, follow bool) (entry, error) {
	if !validName(name) {
		return entry{}, &fs.PathError{Op: op, Path: name, Err: fs.ErrInvalid}
	}
	e, err := f.resolve(name, follow)
	if err != nil {
		return entry{}, &fs.PathError{Op: op, Path: name, Err: err}
	}
	e.name = path.Base(name)
	return e, nil
}

// validName is fs.ValidPath for names of any bytes.
func validName(name string) bool {
	if name == "." {
		return true
	}
	for step := range strings.SplitSeq(name, "/") {
		if step == "" || step == "." || step == ".." {
			return false
		}
	}
	return true
}

// Open opens what name leads to.
func (f *FS) Open(name string) (fs.File, error) {
	e, err := f.entry("open", name, true)
	if err != nil {
		return nil, err
	}
	if e.look.inode.isDir() {
		return &openDir{fs: f, entry: e}, nil
	}
	return &openFile{fs: f, entry: e}, nil
}

// Stat describes what name leads to.
func (f *FS) Stat(name string) (fs.FileInfo, error) {
	e, err := f.entry("stat", name, true)
	if err != nil {
		return nil, err
	}
	return f.info(&e)
}

// Owner is DiffOptions.Owner for what is written over f where all files belong to one: what is in f keeps its owner.
func (f *FS) Owner(name string) (uid, gid uint32, known bool) {
	info, err := f.Lstat(name)
	if err != nil {
		return 0, 0, false
	}
	st, ok := info.Sys().(*Stat)
	if !ok {
		return 0, 0, false
	}
	return st.UID, st.GID, true
}

// Lstat describes name, without following it when it is a symlink.
func (f *FS) Lstat(name string) (fs.FileInfo, error) {
	e, err := f.entry("lstat", name, false)
	if err != nil {
		return nil, err
	}
	return f.info(&e)
}

// ReadLink returns the target of the symlink name, as it stands.
func (f *FS) ReadLink(name string) (string, error) {
	e, err := f.entry("readlink", name, false)
	if err != nil {
		return "", err
	}
	if e.look.inode.mode&archive.TypeMask != archive.TypeSymlink {
		return "", &fs.PathError{Op: "readlink", Path: name, Err: fs.ErrInvalid}
	}
	return f.readLink(&e)
}

// ReadDir lists the directory that name leads to, in the order of the names' bytes.
func (f *FS) ReadDir(name string) ([]fs.DirEntry, error) {
	e, err := f.entry("readdir", name, true)
	if err != nil {
		return nil, err
	}
	list, err := f.list(&e)
	if err != nil {
		return nil, &fs.PathError{Op: "readdir", Path: name, Err: err}
	}
	return list, nil
}

// list reads a directory's names, those of upper layers before those below.
func (f *FS) list(dir *entry) ([]fs.DirEntry, error) {
	if !dir.look.inode.isDir() {
		return nil, errNotDir
	}
	var list []fs.DirEntry
	seen := map[string]bool{}
	for _, d := range dir.dirs {
		l := f.layers[d.layer]
		var failed error
		err := l.readDir(&d.inode, func(de dirent) {
			if len(dir.dirs) > 1 {
				if seen[de.name] {
					return
				}
				seen[de.name] = true
			}
			if de.kind == kindChar && !f.raw {
				n, err := l.inode(de.number)
				if failed = errors.Join(failed, err); err != nil || n.isWhiteout() {
					return
				}
			}
			list = append(list, &dirEntry{fs: f, dir: dir, name: de.name, kind: de.kind})
		})
		if err = errors.Join(err, failed); err != nil {
			return nil, err
		}
	}
	if len(dir.dirs) > 1 {
		slices.SortFunc(list, func(a, b fs.DirEntry) int { return strings.Compare(a.Name(), b.Name()) })
	}
	return list, nil
}
