package cli

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/distribution/reference"
	"github.com/spf13/cobra"

	"strake/internal/engine"
)

type pushOptions struct {
	name     string
	all      bool
	platform string
	quiet    bool
}

func newPushCommand(s *session) *cobra.Command {
	var opts pushOptions
	cmd := &cobra.Command{
		Use:   "push [OPTIONS] NAME[:TAG]",
		Short: "Upload an image to a registry",
		Args:  argsBetween(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			opts.name = args[0]
			return runPush(cmd.Context(), s, opts)
		},
		Annotations:           map[string]string{topKey: "6", aliasesKey: "strake image push, strake push"},
		DisableFlagsInUseLine: true,
	}
	flags := cmd.Flags()
	flags.BoolVarP(&opts.all, "all-tags", "a", false, "Push all tags of an image to the repository")
	flags.BoolVarP(&opts.quiet, "quiet", "q", false, "Suppress verbose output")
	flags.StringVar(&opts.platform, "platform", "", `Push a platform-specific manifest as a single-platform image to the registry.
Image index won't be pushed, meaning that other manifests, including attestations won't be preserved.
'os[/arch[/variant]]': Explicit platform (eg. linux/amd64)`)
	obsolete(flags, "disable-content-trust")
	return cmd
}

func runPush(ctx context.Context, s *session, opts pushOptions) error {
	named, err := reference.ParseNormalizedNamed(opts.name)
	if err != nil {
		return err
	}
	if opts.all && !reference.IsNameOnly(named) {
		return errors.New("tag can't be used with --all-tags/-a")
	}
	env, err := s.engine(ctx)
	if err != nil {
		return err
	}
	out := s.Out
	if opts.quiet {
		out = io.Discard
	}
	names := []reference.Named{reference.TagNameOnly(named)}
	if opts.all {
		if names, err = allNames(ctx, env, named); err != nil {
			return fromEngine(err)
		}
	} else if names[0] != named {
		fmt.Fprintln(out, "Using default tag: latest")
	}
	fmt.Fprintf(out, "The push refers to repository [%s]\n", named.Name())
	for _, name := range names {
		result, err := engine.Push(ctx, env, engine.PushOptions{
			Ref: name.String(), Platform: opts.platform, Progress: newTransfer(out, pushVerbs).event,
		})
		if err != nil {
			return err // docker prints these without its daemon's prefix
		}
		tag := ""
		if t, ok := result.Name.(reference.Tagged); ok {
			tag = t.Tag()
		}
		fmt.Fprintf(out, "%s: digest: %s size: %d\n", tag, result.Root.Digest, result.Root.Size)
	}
	if opts.quiet {
		_, err = fmt.Fprintln(s.Out, names[0])
	}
	return err
}

func allNames(ctx context.Context, env *engine.Env, named reference.Named) ([]reference.Named, error) {
	tags, err := engine.LocalTags(ctx, env, named.String())
	if err != nil {
		return nil, err
	}
	if len(tags) == 0 {
		return []reference.Named{reference.TagNameOnly(named)}, nil // Push says what is missing
	}
	names := make([]reference.Named, 0, len(tags))
	for _, tag := range tags {
		tagged, err := reference.WithTag(named, tag)
		if err != nil {
			return nil, err
		}
		names = append(names, tagged)
	}
	return names, nil
}
