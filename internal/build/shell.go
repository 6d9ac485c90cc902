package build

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"

	"strake/internal/executor"
)

// Shell is opened once in a build: in the first step whose command fails, as the
// command left its files, and with all that it was given. What else the build does
// is stopped before. What is changed in the shell is thrown away with the step, as
// what the command changed is; what is typed is not logged.
type Shell struct {
	Args    []string // none is the shell of the stage
	In, Out *os.File // a terminal
	// Begin is told of the failure of a step before the shell has the terminal, and
	// what it returns is called after it.
	Begin func(step string, failure error) (end func())
}

// open runs the shell where the command of spec failed.
func (sh *Shell) open(ctx context.Context, w *Work, e executor.Executor, spec executor.Spec, failure error) {
	spec.Args, spec.Terminal = sh.Args, true
	spec.Stdin, spec.Stdout, spec.Stderr = sh.In, sh.Out, nil
	if name := "TERM="; !slices.ContainsFunc(spec.Env, func(kv string) bool { return strings.HasPrefix(kv, name) }) {
		spec.Env = append(slices.Clone(spec.Env), name+os.Getenv("TERM"))
	}
	defer sh.Begin(w.vertex.Name, failure)()
	if _, err := e.Run(ctx, spec); err != nil && ctx.Err() == nil {
		fmt.Fprintf(sh.Out, "no shell: %v\n", err)
	}
}

// debug opens the shell, where one was asked for and none was opened, in the step
// of a command that failed.
func (r *Run) debug(ctx context.Context, w *Work, e executor.Executor, spec executor.Spec, failure error) {
	s := w.solver
	if s.opts.Shell == nil || ctx.Err() != nil {
		return
	}
	sh := *s.opts.Shell
	if len(sh.Args) == 0 {
		sh.Args = r.Shell
	}
	if end, first := s.halt.begin(w.vertex, failure); first {
		defer end()
		sh.open(ctx, w, e, spec, failure)
	}
}

// halt stops all steps but one, that of the shell: its failure is the build's, and
// is told when the shell has ended.
type halt struct {
	mu      sync.Mutex
	running map[*Vertex]context.CancelCauseFunc
	failure error // nil: no shell was opened
	ended   chan struct{}
}

// errHalted is why a step was stopped.
var errHalted = errors.New("another step failed")

// enter returns the context of a step, which the caller leaves.
func (h *halt) enter(ctx context.Context, v *Vertex) (_ context.Context, leave func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.failure != nil {
		cancel(errHalted)
	}
	if h.running == nil {
		h.running = map[*Vertex]context.CancelCauseFunc{}
	}
	h.running[v] = cancel
	return ctx, func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		delete(h.running, v)
		cancel(nil)
	}
}

// begin stops all but v, which failed. It reports false where another step was first.
func (h *halt) begin(v *Vertex, failure error) (end func(), first bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.failure != nil {
		return nil, false
	}
	h.failure, h.ended = &VertexError{v, failure}, make(chan struct{})
	for other, cancel := range h.running {
		if other != v {
			cancel(errHalted)
		}
	}
	return func() { close(h.ended) }, true
}

// result is what becomes of err when the shell, where there is one, has ended.
func (h *halt) result(err error) error {
	h.mu.Lock()
	failure, ended := h.failure, h.ended
	h.mu.Unlock()
	if err == nil || failure == nil {
		return err
	}
	<-ended
	return failure
}
