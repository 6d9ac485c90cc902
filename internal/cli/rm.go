package cli

import (
	"context"
	"errors"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/spf13/cobra"

	"strake/internal/engine"
)

// newRemoveContainerCommand makes docker's rm. With --remote it is rmi --remote.
func newRemoveContainerCommand(s *session) *cobra.Command {
	var remote, link bool
	var opts engine.RemoveContainerOptions
	cmd := &cobra.Command{
		Use:   "rm [OPTIONS] CONTAINER [CONTAINER...]",
		Short: "Remove one or more containers, or images from their registry",
		Args:  argsBetween(1, -1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if remote {
				return runRemove(cmd.Context(), s, removeOptions{images: args, remote: true})
			}
			if link {
				return errors.New("links are not supported: use a network")
			}
			return runRemoveContainers(cmd.Context(), s, args, opts)
		},
		Annotations:           map[string]string{aliasesKey: "strake container rm, strake container remove, strake rm"},
		DisableFlagsInUseLine: true,
	}
	flags := cmd.Flags()
	flags.BoolVarP(&opts.Force, "force", "f", false, "Force the removal of a running container (uses SIGKILL)")
	flags.BoolVarP(&link, "link", "l", false, "Remove the specified link")
	flags.BoolVarP(&opts.Volumes, "volumes", "v", false, "Remove anonymous volumes associated with the container")
	flags.BoolVar(&remote, "remote", false, "Remove images from their registry, as rmi --remote does")
	return cmd
}

func runRemoveContainers(ctx context.Context, s *session, names []string, opts engine.RemoveContainerOptions) error {
	env, err := s.contained(ctx)
	if err != nil {
		return err
	}
	return eachContainer(s, names, func(ref string) error {
		ref = strings.Trim(ref, "/")
		if ref == "" {
			return errors.New("Container name cannot be empty") //nolint:staticcheck // docker's text
		}
		o := opts
		o.Ref = ref
		err := engine.RemoveContainer(ctx, env, o)
		if opts.Force && errdefs.IsNotFound(err) {
			return goneError{err}
		}
		return err
	})
}
