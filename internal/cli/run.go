package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"strake/internal/engine"
)

type runOptions struct {
	createOptions
	detach     bool
	sigProxy   bool
	detachKeys string
}

func newRunCommand(s *session) *cobra.Command {
	var opts runOptions
	cmd := &cobra.Command{
		Use:   "run [OPTIONS] IMAGE [COMMAND] [ARG...]",
		Short: "Create and run a new container from an image",
		Args:  argsBetween(1, -1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := opts.read(cmd.Flags(), args); err != nil {
				return runError(cmd, err)
			}
			code, err := runRun(cmd.Context(), s, opts)
			if err != nil {
				return runError(cmd, err)
			}
			if code != 0 {
				return statusError{code: code}
			}
			return nil
		},
		Annotations:           map[string]string{topKey: "1", aliasesKey: "strake container run, strake run"},
		DisableFlagsInUseLine: true,
	}
	flags := cmd.Flags()
	opts.add(flags)
	flags.BoolVarP(&opts.detach, "detach", "d", false, "Run container in background and print container ID")
	flags.BoolVar(&opts.sigProxy, "sig-proxy", true, "Proxy received signals to the process")
	flags.StringVar(&opts.detachKeys, "detach-keys", "", detachKeysHelp)
	return cmd
}

// runRun runs the container and returns the exit code of its process.
func runRun(ctx context.Context, s *session, opts runOptions) (code int, err error) {
	config := opts.made.config
	if err := opts.check(); err != nil {
		return 0, err
	}
	if config.OpenStdin && config.Tty && !opts.detach && !isTerminal(s.In) {
		return 0, statusError{code: exitFailure, err: errors.New("the input device is not a TTY")}
	}
	if opts.detach {
		if len(opts.flags.attach) > 0 {
			return 0, statusError{code: exitFailure, err: errors.New("conflicting options: cannot specify both --attach and --detach")}
		}
		config.AttachStdin, config.AttachStdout, config.AttachStderr, config.StdinOnce = false, false, false, false
	}
	cid, err := newCIDFile(opts.made.host.ContainerIDFile)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, cid.close()) }()
	ahead := s.monitorAhead()
	defer func() { _ = ahead.Close() }() // it was taken, or ends
	env, err := s.contained(ctx)
	if err != nil {
		return 0, err
	}
	run := engine.RunOptions{CreateOptions: opts.create(s), Detach: opts.detach, Monitor: ahead, Created: func(id string) error {
		if opts.detach {
			fmt.Fprintln(s.Out, id) // also of one that does not start then
		}
		return cid.write(id)
	}}
	var closeErr error
	run.Launched = func() { closeErr = s.close() } //nolint:contextcheck // nobody waits for it now
	runCtx := ctx
	if !opts.detach {
		a, err := s.attach(attachOptions{tty: config.Tty, stdin: config.OpenStdin, keys: opts.detachKeys, signals: opts.sigProxy})
		if err != nil {
			return 0, err
		}
		defer a.restore()
		run.Attach, run.Size = a.streams, a.size
		if opts.sigProxy {
			runCtx = context.WithoutCancel(ctx) // the process decides what a signal does
		}
	}
	var result engine.RunResult
	err = opts.withImage(ctx, s, env, func() error {
		result, err = engine.Run(runCtx, env, run)
		return err
	})
	if errors.Is(err, engine.ErrDetached) {
		return 0, nil
	}
	if err = fromEngine(err); err == nil {
		err = closeErr
	}
	return result.ExitCode, err
}

// monitorAhead starts a container's monitor where this process is the one that will need it, so that it gets ready while this one does.
// nil is none: then it is started later, or it is said why it cannot be.
func (s *session) monitorAhead() *engine.WaitingMonitor {
	if os.Geteuid() != 0 {
		return nil
	}
	m, err := engine.NewMonitor(s.root, s.Err)
	if err != nil {
		return nil
	}
	return m
}

// isMissingImage reports whether the image is not here, or not for the platform.
func isMissingImage(err error) bool {
	return strings.HasPrefix(err.Error(), "No such image: ") || strings.HasPrefix(err.Error(), "image with reference ")
}

// pullForRun pulls and tells of it on stderr: stdout is the container's.
func pullForRun(ctx context.Context, s *session, env *engine.Env, opts createOptions) error {
	out := s.Err
	if opts.quiet {
		out = io.Discard
	}
	named, err := engine.ParseName(opts.image)
	if err != nil {
		return err
	}
	pull := engine.PullOptions{}
	if opts.platform != "" {
		pull.Platforms = []string{opts.platform}
	}
	updated, err := pullOne(ctx, env, out, named, pull)
	if err != nil {
		return err
	}
	printStatus(out, updated, named.Familiar().String())
	return nil
}
