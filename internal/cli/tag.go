package cli

import (
	"context"

	"github.com/spf13/cobra"

	"strake/internal/engine"
)

func newTagCommand(s *session) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "tag SOURCE_IMAGE[:TAG] TARGET_IMAGE[:TAG]",
		Short: "Create a tag TARGET_IMAGE that refers to SOURCE_IMAGE",
		Args:  argsBetween(2, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			return runTag(cmd.Context(), s, args[0], args[1])
		},
		Annotations:           map[string]string{aliasesKey: "strake image tag, strake tag"},
		DisableFlagsInUseLine: true,
	}
	cmd.Flags().SetInterspersed(false) // a name may start with -, and is refused as a name
	return cmd
}

func runTag(ctx context.Context, s *session, source, target string) error {
	if err := engine.CheckSource(source); err != nil {
		return err
	}
	if _, err := engine.ParseTarget(target); err != nil {
		return err
	}
	env, err := s.engine(ctx)
	if err != nil {
		return err
	}
	return fromEngine(engine.Tag(ctx, env, engine.TagOptions{Source: source, Target: target}))
}
