package cli

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"strake/internal/engine"
)

func newPinCommand(s *session) *cobra.Command {
	return &cobra.Command{
		Use:   "pin IMAGE [IMAGE...]",
		Short: "Keep images from every prune",
		Long: `Keep images from every prune and from max-size, until they are unpinned or removed
by force. "strake images --format '{{.ID}} {{.Pinned}}'" shows which are.`,
		Args:                  argsBetween(1, -1),
		RunE:                  func(cmd *cobra.Command, args []string) error { return runPin(cmd.Context(), s, args, false) },
		DisableFlagsInUseLine: true,
	}
}

func newUnpinCommand(s *session) *cobra.Command {
	return &cobra.Command{
		Use:                   "unpin IMAGE [IMAGE...]",
		Short:                 "Let prune remove images again",
		Args:                  argsBetween(1, -1),
		RunE:                  func(cmd *cobra.Command, args []string) error { return runPin(cmd.Context(), s, args, true) },
		DisableFlagsInUseLine: true,
	}
}

// runPin pins or unpins one image after the other, and prints those for which
// that worked.
func runPin(ctx context.Context, s *session, refs []string, unpin bool) error {
	env, err := s.engine(ctx)
	if err != nil {
		return err
	}
	var errs []error
	for _, ref := range refs {
		if err := engine.Pin(ctx, env, engine.PinOptions{Ref: ref, Unpin: unpin}); err != nil {
			errs = append(errs, fromEngine(err))
			continue
		}
		fmt.Fprintln(s.Out, ref)
	}
	return errors.Join(errs...)
}
