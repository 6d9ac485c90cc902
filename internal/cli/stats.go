package cli

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/docker/go-units"
	"github.com/spf13/cobra"

	"strake/internal/engine"
)

type statsOptions struct {
	refs     []string
	all      bool
	format   string
	noStream bool
	noTrunc  bool
}

func newStatsCommand(s *session) *cobra.Command {
	var opts statsOptions
	cmd := &cobra.Command{
		Use:   "stats [OPTIONS] [CONTAINER...]",
		Short: "Display a live stream of container(s) resource usage statistics",
		Args:  argsBetween(0, -1),
		RunE: func(cmd *cobra.Command, args []string) error {
			opts.refs = args
			return runStats(cmd.Context(), s, opts)
		},
		Annotations:           map[string]string{aliasesKey: "strake container stats, strake stats"},
		DisableFlagsInUseLine: true,
	}
	flags := cmd.Flags()
	flags.BoolVarP(&opts.all, "all", "a", false, "Show all containers (default shows just running)")
	flags.StringVar(&opts.format, "format", "", listFormatHelp)
	flags.BoolVar(&opts.noStream, "no-stream", false, "Disable streaming stats and only pull the first result")
	flags.BoolVar(&opts.noTrunc, "no-trunc", false, "Do not truncate output")
	return cmd
}

// sampleEvery is the time between two samples: docker's.
const sampleEvery = time.Second

func runStats(ctx context.Context, s *session, opts statsOptions) error {
	env, err := s.engine(ctx)
	if err != nil {
		return err
	}
	before := map[string]engine.ContainerStats{}
	for shown := 0; ; shown++ {
		samples, err := engine.SampleContainers(ctx, env, opts.refs, opts.all, before)
		if err != nil {
			return fromEngine(err)
		}
		if shown > 0 {
			if err := showStats(s, opts, samples); err != nil || opts.noStream {
				return err
			}
		}
		clear(before)
		for _, sample := range samples {
			before[sample.ID] = sample
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(sampleEvery):
		}
	}
}

// showStats prints a table; one that is followed by others takes the screen, and is drawn over the one before.
func showStats(s *session, opts statsOptions, samples []engine.ContainerStats) error {
	if opts.noStream && len(samples) == 0 {
		return nil
	}
	if opts.noStream || !isTerminal(s.Out) {
		return writeStats(s.Out, opts, samples)
	}
	var table bytes.Buffer
	if err := writeStats(&table, opts, samples); err != nil {
		return err
	}
	const home, clearLine, clearBelow = "\x1b[H", "\x1b[K\n", "\x1b[J"
	_, err := io.WriteString(s.Out, home+strings.ReplaceAll(table.String(), "\n", clearLine)+clearBelow)
	return err
}

func writeStats(out io.Writer, opts statsOptions, samples []engine.ContainerStats) error {
	pair := func(a, b int64) string {
		return units.HumanSizeWithPrecision(float64(a), 3) + " / " + units.HumanSizeWithPrecision(float64(b), 3)
	}
	type row = engine.ContainerStats
	return listing[row]{
		docker: "*container.statsContext",
		fields: []field[row]{
			{"Container", "CONTAINER", func(r row) string { return r.Ref }},
			{"ID", "CONTAINER ID", func(r row) string { return idText(r.ID, !opts.noTrunc) }},
			{"Name", "NAME", func(r row) string { return r.Name }},
			{"CPUPerc", "CPU %", func(r row) string { return fmt.Sprintf("%.2f%%", r.CPU) }},
			{"MemUsage", "MEM USAGE / LIMIT", func(r row) string {
				return units.BytesSize(float64(r.Memory)) + " / " + units.BytesSize(float64(r.Limit))
			}},
			{"MemPerc", "MEM %", func(r row) string {
				if r.Limit == 0 {
					return "0.00%"
				}
				return fmt.Sprintf("%.2f%%", float64(r.Memory)/float64(r.Limit)*100)
			}},
			{"NetIO", "NET I/O", func(r row) string { return pair(r.Received, r.Sent) }},
			{"BlockIO", "BLOCK I/O", func(r row) string { return pair(r.BytesRead, r.Written) }},
			{"PIDs", "PIDS", func(r row) string { return strconv.FormatInt(r.PIDs, 10) }},
		},
		columns: []string{"ID", "Name", "CPUPerc", "MemUsage", "MemPerc", "NetIO", "BlockIO", "PIDs"},
	}.write(out, opts.format, samples)
}
