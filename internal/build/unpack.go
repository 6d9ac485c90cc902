package build

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"path"
	"strings"

	"strake/internal/archive"
)

// unpack extracts name below dest if it is a tar archive, compressed or not, and
// reports whether it is one. The entries are written as they come. They replace
// what is there, and no name or link of theirs leads out of the stage.
func (p *plan) unpack(ctx context.Context, from tree, name, dest string, tw *tarWriter) (is bool, err error) {
	resolved, err := follow(from.lstat, name)
	if err != nil {
		return false, err
	}
	n, err := from.lstat(resolved)
	if err != nil || !n.mode.IsRegular() {
		return false, err
	}
	f, err := from.open(resolved)
	if err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	sum := sha256.New()
	in := io.TeeReader(f, sum)
	plain, _, err := archive.Decompress(in)
	if err != nil {
		return false, nil // not an archive: it is copied
	}
	defer func() {
		if cerr := plain.Close(); is {
			err = errors.Join(err, cerr)
		}
	}()
	begin := bufio.NewReader(plain)
	if head, err := begin.Peek(512); err != nil || !archive.IsTar(head) {
		return false, nil // likewise
	}
	if err := p.mkdirAll(dest, 0o755); err != nil {
		return true, err
	}
	root, err := follow(p.lstat, dest)
	if err != nil {
		return true, err
	}
	r := archive.NewReader(begin)
	e, err := r.Next()
	for ; err == nil; e, err = r.Next() {
		if err := ctx.Err(); err != nil {
			return true, err
		}
		if err := p.extract(ctx, root, e, r, tw); err != nil {
			return true, fmt.Errorf("%q: %w", e.Name, err)
		}
	}
	if !errors.Is(err, io.EOF) {
		return true, err
	}
	return true, sameFile(n, begin, in, sum)
}

// sameFile reads an archive to its end and fails if it is not the one that was
// hashed before: what was made of it must not be recorded for the other.
func sameFile(n node, plain, in io.Reader, sum hash.Hash) error {
	for _, r := range []io.Reader{plain, in} {
		if _, err := io.Copy(io.Discard, r); err != nil {
			return err
		}
	}
	if n.sum != [32]byte{} && !bytes.Equal(sum.Sum(nil), n.sum[:]) {
		return errors.New("the file changed during the build")
	}
	return nil
}

// extract writes one entry of an archive.
func (p *plan) extract(ctx context.Context, root string, e *archive.Entry, content io.Reader, tw *tarWriter) error {
	if e.Name == "" {
		return nil // the destination is as it is
	}
	name, err := p.landing(root, e.Name)
	if err != nil {
		return err
	}
	if err := p.flush(ctx, tw); err != nil {
		return err
	}
	out := *e
	out.Name = name
	if p.owner != nil {
		out.UID, out.GID = uint32(p.owner.uid), uint32(p.owner.gid)
	}
	n := node{path: name, uid: int(out.UID), gid: int(out.GID), mtime: e.ModTime, size: e.Size}
	switch {
	case e.HardLink:
		target, err := p.landing(root, e.Linkname)
		if err != nil {
			return err
		}
		old, ok := p.files[target]
		if !ok || old.mode.IsDir() {
			return fmt.Errorf("hard link to %q, which is not in the archive", e.Linkname)
		}
		out.Linkname, n.mode, n.link = target, old.mode, old.link
	case e.Mode&archive.TypeMask == archive.TypeSymlink:
		n.mode, n.link = fs.ModeSymlink|0o777, e.Linkname
	case e.IsDir(), e.Mode&archive.TypeMask == archive.TypeRegular:
		n.mode = archive.FileMode(e.Mode)
	default:
		n.mode = fs.ModeIrregular | archive.FileMode(e.Mode&0o7777)
	}
	if old, err := p.lstat(name); err == nil && old.mode.IsDir() && !n.mode.IsDir() {
		p.forget(name)
	}
	if err := p.set(planned{node: n}); err != nil {
		return err
	}
	p.pending = nil
	out.Sparse, out.Extents, out.Data = false, nil, 0
	return tw.write(&out, content)
}

// landing is where a name of an archive lands: below root, through the symlinks
// of the stage, with its parents made.
func (p *plan) landing(root, name string) (string, error) {
	dir, err := follow(p.lstat, path.Join(root, path.Dir(name)))
	if err != nil {
		return "", err
	}
	if err := errors.Join(p.mkdirAll(dir, 0o755), p.touch(dir)); err != nil {
		return "", err
	}
	return path.Join(dir, path.Base(name)), nil
}

// forget drops what is planned below name: something else takes its place.
func (p *plan) forget(name string) {
	for f := range p.files {
		if strings.HasPrefix(f, name+"/") {
			delete(p.files, f)
		}
	}
	for d := range p.absent {
		if d == name || strings.HasPrefix(d, name+"/") {
			delete(p.absent, d)
		}
	}
}
