package cli

import (
	"context"

	"github.com/spf13/cobra"

	"strake/internal/engine"
)

func newKillCommand(s *session) *cobra.Command {
	var signal string
	cmd := &cobra.Command{
		Use:   "kill [OPTIONS] CONTAINER [CONTAINER...]",
		Short: "Kill one or more running containers",
		Args:  argsBetween(1, -1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return runKill(cmd.Context(), s, args, signal)
		},
		Annotations:           map[string]string{aliasesKey: "strake container kill, strake kill"},
		DisableFlagsInUseLine: true,
	}
	cmd.Flags().StringVarP(&signal, "signal", "s", "", "Signal to send to the container")
	return cmd
}

func runKill(ctx context.Context, s *session, refs []string, signal string) error {
	env, err := s.contained(ctx)
	if err != nil {
		return err
	}
	return eachContainer(s, refs, func(ref string) error { return engine.KillContainer(ctx, env, ref, signal) })
}
