package build

import (
	"context"
	"errors"
	"io"
	"os"
	"sync"
	"sync/atomic"
	"testing"

	"strake/internal/executor"
	"strake/internal/progress"
)

// shellOp is a command that fails, and may have a shell.
type shellOp struct {
	name string
	exec executor.Executor
	wait <-chan struct{}
}

func (o *shellOp) Prepare(_ context.Context, w *Work) (Step, error) {
	return Step{Inputs: []Input{{Name: "input", Value: o.name}}, Make: func(ctx context.Context, _ io.Writer) error {
		<-o.wait
		failure := errors.New(o.name + " failed")
		(&Run{Shell: []string{"/bin/stage"}}).debug(ctx, w, o.exec, executor.Spec{Env: []string{"A=b"}}, failure)
		return failure
	}}, nil
}

// executorFunc is an Executor.
type executorFunc func(context.Context, executor.Spec) (int, error)

func (f executorFunc) Run(ctx context.Context, spec executor.Spec) (int, error) { return f(ctx, spec) }

// TestShellHaltsTheRest: of steps that fail at once, in two builds of a solver, one has a shell; all others are stopped before it is
// left, and its failure is that of both builds, which end when it has been left.
func TestShellHaltsTheRest(t *testing.T) {
	var made, opened, begun, ended atomic.Int32
	stopped := make(chan struct{}, 10)
	exec := executorFunc(func(ctx context.Context, spec executor.Spec) (int, error) {
		opened.Add(1)
		if !spec.Terminal || spec.Args[0] != "/bin/stage" || spec.Stdin != io.Reader(os.Stdin) || len(spec.Env) != 2 {
			t.Errorf("it runs %+v", spec)
		}
		for range 2 { // the steps that wait
			<-stopped
		}
		if ctx.Err() != nil || ended.Load() > 0 {
			t.Errorf("the step of the shell was stopped: %v", ctx.Err())
		}
		return 3, nil
	})
	both := make(chan struct{})
	var mu sync.Mutex
	states := map[string]progress.State{}
	solver := NewSolver(Options{
		Store: newDirStore(t), Parallel: 8, Shell: &Shell{In: os.Stdin, Out: os.Stderr, Begin: func(string, error) func() {
			begun.Add(1)
			return func() { ended.Add(1) }
		}},
		Progress: func(e progress.Event) {
			mu.Lock()
			defer mu.Unlock()
			if states[e.Name] = e.State; e.State == progress.Canceled {
				stopped <- struct{}{}
			}
		},
	})
	build := func(n string) error {
		slow := &Vertex{Op: &fakeOp{name: "slow" + n, input: n, wait: true, made: &made}, Inputs: []*Vertex{{Op: &Base{}}}, Name: "slow" + n}
		bad := &Vertex{Op: &shellOp{"bad" + n, exec, both}, Inputs: []*Vertex{{Op: &Base{}}}, Name: "bad" + n}
		_, err := solver.Solve(t.Context(), &Vertex{Op: &Base{}, Inputs: []*Vertex{slow, bad}, Name: "all" + n})
		if ended.Load() != 1 {
			t.Errorf("build %s ended before the shell: %v", n, err)
		}
		return err
	}
	var errs [2]error
	var builds sync.WaitGroup
	for i, n := range []string{"1", "2"} {
		builds.Go(func() { errs[i] = build(n) })
	}
	close(both)
	builds.Wait()
	if opened.Load() != 1 || begun.Load() != 1 {
		t.Errorf("%d shells were opened, %d told of", opened.Load(), begun.Load())
	}
	var one, two *VertexError
	if !errors.As(errs[0], &one) || !errors.As(errs[1], &two) || one.Err.Error() != two.Err.Error() || one.Vertex != two.Vertex {
		t.Errorf("the builds failed of %v and %v", errs[0], errs[1])
	}
	for _, name := range []string{"slow1", "slow2"} {
		if states[name] != progress.Canceled {
			t.Errorf("%s: state %v", name, states[name])
		}
	}
}
