package build

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/moby/patternmatcher"
	"golang.org/x/sync/errgroup"
)

// ContextOptions say what a Context is.
type ContextOptions struct {
	Dir    string   // the directory
	Ignore []string // patterns, as ignorefile.ReadAll returns them
	// Paths are what the build may copy: paths and patterns; only what lies
	// below them is read. Empty is everything.
	Paths []string
	// Index keeps the stat cache; nil keeps none.
	Index ContextStore
	Now   func() time.Time // nil: time.Now
}

// Context is a build context: the files of a directory as they were when it was
// loaded, hashed. Nothing outside the directory is reached through it, whatever
// its symlinks say. It is safe for concurrent use.
type Context struct {
	dir   *os.Root
	last  sync.Pool // of *lastDir; what it drops, the runtime closes
	files []node    // in the order of comparePath, without the root
	bytes int64     // hashed anew by LoadContext
	match *patternmatcher.PatternMatcher
}

// LoadContext walks and hashes the directory. The caller closes the Context.
func LoadContext(ctx context.Context, opts ContextOptions) (*Context, error) {
	if opts.Now == nil {
		opts.Now = time.Now
	}
	root, err := os.OpenRoot(opts.Dir)
	if err != nil {
		return nil, fmt.Errorf("open the build context: %w", err)
	}
	c := &Context{dir: root}
	if err := c.load(ctx, opts); err != nil {
		return nil, errors.Join(fmt.Errorf("read the build context: %w", err), root.Close())
	}
	return c, nil
}

// Close releases the directory.
func (c *Context) Close() error { return c.dir.Close() }

// Files is how many files and directories the context has.
func (c *Context) Files() int { return len(c.files) }

// Hashed is how many bytes LoadContext had to read because the stat cache did
// not know them.
func (c *Context) Hashed() int64 { return c.bytes }

func (c *Context) load(ctx context.Context, opts ContextOptions) error {
	started := opts.Now()
	sc, err := newScanner(c.dir, opts)
	if err != nil {
		return err
	}
	files, stats, err := sc.scan(ctx)
	if err == nil && sc.linked.Load() {
		sc.want = nil // what is wanted may be anywhere
		files, stats, err = sc.scan(ctx)
	}
	if err != nil {
		return err
	}
	c.files = files
	c.match = sc.prototype

	var known statIndex
	if opts.Index != nil {
		// A stat cache that is missing or broken costs time only.
		if b, err := opts.Index.LoadContextIndex(ctx, indexName(opts.Dir)); err == nil {
			known = parseIndex(b)
		}
	}
	todo := known.apply(files, stats)
	if err := c.hash(ctx, todo); err != nil {
		return err
	}
	if opts.Index != nil && (len(todo) > 0 || known.count != regular(files)) {
		b := encodeIndex(files, stats, started)
		if err := opts.Index.SaveContextIndex(ctx, indexName(opts.Dir), b); err != nil {
			return fmt.Errorf("save the stat cache: %w", err)
		}
	}
	return nil
}

func indexName(dir string) string {
	if abs, err := filepath.Abs(dir); err == nil {
		return abs
	}
	return dir
}

func regular(files []node) int {
	n := 0
	for i := range files {
		if files[i].mode.IsRegular() {
			n++
		}
	}
	return n
}

// hash sums the contents of the nodes, several at once.
func (c *Context) hash(ctx context.Context, todo []*node) error {
	var next atomic.Int64
	var total atomic.Int64
	g, ctx := errgroup.WithContext(ctx)
	for range min(len(todo), runtime.NumCPU()) {
		g.Go(func() error {
			buf := make([]byte, 128<<10)
			for {
				i := int(next.Add(1)) - 1
				if i >= len(todo) || ctx.Err() != nil {
					return ctx.Err()
				}
				n, err := c.sum(todo[i], buf)
				if err != nil {
					return err
				}
				total.Add(n)
			}
		})
	}
	err := g.Wait()
	c.bytes = total.Load()
	return err
}

func (c *Context) sum(n *node, buf []byte) (int64, error) {
	f, err := c.open(n.path)
	if err != nil {
		return 0, err
	}
	h := sha256.New()
	size, err := io.CopyBuffer(h, struct{ io.Reader }{f}, buf) // a file's WriteTo would not use buf
	if err = errors.Join(err, f.Close()); err != nil {
		return 0, fmt.Errorf("hash %s: %w", n.path, err)
	}
	h.Sum(n.sum[:0])
	return size, nil
}

// open opens a regular file of the context: neither a symlink, nor through one,
// nor a fifo that took its place.
func (c *Context) open(name string) (io.ReadCloser, error) {
	last, ok := c.last.Get().(*lastDir)
	if !ok {
		last = &lastDir{}
	}
	defer c.last.Put(last)
	dir, err := last.in(c.dir, path.Dir(name))
	if err != nil {
		return nil, err
	}
	f, err := dir.OpenFile(path.Base(name), os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	fi, err := f.Stat()
	if err == nil && !fi.Mode().IsRegular() {
		err = fmt.Errorf("%s is no regular file any more", name)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// lastDir is the directory that a file was opened in last: the next one is
// likely there too, and is opened without walking to it again.
type lastDir struct {
	name string
	root *os.Root
}

func (l *lastDir) in(top *os.Root, name string) (*os.Root, error) {
	if l.root != nil && l.name == name {
		return l.root, nil
	}
	next, err := top.OpenRoot(name)
	if err != nil {
		return nil, err
	}
	if l.root != nil {
		if err := l.root.Close(); err != nil {
			return nil, errors.Join(err, next.Close())
		}
	}
	l.name, l.root = name, next
	return next, nil
}

// find returns the index of the first file that is not before name.
func (c *Context) find(name string) (int, bool) {
	return slices.BinarySearchFunc(c.files, name, func(n node, name string) int {
		return comparePath(n.path, name)
	})
}

func (c *Context) lstat(name string) (node, error) {
	if name == "." {
		return node{path: ".", mode: fs.ModeDir | 0o755}, nil
	}
	if i, ok := c.find(name); ok {
		return c.files[i], nil
	}
	return node{}, fmt.Errorf("%q: %w", "/"+name, fs.ErrNotExist)
}

func (c *Context) walk(name string, fn func(node) error) error {
	n, err := c.lstat(name)
	if err != nil {
		return err
	}
	if err := fn(n); err != nil {
		return err
	}
	for _, n := range c.below(name) {
		if err := fn(n); err != nil {
			return err
		}
	}
	return nil
}

// below is all that is in a directory, at any depth.
func (c *Context) below(name string) []node {
	if name == "." {
		return c.files
	}
	i, ok := c.find(name)
	if !ok {
		return nil
	}
	rest := c.files[i+1:]
	end := 0
	for end < len(rest) && strings.HasPrefix(rest[end].path, name) && rest[end].path[len(name)] == '/' {
		end++
	}
	return rest[:end]
}

func (c *Context) list(name string) ([]node, error) {
	var out []node
	for _, n := range c.below(name) {
		if path.Dir(n.path) == name {
			out = append(out, n)
		}
	}
	return out, nil
}

// ignored reports whether name is there but left out by the ignore patterns.
func (c *Context) ignored(name string) bool {
	if c.match == nil {
		return false
	}
	if _, err := c.dir.Lstat(name); err != nil {
		return false
	}
	ok, err := c.match.MatchesOrParentMatches(name)
	return ok && err == nil
}

// scanner walks the directory, several directories at once.
type scanner struct {
	root      *os.Root
	prototype *patternmatcher.PatternMatcher // nil: nothing is ignored
	matchers  sync.Pool                      // a PatternMatcher compiles lazily: one per goroutine
	keeps     bool                           // some pattern begins with "!"
	want      [][]string                     // components of the paths to read; nil: all
	linked    atomic.Bool                    // a wanted path is, or leads through, a symlink
	count     atomic.Int64                   // what was found
	group     *errgroup.Group
}

func newScanner(root *os.Root, opts ContextOptions) (*scanner, error) {
	s := &scanner{root: root}
	for _, p := range opts.Paths {
		p = lexical(p)
		if p == "." {
			s.want = nil
			break
		}
		s.want = append(s.want, strings.Split(p, "/"))
	}
	if len(opts.Ignore) == 0 {
		return s, nil
	}
	pm, err := matcher(opts.Ignore)
	if err != nil {
		return nil, fmt.Errorf("ignore file: %w", err)
	}
	s.prototype, s.keeps = pm, pm.Exclusions()
	s.matchers.New = func() any {
		m, err := patternmatcher.New(opts.Ignore)
		if err != nil {
			return nil
		}
		return m
	}
	return s, nil
}

// scanned is one file found, with what is below it.
type scanned struct {
	node    node
	stat    fileStat
	ignored bool
	below   *[]scanned // a directory's; filled when the group is done
}

func (s *scanner) scan(ctx context.Context) ([]node, []fileStat, error) {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(2 * runtime.NumCPU())
	s.group = g
	s.count.Store(0)
	var top []scanned
	g.Go(func() error { return s.dir(ctx, ".", s.want, patternmatcher.MatchInfo{}, &top) })
	if err := g.Wait(); err != nil {
		return nil, nil, err
	}
	files := make([]node, 0, s.count.Load())
	stats := make([]fileStat, 0, s.count.Load())
	flatten(top, &files, &stats)
	return files, stats, nil
}

// flatten appends what is kept, and the directories that lead to it.
func flatten(found []scanned, files *[]node, stats *[]fileStat) bool {
	kept := false
	for i := range found {
		f := &found[i]
		at := len(*files)
		*files = append(*files, f.node)
		*stats = append(*stats, f.stat)
		keep := !f.ignored
		if f.below != nil {
			keep = flatten(*f.below, files, stats) || keep
		}
		if !keep {
			*files, *stats = (*files)[:at], (*stats)[:at]
			continue
		}
		kept = true
	}
	return kept
}

// dir reads one directory into out and starts on those in it.
func (s *scanner) dir(ctx context.Context, dir string, want [][]string, parent patternmatcher.MatchInfo, out *[]scanned) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	f, err := s.root.Open(dir)
	if err != nil {
		return err
	}
	defer f.Close() //nolint:errcheck // only read
	names, err := f.Readdirnames(-1)
	if err != nil {
		return err
	}
	slices.Sort(names)
	found := make([]scanned, 0, len(names))
	for _, base := range names {
		below, ok := narrow(want, base)
		if !ok {
			continue
		}
		name := base
		if dir != "." {
			name = dir + "/" + base
		}
		n, st, err := statAt(f, base, name)
		if errors.Is(err, fs.ErrNotExist) || err == nil && n.mode.Type() == fs.ModeSocket {
			continue // gone, or nothing that an image can hold
		}
		if err != nil {
			return err
		}
		if want != nil && n.mode.Type() == fs.ModeSymlink {
			s.linked.Store(true)
		}
		ignored, info, err := s.ignores(name, parent)
		if err != nil {
			return err
		}
		if ignored && (!n.mode.IsDir() || !s.keeps) {
			continue
		}
		sc := scanned{node: n, stat: st, ignored: ignored}
		if n.mode.IsDir() {
			sc.below = new([]scanned)
			sub := func() error { return s.dir(ctx, name, below, info, sc.below) }
			if !s.group.TryGo(sub) {
				if err := sub(); err != nil {
					return err
				}
			}
		}
		found = append(found, sc)
	}
	s.count.Add(int64(len(found)))
	*out = found
	return nil
}

// narrow says whether name, in a directory of which the paths in want are
// wanted, leads to one of them, and what is wanted below it (nil: all).
func narrow(want [][]string, name string) ([][]string, bool) {
	if want == nil {
		return nil, true
	}
	var below [][]string
	found := false
	for _, w := range want {
		if ok, err := path.Match(w[0], name); err != nil || !ok {
			continue
		}
		if len(w) == 1 {
			return nil, true
		}
		below = append(below, w[1:])
		found = true
	}
	return below, found
}

func (s *scanner) ignores(name string, parent patternmatcher.MatchInfo) (bool, patternmatcher.MatchInfo, error) {
	if s.prototype == nil {
		return false, parent, nil
	}
	m, ok := s.matchers.Get().(*patternmatcher.PatternMatcher)
	if !ok {
		return false, parent, errors.New("ignore patterns cannot be compiled")
	}
	defer s.matchers.Put(m)
	return m.MatchesUsingParentResults(name, parent)
}
