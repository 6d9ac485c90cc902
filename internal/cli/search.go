package cli

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"strake/internal/engine"
)

type searchOptions struct {
	term    string
	format  string
	noTrunc bool
	limit   int
	filters []string
}

func newSearchCommand(s *session) *cobra.Command {
	var opts searchOptions
	cmd := &cobra.Command{
		Use:   "search [OPTIONS] TERM",
		Short: "Search Docker Hub for images",
		Long:  "Search Docker Hub for images, or, with registry.example/TERM, another registry",
		Args:  argsBetween(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			opts.term = args[0]
			return runSearch(cmd.Context(), s, opts)
		},
		Annotations:           map[string]string{topKey: "10"},
		DisableFlagsInUseLine: true,
	}
	flags := cmd.Flags()
	flags.BoolVar(&opts.noTrunc, "no-trunc", false, "Don't truncate output")
	filters(flags, &opts.filters, "Filter output based on conditions provided")
	flags.IntVar(&opts.limit, "limit", 0, "Max number of search results")
	flags.StringVar(&opts.format, "format", "", "Pretty-print search using a Go template")
	return cmd
}

func runSearch(ctx context.Context, s *session, opts searchOptions) error {
	filters := conditions(opts.filters)
	if _, ok := filters["is-automated"]; ok {
		fmt.Fprintln(s.Err, `WARNING: the "is-automated" filter is deprecated, and searching for "is-automated=true" will not yield any results in future.`)
	}
	env, err := s.registries(ctx)
	if err != nil {
		return err
	}
	found, err := engine.Search(ctx, env, engine.SearchOptions{Term: opts.term, Limit: opts.limit, Filters: filters})
	if err != nil {
		return fromEngine(err)
	}
	table := listing[engine.FoundRepository]{
		docker:  "*registry.searchContext",
		fields:  searchFields(!opts.noTrunc, opts.format == "json"),
		columns: []string{"Name", "Description", "StarCount", "IsOfficial"},
	}
	return table.write(s.Out, opts.format, found)
}

// searchFields are the columns. As JSON, a flag is true or false.
func searchFields(trunc, asJSON bool) []field[engine.FoundRepository] {
	return []field[engine.FoundRepository]{
		{"Name", "NAME", func(r engine.FoundRepository) string { return r.Name }},
		{"Description", "DESCRIPTION", func(r engine.FoundRepository) string {
			text := strings.NewReplacer("\n", " ", "\r", " ").Replace(r.Description)
			if trunc {
				return ellipsis(text, 45)
			}
			return text
		}},
		{"StarCount", "STARS", func(r engine.FoundRepository) string { return strconv.Itoa(r.StarCount) }},
		{"IsOfficial", "OFFICIAL", func(r engine.FoundRepository) string {
			switch {
			case asJSON:
				return strconv.FormatBool(r.IsOfficial)
			case r.IsOfficial:
				return "[OK]"
			}
			return ""
		}},
	}
}
