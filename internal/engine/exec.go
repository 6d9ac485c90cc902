package engine

import (
	"context"
	"errors"
	"io"
	"os"
	"sync"
	"time"

	"github.com/containerd/errdefs"

	"strake/internal/container"
	"strake/internal/executor"
)

// ExecOptions say what to run in a container that runs.
type ExecOptions struct {
	Ref        string
	Args       []string
	Env        []string // KEY=value, added to the container's
	Workdir    string   // "" is the container's
	User       string   // "" is the container's
	Privileged bool
	Terminal   bool
	Detach     bool // do not wait for its end
	Attach     Streams
	Size       *Size // of the terminal
}

// Exec runs one more process in a container and, unless Detach, waits for its end. It fails with errdefs.ErrConflict where the
// container does not run, and with a *StartError where the process could not be started.
func Exec(ctx context.Context, env *Env, opts ExecOptions) (code int, err error) {
	table := containers(env)
	c, err := table.Get(ctx, opts.Ref)
	if err != nil {
		return 0, err
	}
	if !c.State.Running() {
		return 0, notRunning(c)
	}
	s, err := newExecStreams(opts)
	if err != nil {
		return 0, err
	}
	defer closing(&err, s.close)
	conn, err := table.Dial(ctx, c.ID)
	if errdefs.IsUnavailable(err) {
		return 0, notRunning(c)
	}
	if err != nil {
		return 0, err
	}
	defer func() { _ = conn.Close() }() // all is said
	req := container.Request{Op: container.OpExec, Exec: &executor.ExecSpec{
		Args: opts.Args, Env: opts.Env, Cwd: opts.Workdir, User: opts.User, Terminal: opts.Terminal, Privileged: opts.Privileged,
	}}
	if err := conn.Ask(req, s.theirs[:]...); err != nil {
		return 0, err
	}
	s.closeTheirs()
	if opts.Detach {
		return 0, conn.AwaitStart(ctx)
	}
	s.begin()
	code, err = conn.Attach(ctx, Streams{Resize: s.resizes(opts.Attach.Resize), Detached: opts.Attach.Detached})
	if !errors.Is(err, ErrDetached) {
		s.drain()
	}
	return code, err
}

// execStreams are the streams of a process that is run in a container: files that it gets, and their other ends. They are never the
// caller's own files, which the process could open again by /proc/self/fd, to read a log that it is to append to, or truncate it.
type execStreams struct {
	opts    ExecOptions
	theirs  [3]*os.File
	ours    [3]*os.File // nil: none; with a terminal the first is its other end
	tails   []*executor.Tail
	copying sync.WaitGroup
}

func newExecStreams(opts ExecOptions) (s *execStreams, err error) {
	s = &execStreams{opts: opts}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.close())
		}
	}()
	if opts.Terminal && !opts.Detach {
		user, program, err := executor.OpenTerminal()
		if err != nil {
			return nil, err
		}
		s.theirs, s.ours[0] = [3]*os.File{program, program, program}, user
		if opts.Size != nil {
			return s, executor.SetSize(user, *opts.Size)
		}
		return s, nil
	}
	for i, stream := range []any{opts.Attach.Stdin, opts.Attach.Stdout, opts.Attach.Stderr} {
		switch {
		case stream == nil || opts.Detach:
			s.theirs[i], err = os.OpenFile(os.DevNull, os.O_RDWR, 0)
		case i == 0:
			s.theirs[i], s.ours[i], err = os.Pipe()
		default:
			s.ours[i], s.theirs[i], err = os.Pipe()
		}
		if err != nil {
			return s, err
		}
	}
	return s, nil
}

// begin copies between our ends and the caller's streams.
func (s *execStreams) begin() {
	a := s.opts.Attach
	in, out := s.ours[0], s.ours[1]
	if s.opts.Terminal {
		out = s.ours[0]
	}
	if in != nil && a.Stdin != nil {
		go func() { // a read may never return
			_, _ = io.Copy(in, a.Stdin)
			if !s.opts.Terminal {
				_ = in.Close()
			}
		}()
	}
	for _, o := range []struct {
		from *os.File
		to   io.Writer
	}{{out, a.Stdout}, {s.ours[2], a.Stderr}} {
		if o.from != nil && o.to != nil {
			tail := executor.NewTail(o.from, outputGrace)
			s.tails = append(s.tails, tail)
			s.copying.Go(func() {
				_, _ = io.Copy(o.to, tail) // a terminal ends with EIO
				_ = o.from.Close()         // when nobody reads it, the process is told by a broken pipe
			})
		}
	}
}

// outputGrace is how long the children of a process that has ended are given to write. The time is docker's.
const outputGrace = 2 * time.Second

// resizes passes sizes on to the terminal's other end, and tells that there is one.
func (s *execStreams) resizes(sizes <-chan Size) <-chan Size {
	if !s.opts.Terminal || sizes == nil {
		return nil
	}
	out := make(chan Size)
	go func() {
		for size := range sizes {
			_ = executor.SetSize(s.ours[0], size) // it may have ended
			out <- size
		}
	}()
	return out
}

// drain waits until all that the process, which has ended, wrote is copied.
func (s *execStreams) drain() {
	for _, t := range s.tails {
		t.End()
	}
	s.copying.Wait()
}

func (s *execStreams) closeTheirs() {
	for i, f := range s.theirs {
		if f != nil {
			_ = f.Close() // the process has its own
		}
		s.theirs[i] = nil
	}
}

func (s *execStreams) close() error {
	s.closeTheirs()
	var errs []error
	for _, f := range s.ours {
		if f != nil {
			if err := f.Close(); !errors.Is(err, os.ErrClosed) {
				errs = append(errs, err)
			}
		}
	}
	return errors.Join(errs...)
}
