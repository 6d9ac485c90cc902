package cli

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"strake/internal/engine"
)

type undoOptions struct {
	id     string
	list   bool
	format string
}

func newUndoCommand(s *session) *cobra.Command {
	var opts undoOptions
	cmd := &cobra.Command{
		Use:   "undo [OPTIONS] [ID]",
		Short: "Take back the last rmi, prune or overwritten tag",
		Long: `Take back the last rmi, prune or overwritten tag, or the one with an ID.

What is removed stays on disk until its time is over (24 hours, or undo-window in
the configuration), the disk runs full, max-size of the configuration needs it, or
"strake system prune" is told to free it.`,
		Args: argsBetween(0, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				opts.id = args[0]
			}
			return runUndo(cmd.Context(), s, opts)
		},
		DisableFlagsInUseLine: true,
	}
	flags := cmd.Flags()
	flags.BoolVarP(&opts.list, "list", "l", false, "List what can be undone")
	flags.StringVar(&opts.format, "format", "", listFormatHelp)
	return cmd
}

func runUndo(ctx context.Context, s *session, opts undoOptions) error {
	var id int64
	if opts.id != "" {
		var err error
		if id, err = strconv.ParseInt(opts.id, 10, 64); err != nil || id <= 0 {
			return fmt.Errorf("%q is no ID of a change (strake undo --list shows them)", opts.id)
		}
	}
	env, err := s.engine(ctx)
	if err != nil {
		return err
	}
	if opts.list || opts.format != "" {
		changes, err := engine.Changes(ctx, env)
		if err != nil {
			return fromEngine(err)
		}
		return listing[engine.Change]{fields: changeFields(), columns: []string{"ID", "When", "What", "Held"}}.write(s.Out, opts.format, changes)
	}
	result, err := engine.Undo(ctx, env, engine.UndoOptions{ID: id})
	if err != nil {
		return fromEngine(err)
	}
	fmt.Fprintln(s.Out, "Undone:", result.What)
	for _, name := range result.Names {
		fmt.Fprintln(s.Out, "Tagged:", name)
	}
	for _, id := range result.Images {
		fmt.Fprintln(s.Out, "Restored:", id)
	}
	return nil
}

func changeFields() []field[engine.Change] {
	now := time.Now()
	return []field[engine.Change]{
		{"ID", "ID", func(c engine.Change) string { return strconv.FormatInt(c.ID, 10) }},
		{"When", "WHEN", func(c engine.Change) string { return since(now, c.At) }},
		{"At", "AT", func(c engine.Change) string { return c.At.Format(time.RFC3339Nano) }},
		{"What", "WHAT", func(c engine.Change) string { return c.What }},
		{"Held", "HELD", func(c engine.Change) string { return bytesOf(c.Held) }},
	}
}
