package build

import (
	"context"
	"errors"
	"io"
	"sync/atomic"
	"testing"
)

// opFunc is an op of one function.
type opFunc func(ctx context.Context, out io.Writer) error

func (f opFunc) Prepare(context.Context, *Work) (Step, error) {
	return Step{Inputs: []Input{{Name: "input", Value: "opFunc"}}, Make: f}, nil
}

// TestCommitWhileNextRuns: the second step runs although the first one's commit waits for it, and Solve waits for both.
func TestCommitWhileNextRuns(t *testing.T) {
	s := newDirStore(t)
	began := make(chan struct{})
	var commits atomic.Int32
	s.commit = func() error {
		<-began
		commits.Add(1)
		return nil
	}
	var made atomic.Int32
	a := &Vertex{Op: &fakeOp{name: "a", input: "1", made: &made}, Inputs: []*Vertex{{Op: &Base{}}}, Name: "A", Slot: "a"}
	b := &Vertex{Inputs: []*Vertex{a}, Name: "B", Slot: "b", Op: opFunc(func(_ context.Context, out io.Writer) error {
		close(began)
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
