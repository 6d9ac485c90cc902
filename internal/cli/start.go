package cli

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"strake/internal/engine"
)

type startOptions struct {
	refs        []string
	attach      bool
	interactive bool
	detachKeys  string
}

func newStartCommand(s *session) *cobra.Command {
	var opts startOptions
	cmd := &cobra.Command{
		Use:   "start [OPTIONS] CONTAINER [CONTAINER...]",
		Short: "Start one or more stopped containers",
		Args:  argsBetween(1, -1),
		RunE: func(cmd *cobra.Command, args []string) error {
			opts.refs = args
			return runStart(cmd.Context(), s, opts)
		},
		Annotations:           map[string]string{aliasesKey: "strake container start, strake start"},
		DisableFlagsInUseLine: true,
	}
	flags := cmd.Flags()
	flags.BoolVarP(&opts.attach, "attach", "a", false, "Attach STDOUT/STDERR and forward signals")
	flags.BoolVarP(&opts.interactive, "interactive", "i", false, "Attach container's STDIN")
	flags.StringVar(&opts.detachKeys, "detach-keys", "", detachKeysHelp)
	return cmd
}

func runStart(ctx context.Context, s *session, opts startOptions) error {
	joined := opts.attach || opts.interactive
	if joined && len(opts.refs) > 1 {
		return errors.New("you cannot start and attach multiple containers at once")
	}
	env, err := s.contained(ctx)
	if err != nil {
		return err
	}
	if joined {
		return startAttached(ctx, s, env, opts)
	}
	var failed []string
	for _, ref := range opts.refs {
		if _, err := engine.StartContainer(ctx, env, engine.StartOptions{Ref: ref}); err != nil {
			fmt.Fprintln(s.Err, fromEngine(err))
			failed = append(failed, ref)
			continue
		}
		fmt.Fprintln(s.Out, ref)
	}
	if len(failed) > 0 {
		return errors.New("failed to start containers: " + strings.Join(failed, ", "))
	}
	return nil
}

func startAttached(ctx context.Context, s *session, env *engine.Env, opts startOptions) error {
	c, err := engine.FindContainer(ctx, env, opts.refs[0])
	if err != nil {
		return fromEngine(err)
	}
	config := c.Spec.Config
	a, err := s.attach(attachOptions{tty: config.Tty, stdin: opts.interactive && config.OpenStdin, keys: opts.detachKeys, signals: true})
	if err != nil {
		return err
	}
	defer a.restore()
	res, err := engine.StartContainer(context.WithoutCancel(ctx), env, engine.StartOptions{Ref: c.ID, Attach: &a.streams, Size: a.size})
	switch {
	case errors.Is(err, engine.ErrDetached):
		return nil
	case err != nil:
		return fromEngine(err)
	case res.ExitCode != 0:
		return statusError{code: res.ExitCode}
	}
	return nil
}
