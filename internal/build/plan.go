package build

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"slices"
	"strings"
	"syscall"
	"time"
)

// plan is the layer that a copy will write: what goes where in the stage. The
// stage is seen through it, so that what one source made is there for the next.
type plan struct {
	lower tree // the stage before the step
	now   time.Time
	owner *owner
	chmod *Chmod // nil: modes are kept

	files   map[string]planned // by path in the stage
	pending []string           // of files: what is not written yet
	absent  map[string]bool    // directories known to be absent from lower, or not
}

// newPlan plans over the step's parent. What is copied belongs to owner, as in
// USER, unless that is "".
func newPlan(ctx context.Context, w *Work, owner string) (*plan, error) {
	lower, err := w.solver.chain(ctx, w.parent().Layers)
	if err != nil {
		return nil, err
	}
	p := &plan{lower: lower, now: w.solver.created(), files: map[string]planned{}, absent: map[string]bool{}}
	if owner == "" {
		return p, nil
	}
	if len(w.parent().Layers) == 0 && strings.Trim(owner, "0123456789:") != "" {
		return nil, fmt.Errorf("invalid user %q: this step starts from nothing, where no names are known: use numbers", owner)
	}
	o, err := resolveOwner(lower, owner)
	if err != nil {
		return nil, err
	}
	p.owner = &o
	return p, nil
}

// planned is one entry of the layer.
type planned struct {
	node          // as it will be written; path is the path in the stage
	from   tree   // where the content of a regular file is
	source string // its path there
}

// lstat describes a file of the stage as it will be.
func (p *plan) lstat(name string) (node, error) {
	if f, ok := p.files[name]; ok {
		return f.node, nil
	}
	gone := fmt.Errorf("%q: %w", "/"+name, fs.ErrNotExist)
	if name != "." {
		dir := path.Dir(name)
		absent, known := p.absent[dir]
		if !known {
			n, err := p.lstat(dir)
			if err != nil && !errors.Is(err, fs.ErrNotExist) {
				return node{}, err
			}
			absent = err != nil || !n.mode.IsDir()
			if !absent {
				ln, err := p.lower.lstat(dir)
				absent = errors.Is(err, fs.ErrNotExist) || err == nil && !ln.mode.IsDir()
			}
			p.absent[dir] = absent
		}
		if absent {
			return node{}, gone
		}
	}
	return p.lower.lstat(name)
}

// put plans one entry.
func (p *plan) put(f planned) error {
	if p.owner != nil {
		f.uid, f.gid = p.owner.uid, p.owner.gid
	}
	if p.chmod != nil && f.mode.Type() != fs.ModeSymlink {
		f.mode = p.chmod.apply(f.mode)
	}
	return p.set(f)
}

func (p *plan) set(f planned) error {
	if strings.HasPrefix(path.Base(f.path), ".wh.") {
		return fmt.Errorf("%q: a layer cannot hold a file of this name", "/"+f.path)
	}
	p.files[f.path] = f
	p.pending = append(p.pending, f.path)
	return nil
}

// touch gives a directory of the stage, in which a file is made, its new time.
func (p *plan) touch(dir string) error {
	if _, ok := p.files[dir]; ok || dir == "." {
		return nil
	}
	n, err := p.lstat(dir)
	if err != nil {
		return err
	}
	n.mtime = p.now
	return p.set(planned{node: n})
}

// mkdirAll makes a directory and its missing parents with a mode. It follows
// symlinks.
func (p *plan) mkdirAll(dir string, perm fs.FileMode) error {
	dir, err := follow(p.lstat, dir)
	if err != nil {
		return err
	}
	at := "."
	for part := range strings.SplitSeq(dir, "/") {
		at = path.Join(at, part)
		n, err := p.lstat(at)
		if errors.Is(err, fs.ErrNotExist) {
			if err := p.touch(path.Dir(at)); err != nil {
				return err
			}
			f := planned{node: node{path: at, mode: fs.ModeDir | perm, mtime: p.now}}
			if p.owner != nil {
				f.uid, f.gid = p.owner.uid, p.owner.gid
			}
			if err := p.set(f); err != nil {
				return err
			}
			continue
		}
		if err != nil {
			return err
		}
		if !n.mode.IsDir() {
			return &fs.PathError{Op: "mkdir", Path: "/" + at, Err: syscall.ENOTDIR}
		}
	}
	return nil
}

// copy plans to copy name of a tree to dest, as BuildKit does: the contents of
// a directory, or one file.
func (p *plan) copy(from tree, name, dest string) error {
	resolved, err := follow(from.lstat, name)
	if err != nil {
		return err
	}
	src, err := from.lstat(resolved)
	if err != nil {
		return err
	}
	parent, base := path.Split(dest)
	if base == "" || base == "." {
		parent = dest
	}
	if err := p.mkdirAll(parent, p.chmod.parents()); err != nil {
		return err
	}
	target, err := follow(p.lstat, dest)
	if err != nil {
		return err
	}
	at, err := p.lstat(target)
	exists := err == nil
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if src.mode.IsDir() {
		if !exists {
			if err := p.mkdirAll("/"+target, p.chmod.parents()); err != nil {
				return err
			}
		}
	} else if exists && at.mode.IsDir() {
		target = path.Join(target, path.Base(name))
	} else if err := p.mkdirAll("/"+path.Dir(target), p.chmod.parents()); err != nil {
		return err // through a symlink to what is missing
	}
	links := map[uint64]string{}
	return from.walk(resolved, func(n node) error {
		return p.place(from, n, resolved, target, links)
	})
}

// place plans one file of a copied tree.
func (p *plan) place(from tree, n node, root, target string, links map[uint64]string) error {
	source := n.path
	n.path = path.Join(target, below(root, source))
	old, err := p.lstat(n.path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	exists := err == nil
	switch {
	case n.mode.IsDir() && exists && !old.mode.IsDir():
		return fmt.Errorf("cannot copy to non-directory: /%s", n.path)
	case n.mode.IsDir() && exists && source == root:
		// The destination keeps all but its time; a root has none to give.
		if root == "." {
			return nil
		}
		old.mtime = n.mtime
		return p.set(planned{node: old})
	case n.implied && exists:
		old.mode, old.mtime = n.mode, p.now
		return p.set(planned{node: old})
	case !n.mode.IsDir() && exists && old.mode.IsDir():
		return fmt.Errorf("cannot replace to directory /%s with file", n.path)
	}
	f := planned{node: n, from: from, source: source}
	if n.implied {
		f.mtime = p.now // what is in it was made after it
	}
	if !exists || !n.mode.IsDir() {
		if err := p.touch(path.Dir(n.path)); err != nil {
			return err
		}
	}
	if n.ino != 0 && n.mode.IsRegular() {
		if first, ok := links[n.ino]; ok {
			f.link = first
		} else {
			links[n.ino] = n.path
		}
	}
	return p.put(f)
}

// flush writes what is planned and not yet written, in the order of paths. The
// stage is still seen with it.
func (p *plan) flush(ctx context.Context, tw *tarWriter) error {
	slices.SortFunc(p.pending, comparePath)
	for i, name := range p.pending {
		if i > 0 && name == p.pending[i-1] || name == "." {
			continue
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := p.writeFile(p.files[name], tw); err != nil {
			return fmt.Errorf("write /%s: %w", name, err)
		}
	}
	p.pending = nil
	return nil
}

func (p *plan) writeFile(f planned, tw *tarWriter) (err error) {
	if !f.mode.IsRegular() || f.link != "" {
		return tw.entry(f.node, nil)
	}
	r, err := f.from.open(f.source)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	if f.sum == [32]byte{} {
		return tw.entry(f.node, r)
	}
	// The cache key was made of this sum: what is written must be the same.
	h := sha256.New()
	if err := tw.entry(f.node, io.TeeReader(r, h)); err != nil {
		return err
	}
	if !slices.Equal(h.Sum(nil), f.sum[:]) {
		return errors.New("the file changed during the build")
	}
	return nil
}
