package cli

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"strake/internal/engine"
)

type imagesOptions struct {
	match   string // REPOSITORY[:TAG]
	all     bool
	digests bool
	noTrunc bool
	quiet   bool
	tree    bool
	format  string
	filters []string
}

func newImagesCommand(s *session) *cobra.Command {
	var opts imagesOptions
	cmd := &cobra.Command{
		Use:   "images [OPTIONS] [REPOSITORY[:TAG]]",
		Short: "List images",
		Args:  argsBetween(0, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				opts.match = args[0]
			}
			n, err := runImages(cmd.Context(), s, opts)
			if err == nil && n == 0 && cmd.CalledAs() == "images" {
				hintSubcommand(s, opts.match)
			}
			return err
		},
		Annotations:           map[string]string{topKey: "7", aliasesKey: "strake image ls, strake image list, strake images"},
		DisableFlagsInUseLine: true,
	}
	flags := cmd.Flags()
	flags.BoolVarP(&opts.quiet, "quiet", "q", false, "Only show image IDs")
	flags.BoolVarP(&opts.all, "all", "a", false, "Show all images (default hides intermediate and dangling images)")
	flags.BoolVar(&opts.noTrunc, "no-trunc", false, "Don't truncate output")
	flags.BoolVar(&opts.digests, "digests", false, "Show digests")
	flags.StringVar(&opts.format, "format", "", listFormatHelp)
	flags.BoolVar(&opts.tree, "tree", false, "List multi-platform images as a tree (EXPERIMENTAL)")
	filters(flags, &opts.filters, "Filter output based on conditions provided")
	return cmd
}

// runImages prints the list and returns how many images are in it.
func runImages(ctx context.Context, s *session, opts imagesOptions) (int, error) {
	if opts.tree {
		return 1, runTree(ctx, s, opts)
	}
	env, err := s.engine(ctx)
	if err != nil {
		return 0, err
	}
	if opts.format == "" && !opts.quiet {
		opts.format = env.Credentials.ImagesFormat()
	}
	whole := strings.Contains(opts.format, ".LastUsed") || strings.Contains(opts.format, ".Pinned")
	images, err := engine.Images(ctx, env, engine.ImagesOptions{All: opts.all, Filters: imageConditions(opts), Whole: whole})
	if err != nil {
		return 0, fromEngine(err)
	}
	table, format := imagesFormat(opts)
	digests := opts.digests || strings.Contains(format, "{{.Digest}}")
	rows := make([]imageRow, 0, len(images))
	for i := range images {
		rows = appendRows(rows, &images[i], digests, opts.digests)
	}
	return len(images), table.write(s.Out, format, rows)
}

// imageConditions are the filters and the name that was asked for.
func imageConditions(opts imagesOptions) map[string][]string {
	list := conditions(opts.filters)
	if opts.match != "" {
		list["reference"] = append(list["reference"], opts.match)
	}
	return list
}

func treeError(opts imagesOptions) error {
	flag := ""
	switch {
	case opts.quiet:
		flag = "--quiet"
	case opts.noTrunc:
		flag = "--no-trunc"
	case opts.digests:
		flag = "--show-digest" // as docker has it
	case opts.format != "":
		flag = "--format"
	default:
		return nil
	}
	return fmt.Errorf("%s is not yet supported with --tree", flag)
}

// imagesFormat chooses the table and the format that the flags ask for.
func imagesFormat(opts imagesOptions) (listing[imageRow], string) {
	table := listing[imageRow]{docker: "*formatter.imageContext", fields: imageFields(!opts.noTrunc, opts.format), columns: []string{"Repository", "Tag", "ID", "CreatedSince", "Size"}}
	if opts.digests {
		table.columns = slices.Insert(table.columns, 2, "Digest")
	}
	format := opts.format
	switch {
	case opts.quiet && (format == "" || format == "table"):
		format = "{{.ID}}"
	case format == "raw" && opts.quiet:
		format = "image_id: {{.ID}}"
	case format == "raw":
		digest := ""
		if opts.digests {
			digest = "digest: {{.Digest}}\n"
		}
		format = "repository: {{.Repository}}\ntag: {{.Tag}}\n" + digest +
			"image_id: {{.ID}}\ncreated_at: {{.CreatedAt}}\nvirtual_size: {{.Size}}\n"
	case opts.digests && strings.HasPrefix(format, "table ") && !strings.Contains(format, "{{.Digest}}"):
		format += "\t{{.Digest}}"
	}
	return table, format
}

// imageRow is one line: an image under one of its names.
type imageRow struct {
	image                   *engine.Image
	repository, tag, digest string
}

const none = "<none>"

// appendRows adds the lines of one image: one per tag, and, where digests are
// wanted, one per tag and digest; one per repository that only has digests.
func appendRows(rows []imageRow, img *engine.Image, digests, allDigests bool) []imageRow {
	if len(img.Names) == 0 && len(img.RepoDigests) == 0 {
		return append(rows, imageRow{img, none, none, none})
	}
	names, repoDigests := engine.FamiliarNames(img.Names), engine.FamiliarNames(img.RepoDigests)
	tagged := make(map[string]bool, len(repoDigests))
	for _, name := range names {
		repository := engine.Repository(name)
		tagged[repository] = true
		row := imageRow{img, repository, name[len(repository)+1:], none}
		var found bool
		if digests {
			for _, d := range repoDigests {
				if r, dgst, _ := strings.Cut(d, "@"); r == repository {
					row.digest, found = dgst, true
					rows = append(rows, row)
				}
			}
		}
		if !found {
			rows = append(rows, row)
		}
	}
	for _, d := range repoDigests {
		repository, dgst, _ := strings.Cut(d, "@")
		switch {
		case tagged[repository]:
		case allDigests:
			rows = append(rows, imageRow{img, repository, none, dgst})
		default:
			tagged[repository] = true
			rows = append(rows, imageRow{img, repository, none, ""})
		}
	}
	return rows
}

func imageFields(trunc bool, format string) []field[imageRow] {
	now := time.Now()
	unknown := func(imageRow) string { return "N/A" }
	list := []field[imageRow]{
		{"ID", "IMAGE ID", func(r imageRow) string { return idText(r.image.ID.String(), trunc) }},
		{"Repository", "REPOSITORY", func(r imageRow) string { return r.repository }},
		{"Tag", "TAG", func(r imageRow) string { return r.tag }},
		{"Digest", "DIGEST", func(r imageRow) string { return r.digest }},
		{"CreatedSince", "CREATED", func(r imageRow) string { return createdSince(now, r.image.Created) }},
		{"CreatedAt", "CREATED AT", func(r imageRow) string {
			return time.Unix(r.image.Created.Unix(), 0).String()
		}},
		{"Size", "SIZE", func(r imageRow) string { return bytesOf(r.image.Size) }},
		{"Containers", "CONTAINERS", unknown},
		{"SharedSize", "SHARED SIZE", unknown},
		{"UniqueSize", "UNIQUE SIZE", unknown},
	}
	for _, f := range []field[imageRow]{
		{"LastUsed", "LAST USED", func(r imageRow) string { return since(now, r.image.Used) }},
		{"Pinned", "PINNED", func(r imageRow) string { return strconv.FormatBool(r.image.Pinned) }},
	} {
		if strings.Contains(format, "."+f.name) { // docker's JSON has no such keys
			list = append(list, f)
		}
	}
	return list
}

// hintSubcommand helps who meant strake image NAME.
func hintSubcommand(s *session, name string) {
	switch name {
	case "build", "history", "import", "inspect", "list", "load", "ls", "prune", "pull", "push", "rm", "save", "tag":
		fmt.Fprintf(s.Err, "\nNo images found matching %q: did you mean \"strake image %[1]s\"?\n", name)
	}
}
