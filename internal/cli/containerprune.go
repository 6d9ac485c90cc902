package cli

import (
	"context"
	"fmt"
	"strings"

	"github.com/docker/go-units"
	"github.com/spf13/cobra"

	"strake/internal/engine"
)

func newContainerPruneCommand(s *session) *cobra.Command {
	var opts pruneOptions
	cmd := &cobra.Command{
		Use:   "prune [OPTIONS]",
		Short: "Remove all stopped containers",
		Args:  argsBetween(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return runContainerPrune(cmd.Context(), s, opts)
		},
		DisableFlagsInUseLine: true,
	}
	flags := cmd.Flags()
	flags.BoolVar(&opts.dryRun, "dry-run", false, "Show what would be removed and the space that it takes, and remove nothing")
	flags.Var(listFlag{&opts.filters, "filter", checkFilter}, "filter", `Provide filter values (e.g. "until=<timestamp>")`)
	flags.BoolVarP(&opts.force, "force", "f", false, "Do not prompt for confirmation")
	return cmd
}

func runContainerPrune(ctx context.Context, s *session, opts pruneOptions) error {
	ok, err := opts.confirm(ctx, s, "WARNING! This will remove all stopped containers.\nAre you sure you want to continue?")
	if err != nil || !ok {
		return err
	}
	env, err := s.contained(ctx)
	if err != nil {
		return err
	}
	result, err := engine.PruneContainers(ctx, env, engine.PruneContainersOptions{Filters: conditions(opts.filters), DryRun: opts.dryRun})
	if err != nil {
		return fromEngine(err)
	}
	printDeleted(s, "Containers", result.Containers)
	fmt.Fprintln(s.Out, "Total reclaimed space:", units.HumanSize(float64(result.Freed)))
	if opts.dryRun {
		fmt.Fprintln(s.Err, "Dry run: nothing was removed")
	}
	return nil
}

// printDeleted lists the objects of a kind that went, if any did.
func printDeleted(s *session, kind string, names []string) {
	if len(names) > 0 {
		fmt.Fprintf(s.Out, "Deleted %s:\n%s\n\n", kind, strings.Join(names, "\n"))
	}
}
