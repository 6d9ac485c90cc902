package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/docker/go-units"
	"github.com/spf13/cobra"

	"strake/internal/engine"
	"strake/internal/reference"
)

type pullOptions struct {
	name         string
	all          bool
	platforms    []string
	allPlatforms bool
	quiet        bool
	dryRun       bool
}

func newPullCommand(s *session) *cobra.Command {
	var opts pullOptions
	cmd := &cobra.Command{
		Use:   "pull [OPTIONS] NAME[:TAG|@DIGEST]",
		Short: "Download an image from a registry",
		Args:  argsBetween(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			opts.name = args[0]
			return runPull(cmd.Context(), s, opts)
		},
		Annotations:           map[string]string{topKey: "5", aliasesKey: "strake image pull, strake pull"},
		DisableFlagsInUseLine: true,
	}
	flags := cmd.Flags()
	flags.BoolVarP(&opts.all, "all-tags", "a", false, "Download all tagged images in the repository")
	flags.BoolVarP(&opts.quiet, "quiet", "q", false, "Suppress verbose output")
	flags.StringSliceVar(&opts.platforms, "platform", defaultPlatforms(), "Set platform if server is multi-platform capable; several are pulled side by side")
	flags.BoolVar(&opts.allPlatforms, "all-platforms", false, "Pull all that a multi-platform image has, attestations too")
	flags.BoolVar(&opts.dryRun, "dry-run", false, "Show what would be downloaded, and whether it fits on the disk; pull nothing")
	obsolete(flags, "disable-content-trust")
	return cmd
}

func runPull(ctx context.Context, s *session, opts pullOptions) error {
	named, err := reference.Parse(opts.name)
	if err != nil {
		return err
	}
	if opts.all && opts.dryRun {
		return errors.New("--dry-run can't be used with --all-tags/-a")
	}
	if opts.all && !named.IsNameOnly() {
		return errors.New("tag can't be used with --all-tags/-a")
	}
	pull := engine.PullOptions{Platforms: opts.platforms, AllPlatforms: opts.allPlatforms}
	out := s.Out
	if opts.quiet {
		out = io.Discard
	}
	env, err := s.engine(ctx)
	if err != nil {
		return err
	}
	if opts.all {
		if err := pullAll(ctx, env, out, named, pull); err != nil {
			return err
		}
		_, err = fmt.Fprintln(s.Out, named)
		return err
	}
	if tagged := named.OrLatest(); tagged != named {
		if !opts.quiet {
			fmt.Fprintln(s.Out, "Using default tag: latest")
		}
		named = tagged
	}
	if opts.dryRun {
		pull.Ref = named.String()
		return runPlanPull(ctx, out, env, pull)
	}
	updated, err := pullOne(ctx, env, out, named, pull)
	if err != nil {
		return err
	}
	printStatus(out, updated, named.Familiar().String())
	_, err = fmt.Fprintln(s.Out, named)
	return err
}

// runPlanPull prints what a pull would do. It fails where that cannot fit.
func runPlanPull(ctx context.Context, out io.Writer, env *engine.Env, pull engine.PullOptions) error {
	plan, err := engine.PlanPull(ctx, env, pull)
	if err != nil {
		return fromEngine(err)
	}
	for _, l := range plan.Layers {
		text := "Already exists"
		if !l.Here {
			text = "Would download " + units.HumanSize(float64(l.Desc.Size-l.Part))
		}
		if !l.Here && l.Part > 0 {
			text += " of " + units.HumanSize(float64(l.Desc.Size))
		}
		fmt.Fprintf(out, "%s: %s\n", shortID(l.Desc.Digest.String()), text)
	}
	fmt.Fprintln(out, "Digest:", plan.Root)
	fmt.Fprintf(out, "Would download %s of %s, about %s on disk; %s are free\n", units.HumanSize(float64(plan.Download)),
		units.HumanSize(float64(plan.Total)), units.HumanSize(float64(plan.Disk)), units.HumanSize(float64(plan.Free)))
	return fromEngine(plan.Fits)
}

func pullAll(ctx context.Context, env *engine.Env, out io.Writer, named reference.Named, pull engine.PullOptions) error {
	tags, err := engine.RemoteTags(ctx, env, named.String())
	if err != nil {
		return fromEngine(err)
	}
	updated := false
	for _, tag := range tags {
		tagged, err := named.WithTag(tag)
		if err != nil {
			return fromEngine(err)
		}
		newer, err := pullOne(ctx, env, out, tagged, pull)
		if err != nil {
			return err
		}
		updated = updated || newer
	}
	printStatus(out, updated, named.Familiar().Name())
	return nil
}

// pullOne pulls one name and prints everything but the status.
func pullOne(ctx context.Context, env *engine.Env, out io.Writer, named reference.Named, pull engine.PullOptions) (updated bool, err error) {
	pull.Ref, pull.Progress = named.String(), newTransfer(out, pullVerbs).event
	pull.Found = func(engine.PullResult) {
		fmt.Fprintf(out, "%s: Pulling from %s\n", named.TagOrDigest(), named.Path())
	}
	result, err := engine.Pull(ctx, env, pull)
	if err != nil {
		return false, fromEngine(err)
	}
	fmt.Fprintln(out, "Digest:", result.Root)
	return result.Updated, nil
}

func printStatus(out io.Writer, updated bool, name string) {
	if updated {
		fmt.Fprintln(out, "Status: Downloaded newer image for", name)
	} else {
		fmt.Fprintln(out, "Status: Image is up to date for", name)
	}
}

func defaultPlatform() string { return os.Getenv("DOCKER_DEFAULT_PLATFORM") }
