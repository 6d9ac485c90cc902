package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"strake/internal/engine"
)

func newExportCommand(s *session) *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use:   "export [OPTIONS] CONTAINER",
		Short: "Export a container's filesystem as a tar archive",
		Args:  argsBetween(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return runExport(cmd.Context(), s, args[0], output)
		},
		Annotations:           map[string]string{aliasesKey: "strake container export, strake export"},
		DisableFlagsInUseLine: true,
	}
	cmd.Flags().StringVarP(&output, "output", "o", "", "Write to a file, instead of STDOUT")
	return cmd
}

func runExport(ctx context.Context, s *session, ref, output string) error {
	if output == "" && isTerminal(s.Out) {
		return errors.New("cowardly refusing to save to a terminal. Use the -o flag or redirect")
	}
	env, err := s.contained(ctx)
	if err != nil {
		return err
	}
	if output == "" {
		return fromEngine(engine.ExportContainer(ctx, env, ref, s.Out))
	}
	err = writeFile(output, func(w io.Writer) error { return engine.ExportContainer(ctx, env, ref, w) })
	if _, failed := errors.AsType[*os.PathError](err); failed {
		return fmt.Errorf("failed to export container: %w", err)
	}
	return fromEngine(err)
}
