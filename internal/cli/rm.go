package cli

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"strake/internal/engine"
)

// newRemoveContainerCommand makes docker's rm, whose containers are none here:
// run removes its own. With --remote it is rmi --remote.
func newRemoveContainerCommand(s *session) *cobra.Command {
	var remote, force bool
	cmd := &cobra.Command{
		Use:   "rm [OPTIONS] CONTAINER [CONTAINER...]",
		Short: "Remove one or more containers, or images from their registry",
		Args:  argsBetween(1, -1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if remote {
				return runRemove(cmd.Context(), s, removeOptions{images: args, remote: true})
			}
			return runRemoveContainers(cmd.Context(), s, args, force)
		},
		Annotations:           map[string]string{aliasesKey: "strake container rm, strake container remove, strake rm"},
		DisableFlagsInUseLine: true,
	}
	flags := cmd.Flags()
	flags.BoolVarP(&force, "force", "f", false, "Force the removal of a running container (uses SIGKILL)")
	flags.BoolVar(&remote, "remote", false, "Remove images from their registry, as rmi --remote does")
	return cmd
}

func runRemoveContainers(_ context.Context, s *session, names []string, force bool) error {
	var errs []error
	for _, name := range names {
		errs = append(errs, fromEngine(engine.NoSuchContainer(name)))
	}
	err := errors.Join(errs...)
	if force {
		fmt.Fprintln(s.Err, err)
		return nil
	}
	return err
}
