package cli

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"strake/internal/engine"
)

type execOptions struct {
	engine.ExecOptions
	interactive bool
	env         []string
	envFiles    []string
	detachKeys  string
}

func newExecCommand(s *session) *cobra.Command {
	var opts execOptions
	cmd := &cobra.Command{
		Use:   "exec [OPTIONS] CONTAINER COMMAND [ARG...]",
		Short: "Execute a command in a running container",
		Args:  argsBetween(2, -1),
		RunE: func(cmd *cobra.Command, args []string) error {
			opts.Ref, opts.Args = args[0], args[1:]
			return runExec(cmd.Context(), s, opts)
		},
		Annotations:           map[string]string{topKey: "2", aliasesKey: "strake container exec, strake exec"},
		DisableFlagsInUseLine: true,
	}
	flags := cmd.Flags()
	flags.SetInterspersed(false)
	flags.StringVar(&opts.detachKeys, "detach-keys", "", detachKeysHelp)
	flags.BoolVarP(&opts.interactive, "interactive", "i", false, "Keep STDIN open even if not attached")
	flags.BoolVarP(&opts.Terminal, "tty", "t", false, "Allocate a pseudo-TTY")
	flags.BoolVarP(&opts.Detach, "detach", "d", false, "Detached mode: run command in the background")
	flags.StringVarP(&opts.User, "user", "u", "", `Username or UID (format: "<name|uid>[:<group|gid>]")`)
	flags.BoolVar(&opts.Privileged, "privileged", false, "Give extended privileges to the command")
	list(flags, &opts.env, "env", "e", "Set environment variables")
	list(flags, &opts.envFiles, "env-file", "", "Read in a file of environment variables")
	flags.StringVarP(&opts.Workdir, "workdir", "w", "", "Working directory inside the container")
	return cmd
}

func runExec(ctx context.Context, s *session, opts execOptions) error {
	var err error
	if opts.Env, err = readPairFiles(opts.envFiles, os.LookupEnv); err != nil {
		return err
	}
	for _, e := range opts.env {
		e, err := variable(e)
		if err != nil {
			return err
		}
		opts.Env = append(opts.Env, e)
	}
	env, err := s.contained(ctx)
	if err != nil {
		return err
	}
	if opts.interactive && opts.Terminal && !opts.Detach && !isTerminal(s.In) {
		if _, err := engine.FindContainer(ctx, env, opts.Ref); err != nil {
			return fromEngine(err)
		}
		return errors.New("the input device is not a TTY")
	}
	if !opts.Detach {
		a, err := s.attach(attachOptions{tty: opts.Terminal, stdin: opts.interactive, keys: opts.detachKeys})
		if err != nil {
			return err
		}
		defer a.restore()
		opts.Attach, opts.Size = a.streams, a.size
	}
	code, err := engine.Exec(ctx, env, opts.ExecOptions)
	var failed *engine.StartError
	switch {
	case errors.Is(err, engine.ErrDetached):
		return errors.New("read escape sequence") // docker's text
	case errors.As(err, &failed) && failed.Code != exitUsage:
		fmt.Fprintln(s.Err, failed.Message)
		return statusError{code: failed.Code}
	case err != nil:
		return fromEngine(err)
	case code != 0:
		return statusError{code: code}
	}
	return nil
}
