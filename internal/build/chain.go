package build

import (
	"context"
	"fmt"
	"io"
	"io/fs"
	"path"
	"time"

	"github.com/opencontainers/go-digest"

	"strake/internal/archive"
	"strake/internal/layer"
)

// chainTree is the tree of a chain of layers, read through their indexes.
type chainTree struct {
	fs     *layer.FS
	layers layer.Chain
}

// chain opens the tree of a chain of layers, once per solver.
func (s *Solver) chain(ctx context.Context, layers []digest.Digest) (tree, error) {
	id := chainID(layers)
	s.treesMu.Lock()
	defer s.treesMu.Unlock()
	if t, ok := s.trees[id]; ok {
		return t, nil
	}
	files, err := chainFiles(ctx, s, layers)
	if err != nil {
		return nil, fmt.Errorf("open the stage: %w", err)
	}
	open, err := layer.OpenChain(files)
	if err != nil {
		return nil, fmt.Errorf("open the stage: %w", err)
	}
	t := &chainTree{layer.Union(open), open}
	s.trees[id] = t
	return t, nil
}

func (t *chainTree) lstat(name string) (node, error) {
	if len(t.layers) == 0 {
		return memTree{}.lstat(name)
	}
	fi, err := t.fs.Lstat(name)
	if err != nil {
		return node{}, err
	}
	return t.node(name, fi)
}

// node is what the tree knows of a file.
func (t *chainTree) node(name string, fi fs.FileInfo) (node, error) {
	n := node{path: name, mode: fi.Mode(), mtime: fi.ModTime()}
	if n.mode.IsRegular() {
		n.size = fi.Size()
	}
	if st, ok := fi.Sys().(*layer.Stat); ok {
		n.uid, n.gid = int(st.UID), int(st.GID)
		n.major, n.minor = st.Major, st.Minor
		n.xattr = st.Xattrs
		if n.mode.IsRegular() && st.Nlink > 1 {
			n.ino = st.Ino
		}
	}
	if n.mode.Type() != fs.ModeSymlink {
		return n, nil
	}
	var err error
	n.link, err = t.fs.ReadLink(name)
	return n, err
}

func (t *chainTree) list(name string) ([]node, error) {
	if len(t.layers) == 0 {
		return nil, nil
	}
	entries, err := t.fs.ReadDir(name)
	if err != nil {
		return nil, err
	}
	nodes := make([]node, 0, len(entries))
	for _, e := range entries {
		fi, err := e.Info()
		if err != nil {
			return nil, err
		}
		n, err := t.node(path.Join(name, e.Name()), fi)
		if err != nil {
			return nil, err
		}
		nodes = append(nodes, n)
	}
	return nodes, nil
}

func (t *chainTree) walk(name string, fn func(node) error) error {
	n, err := t.lstat(name)
	if err != nil {
		return err
	}
	return t.walkNode(n, fn)
}

func (t *chainTree) walkNode(n node, fn func(node) error) error {
	if err := fn(n); err != nil || !n.mode.IsDir() {
		return err
	}
	nodes, err := t.list(n.path)
	if err != nil {
		return err
	}
	for _, n := range nodes {
		if err := t.walkNode(n, fn); err != nil {
			return err
		}
	}
	return nil
}

func (t *chainTree) open(name string) (io.ReadCloser, error) {
	f, err := t.fs.Open(name)
	if err != nil {
		return nil, err
	}
	return f, nil
}

// tarWriter writes nodes into a layer tar.
type tarWriter struct{ w *archive.Writer }

// entryOf is the tar entry of a node; one with a link that is no symlink is a
// hard link.
func entryOf(n node) *archive.Entry {
	e := &archive.Entry{
		Name: n.path, Mode: toBits(n.mode), UID: uint32(n.uid), GID: uint32(n.gid),
		Major: n.major, Minor: n.minor, ModTime: n.mtime, Xattrs: n.xattr, Linkname: n.link,
	}
	switch n.mode.Type() {
	case 0:
		e.Mode |= archive.TypeRegular
		e.HardLink = n.link != ""
		if !e.HardLink {
			e.Size = n.size
		}
	case fs.ModeDir:
		e.Mode |= archive.TypeDir
	case fs.ModeSymlink:
		e.Mode |= archive.TypeSymlink
	case fs.ModeNamedPipe:
		e.Mode |= archive.TypeFifo
	case fs.ModeDevice:
		e.Mode |= archive.TypeBlock
	case fs.ModeDevice | fs.ModeCharDevice:
		e.Mode |= archive.TypeChar
	}
	return e
}

func newTarWriter(w io.Writer, epoch *time.Time) *tarWriter {
	return &tarWriter{archive.NewWriter(w, archive.WriterOptions{Clamp: epoch})}
}

func (t *tarWriter) entry(n node, content io.Reader) error { return t.write(entryOf(n), content) }

func (t *tarWriter) write(e *archive.Entry, content io.Reader) error { return t.w.Write(e, content) }

// Close ends the tar.
func (t *tarWriter) Close() error { return t.w.Close() }
