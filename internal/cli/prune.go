package cli

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/docker/go-units"
	"github.com/spf13/cobra"

	"strake/internal/engine"
)

type pruneOptions struct {
	force   bool
	all     bool
	volumes bool
	now     bool
	dryRun  bool
	filters []string
}

// flags adds what the prune commands have in common.
func (o *pruneOptions) flags(cmd *cobra.Command, all, filter string) {
	flags := cmd.Flags()
	flags.BoolVarP(&o.all, "all", "a", false, all)
	flags.BoolVar(&o.dryRun, "dry-run", false, "Show what would be removed and the space that it takes, and remove nothing")
	flags.Var(listFlag{&o.filters, "filter", checkFilter}, "filter", filter)
	flags.BoolVarP(&o.force, "force", "f", false, "Do not prompt for confirmation")
}

func newImagePruneCommand(s *session) *cobra.Command {
	var opts pruneOptions
	cmd := &cobra.Command{
		Use:   "prune [OPTIONS]",
		Short: "Remove unused images",
		Args:  argsBetween(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return runImagePrune(cmd.Context(), s, opts)
		},
		DisableFlagsInUseLine: true,
	}
	opts.flags(cmd, "Remove all unused images, not just dangling ones", `Provide filter values (e.g. "until=<timestamp>")`)
	cmd.Flags().BoolVar(&opts.now, "now", false, "Free the space at once: the removal cannot be undone")
	return cmd
}

func runImagePrune(ctx context.Context, s *session, opts pruneOptions) error {
	warning := "WARNING! This will remove all dangling images.\nAre you sure you want to continue?"
	if opts.all {
		warning = "WARNING! This will remove all images without at least one container associated to them.\nAre you sure you want to continue?"
	}
	return opts.prune(ctx, s, warning, engine.PruneOptions{
		What: "image prune", Images: &engine.PruneImages{All: opts.all, Filters: conditions(opts.filters)}, Now: opts.now,
	}, opts.report)
}

func newSystemPruneCommand(s *session) *cobra.Command {
	var opts pruneOptions
	cmd := &cobra.Command{
		Use:   "prune [OPTIONS]",
		Short: "Remove unused data",
		Long: `Remove unused data, and all that is kept for "strake undo": what this removes
cannot be brought back. With --all and no filter, the history of builds ("strake
build history") goes too.`,
		Args: argsBetween(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return runSystemPrune(cmd.Context(), s, opts)
		},
		DisableFlagsInUseLine: true,
	}
	opts.flags(cmd, "Remove all unused images not just dangling ones", `Provide filter values (e.g. "label=<key>=<value>")`)
	cmd.Flags().BoolVar(&opts.volumes, "volumes", false, "Prune anonymous volumes")
	return cmd
}

func runSystemPrune(ctx context.Context, s *session, opts pruneOptions) error {
	filters := conditions(opts.filters)
	if opts.volumes && len(filters["until"]) > 0 {
		return errors.New(`ERROR: The "until" filter is not supported with "--volumes"`)
	}
	todo := engine.PruneOptions{
		What: "system prune", Images: &engine.PruneImages{All: opts.all, Filters: filters}, Undo: true,
	}
	if len(filters["label"])+len(filters["label!"]) == 0 { // build cache has no labels
		todo.Cache = &engine.PruneCache{All: opts.all, Filters: map[string][]string{"until": filters["until"]}}
	}
	todo.Containers = &engine.PruneContainersOptions{Filters: filters}
	todo.Networks = &engine.PruneNetworksOptions{Filters: filters}
	if opts.volumes {
		todo.Volumes = &engine.PruneVolumesOptions{Filters: filters}
	}
	return opts.prune(ctx, s, opts.systemWarning(), todo, opts.report)
}

// prune asks, prunes and has the result printed.
func (o *pruneOptions) prune(ctx context.Context, s *session, warning string, todo engine.PruneOptions, report func(*session, engine.PruneResult) error) error {
	if ok, err := o.confirm(ctx, s, warning); err != nil || !ok {
		return err
	}
	env, err := s.engine(ctx)
	if err != nil {
		return err
	}
	todo.DryRun = o.dryRun
	result, err := engine.Prune(ctx, env, todo)
	if err != nil {
		return fromEngine(err)
	}
	return report(s, result)
}

// systemWarning is docker's question, and what undo loses.
func (o *pruneOptions) systemWarning() string {
	list := []string{"all stopped containers", "all networks not used by at least one container"}
	if o.volumes {
		list = append(list, "all anonymous volumes not used by at least one container")
	}
	if o.all {
		list = append(list, "all images without at least one container associated to them", "all build cache")
	} else {
		list = append(list, "all dangling images", "unused build cache")
	}
	list = append(list, "all that is kept for undo")
	text := "WARNING! This will remove:\n  - " + strings.Join(list, "\n  - ") + "\n\n"
	if len(o.filters) > 0 {
		text += "  Items to be pruned will be filtered with:\n  - " + strings.Join(slices.Sorted(slices.Values(o.filters)), "\n  - ") + "\n\n"
	}
	return text + "Are you sure you want to continue?"
}

// confirm asks, unless there is no need to.
func (o *pruneOptions) confirm(ctx context.Context, s *session, question string) (bool, error) {
	if o.force || o.dryRun {
		return true, nil
	}
	fmt.Fprint(s.Out, question+" [y/N] ")
	answer := make(chan string, 1)
	go func() {
		line, _ := bufio.NewReader(s.In).ReadString('\n') // none is no
		answer <- strings.TrimSpace(line)
	}()
	select {
	case <-ctx.Done():
		fmt.Fprintln(s.Out)
		return false, ctx.Err()
	case line := <-answer:
		return strings.EqualFold(line, "y"), nil
	}
}

// report lists the images and the build cache that went, and tells how much
// space there is to gain, and what of it is not there yet.
func (o *pruneOptions) report(s *session, result engine.PruneResult) error {
	printDeleted(s, "Containers", result.Containers)
	printDeleted(s, "Networks", result.Networks)
	printDeleted(s, "Volumes", result.Volumes)
	if len(result.Images)+len(result.Leftovers) > 0 {
		printPruned(s, result)
	}
	if len(result.Cache) > 0 {
		fmt.Fprintln(s.Out, "Deleted build cache objects:")
		for _, r := range result.Cache {
			fmt.Fprintln(s.Out, r.ID)
		}
		fmt.Fprintln(s.Out)
	}
	_, err := fmt.Fprintln(s.Out, "Total reclaimed space:", units.HumanSize(float64(result.Freed+result.Held)))
	o.remark(s, result, "strake image prune --now")
	return err
}

// printPruned lists the images that went.
func printPruned(s *session, result engine.PruneResult) {
	fmt.Fprintln(s.Out, "Deleted Images:")
	for _, img := range result.Images {
		for _, name := range img.Untagged {
			fmt.Fprintln(s.Out, "untagged:", name)
		}
		for _, id := range img.Deleted {
			fmt.Fprintln(s.Out, "deleted:", id)
		}
	}
	for _, d := range result.Leftovers {
		fmt.Fprintln(s.Out, "deleted:", d)
	}
	fmt.Fprintln(s.Out)
}

// remark tells what is not freed yet, and what would free it.
func (o *pruneOptions) remark(s *session, result engine.PruneResult, instead string) {
	if result.Held > 0 {
		fmt.Fprintf(s.Err, "Held for undo until %s from now: %s (%s frees it at once)\n",
			shortDuration(result.Until), units.HumanSize(float64(result.Held)), instead)
	}
	if o.dryRun {
		fmt.Fprintln(s.Err, "Dry run: nothing was removed")
	}
}

// shortDuration is a duration without the units that are zero at its end.
func shortDuration(d time.Duration) string {
	text := d.String()
	if strings.HasSuffix(text, "m0s") {
		text = strings.TrimSuffix(text, "0s")
	}
	if strings.HasSuffix(text, "h0m") {
		text = strings.TrimSuffix(text, "0m")
	}
	return text
}
