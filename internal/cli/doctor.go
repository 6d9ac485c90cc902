package cli

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"strake/internal/engine"
	"strake/internal/progress"
)

func newDoctorCommand(s *session) *cobra.Command {
	return &cobra.Command{
		Use:   "doctor",
		Short: "Tell what this machine allows, and what unlocks the rest",
		Args:  argsBetween(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return runDoctor(cmd.Context(), s)
		},
		DisableFlagsInUseLine: true,
	}
}

func runDoctor(ctx context.Context, s *session) error {
	env, err := s.contained(ctx)
	if err != nil {
		return err
	}
	abilities, err := engine.Doctor(ctx, env)
	if err != nil {
		return fromEngine(err)
	}
	for _, a := range abilities {
		mark := "ok"
		if !a.OK {
			mark = "--"
		}
		fmt.Fprintf(s.Out, "%s  %-18s %s\n", mark, a.Name, progress.Printable(a.Detail))
		if a.Unlock != "" {
			fmt.Fprintf(s.Out, "    %-18s unlock: %s\n", "", progress.Printable(a.Unlock))
		}
	}
	return nil
}
