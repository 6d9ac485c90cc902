package cli

import (
	"context"
	"errors"

	"github.com/moby/moby/api/types/container"
	"github.com/spf13/cobra"

	"strake/internal/engine"
)

func newDiffCommand(s *session) *cobra.Command {
	var format string
	cmd := &cobra.Command{
		Use:   "diff [OPTIONS] CONTAINER",
		Short: "Inspect changes to files or directories on a container's filesystem",
		Long: `Inspect changes to files or directories on a container's filesystem

Files and directories of the image that the container added (A), changed (C) or
deleted (D). What is in volumes, and where volumes are mounted, is not shown.`,
		Args: argsBetween(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return runDiff(cmd.Context(), s, args[0], format)
		},
		Annotations:           map[string]string{aliasesKey: "strake container diff, strake diff"},
		DisableFlagsInUseLine: true,
	}
	cmd.Flags().StringVar(&format, "format", "", listFormatHelp)
	return cmd
}

func runDiff(ctx context.Context, s *session, ref, format string) error {
	if ref == "" {
		return errors.New("Container name cannot be empty") //nolint:staticcheck // docker's text
	}
	env, err := s.contained(ctx)
	if err != nil {
		return err
	}
	changes, err := engine.DiffContainer(ctx, env, ref)
	if err != nil {
		return fromEngine(err)
	}
	table := listing[container.FilesystemChange]{
		docker: "*formatter.diffContext", columns: []string{"Type", "Path"},
		fields: []field[container.FilesystemChange]{
			{"Type", "CHANGE TYPE", func(c container.FilesystemChange) string { return c.Kind.String() }},
			{"Path", "PATH", func(c container.FilesystemChange) string { return c.Path }},
		},
	}
	if format == "" {
		format = "{{.Type}} {{.Path}}"
	}
	return table.write(s.Out, format, changes)
}
