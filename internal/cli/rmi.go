package cli

import (
	"context"
	"errors"
	"fmt"

	"github.com/containerd/errdefs"
	"github.com/spf13/cobra"

	"strake/internal/engine"
)

type removeOptions struct {
	images    []string
	force     bool
	remote    bool // in the registry
	noPrune   bool
	now       bool
	platforms []string
}

func newRemoveCommand(s *session) *cobra.Command {
	var opts removeOptions
	cmd := &cobra.Command{
		Use:   "rmi [OPTIONS] IMAGE [IMAGE...]",
		Short: "Remove one or more images",
		Args:  argsBetween(1, -1),
		RunE: func(cmd *cobra.Command, args []string) error {
			opts.images = args
			return runRemove(cmd.Context(), s, opts)
		},
		Annotations:           map[string]string{aliasesKey: "strake image rm, strake image remove, strake rmi"},
		DisableFlagsInUseLine: true,
	}
	flags := cmd.Flags()
	flags.BoolVarP(&opts.force, "force", "f", false, "Force removal of the image")
	flags.BoolVar(&opts.remote, "remote", false, "Remove from the registry: a tag alone, or by digest a manifest with all its tags")
	flags.BoolVar(&opts.noPrune, "no-prune", false, "Do not delete untagged parents")
	flags.BoolVar(&opts.now, "now", false, "Free the space at once: the removal cannot be undone")
	flags.StringSliceVar(&opts.platforms, "platform", nil, `Remove only the given platform variant. Formatted as "os[/arch[/variant]]" (e.g., "linux/amd64")`)
	return cmd
}

// runRemove removes one image after the other; one that fails keeps none of the
// others.
func runRemove(ctx context.Context, s *session, opts removeOptions) error {
	if err := checkPlatforms(opts.platforms); err != nil {
		return err
	}
	if opts.remote {
		return runRemoveRemote(ctx, s, opts)
	}
	env, err := s.engine(ctx)
	if err != nil {
		return err
	}
	var errs []error
	fatal := !opts.force
	for _, ref := range opts.images {
		result, err := engine.Remove(ctx, env, engine.RemoveOptions{Ref: ref, Force: opts.force, NoPrune: opts.noPrune, Now: opts.now, Platforms: opts.platforms})
		if err != nil {
			fatal = fatal || !errdefs.IsNotFound(err)
			errs = append(errs, fromEngine(err))
			continue
		}
		printRemoved(s, result)
	}
	err = errors.Join(errs...)
	if err != nil && !fatal {
		fmt.Fprintln(s.Err, err)
		return nil
	}
	return err
}

func printRemoved(s *session, result engine.RemoveResult) {
	for _, name := range result.Untagged {
		fmt.Fprintln(s.Out, "Untagged:", name)
	}
	for _, id := range result.Deleted {
		fmt.Fprintln(s.Out, "Deleted:", id)
	}
}

// runRemoveRemote removes from registries, one after the other.
func runRemoveRemote(ctx context.Context, s *session, opts removeOptions) error {
	env, err := s.registries(ctx)
	if err != nil {
		return err
	}
	var errs []error
	for _, ref := range opts.images {
		result, err := engine.RemoveRemote(ctx, env, ref)
		if errdefs.IsNotFound(err) && opts.force {
			fmt.Fprintln(s.Err, fromEngine(err))
			continue
		}
		errs = append(errs, fromEngine(err))
		printRemoved(s, result)
	}
	return errors.Join(errs...)
}
