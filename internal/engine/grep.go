package engine

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"regexp"
	"regexp/syntax"
	"runtime"
	"strings"
	"sync"

	"github.com/containerd/errdefs"

	"strake/internal/layer"
)

// GrepOptions say what to look for, and where.
type GrepOptions struct {
	LookOptions
	Pattern    string // RE2; its lines are alternatives, as grep's
	Path       string // a file, or a directory with all below it; "" is the root
	Fixed      bool   // Pattern is text, not an expression
	IgnoreCase bool
	First      bool // no more than one match of a file
}

// GrepMatch is a line that matches.
type GrepMatch struct {
	Path   string // absolute
	Line   int    // from 1
	Text   []byte // without its newline; nil of a binary file
	Binary bool   // the file has bytes that no text has, and there may be more matches
	Alone  bool   // the options' Path is this file
}

// Grep tells found the lines of an image's files that match, in the order of
// paths, from one goroutine, and returns how many they were. A file that cannot be read does not keep it from the
// others; the error names them all. An error of found ends it.
func Grep(ctx context.Context, env *Env, opts GrepOptions, found func(GrepMatch) error) (matches int, err error) {
	m, err := newMatcher(opts)
	if err != nil {
		return matches, err
	}
	v, err := look(ctx, env, opts.LookOptions)
	if err != nil {
		return matches, err
	}
	defer closing(&err, v.close)
	names, err := filesBelow(ctx, v.files, inside(opts.Path))
	if err != nil {
		return matches, pathError(opts.Path, err)
	}
	alone := len(names) == 1 && names[0] == inside(opts.Path)
	var errs []error
	for batch := range m.searchAll(ctx, v.files, names) {
		for _, match := range batch.matches {
			matches++
			match.Alone = alone
			if err := found(match); err != nil {
				return matches, err
			}
		}
		if batch.err != nil {
			errs = append(errs, pathError(shownPath(batch.name), batch.err))
		}
	}
	return matches, errors.Join(append(errs, ctx.Err())...)
}

// filesBelow lists the regular files of a directory and all below it, or the one
// file that name leads to.
func filesBelow(ctx context.Context, files *layer.FS, name string) (names []string, err error) {
	info, err := files.Stat(name)
	if err != nil {
		return nil, err
	}
	if !info.IsDir() {
		if !info.Mode().IsRegular() {
			return nil, nil
		}
		return []string{name}, nil
	}
	err = fs.WalkDir(dirOnly{files}, name, func(name string, d fs.DirEntry, err error) error {
		if err == nil {
			err = ctx.Err()
		}
		if err == nil && d.Type().IsRegular() {
			names = append(names, name)
		}
		return err
	})
	return names, err
}

// dirOnly follows the root of a walk where it is a symlink, as grep -r does.
type dirOnly struct{ *layer.FS }

// Lstat is fs.ReadLinkFS's, which WalkDir asks about its root alone.
func (d dirOnly) Lstat(name string) (fs.FileInfo, error) { return d.Stat(name) }

// matcher finds lines.
type matcher struct {
	text  []byte         // what a line must have; nil: re says
	re    *regexp.Regexp // with ^ and $ at every line
	whole bool           // re knows of a text's begin or end, so it has to see lines alone
	first bool
}

func newMatcher(opts GrepOptions) (*matcher, error) {
	alternatives := strings.Split(strings.TrimSuffix(opts.Pattern, "\n"), "\n")
	m := &matcher{first: opts.First}
	if opts.Fixed && len(alternatives) == 1 && !opts.IgnoreCase {
		m.text = []byte(alternatives[0])
		return m, nil
	}
	for i, a := range alternatives {
		if opts.Fixed {
			a = regexp.QuoteMeta(a)
		}
		alternatives[i] = "(?:" + a + ")"
	}
	pattern := "(?m)" + strings.Join(alternatives, "|")
	if opts.IgnoreCase {
		pattern = "(?mi)" + strings.Join(alternatives, "|")
	}
	parsed, err := syntax.Parse(pattern, syntax.Perl)
	if err == nil {
		m.re, err = regexp.Compile(pattern)
	}
	if err != nil {
		text := err.Error()
		if failed, ok := errors.AsType[*syntax.Error](err); ok {
			text = failed.Code.String()
		}
		return nil, messageError{fmt.Sprintf("invalid pattern %q: %s", opts.Pattern, text), errdefs.ErrInvalidArgument}
	}
	m.whole = knowsText(parsed)
	return m, nil
}

// knowsText tells whether an expression has \A or \z.
func knowsText(re *syntax.Regexp) bool {
	if re.Op == syntax.OpBeginText || re.Op == syntax.OpEndText {
		return true
	}
	for _, sub := range re.Sub {
		if knowsText(sub) {
			return true
		}
	}
	return false
}

// fileMatches is some of the matches of one file.
type fileMatches struct {
	name    string
	matches []GrepMatch
	err     error
}

const (
	grepBuffer = 1 << 20   // bytes that are searched at a time
	grepLine   = 4 << 20   // bytes of a line; what is longer is cut
	grepBatch  = 128 << 10 // bytes of matches that are kept back
)

// searchAll searches files on all processors and gives what it finds in the
// files' order. A search that is ahead of that waits.
func (m *matcher) searchAll(ctx context.Context, files *layer.FS, names []string) func(yield func(fileMatches) bool) {
	return func(yield func(fileMatches) bool) {
		ctx, cancel := context.WithCancel(ctx)
		workers := runtime.GOMAXPROCS(0)
		queue := make(chan chan fileMatches, 64*workers) // of files that are begun, in order
		jobs := make(chan job)
		var wg sync.WaitGroup
		defer wg.Wait()
		defer cancel()
		for range workers {
			wg.Go(func() {
				buf := make([]byte, 0, grepBuffer)
				for j := range jobs {
					m.search(ctx, files, j, buf)
				}
			})
		}
		wg.Go(func() {
			defer close(queue)
			defer close(jobs)
			for _, name := range names {
				j := job{name, make(chan fileMatches, 1)}
				select {
				case queue <- j.out:
				case <-ctx.Done():
					return
				}
				select {
				case jobs <- j:
				case <-ctx.Done():
					close(j.out)
					return
				}
			}
		})
		for out := range queue {
			for batch := range out {
				if !yield(batch) {
					return
				}
			}
		}
	}
}

// job is a file to search.
type job struct {
	name string
	out  chan fileMatches // closed when it is done
}

func (m *matcher) search(ctx context.Context, files *layer.FS, j job, buf []byte) {
	defer close(j.out)
	s := fileSearch{m: m, job: j, send: func(batch fileMatches) error {
		select {
		case j.out <- batch:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}}
	err := s.file(files, buf)
	if (err != nil && ctx.Err() == nil) || len(s.kept.matches) > 0 {
		s.kept.name, s.kept.err = j.name, err
		_ = s.send(s.kept) // fails when nobody waits for it
	}
}

// fileSearch searches one file.
type fileSearch struct {
	m      *matcher
	job    job
	send   func(fileMatches) error
	kept   fileMatches
	bytes  int // of the texts kept
	line   int // newlines before what is searched
	binary bool
}

var errEnough = errors.New("enough")

func (s *fileSearch) file(files *layer.FS, buf []byte) error {
	f, err := files.Open(s.job.name)
	if err != nil {
		return err
	}
	r, n := io.Reader(f), 0
	buf = buf[:cap(buf)]
	for err == nil {
		if n == len(buf) && n < grepLine {
			buf = append(buf, make([]byte, grepBuffer)...)
		}
		var got int
		got, err = io.ReadFull(r, buf[n:])
		n += got
		end := n
		if err == nil {
			if end = bytes.LastIndexByte(buf[:n], '\n') + 1; end == 0 && n < grepLine {
				continue
			} else if end == 0 {
				end = n
			}
		}
		if searchErr := s.chunk(buf[:end]); searchErr != nil {
			err = searchErr
		}
		n = copy(buf, buf[end:n])
	}
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, errEnough) {
		err = nil
	}
	return errors.Join(err, f.Close())
}

// chunk searches whole lines.
func (s *fileSearch) chunk(b []byte) error {
	s.binary = s.binary || bytes.IndexByte(b, 0) >= 0
	for len(b) > 0 {
		at := s.m.find(b)
		if at < 0 || at == len(b) { // an empty match after the last newline
			break
		}
		begin := bytes.LastIndexByte(b[:at], '\n') + 1
		end := len(b)
		if i := bytes.IndexByte(b[begin:], '\n'); i >= 0 {
			end = begin + i
		}
		if line := b[begin:end]; s.m.matches(line) {
			if err := s.match(line, bytes.Count(b[:begin], []byte{'\n'})); err != nil {
				return err
			}
		}
		next := min(end+1, len(b))
		s.line += bytes.Count(b[:next], []byte{'\n'})
		b = b[next:]
	}
	s.line += bytes.Count(b, []byte{'\n'})
	return nil
}

// match notes a line, which has so many lines before it in what is searched.
func (s *fileSearch) match(line []byte, before int) error {
	match := GrepMatch{Path: shownPath(s.job.name), Line: s.line + before + 1, Binary: s.binary}
	if !s.binary {
		match.Text = bytes.Clone(line)
	}
	s.kept.matches = append(s.kept.matches, match)
	if s.binary || s.m.first {
		return errEnough
	}
	if s.bytes += len(line) + 64; s.bytes < grepBatch {
		return nil
	}
	batch := s.kept
	s.kept, s.bytes = fileMatches{}, 0
	return s.send(batch)
}

// find returns where the first line that may match has its match, or -1.
func (m *matcher) find(b []byte) int {
	switch {
	case m.text != nil:
		return bytes.Index(b, m.text)
	case m.whole:
		return 0
	}
	loc := m.re.FindIndex(b)
	if loc == nil {
		return -1
	}
	return loc[0]
}

// matches tells whether the line, alone, matches.
func (m *matcher) matches(line []byte) bool {
	if m.text != nil {
		return bytes.Contains(line, m.text)
	}
	return m.re.Match(line)
}
