package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/distribution/reference"
	"github.com/spf13/cobra"

	"strake/internal/engine"
)

type pullOptions struct {
	name         string
	all          bool
	platforms    []string
	allPlatforms bool
	quiet        bool
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
	obsolete(flags, "disable-content-trust")
	return cmd
}

func runPull(ctx context.Context, s *session, opts pullOptions) error {
	named, err := reference.ParseNormalizedNamed(opts.name)
	if err != nil {
		return err
	}
	if opts.all && !reference.IsNameOnly(named) {
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
	if tagged := reference.TagNameOnly(named); tagged != named {
		if !opts.quiet {
			fmt.Fprintln(s.Out, "Using default tag: latest")
		}
		named = tagged
	}
	updated, err := pullOne(ctx, env, out, named, pull)
	if err != nil {
		return err
	}
	printStatus(out, updated, reference.FamiliarString(named))
	_, err = fmt.Fprintln(s.Out, named)
	return err
}

func pullAll(ctx context.Context, env *engine.Env, out io.Writer, named reference.Named, pull engine.PullOptions) error {
	tags, err := engine.RemoteTags(ctx, env, named.String())
	if err != nil {
		return fromEngine(err)
	}
	updated := false
	for _, tag := range tags {
		tagged, err := reference.WithTag(named, tag)
		if err != nil {
			return fromEngine(err)
		}
		newer, err := pullOne(ctx, env, out, tagged, pull)
		if err != nil {
			return err
		}
		updated = updated || newer
	}
	printStatus(out, updated, reference.FamiliarName(named))
	return nil
}

// pullOne pulls one name and prints everything but the status.
func pullOne(ctx context.Context, env *engine.Env, out io.Writer, named reference.Named, pull engine.PullOptions) (updated bool, err error) {
	pull.Ref, pull.Progress = named.String(), newTransfer(out, pullVerbs).event
	pull.Found = func(engine.PullResult) {
		at := ""
		switch n := named.(type) {
		case reference.Digested:
			at = n.Digest().String()
		case reference.Tagged:
			at = n.Tag()
		}
		fmt.Fprintf(out, "%s: Pulling from %s\n", at, reference.Path(named))
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
