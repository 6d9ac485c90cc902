package build

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"strake/internal/progress"
)

// fakeOp makes a layer that holds one file, and counts how often.
type fakeOp struct {
	name  string
	input string
	made  *atomic.Int32
	fail  error
	wait  bool // until ctx ends
}

func (o *fakeOp) Prepare(_ context.Context, w *Work) (Step, error) {
	return Step{
		Inputs: []Input{{Name: "input", Value: o.input}},
		Make: func(ctx context.Context, out io.Writer) error {
			if o.wait {
				<-ctx.Done()
				return context.Cause(ctx)
			}
			if o.fail != nil {
				return o.fail
			}
			o.made.Add(1)
			tw := newTarWriter(out, nil)
			if err := tw.entry(node{path: o.name, mode: 0o644, size: int64(len(o.input))}, strings.NewReader(o.input)); err != nil {
				return err
			}
			return tw.Close()
		},
	}, nil
}

func TestSolverCachesAndExplains(t *testing.T) {
	s := newDirStore(t)
	var made atomic.Int32
	build := func(first, second string) (Result, []Explanation) {
		t.Helper()
		var why []Explanation
		solver := NewSolver(Options{Store: s, Explain: func(e Explanation) { why = append(why, e) }})
		a := &Vertex{Op: &fakeOp{name: "a", input: first, made: &made}, Inputs: []*Vertex{{Op: &Base{}}}, Name: "A", Slot: "a"}
		b := &Vertex{Op: &fakeOp{name: "b", input: second, made: &made}, Inputs: []*Vertex{a}, Name: "B", Slot: "b"}
		res, err := solver.Solve(t.Context(), b)
		if err != nil {
			t.Fatal(err)
		}
		return res, why
	}
	res, why := build("1", "2")
	if len(res.Layers) != 2 || made.Load() != 2 || len(why) != 2 || why[0].Reason != "it was not built before" {
		t.Fatalf("first build: %v, %d made, %v", res, made.Load(), why)
	}
	again, why := build("1", "2")
	if diff := cmp.Diff(res.Layers, again.Layers); diff != "" || !again.Cached || !again.Created.Equal(res.Created) || len(why) != 0 {
		t.Fatalf("second build: %v %v %s", again, why, diff)
	}
	_, why = build("1", "3")
	want := []Explanation{{Step: "B", Reason: "an input changed", Changes: []Change{{Input: "input", From: "2", To: "3"}}}}
	if diff := cmp.Diff(want, why); diff != "" {
		t.Fatal(diff)
	}
	delete(s.layers, res.Layers[0])
	if _, why = build("1", "2"); len(why) != 1 || why[0].Reason != "its layer was removed" {
		t.Fatalf("after removing a layer: %v", why)
	}
}

// What is found is held from the first miss on, and what was removed until then
// is made again, with what builds upon it.
func TestSolverHoldsHits(t *testing.T) {
	s := newDirStore(t)
	var made atomic.Int32
	chain := func(inputs ...string) *Vertex {
		v := &Vertex{Op: &Base{}}
		for _, in := range inputs {
			v = &Vertex{Op: &fakeOp{name: in, input: in, made: &made}, Inputs: []*Vertex{v}, Name: in}
		}
		return v
	}
	solve := func(removed digest.Digest, v *Vertex) Result {
		t.Helper()
		made.Store(0)
		s.held = nil
		res, err := NewSolver(Options{Store: s, Missed: func(context.Context) error {
			delete(s.layers, removed) // as another process may until now
			return nil
		}}).Solve(t.Context(), v)
		if err != nil {
			t.Fatal(err)
		}
		return res
	}
	first := solve("", chain("a", "b"))
	if solve("", chain("a", "b")); len(s.held) != 0 {
		t.Errorf("a build that missed nothing holds %v", s.held)
	}
	if solve("", chain("a", "b", "c")); made.Load() != 1 || len(s.held) != 2 {
		t.Errorf("%d made, held %v", made.Load(), s.held)
	}
	second := solve(first.Layers[0], chain("a", "b", "d"))
	if made.Load() != 2 || len(s.held) != 1 { // a and d; b is found again
		t.Errorf("%d made, held %v", made.Load(), s.held)
	}
	if _, err := s.Layer(t.Context(), first.Layers[0]); err != nil || second.Layers[0] != first.Layers[0] {
		t.Errorf("%v, then %v: %v", first.Layers, second.Layers, err)
	}
}

func TestSolverMergesEqualSteps(t *testing.T) {
	s := newDirStore(t)
	var made atomic.Int32
	var inputs []*Vertex
	for range 8 {
		inputs = append(inputs, &Vertex{Op: &fakeOp{name: "a", input: "1", made: &made}, Inputs: []*Vertex{{Op: &Base{}}}, Name: "A"})
	}
	if _, err := NewSolver(Options{Store: s}).Solve(t.Context(), &Vertex{Op: &Base{}, Inputs: inputs}); err != nil {
		t.Fatal(err)
	}
	if made.Load() != 1 {
		t.Errorf("made %d times", made.Load())
	}
}

// TestSolverNoCacheJoinsNoRecord: a step that has to run does so beside an equal one that was found, and once for all that have to; what
// may be found takes what it made.
func TestSolverNoCacheJoinsNoRecord(t *testing.T) {
	s := newDirStore(t)
	var made atomic.Int32
	step := func(noCache bool) *Vertex {
		return &Vertex{Op: &fakeOp{name: "a", input: "1", made: &made}, Inputs: []*Vertex{{Op: &Base{}}}, Name: "A", NoCache: noCache}
	}
	for _, run := range []struct {
		noCache []bool
		made    int32
	}{
		{[]bool{false}, 1},
		{[]bool{false, true, true, false}, 1},
		{[]bool{true, false, true}, 1},
		{[]bool{false, false}, 0},
	} {
		made.Store(0)
		solver := NewSolver(Options{Store: s})
		for _, noCache := range run.noCache {
			if _, err := solver.Solve(t.Context(), step(noCache)); err != nil {
				t.Fatal(err)
			}
		}
		if made.Load() != run.made {
			t.Errorf("%v: made %d times, not %d", run.noCache, made.Load(), run.made)
		}
	}
}

func TestSolverFailureCancelsAndKeepsFinished(t *testing.T) {
	s := newDirStore(t)
	var made atomic.Int32
	done := &Vertex{Op: &fakeOp{name: "a", input: "1", made: &made}, Inputs: []*Vertex{{Op: &Base{}}}, Name: "done"}
	bad := &Vertex{Op: &fakeOp{name: "b", fail: errors.New("boom"), made: &made}, Inputs: []*Vertex{done}, Name: "bad", Lines: []int{3}}
	slow := &Vertex{Op: &fakeOp{name: "c", wait: true, made: &made}, Inputs: []*Vertex{{Op: &Base{}}}, Name: "slow"}
	states := map[string]progress.State{}
	solver := NewSolver(Options{Store: s, Parallel: 4, Progress: func(e progress.Event) { states[e.Name] = e.State }})
	_, err := solver.Solve(t.Context(), &Vertex{Op: &Base{}, Inputs: []*Vertex{slow, bad}, Name: "all"})
	var ve *VertexError
	if !errors.As(err, &ve) || ve.Vertex != bad || err.Error() != "boom" {
		t.Fatalf("got %v", err)
	}
	want := map[string]progress.State{"done": progress.Done, "bad": progress.Failed, "slow": progress.Canceled}
	if diff := cmp.Diff(want, states); diff != "" {
		t.Error(diff)
	}
	res, err := NewSolver(Options{Store: s}).Solve(t.Context(), done)
	if err != nil || !res.Cached {
		t.Errorf("the finished step is not in the cache: %v %v", res, err)
	}
}

func TestBuildGivesTheSameImage(t *testing.T) {
	s := newDirStore(t)
	base := tarOf(t, s, "etc/")
	old := time.Date(2020, 1, 2, 3, 4, 5, 0, time.UTC)
	def := func() *Definition {
		var made atomic.Int32
		v := &Vertex{Op: &fakeOp{name: "a", input: "1", made: &made}, Inputs: []*Vertex{{Op: &Base{Layers: []digest.Digest{base}}}}, Name: "A"}
		d := &Definition{Root: v}
		d.Config.Platform = ocispec.Platform{OS: "linux", Architecture: "amd64"}
		d.Config.History = []ocispec.History{
			{CreatedBy: "base", Created: &old}, {CreatedBy: "ENV A=b", EmptyLayer: true}, {CreatedBy: "RUN a"}, {CreatedBy: "CMD", EmptyLayer: true},
		}
		return d
	}
	clock := time.Date(2026, 1, 1, 0, 0, 0, 5, time.UTC)
	var ids []digest.Digest
	var config string
	for range 2 {
		solver := NewSolver(Options{Store: s, Now: func() time.Time { clock = clock.Add(time.Hour); return clock }})
		built, err := solver.Build(t.Context(), def())
		if err != nil {
			t.Fatal(err)
		}
		ids, config = append(ids, built.ID), string(built.Config)
	}
	if ids[0] != ids[1] {
		t.Errorf("image IDs differ: %v", ids)
	}
	for _, want := range []string{
		`"created":"2026-01-01T01:00:00.000000005Z"`,
		`{"created":"2020-01-02T03:04:05Z","created_by":"base"}`,
		`{"created":"2026-01-01T01:00:00.000000005Z","created_by":"ENV A=b","empty_layer":true}`,
		`"diff_ids":["` + base.String() + `","sha256:`,
	} {
		if !strings.Contains(config, want) {
			t.Errorf("no %s in\n%s", want, config)
		}
	}
}

func TestStatCache(t *testing.T) {
	s := newDirStore(t)
	dir := t.TempDir()
	writeFiles(t, dir, "a data=1", "d/b data=22", "d-e data=333", "l -> a")
	later := time.Now().Add(time.Minute) // nothing is racy then
	load := func(now time.Time) *Context {
		t.Helper()
		c, err := LoadContext(t.Context(), ContextOptions{Dir: dir, Index: s, Now: func() time.Time { return now }})
		if err != nil {
			t.Fatal(err)
		}
		if err := c.Close(); err != nil {
			t.Fatal(err)
		}
		return c
	}
	if c := load(time.Now()); c.Hashed() != 6 || c.Files() != 5 {
		t.Fatalf("first: hashed %d of %d files", c.Hashed(), c.Files())
	}
	if c := load(later); c.Hashed() != 6 {
		t.Fatalf("files as young as the cache must be read again: hashed %d", c.Hashed())
	}
	if c := load(later); c.Hashed() != 0 {
		t.Fatalf("third: hashed %d", c.Hashed())
	}
	before := load(later).files
	if err := os.WriteFile(filepath.Join(dir, "d/b"), []byte("23"), 0o644); err != nil {
		t.Fatal(err)
	}
	c := load(later)
	if c.Hashed() != 2 || c.files[2].sum == before[2].sum {
		t.Fatalf("after a change: hashed %d, %q", c.Hashed(), c.files[2].path)
	}
	if err := errors.Join(os.Remove(filepath.Join(dir, "a")), os.WriteFile(filepath.Join(dir, "c"), []byte("4567"), 0o644)); err != nil {
		t.Fatal(err)
	}
	if c := load(later); c.Hashed() != 4 {
		t.Fatalf("a file less and one more: hashed %d", c.Hashed())
	}
	for name, b := range s.index {
		for cut := range b {
			parseIndex(b[:cut]) // must not panic
		}
		s.index[name] = append([]byte(indexMagic), 0xff, 0xff, 0xff)
	}
	if c := load(later); c.Hashed() != 9 {
		t.Fatalf("with a damaged cache: hashed %d", c.Hashed())
	}
}

func TestCacheIgnoresTimesAndUmask(t *testing.T) {
	s := newDirStore(t)
	var ids []digest.Digest
	for i, perm := range []os.FileMode{0o644, 0o600} {
		dir := t.TempDir()
		writeFiles(t, dir, "d/a data=1", "d/x mode=0755 data=2")
		f := filepath.Join(dir, "d/a")
		at := time.Unix(int64(1e9+i), 0)
		if err := errors.Join(os.Chmod(f, perm), os.Chtimes(f, at, at)); err != nil {
			t.Fatal(err)
		}
		res, err := runCopy(t, s, dir, copyCase{sources: []string{"."}, dest: "/app"})
		if err != nil {
			t.Fatal(err)
		}
		ids = append(ids, res.Layers...)
		if res.Cached != (i == 1) {
			t.Errorf("build %d cached: %v", i, res.Cached)
		}
	}
	if ids[0] != ids[1] {
		t.Error("layers differ")
	}
}

func TestUnpack(t *testing.T) {
	var tarball bytes.Buffer
	gz := gzip.NewWriter(&tarball)
	tw := tar.NewWriter(gz)
	for _, h := range []tar.Header{
		{Name: "./", Typeflag: tar.TypeDir, Mode: 0o700},
		{Name: "lib/a", Typeflag: tar.TypeReg, Mode: 0o640, Size: 1, Uid: 5, Gid: 6},
		{Name: "lib/b", Typeflag: tar.TypeLink, Linkname: "lib/a"},
		{Name: "was-dir", Typeflag: tar.TypeReg, Mode: 0o644, Size: 1},
		{Name: "s", Typeflag: tar.TypeSymlink, Linkname: "/etc", Mode: 0o777},
		{Name: "s/inside", Typeflag: tar.TypeReg, Mode: 0o644, Size: 1},
	} {
		if err := tw.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if h.Size > 0 {
			fmt.Fprint(tw, "x")
		}
	}
	if err := errors.Join(tw.Close(), gz.Close()); err != nil {
		t.Fatal(err)
	}
	s := newDirStore(t)
	dir := t.TempDir()
	writeFiles(t, dir, "a.tgz data="+tarball.String(), "z data=plain")
	res, err := runCopy(t, s, dir, copyCase{
		stage: []string{"usr/", "usr/lib/", "lib -> usr/lib", "was-dir/", "was-dir/f"}, sources: []string{"a.tgz", "z"}, dest: "/", unpack: true,
	})
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		"usr/lib/ 755", "usr/lib/a 640 owner=5:6 data=x", "usr/lib/b = usr/lib/a", "was-dir 644 data=x", "s -> /etc",
		"etc/ 755", "etc/inside 644 data=x", "z 644 data=plain",
	}
	if diff := cmp.Diff(want, contents(t, s, res.Layers[1])); diff != "" {
		t.Error(diff)
	}
}

func TestWorkdirThroughSymlink(t *testing.T) {
	s := newDirStore(t)
	outside := t.TempDir()
	base := tarOf(t, s, "up -> ../../../../.."+outside, "real/", "l -> /real")
	for path, want := range map[string][]string{
		"/l/a/b": {"real/ 755", "real/a/ 755", "real/a/b/ 755"},
		"/real":  nil,
	} {
		res, err := NewSolver(Options{Store: s}).Solve(t.Context(), &Vertex{
			Op: &Mkdir{Path: path}, Inputs: []*Vertex{{Op: &Base{Layers: []digest.Digest{base}}}},
		})
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, contents(t, s, res.Layers[1])); diff != "" {
			t.Errorf("%s: %s", path, diff)
		}
	}
	if _, err := NewSolver(Options{Store: s}).Solve(t.Context(), &Vertex{
		Op: &Mkdir{Path: "/up/made"}, Inputs: []*Vertex{{Op: &Base{Layers: []digest.Digest{base}}}},
	}); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(filepath.Join(outside, "made")); err == nil {
		t.Error("a directory was made on the host")
	}
}

func TestIgnoreFileIsNoWayOut(t *testing.T) {
	outside := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(outside, []byte("[bad pattern with a secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := os.Symlink(outside, filepath.Join(dir, ".dockerignore")); err != nil {
		t.Fatal(err)
	}
	l := NewSolver(Options{}).LazyContext(LazyContextOptions{Dir: dir})
	if _, err := l.Load(t.Context()); err == nil || strings.Contains(err.Error(), "secret") {
		t.Errorf("got %v", err)
	}
}

func TestDockerfileIgnoreWins(t *testing.T) {
	dir := t.TempDir()
	writeFiles(t, dir, "a", "b", ".dockerignore data=a", "X.Dockerfile.dockerignore data=b\nX*\n.dockerignore\n")
	l := NewSolver(Options{}).LazyContext(LazyContextOptions{Dir: dir, Dockerfile: filepath.Join(dir, "X.Dockerfile")})
	c, err := l.Load(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if c.Files() != 1 || c.files[0].path != "a" {
		t.Errorf("got %v", c.files)
	}
	if err := l.Close(); err != nil {
		t.Error(err)
	}
}
