package cli

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"strake/internal/engine"
)

func newWaitCommand(s *session) *cobra.Command {
	return &cobra.Command{
		Use:   "wait CONTAINER [CONTAINER...]",
		Short: "Block until one or more containers stop, then print their exit codes",
		Args:  argsBetween(1, -1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return runWait(cmd.Context(), s, args)
		},
		Annotations:           map[string]string{aliasesKey: "strake container wait, strake wait"},
		DisableFlagsInUseLine: true,
	}
}

func runWait(ctx context.Context, s *session, refs []string) error {
	env, err := s.engine(ctx)
	if err != nil {
		return err
	}
	var errs []error
	for _, ref := range refs {
		code, err := engine.WaitContainer(ctx, env, ref)
		if err != nil {
			errs = append(errs, fromEngine(err))
			continue
		}
		fmt.Fprintln(s.Out, code)
	}
	return errors.Join(errs...)
}
