package cli

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"strake/internal/engine"
)

func newRenameCommand(s *session) *cobra.Command {
	return &cobra.Command{
		Use:   "rename CONTAINER NEW_NAME",
		Short: "Rename a container",
		Args:  argsBetween(2, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			return runRename(cmd.Context(), s, args[0], args[1])
		},
		Annotations:           map[string]string{aliasesKey: "strake container rename, strake rename"},
		DisableFlagsInUseLine: true,
	}
}

func runRename(ctx context.Context, s *session, ref, name string) error {
	ref, name = strings.TrimSpace(ref), strings.TrimSpace(name)
	switch {
	case ref == "":
		return errors.New("failed to rename container: invalid container name or ID: value is empty")
	case strings.TrimPrefix(name, "/") == "":
		return errors.New("failed to rename container: new name cannot be blank")
	}
	env, err := s.engine(ctx)
	if err != nil {
		return err
	}
	if err := engine.RenameContainer(ctx, env, ref, name); err != nil {
		return fmt.Errorf("failed to rename container: %w", fromEngine(err))
	}
	return nil
}
