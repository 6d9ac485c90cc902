package cli

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	imagetypes "github.com/moby/moby/api/types/image"
	"github.com/spf13/cobra"

	"strake/internal/engine"
)

type historyOptions struct {
	image    string
	human    bool
	noTrunc  bool
	quiet    bool
	format   string
	platform string
}

func newHistoryCommand(s *session) *cobra.Command {
	var opts historyOptions
	cmd := &cobra.Command{
		Use:   "history [OPTIONS] IMAGE",
		Short: "Show the history of an image",
		Args:  argsBetween(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			opts.image = args[0]
			return runHistory(cmd.Context(), s, opts)
		},
		Annotations:           map[string]string{aliasesKey: "strake image history, strake history"},
		DisableFlagsInUseLine: true,
	}
	flags := cmd.Flags()
	flags.BoolVarP(&opts.human, "human", "H", true, "Print sizes and dates in human readable format")
	flags.BoolVarP(&opts.quiet, "quiet", "q", false, "Only show image IDs")
	flags.BoolVar(&opts.noTrunc, "no-trunc", false, "Don't truncate output")
	flags.StringVar(&opts.format, "format", "", listFormatHelp)
	flags.StringVar(&opts.platform, "platform", "", `Show history for the given platform. Formatted as "os[/arch[/variant]]" (e.g., "linux/amd64")`)
	return cmd
}

func runHistory(ctx context.Context, s *session, opts historyOptions) error {
	if opts.platform != "" {
		if err := checkPlatforms([]string{opts.platform}); err != nil {
			return fmt.Errorf("invalid platform: %w", err)
		}
	}
	env, err := s.engine(ctx)
	if err != nil {
		return err
	}
	steps, err := engine.History(ctx, env, engine.HistoryOptions{Ref: opts.image, Platform: opts.platform})
	if err != nil {
		return fromEngine(err)
	}
	table := listing[imagetypes.HistoryResponseItem]{
		docker:  "*image.historyContext",
		fields:  historyFields(!opts.noTrunc, opts.human),
		columns: []string{"ID", "CreatedSince", "CreatedBy", "Size", "Comment"},
	}
	if !opts.human {
		table.columns[1] = "CreatedAt"
	}
	format := opts.format
	if opts.quiet && (format == "" || format == "table") {
		format = "{{.ID}}"
	}
	return table.write(s.Out, format, steps)
}

// historyEpoch is the time up to which docker shows no age: the year 2000.
const historyEpoch = 946684800

func historyFields(trunc, human bool) []field[imagetypes.HistoryResponseItem] {
	type step = imagetypes.HistoryResponseItem
	now := time.Now()
	createdAt := func(h step) string { return time.Unix(h.Created, 0).Format(time.RFC3339) }
	return []field[step]{
		{"ID", "IMAGE", func(h step) string { return idText(h.ID, trunc) }},
		{"CreatedSince", "CREATED", func(h step) string {
			switch {
			case !human:
				return createdAt(h)
			case h.Created <= historyEpoch:
				return "N/A"
			}
			return since(now, time.Unix(h.Created, 0))
		}},
		{"CreatedAt", "CREATED AT", createdAt},
		{"CreatedBy", "CREATED BY", func(h step) string {
			by := strings.ReplaceAll(h.CreatedBy, "\t", " ")
			if trunc {
				return ellipsis(by, 45)
			}
			return by
		}},
		{"Size", "SIZE", func(h step) string {
			if human {
				return bytesOf(h.Size)
			}
			return strconv.FormatInt(h.Size, 10)
		}},
		{"Comment", "COMMENT", func(h step) string { return h.Comment }},
	}
}
