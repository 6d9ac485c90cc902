package cli

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/docker/go-units"
	"github.com/spf13/cobra"

	"strake/internal/engine"
)

type builderUsageOptions struct {
	filters []string
	format  string
	verbose bool
}

func newBuilderUsageCommand(s *session) *cobra.Command {
	var opts builderUsageOptions
	cmd := &cobra.Command{
		Use:   "du [OPTIONS]",
		Short: "Disk usage",
		Args:  argsBetween(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return runBuilderUsage(cmd.Context(), s, opts)
		},
		DisableFlagsInUseLine: true,
	}
	flags := cmd.Flags()
	flags.Var(listFlag{&opts.filters, "filter", checkFilter}, "filter", "Provide filter values")
	flags.StringVar(&opts.format, "format", "", "Format the output")
	flags.BoolVar(&opts.verbose, "verbose", false, `Shorthand for "--format=pretty"`)
	ignored(flags, "timeout")
	return cmd
}

// prettyUsage is buildx's template of that name.
const prettyUsage = `ID:           {{.ID}}
Created at:   {{.CreatedAt}}
Mutable:      {{.Mutable}}
Reclaimable:  {{.Reclaimable}}
Shared:       {{.Shared}}
Size:         {{.Size}}
{{- if .Description}}
Description:  {{.Description}}
{{- end}}
Usage count:  {{.UsageCount}}
Last used:    {{.LastUsedAt}}
Type:         {{.Type}}
`

func runBuilderUsage(ctx context.Context, s *session, opts builderUsageOptions) error {
	if opts.format != "" && opts.verbose {
		return errors.New("--format and --verbose cannot be used together")
	}
	summary := len(opts.filters) == 0
	switch {
	case opts.verbose, opts.format == "pretty":
		opts.format = prettyUsage
	case opts.format != "" && opts.format != "table":
		summary = false
	}
	env, err := s.engine(ctx)
	if err != nil {
		return err
	}
	list, err := engine.CacheRecords(ctx, env, conditions(opts.filters))
	if err != nil {
		return fromEngine(err)
	}
	table := builderUsageListing(opts.format == "" || strings.HasPrefix(opts.format, "table"))
	if err := table.write(s.Out, opts.format, list); err != nil || !summary {
		return err
	}
	var total, reclaimable, shared int64
	for _, r := range list {
		total += r.Size
		if !r.InUse {
			reclaimable += r.Size
		}
		if r.Shared {
			shared += r.Size
		}
	}
	w := tabwriter.NewWriter(s.Out, 1, 8, 1, '\t', 0)
	line := func(name string, size int64) { fmt.Fprintf(w, "%s:\t%s\n", name, units.HumanSize(float64(size))) }
	if shared > 0 {
		line("Shared", shared)
		line("Private", total-shared)
	}
	line("Reclaimable", reclaimable)
	line("Total", total)
	return w.Flush()
}

// builderUsageListing has the fields of buildx du; a table marks what is mutable or shared.
func builderUsageListing(table bool) listing[engine.CacheRecord] {
	now := time.Now()
	type R = engine.CacheRecord
	id := func(r R) string { return r.ID }
	size := func(r R) string { return units.HumanSize(float64(r.Size)) }
	if table {
		id, size = cacheID, cacheSize
	}
	return listing[R]{
		fields: []field[R]{
			{"ID", "ID", id},
			{"Parents", "PARENTS", nil},
			{"CreatedAt", "CREATED AT", func(r R) string { return r.Created.UTC().String() }},
			{"Mutable", "MUTABLE", nil},
			{"Reclaimable", "RECLAIMABLE", func(r R) string { return strconv.FormatBool(!r.InUse) }},
			{"Shared", "SHARED", nil},
			{"Size", "SIZE", size},
			{"Description", "DESCRIPTION", func(r R) string { return strings.TrimSpace(r.Step) }},
			{"UsageCount", "USAGE COUNT", nil},
			{"LastUsedAt", "LAST ACCESSED", func(r R) string { return since(now, r.Used) }},
			{"Type", "TYPE", func(r R) string { return r.Kind }},
		},
		typed: map[string]func(R) any{
			"Parents":     func(R) any { return []string(nil) },
			"Mutable":     func(r R) any { return r.Mutable() },
			"Reclaimable": func(r R) any { return !r.InUse },
			"Shared":      func(r R) any { return r.Shared },
			"UsageCount":  func(R) any { return 1 },
		},
		columns: []string{"ID", "Reclaimable", "Size", "LastUsedAt"},
	}
}
