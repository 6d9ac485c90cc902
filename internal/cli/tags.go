package cli

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"strake/internal/engine"
)

const tagsAbout = `List the tags that a registry has of a repository.

Of the tags that are shown the registry is asked for the manifests. SIZE is what
a pull for this machine transfers, or, where the image is for others only, a pull
of the first one. --quiet asks for the names alone.`

type tagsOptions struct {
	engine.TagsOptions
	format  string
	noTrunc bool
}

func newTagsCommand(s *session) *cobra.Command {
	var opts tagsOptions
	cmd := &cobra.Command{
		Use:   "tags [OPTIONS] REPOSITORY",
		Short: "List the tags of a repository in a registry",
		Long:  tagsAbout,
		Args:  argsBetween(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			opts.Repository = args[0]
			return runTags(cmd.Context(), s, opts)
		},
		Annotations:           map[string]string{aliasesKey: "strake image tags, strake tags"},
		DisableFlagsInUseLine: true,
	}
	flags := cmd.Flags()
	flags.StringVar(&opts.Sort, "sort", "semver", `Sort by "semver", "date" (latest first) or "name"`)
	flags.IntVar(&opts.Limit, "limit", 25, "Max number of tags, 0 for all")
	flags.BoolVar(&opts.noTrunc, "no-trunc", false, "Don't truncate output")
	flags.BoolVarP(&opts.NamesOnly, "quiet", "q", false, "Only show tags")
	flags.StringVar(&opts.format, "format", "", listFormatHelp)
	return cmd
}

func runTags(ctx context.Context, s *session, opts tagsOptions) error {
	if opts.Limit < 0 {
		return fmt.Errorf("invalid limit %d: must not be negative", opts.Limit)
	}
	env, err := s.registries(ctx)
	if err != nil {
		return err
	}
	result, err := engine.Tags(ctx, env, opts.TagsOptions)
	if err != nil {
		return fromEngine(err)
	}
	table := listing[engine.RemoteTag]{
		fields:  tagFields(opts.Repository, !opts.noTrunc),
		columns: []string{"Tag", "Digest", "CreatedSince", "Size", "Platforms"},
	}
	format := opts.format
	if opts.NamesOnly && (format == "" || format == "table") {
		format = "{{.Tag}}"
	}
	if err := table.write(s.Out, format, result.Tags); err != nil {
		return err
	}
	if hidden := result.Total - len(result.Tags); hidden > 0 {
		fmt.Fprintf(s.Err, "%d of %d tags; --limit 0 shows all\n", len(result.Tags), result.Total)
	}
	return nil
}

func tagFields(repository string, trunc bool) []field[engine.RemoteTag] {
	now := time.Now()
	return []field[engine.RemoteTag]{
		{"Name", "NAME", func(t engine.RemoteTag) string { return repository + ":" + t.Name }},
		{"Tag", "TAG", func(t engine.RemoteTag) string { return t.Name }},
		{"Digest", "DIGEST", func(t engine.RemoteTag) string { return idText(t.Root.Digest.String(), trunc) }},
		{"MediaType", "MEDIA TYPE", func(t engine.RemoteTag) string { return t.Root.MediaType }},
		{"CreatedSince", "CREATED", func(t engine.RemoteTag) string { return createdSince(now, t.Created) }},
		{"CreatedAt", "CREATED AT", func(t engine.RemoteTag) string { return createdAt(t.Created) }},
		{"Size", "SIZE", func(t engine.RemoteTag) string { return bytesOf(t.Size) }},
		{"Platforms", "PLATFORMS", func(t engine.RemoteTag) string {
			text := strings.Join(t.Platforms, ", ")
			if trunc {
				return ellipsis(text, 45)
			}
			return text
		}},
	}
}
