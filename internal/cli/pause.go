package cli

import (
	"context"

	"github.com/spf13/cobra"

	"strake/internal/engine"
)

func newPauseCommand(s *session) *cobra.Command {
	return pauseCommand(s, "pause", "Pause all processes within one or more containers", true)
}

func newUnpauseCommand(s *session) *cobra.Command {
	return pauseCommand(s, "unpause", "Unpause all processes within one or more containers", false)
}

func pauseCommand(s *session, name, short string, pause bool) *cobra.Command {
	return &cobra.Command{
		Use:   name + " CONTAINER [CONTAINER...]",
		Short: short,
		Args:  argsBetween(1, -1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return runPause(cmd.Context(), s, args, pause)
		},
		Annotations:           map[string]string{aliasesKey: "strake container " + name + ", strake " + name},
		DisableFlagsInUseLine: true,
	}
}

func runPause(ctx context.Context, s *session, refs []string, pause bool) error {
	env, err := s.engine(ctx)
	if err != nil {
		return err
	}
	return eachContainer(s, refs, func(ref string) error { return engine.PauseContainer(ctx, env, ref, pause) })
}
