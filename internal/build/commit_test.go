package build

import (
	"context"
	"errors"
	"io"
	"strconv"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// opFunc is an op of one function.
type opFunc func(ctx context.Context, out io.Writer) error

func (f opFunc) Prepare(context.Context, *Work) (Step, error) {
	return Step{Inputs: []Input{{Name: "input", Value: "opFunc"}}, Make: f}, nil
}

// TestCommitWhileNextRuns: the second step runs before the first one's layer is committed; while it runs for long that layer is, and
// Solve waits for the rest.
func TestCommitWhileNextRuns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newDirStore(t)
		committed := make(chan struct{}, 2)
		var commits atomic.Int32
		s.commit = func() error {
			commits.Add(1)
			committed <- struct{}{}
			return nil
		}
		var made atomic.Int32
		a := &Vertex{Op: &fakeOp{name: "a", input: "1", made: &made}, Inputs: []*Vertex{{Op: &Base{}}}, Name: "A", Slot: "a"}
		b := &Vertex{Inputs: []*Vertex{a}, Name: "B", Slot: "b", Op: opFunc(func(_ context.Context, out io.Writer) error {
			if n := commits.Load(); n != 0 {
				t.Errorf("%d commits before the second step", n)
			}
			start := time.Now()
			<-committed
			if waited := time.Since(start); waited > commitAfter {
				t.Errorf("committed after %v", waited)
			}
			return newTarWriter(out, nil).Close()
		})}
		solver := NewSolver(Options{Store: s})
		if _, err := solver.Solve(t.Context(), b); err != nil {
			t.Fatal(err)
		}
		if commits.Load() != 2 || len(s.cache) != 2 {
			t.Errorf("after Solve: %d commits, %d records", commits.Load(), len(s.cache))
		}
		if err := solver.Close(); err != nil {
			t.Error(err)
		}
	})
}

// TestCommitWhenInterrupted: what had ended when a build is interrupted is committed before Solve returns.
func TestCommitWhenInterrupted(t *testing.T) {
	s := newDirStore(t)
	ctx, cancel := context.WithCancel(t.Context())
	var made atomic.Int32
	a := &Vertex{Op: &fakeOp{name: "a", input: "1", made: &made}, Inputs: []*Vertex{{Op: &Base{}}}, Name: "A", Slot: "a"}
	b := &Vertex{Inputs: []*Vertex{a}, Name: "B", Slot: "b", Op: opFunc(func(ctx context.Context, _ io.Writer) error {
		cancel()
		<-ctx.Done()
		return context.Cause(ctx)
	})}
	solver := NewSolver(Options{Store: s})
	if _, err := solver.Solve(ctx, b); !errors.Is(err, context.Canceled) {
		t.Errorf("got error %v", err)
	}
	if len(s.cache) != 1 {
		t.Errorf("%d records", len(s.cache))
	}
	if err := solver.Close(); err != nil {
		t.Error(err)
	}
}

// TestCommitMany: the step that is one too many waits until the others are committed.
func TestCommitMany(t *testing.T) {
	s := newDirStore(t)
	var commits atomic.Int32
	s.commit = func() error { commits.Add(1); return nil }
	var made atomic.Int32
	v := &Vertex{Op: &Base{}}
	for i := range commitMost + 1 {
		v = &Vertex{Op: &fakeOp{name: "f", input: strconv.Itoa(i), made: &made}, Inputs: []*Vertex{v}, Name: "S", Slot: strconv.Itoa(i)}
	}
	v.Op = opFunc(func(_ context.Context, out io.Writer) error {
		if n := commits.Load(); n != commitMost {
			t.Errorf("%d commits before the last step, not %d", n, commitMost)
		}
		return newTarWriter(out, nil).Close()
	})
	solver := NewSolver(Options{Store: s})
	if _, err := solver.Solve(t.Context(), v); err != nil {
		t.Error(err)
	}
	if err := solver.Close(); err != nil {
		t.Error(err)
	}
}

// TestCommitFails: a layer that cannot be committed fails its step, has no record, and nothing after it has one.
func TestCommitFails(t *testing.T) {
	s := newDirStore(t)
	full := errors.New("disk full")
	s.commit = func() error { return full }
	var made atomic.Int32
	a := &Vertex{Op: &fakeOp{name: "a", input: "1", made: &made}, Inputs: []*Vertex{{Op: &Base{}}}, Name: "A", Slot: "a"}
	b := &Vertex{Op: &fakeOp{name: "b", input: "2", made: &made}, Inputs: []*Vertex{a}, Name: "B", Slot: "b"}
	solver := NewSolver(Options{Store: s})
	_, err := solver.Solve(t.Context(), b)
	if failed, ok := errors.AsType[*VertexError](err); !ok || failed.Vertex != a || !errors.Is(err, full) {
		t.Errorf("got error %v", err)
	}
	if len(s.cache) != 0 {
		t.Errorf("%d records", len(s.cache))
	}
	if err := solver.Close(); err != nil {
		t.Error(err)
	}
}
