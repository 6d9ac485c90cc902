package cli

import (
	"context"

	"github.com/spf13/cobra"

	"strake/internal/engine"
)

func newRestartCommand(s *session) *cobra.Command {
	var opts stopOptions
	cmd := &cobra.Command{
		Use:   "restart [OPTIONS] CONTAINER [CONTAINER...]",
		Short: "Restart one or more containers",
		Args:  argsBetween(1, -1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := opts.set(cmd, args); err != nil {
				return err
			}
			return runRestart(cmd.Context(), s, opts)
		},
		Annotations:           map[string]string{aliasesKey: "strake container restart, strake restart"},
		DisableFlagsInUseLine: true,
	}
	opts.add(cmd)
	return cmd
}

func runRestart(ctx context.Context, s *session, opts stopOptions) error {
	env, err := s.contained(ctx)
	if err != nil {
		return err
	}
	return eachContainer(s, opts.refs, func(ref string) error { return engine.RestartContainer(ctx, env, opts.verb(ref)) })
}
