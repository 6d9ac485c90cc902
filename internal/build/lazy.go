package build

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"github.com/moby/patternmatcher"
	"github.com/moby/patternmatcher/ignorefile"

	"strake/internal/progress"
)

// maxIgnoreFile bounds a .dockerignore, in bytes.
const maxIgnoreFile = 4 << 20

// LazyContext loads a build context when the first step asks for it, and only
// the parts that steps want.
type LazyContext struct {
	solver *Solver
	dir    string
	ignore string
	index  ContextStore
	label  string

	mu   sync.Mutex
	want []string
	once sync.Once
	ctx  *Context
	err  error

	ignores func() ([]string, error) // the patterns of the ignore file, read once
	matcher func() (*patternmatcher.PatternMatcher, error)
}

// LazyContextOptions say which context.
type LazyContextOptions struct {
	Dir string
	// Dockerfile is the path of the Dockerfile; "" if it is no file. The
	// patterns of "<Dockerfile>.dockerignore" win over ".dockerignore".
	Dockerfile string
	Index      ContextStore // may be nil
	// Name is the context's, for the policy: "" is context.
	Name string
	// Label is how the steps begin that load it: "" is "[internal] ".
	Label string
}

// LazyContext makes one; the caller closes it.
func (s *Solver) LazyContext(opts LazyContextOptions) *LazyContext {
	l := &LazyContext{solver: s, dir: opts.Dir, index: opts.Index, label: cmp.Or(opts.Label, "[internal] ")}
	if opts.Dockerfile != "" {
		l.ignore = opts.Dockerfile + ".dockerignore"
	}
	l.ignores = sync.OnceValues(func() ([]string, error) {
		p := s.Begin(l.label + "load .dockerignore")
		err := s.opts.Policy.AdmitLocal(context.Background(), cmp.Or(opts.Name, "context"))
		var patterns []string
		if err == nil {
			patterns, err = l.patterns(p)
		}
		return patterns, p.End(context.Background(), err)
	})
	l.matcher = sync.OnceValues(func() (*patternmatcher.PatternMatcher, error) {
		patterns, err := l.ignores()
		if err != nil || len(patterns) == 0 {
			return nil, err
		}
		return patternmatcher.New(patterns)
	})
	return l
}

// LeavesOut reports whether the ignore file leaves out name, a clean path or
// pattern, whatever files there are. An ignore file with exceptions may not.
func (l *LazyContext) LeavesOut(name string) (bool, error) {
	m, err := l.matcher()
	if err != nil || m == nil || m.Exclusions() {
		return false, err
	}
	if (name == "." || name == "/") && !slices.ContainsFunc(m.Patterns(), func(p *patternmatcher.Pattern) bool {
		return p.String() == "*" || p.String() == "**" || p.String() == "**/*"
	}) {
		return false, nil
	}
	return m.MatchesOrParentMatches(name)
}

// Want says that a step copies path, which may have wildcards. It is called
// before Load.
func (l *LazyContext) Want(path string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.want = append(l.want, path)
}

// Load returns the context, loaded once.
func (l *LazyContext) Load(ctx context.Context) (*Context, error) {
	l.once.Do(func() { l.ctx, l.err = l.load(ctx) })
	return l.ctx, l.err
}

// Close closes what was loaded.
func (l *LazyContext) Close() error {
	if l.ctx == nil {
		return nil
	}
	return l.ctx.Close()
}

func (l *LazyContext) load(ctx context.Context) (*Context, error) {
	ignore, err := l.ignores()
	if err != nil {
		return nil, err
	}
	p := l.solver.Begin(l.label + "load build context")
	c, err := LoadContext(ctx, ContextOptions{
		Dir: l.dir, Ignore: ignore, Paths: l.want, Index: l.index, Now: l.solver.opts.Now,
	})
	if err != nil {
		return nil, p.End(ctx, err)
	}
	p.Item(progress.Item{ID: "transferring context:", Current: c.Hashed(), Done: true})
	return c, p.End(ctx, nil)
}

// patterns reads the ignore file. It may be a symlink, but not out of the
// directory that it is in.
func (l *LazyContext) patterns(p *Reporter) ([]string, error) {
	try := []string{filepath.Join(l.dir, ".dockerignore")}
	if l.ignore != "" {
		try = append([]string{l.ignore}, try...)
	}
	for _, name := range try {
		patterns, size, err := readIgnore(name)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("read %s: %w", filepath.Base(name), err)
		}
		p.Item(progress.Item{ID: "transferring context:", Current: size, Done: true})
		return patterns, nil
	}
	p.Item(progress.Item{ID: "transferring context:", Current: 0, Done: true})
	return nil, nil
}

func readIgnore(name string) (patterns []string, size int64, err error) {
	root, err := os.OpenRoot(filepath.Dir(name))
	if err != nil {
		return nil, 0, err
	}
	defer func() { err = errors.Join(err, root.Close()) }()
	base := filepath.Base(name)
	fi, err := root.Stat(base)
	if err != nil {
		return nil, 0, err
	}
	if !fi.Mode().IsRegular() || fi.Size() > maxIgnoreFile {
		return nil, 0, fmt.Errorf("not a regular file of at most %d bytes", maxIgnoreFile)
	}
	f, err := root.Open(base)
	if err != nil {
		return nil, 0, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	patterns, err = ignorefile.ReadAll(io.LimitReader(f, maxIgnoreFile))
	return patterns, fi.Size(), err
}
