package cli

import (
	"context"
	"errors"

	"github.com/containerd/errdefs"
	"github.com/spf13/cobra"

	"strake/internal/engine"
)

type attachCommandOptions struct {
	ref        string
	detachKeys string
	noStdin    bool
	sigProxy   bool
}

func newAttachCommand(s *session) *cobra.Command {
	var opts attachCommandOptions
	cmd := &cobra.Command{
		Use:   "attach [OPTIONS] CONTAINER",
		Short: "Attach local standard input, output, and error streams to a running container",
		Args:  argsBetween(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			opts.ref = args[0]
			return runAttach(cmd.Context(), s, opts)
		},
		Annotations:           map[string]string{aliasesKey: "strake container attach, strake attach"},
		DisableFlagsInUseLine: true,
	}
	flags := cmd.Flags()
	flags.BoolVar(&opts.noStdin, "no-stdin", false, "Do not attach STDIN")
	flags.BoolVar(&opts.sigProxy, "sig-proxy", true, "Proxy all received signals to the process")
	flags.StringVar(&opts.detachKeys, "detach-keys", "", detachKeysHelp)
	return cmd
}

func runAttach(ctx context.Context, s *session, opts attachCommandOptions) error {
	env, err := s.engine(ctx)
	if err != nil {
		return err
	}
	c, err := engine.FindContainer(ctx, env, opts.ref)
	if err != nil {
		return fromEngine(err)
	}
	config := c.Spec.Config
	stdin := config.OpenStdin && !opts.noStdin
	if stdin && config.Tty && c.State.Running() && !isTerminal(s.In) {
		return errors.New("the input device is not a TTY")
	}
	// Signals are the process's own only where it has no terminal, as docker has it.
	a, err := s.attach(attachOptions{tty: config.Tty, stdin: stdin, keys: opts.detachKeys, signals: opts.sigProxy && !config.Tty})
	if err != nil {
		return err
	}
	defer a.restore()
	if opts.sigProxy {
		ctx = context.WithoutCancel(ctx)
	}
	res, err := engine.AttachContainer(ctx, env, engine.StartOptions{Ref: c.ID, Attach: &a.streams, Size: a.size})
	switch {
	case errors.Is(err, engine.ErrDetached):
		return errors.New("read escape sequence") // docker's text
	case errors.Is(err, context.Canceled), errdefs.IsConflict(err): // docker's client says itself what is not running
		return err
	case err != nil:
		return fromEngine(err)
	case res.ExitCode != 0:
		return statusError{code: res.ExitCode}
	}
	return nil
}
