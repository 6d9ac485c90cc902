package build

import (
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/errgroup"

	"strake/internal/layer"
	"strake/internal/progress"
)

// Solver solves vertices. It solves each vertex once, and steps of the same
// cache key once, however many vertices they are in. It is safe for concurrent
// use.
type Solver struct {
	opts Options
	*run
}

// run is what solvers of builds share that go on together.
type run struct {
	slot chan struct{} // one element per step that may run now

	rtOnce sync.Once
	rt     *Runtime
	rtErr  error

	missedOnce sync.Once
	missedErr  error

	treesMu sync.Mutex
	trees   map[digest.Digest]*chainTree

	shownMu sync.Mutex // also held while one is made
	shown   map[shown]layer.Staged

	commits commits
	hits    hits
	halt    halt

	mu       sync.Mutex // also serializes Progress and Explain
	vertices map[*Vertex]*future
	keys     stepFutures
	sizes    map[digest.Digest]int64 // of layers, once they are known
	ids      int
	told     map[*Vertex][]string // the ID of a vertex, or of what stands for one that is not shown
}

// future is a result that is being made.
type future struct {
	done chan struct{}
	res  Result
	err  error
	leak bool // a secret was found in what a step made
}

// stepFutures are what steps of one cache key share.
type stepFutures map[stepKey]*future

type stepKey struct {
	key  string
	anew bool // made in spite of a record
}

// NewSolver makes a solver.
func NewSolver(opts Options) *Solver {
	if opts.Parallel <= 0 {
		opts.Parallel = runtime.NumCPU()
	}
	if opts.Now == nil {
		opts.Now = time.Now
	}
	if opts.Exchange == nil {
		opts.Exchange = NewExchange()
	}
	return &Solver{opts: opts, run: &run{
		commits:  commits{store: opts.Store, files: map[digest.Digest]layer.Files{}},
		slot:     make(chan struct{}, opts.Parallel),
		vertices: map[*Vertex]*future{},
		keys:     stepFutures{},
		sizes:    map[digest.Digest]int64{},
		told:     map[*Vertex][]string{},
		trees:    map[digest.Digest]*chainTree{},
	}}
}

// Beside makes a solver of another build that goes on together with that of s: a step
// of both is made once. The store, the runtime, Missed, Shell, Parallel and Now are those
// of s, whatever opts says; its Progress and Explain are not called while those of s are.
// Closing one closes both.
func Beside(s *Solver, opts Options) *Solver {
	opts.Store, opts.Runtime, opts.Missed, opts.Shell = s.opts.Store, s.opts.Runtime, s.opts.Missed, s.opts.Shell
	opts.Parallel, opts.Now = s.opts.Parallel, s.opts.Now
	if opts.Exchange == nil {
		opts.Exchange = NewExchange()
	}
	return &Solver{opts: opts, run: s.run}
}

// SolvedBy has the steps of d be solved by s, with what it gives them, where another build
// goes on from there. It is called before that one solves anything.
func (d *Definition) SolvedBy(s *Solver) { d.Root.solvedBy(s) }

func (v *Vertex) solvedBy(s *Solver) {
	if v.owner != nil {
		return
	}
	v.owner = s
	for _, in := range v.Inputs {
		in.solvedBy(s)
	}
}

// Close closes the layers that were read. Nothing is solved any more.
func (s *Solver) Close() error {
	s.treesMu.Lock()
	defer s.treesMu.Unlock()
	var errs []error
	for id, t := range s.trees {
		errs = append(errs, t.layers.Close())
		delete(s.trees, id)
	}
	s.shownMu.Lock()
	defer s.shownMu.Unlock()
	for key, l := range s.shown {
		errs = append(errs, l.Close())
		delete(s.shown, key)
	}
	return errors.Join(append(errs, s.commits.close())...)
}

// runtime is Options.Runtime, asked once.
func (s *Solver) runtime(ctx context.Context) (*Runtime, error) {
	s.rtOnce.Do(func() {
		if s.opts.Runtime == nil {
			s.rtErr = fmt.Errorf("this build cannot run commands: %w", errdefs.ErrUnavailable)
			return
		}
		s.rt, s.rtErr = s.opts.Runtime(ctx)
	})
	return s.rt, s.rtErr
}

// missed is what the first miss does, once: what the build starts from is held,
// and what was found in the cache. It fails with errStale while some of that is
// gone.
func (s *Solver) missed(ctx context.Context) error {
	s.missedOnce.Do(func() {
		if s.opts.Missed != nil {
			s.missedErr = s.opts.Missed(ctx)
		}
		if s.missedErr == nil {
			s.missedErr = s.hits.hold(ctx, s.opts.Store)
		}
	})
	if s.missedErr != nil {
		return s.missedErr
	}
	return s.hits.current()
}

// VertexError is why a step failed.
type VertexError struct {
	Vertex *Vertex
	Err    error
}

func (e *VertexError) Error() string { return e.Err.Error() }

// Unwrap returns the cause.
func (e *VertexError) Unwrap() error { return e.Err }

// Solve makes the result of v and of all that it needs. What finished is in the
// cache even when Solve fails or ctx ends.
func (s *Solver) Solve(ctx context.Context, v *Vertex) (Result, error) {
	attempt, cancel := context.WithCancel(ctx)
	res, err := s.solve(attempt, v)
	cancel()
	if renew := s.hits.renew(); renew || errors.Is(err, errStale) {
		if renew {
			s.mu.Lock()
			s.vertices, s.keys = map[*Vertex]*future{}, stepFutures{}
			s.mu.Unlock()
		}
		attempt, cancel = context.WithCancel(ctx)
		res, err = s.solve(attempt, v) // what it finds is held: it is the last
		cancel()
	}
	// What is finished is kept, whatever becomes of the rest of the build.
	if commitErr := s.commits.flush(context.WithoutCancel(ctx)); err == nil {
		err = commitErr
	}
	return res, err
}

// solve is Solve within the build's context.
func (s *Solver) solve(ctx context.Context, v *Vertex) (Result, error) {
	if v.owner != nil {
		s = v.owner
	}
	s.mu.Lock()
	f, running := s.vertices[v]
	if !running {
		f = &future{done: make(chan struct{})}
		s.vertices[v] = f
	}
	s.mu.Unlock()
	if !running {
		f.res, f.err = s.vertex(ctx, v)
		close(f.done)
	}
	return f.wait(ctx)
}

func (f *future) wait(ctx context.Context) (Result, error) {
	select {
	case <-f.done:
		return f.res, f.err
	default:
	}
	select {
	case <-f.done:
		return f.res, f.err
	case <-ctx.Done():
		return Result{}, context.Cause(ctx)
	}
}

// vertex solves the inputs, then the vertex.
func (s *Solver) vertex(ctx context.Context, v *Vertex) (Result, error) {
	inputs := make([]Result, len(v.Inputs))
	g, gctx := errgroup.WithContext(ctx)
	for i, in := range v.Inputs {
		if i == len(v.Inputs)-1 {
			var err error
			if inputs[i], err = s.solve(gctx, in); err != nil {
				g.Go(func() error { return err })
			}
			break
		}
		g.Go(func() (err error) {
			inputs[i], err = s.solve(gctx, in)
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return Result{}, err
	}

	p := v.begin(s)
	ctx, leave := s.halt.enter(ctx, v)
	res, err := s.step(ctx, v, inputs, p)
	if err != nil {
		p.fail(ctx, err)
		leave()
		var ve *VertexError
		if !errors.As(err, &ve) {
			err = &VertexError{Vertex: v, Err: err}
		}
		return Result{}, s.halt.result(err)
	}
	leave()
	p.end(res.Cached)
	return res, nil
}

// step finds or makes the result of v.
func (s *Solver) step(ctx context.Context, v *Vertex, inputs []Result, p *Reporter) (res Result, err error) {
	w := &Work{Inputs: inputs, Log: p, solver: s, vertex: v}
	step, err := v.Op.Prepare(ctx, w)
	if err != nil {
		return Result{}, err
	}
	if step.Done != nil {
		return *step.Done, nil
	}
	all := append([]Input{{Name: parentInput, Value: chainID(w.parent().Layers).String()}}, step.Inputs...)
	if e := s.opts.Epoch; e != nil {
		all = append(all, Input{Name: "SOURCE_DATE_EPOCH", Value: strconv.FormatInt(e.Unix(), 10)})
	}
	key := cacheKey(all)
	s.mu.Lock()
	f, running := s.keys.join(key, v.NoCache)
	s.mu.Unlock()
	if running {
		res, err = f.wait(ctx)
		res.Cached = true
	} else {
		f.res, f.err = s.keyed(ctx, v, w, step, key, all, p)
		f.leak = w.leak != nil
		close(f.done)
		res, err = f.res, f.err
	}
	if err == nil && !v.Context && !f.leak {
		s.opts.Exchange.use(key, res.Layers[len(w.parent().Layers):], res.Created)
	}
	return res, err
}

// join returns the future of the steps of a key, and whether one of them makes it
// already. One that has to be made anew joins only those that have to, as what
// others give may be a record.
func (s stepFutures) join(key string, anew bool) (f *future, running bool) {
	f, running = s[stepKey{key, true}]
	if !running && !anew {
		f, running = s[stepKey{key, false}]
	}
	if !running {
		f = &future{done: make(chan struct{})}
		s[stepKey{key, anew}] = f
	}
	return f, running
}

// keyed finds the result of a prepared step in the cache, or makes it. Where
// another process makes it now, that one's is taken.
func (s *Solver) keyed(ctx context.Context, v *Vertex, w *Work, step Step, key string, inputs []Input, p *Reporter) (Result, error) {
	reason, release := "the cache is off for it", func() error { return nil }
	if !v.NoCache {
		r, why, err := s.lookup(ctx, key)
		if r == nil && err == nil {
			release, err = s.opts.Store.LockStep(ctx, key, func() { fmt.Fprintln(w.Log, "another build runs this step: waiting for it") })
			if err != nil {
				return Result{}, fmt.Errorf("wait for the same step: %w", err)
			}
			r, why, err = s.lookup(ctx, key)
		}
		if r == nil && err == nil {
			r, err = fetchRecord(ctx, s, v, key, inputs, p)
		}
		if r != nil || err != nil {
			res, leak := found(w, r)
			return res, errors.Join(err, leak, release())
		}
		reason = why
	}
	s.explain(ctx, v, inputs, reason)
	staged, err := s.stage(ctx, step)
	if err != nil {
		return Result{}, errors.Join(err, release())
	}
	r := record{Layers: []digest.Digest{staged.Files().DiffID}, Created: s.created(), Inputs: inputs, Leak: w.leak}
	records, err := r.records(key, v.Slot)
	if err != nil {
		return Result{}, errors.Join(err, staged.Close(), release())
	}
	s.commits.add(ctx, queued{v, layer.Commit{Staged: staged, Records: records}, release})
	return Result{Layers: extend(w.parent().Layers, r.Layers), Created: r.Created}, nil
}

// found is the result that a record, or none, tells of. What was found in its layer is told again.
func found(w *Work, r *record) (Result, error) {
	if r == nil {
		return Result{}, nil
	}
	if r.Leak != nil {
		if err := w.secretFound(r.Leak); err != nil {
			return Result{}, err
		}
	}
	return Result{Layers: extend(w.parent().Layers, r.Layers), Created: r.Created, Cached: true}, nil
}

// stage makes the layer of a step when one more may run.
func (s *Solver) stage(ctx context.Context, step Step) (layer.Staged, error) {
	select {
	case s.slot <- struct{}{}:
		defer func() { <-s.slot }()
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	if err := errors.Join(s.missed(ctx), s.commits.failed()); err != nil {
		return nil, err
	}
	return s.opts.Store.StageLayer(ctx, func(out io.Writer) error { return step.Make(ctx, out) })
}

// created is the time that a layer made now bears.
func (s *Solver) created() time.Time {
	now := s.opts.Now().UTC()
	if e := s.opts.Epoch; e != nil && now.After(*e) {
		return e.UTC()
	}
	return now
}

func extend(chain, top []digest.Digest) []digest.Digest {
	return slices.Concat(chain, top)
}

// parent is the result that the op builds upon.
func (w *Work) parent() Result {
	if len(w.Inputs) == 0 {
		return Result{}
	}
	return w.Inputs[0]
}

// Reporter tells the events of one step. It is an io.Writer of log output. Its
// methods are safe for concurrent use.
type Reporter struct {
	solver   *Solver
	id, name string
}

// Begin starts a step that is not a vertex, such as loading the build context;
// the caller ends it with End.
func (s *Solver) Begin(name string) *Reporter { return s.begin(name, nil) }

func (s *Solver) begin(name string, inputs []string) *Reporter {
	s.mu.Lock()
	s.ids++
	p := &Reporter{solver: s, id: strconv.Itoa(s.ids), name: s.opts.named(name)}
	s.mu.Unlock()
	p.emit(progress.Event{State: progress.Started, Inputs: inputs})
	return p
}

// named is the name of a step among those of other builds.
func (o *Options) named(step string) string {
	switch rest, bracket := strings.CutPrefix(step, "["); {
	case o.Title == "" || step == "":
		return step
	case bracket:
		return "[" + o.Title + " " + rest
	}
	return "[" + o.Title + "] " + step
}

// begin starts the step of a vertex.
func (v *Vertex) begin(s *Solver) *Reporter {
	var inputs []string
	s.mu.Lock()
	for _, in := range v.Inputs {
		inputs = append(inputs, s.told[in]...)
	}
	s.mu.Unlock()
	p := s.begin(v.Name, inputs)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.told[v] = inputs
	if v.Name != "" {
		s.told[v] = []string{p.id}
	}
	return p
}

func (p *Reporter) emit(e progress.Event) {
	s := p.solver
	if s.opts.Progress == nil || p.name == "" {
		return
	}
	e.ID, e.Name, e.Time = p.id, p.name, time.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.opts.Progress(e)
}

// Write logs b.
func (p *Reporter) Write(b []byte) (int, error) {
	p.emit(progress.Event{State: progress.Logged, Log: slices.Clone(b)})
	return len(b), nil
}

// Item tells of one thing that the step moves.
func (p *Reporter) Item(i progress.Item) { p.emit(progress.Event{State: progress.Moved, Item: i}) }

// Warn logs a warning.
func (p *Reporter) Warn(format string, args ...any) {
	p.emit(progress.Event{State: progress.Warned, Log: fmt.Appendf(nil, format, args...)})
}

// End ends the step: well when err is nil, and returns err.
func (p *Reporter) End(ctx context.Context, err error) error {
	if err != nil {
		p.fail(ctx, err)
		return err
	}
	p.end(false)
	return nil
}

func (p *Reporter) end(cached bool) {
	if cached {
		p.emit(progress.Event{State: progress.Cached})
		return
	}
	p.emit(progress.Event{State: progress.Done})
}

func (p *Reporter) fail(ctx context.Context, err error) {
	if ctx.Err() != nil && errors.Is(err, context.Cause(ctx)) || errors.Is(err, context.Canceled) || errors.Is(err, errStale) {
		p.emit(progress.Event{State: progress.Canceled, Err: err})
		return
	}
	p.emit(progress.Event{State: progress.Failed, Err: err})
}
