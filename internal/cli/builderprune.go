package cli

import (
	"context"
	"fmt"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/docker/go-units"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"strake/internal/engine"
)

type builderPruneOptions struct {
	pruneOptions
	maxUsed, minFree, reserved bytesFlag
	verbose                    bool
}

// bytesFlag is a size as docker's flags take it: 1GB are 2^30 bytes.
type bytesFlag int64

func (b *bytesFlag) String() string { return units.BytesSize(float64(*b)) }

func (b *bytesFlag) Type() string { return "bytes" }

func (b *bytesFlag) Set(value string) error {
	n, err := units.RAMInBytes(value)
	*b = bytesFlag(n)
	return err
}

var _ pflag.Value = (*bytesFlag)(nil)

func newBuilderPruneCommand(s *session) *cobra.Command {
	var opts builderPruneOptions
	cmd := &cobra.Command{
		Use:   "prune [OPTIONS]",
		Short: "Remove build cache",
		Long: `Remove build cache. With --all and no filter or size, the history of builds
("strake build history") goes too.`,
		Args: argsBetween(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return runBuilderPrune(cmd.Context(), s, opts)
		},
		DisableFlagsInUseLine: true,
	}
	opts.flags(cmd, "Include internal/frontend images", `Provide filter values (e.g., "until=24h")`)
	flags := cmd.Flags()
	flags.Var(&opts.maxUsed, "max-used-space", "Maximum amount of disk space allowed to keep for cache")
	flags.Var(&opts.minFree, "min-free-space", "Target amount of free disk space after pruning")
	flags.Var(&opts.reserved, "reserved-space", "Amount of disk space always allowed to keep for cache")
	flags.Var(&opts.reserved, "keep-storage", "Amount of disk space to keep for cache")
	flags.Lookup("keep-storage").Deprecated = "keep-storage flag has been changed to reserved-space"
	flags.BoolVar(&opts.verbose, "verbose", false, "Provide a more verbose output")
	ignored(flags, "timeout")
	return cmd
}

func runBuilderPrune(ctx context.Context, s *session, opts builderPruneOptions) error {
	warning := "WARNING! This will remove all dangling build cache. Are you sure you want to continue?"
	if opts.all {
		warning = "WARNING! This will remove all build cache. Are you sure you want to continue?"
	}
	return opts.prune(ctx, s, warning, engine.PruneOptions{Cache: &engine.PruneCache{
		All: opts.all, Filters: conditions(opts.filters),
		MaxUsed: int64(opts.maxUsed), MinFree: int64(opts.minFree), Reserved: int64(opts.reserved),
	}}, opts.report)
}

// report prints the records as buildx does.
func (o *builderPruneOptions) report(s *session, result engine.PruneResult) error {
	out := forTerminal(s.Out)
	w := tabwriter.NewWriter(out, 1, 8, 1, '\t', 0)
	for i, r := range result.Cache {
		if o.verbose {
			printCacheRecord(w, r)
			continue
		}
		if i == 0 {
			fmt.Fprintln(w, "ID\tRECLAIMABLE\tSIZE\tLAST ACCESSED")
		}
		fmt.Fprintf(w, "%-40s\t%-5v\t%-10s\t%s\n", cacheID(r), !r.InUse, cacheSize(r), since(time.Now(), r.Used))
		if err := w.Flush(); err != nil {
			return err
		}
	}
	if err := w.Flush(); err != nil {
		return err
	}
	o.remark(s, result, "strake system prune")
	_, err := fmt.Fprintf(out, "Total:\t%s\n", units.HumanSize(float64(result.Freed)))
	return err
}

// cacheID is a record's ID as buildx's tables have it.
func cacheID(r engine.CacheRecord) string {
	if r.Mutable() {
		return r.ID + "*"
	}
	return r.ID
}

// cacheSize is a record's size as buildx's tables have it.
func cacheSize(r engine.CacheRecord) string {
	size := units.HumanSize(float64(r.Size))
	if r.Shared {
		size += "*"
	}
	return size
}

// printCacheRecord prints a record as buildx does when it is to be verbose.
func printCacheRecord(w *tabwriter.Writer, r engine.CacheRecord) {
	line := func(key string, value any) { fmt.Fprintf(w, "%s:\t%v\n", key, value) }
	line("ID", r.ID)
	line("Created at", r.Created)
	line("Mutable", r.Mutable())
	line("Reclaimable", !r.InUse)
	line("Shared", r.Shared)
	line("Size", units.HumanSize(float64(r.Size)))
	if step := strings.TrimSpace(r.Step); step != "" {
		line("Description", step)
	}
	line("Usage count", 1)
	line("Last used", since(time.Now(), r.Used))
	line("Type", r.Kind)
	fmt.Fprintln(w)
}
