package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"strake/internal/engine"
	"strake/internal/reference"
)

type pushOptions struct {
	name     string
	all      bool
	platform string
	quiet    bool
	compress string
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
	flags.StringVar(&opts.compress, "compression", "", `Compress layers that were built here with "gzip" or "zstd", with a level
as in "zstd:19" (default gzip, or as they were pushed before)`)
	obsolete(flags, "disable-content-trust")
	return cmd
}

func runPush(ctx context.Context, s *session, opts pushOptions) error {
	named, err := reference.Parse(opts.name)
	if err != nil {
		return err
	}
	if err := engine.CheckCompression(opts.compress); err != nil {
		return err
	}
	if opts.platform != "" {
		if err := checkPlatforms([]string{opts.platform}); err != nil {
			fmt.Fprintf(s.Err, "Invalid platform %s", opts.platform) // without a line's end, as docker has it
			return err
		}
		printNote(s.Out, platformNote)
	}
	if opts.all && !named.IsNameOnly() {
		return errors.New("tag can't be used with --all-tags/-a")
	}
	if named.Digest() != "" {
		return errors.New("cannot push a digest reference")
	}
	env, err := s.engine(ctx)
	if err != nil {
		return err
	}
	out := s.Out
	if opts.quiet {
		out = io.Discard
	}
	names := []reference.Named{named.OrLatest()}
	if opts.all {
		if names, err = allNames(ctx, env, named); err != nil {
			return fromEngine(err)
		}
	} else if names[0] != named {
		fmt.Fprintln(out, "Using default tag: latest")
	}
	fmt.Fprintf(out, "The push refers to repository [%s]\n", named.Name())
	var notes []string
	defer func() {
		for _, note := range notes {
			printNote(s.Out, note)
		}
	}()
	for _, name := range names {
		result, err := engine.Push(ctx, env, engine.PushOptions{
			Ref: name.String(), Platform: opts.platform, Compression: opts.compress, Progress: newTransfer(out, pushVerbs).event,
		})
		if err != nil {
			return err // docker prints these without its daemon's prefix
		}
		fmt.Fprintf(out, "%s: digest: %s size: %d\n", result.Name.Tag(), result.Root.Digest, result.Root.Size)
		if result.Index != "" {
			notes = append(notes, fmt.Sprintf(partialNote, result.Index, result.Root.Digest))
		}
	}
	if !opts.quiet {
		return nil
	}
	if !opts.all {
		named = names[0]
	}
	_, err = fmt.Fprintln(s.Out, named)
	return err
}

func allNames(ctx context.Context, env *engine.Env, named reference.Named) ([]reference.Named, error) {
	tags, err := engine.LocalTags(ctx, env, named.String())
	if err != nil {
		return nil, err
	}
	if len(tags) == 0 {
		return []reference.Named{named.OrLatest()}, nil // Push says what is missing
	}
	names := make([]reference.Named, 0, len(tags))
	for _, tag := range tags {
		tagged, err := named.WithTag(tag)
		if err != nil {
			return nil, err
		}
		names = append(names, tagged)
	}
	return names, nil
}

const (
	platformNote = `Using --platform pushes only the specified platform manifest of a multi-platform image index.
Other components, like attestations, will not be included.
To push the complete multi-platform image, remove the --platform flag.
`
	partialNote = "Not all multiplatform-content is present and only the available single-platform image was pushed\n%s -> %s"
)

// printNote prints a note as docker does, set off from the output around it.
func printNote(out io.Writer, note string) {
	header := " Info -> "
	if isTerminal(out) {
		header = noteHeader
	}
	fmt.Fprint(out, "\n", header)
	for i, line := range strings.Split(note, "\n") {
		if i > 0 {
			fmt.Fprint(out, "         ")
		}
		if isTerminal(out) {
			line = "\x1b[3m" + line + "\x1b[0m"
		}
		fmt.Fprintln(out, line)
	}
}

// noteHeader is the head of a note on a terminal, as wide as the plain one.
const noteHeader = "\x1b[1m\x1b[106m\x1b[30mi\x1b[0m\x1b[0m \x1b[96mInfo → \x1b[0m\x1b[0m"
