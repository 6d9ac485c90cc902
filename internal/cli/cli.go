// Package cli is the strake command line: docker's commands, flags, output and
// exit codes over package engine.
//
// A command is one file: its flags, and a run function of a session and its
// options that calls one verb of engine and prints the result. A session is one
// run of the program: its streams, its global flags and, once a command asks
// for it, the open store.
package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
	"syscall"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/term"

	"strake/internal/engine"
	"strake/internal/userns"
)

// Streams are the standard streams of a command. Where one is an *os.File that
// is a terminal, output and input behave as on a terminal.
type Streams struct {
	In  io.Reader
	Out io.Writer
	Err io.Writer
}

// session is one run of the program.
type session struct {
	Streams
	root   string // the store's directory; "" is the default
	config string // the directory of docker's config.json; "" is the default
	debug  bool
	global global
	level  slog.Level // of messages that are told
	args   []string   // the whole command line
	opened *engine.Env
}

// Main runs the command line args (without the program's name) and returns the
// exit code. SIGINT, SIGTERM and SIGHUP cancel the command.
func Main(ctx context.Context, args []string, streams Streams) int {
	if err := userns.Wait(); err != nil {
		if !errors.Is(err, io.EOF) {
			fmt.Fprintln(streams.Err, err)
		}
		return exitFailure
	}
	collectLater()
	ctx, stop := notify(ctx)
	defer stop()
	s := &session{Streams: streams, args: args}
	root := newRootCommand(s, args)
	err := root.ExecuteContext(ctx)
	if closeErr := s.close(); err == nil { //nolint:contextcheck // ctx may be cancelled already
		err = closeErr
	}
	if err == nil {
		return 0
	}
	var status statusError
	var sig terminated
	if !errors.As(err, &status) && errors.As(context.Cause(ctx), &sig) {
		return 128 + int(sig.signal)
	}
	if err.Error() != "" {
		fmt.Fprintln(streams.Err, err)
	}
	return exitCode(err)
}

// collectLater lets the heap grow to 64 MB before it is collected for the first time: most commands end before. From then on it is
// collected as ever, and from the start in processes that stay (standAlone).
func collectLater() {
	if os.Getenv("GOGC") != "" {
		return
	}
	debug.SetGCPercent(1600)
	first := new([64]byte)
	runtime.SetFinalizer(first, func(*[64]byte) { debug.SetGCPercent(100) })
}

// engine returns what the verbs work on, and opens the store at the first call. What an ordinary user's store holds unpacked is
// within the reach of a user namespace alone.
func (s *session) engine(ctx context.Context) (*engine.Env, error) {
	if os.Geteuid() != 0 && engine.HasUnpacked(s.root) {
		return s.contained(ctx)
	}
	return s.open(ctx, engine.OpenOptions{})
}

// contained is engine for commands that make mounts and containers. For an ordinary user it runs the command again in a user
// namespace and returns the end of that as an error; where the machine has none to give, what needs it fails.
func (s *session) contained(ctx context.Context) (*engine.Env, error) {
	if os.Geteuid() != 0 {
		plan, err := userns.NewPlan()
		if err != nil {
			return nil, err
		}
		code, err := plan.Enter(ctx, engine.NamespaceDir(s.root), s.args, s.In, s.Out, s.Err)
		if err == nil {
			return nil, statusError{code: code}
		}
		if !errdefs.IsPermissionDenied(err) {
			return nil, err
		}
	}
	return s.open(ctx, engine.OpenOptions{})
}

// registries returns what the verbs work on that need no store. The insecure
// registries may be spoken to without verified TLS.
func (s *session) registries(ctx context.Context, insecure ...string) (*engine.Env, error) {
	return s.open(ctx, engine.OpenOptions{NoStore: true, Insecure: insecure})
}

func (s *session) open(ctx context.Context, opts engine.OpenOptions) (*engine.Env, error) {
	if s.opened != nil {
		return s.opened, nil
	}
	opts.Root, opts.Config, opts.Version = s.root, s.config, release
	opts.Log = slog.New(slog.NewTextHandler(s.Err, &slog.HandlerOptions{Level: s.level}))
	env, err := engine.Open(ctx, opts)
	if err != nil {
		return nil, err
	}
	s.opened = env
	return env, nil
}

// warn shows what is not done as it was asked for.
func (s *session) warn(text string) { fmt.Fprintln(s.Err, "WARNING:", text) }

func (s *session) close() error {
	env := s.opened
	if env == nil {
		return nil
	}
	s.opened = nil
	return engine.Close(env)
}

// terminalFD returns the descriptor of a stream that is a terminal.
func terminalFD(stream any) (int, bool) {
	f, ok := stream.(*os.File)
	if !ok || !term.IsTerminal(int(f.Fd())) {
		return 0, false
	}
	return int(f.Fd()), true
}

func isTerminal(stream any) bool {
	_, ok := terminalFD(stream)
	return ok
}

// terminalWidth is the width of the terminal, or fallback where it has none.
func terminalWidth(stream any, fallback int) int {
	fd, ok := terminalFD(stream)
	if !ok {
		return fallback
	}
	width, _, err := term.GetSize(fd)
	if err != nil || width <= 0 {
		return fallback
	}
	return width
}

// terminated is why a context ended that a signal cancelled.
type terminated struct{ signal syscall.Signal }

func (t terminated) Error() string { return t.signal.String() }

// echoTime is how long one signal may reach the process by several ways: who
// ends all processes of a group or a service ends the one that an ordinary
// user's command runs in, too, and that passes the signal on.
const echoTime = 300 * time.Millisecond

// notify returns a context that the first terminating signal cancels; the next
// one ends the process as it would have without.
func notify(ctx context.Context) (context.Context, func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	go func() {
		select {
		case sig := <-signals:
			if n, ok := sig.(syscall.Signal); ok {
				cancel(terminated{n})
			}
			time.Sleep(echoTime)
		case <-ctx.Done():
		}
		signal.Stop(signals)
	}()
	return ctx, func() { cancel(nil) }
}
