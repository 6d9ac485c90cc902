package cli

import (
	"context"

	"github.com/spf13/cobra"

	"strake/internal/engine"
)

type catOptions struct {
	lookFlags
	image string
	paths []string
}

func newCatCommand(s *session) *cobra.Command {
	var opts catOptions
	cmd := &cobra.Command{
		Use:   "cat [OPTIONS] IMAGE PATH [PATH...]",
		Short: "Print files of an image",
		Long: `Print files of an image

Symlinks are followed within the image. An image that is not here is read from its
registry.`,
		Args: argsBetween(2, -1),
		RunE: func(cmd *cobra.Command, args []string) error {
			opts.image, opts.paths = args[0], args[1:]
			return runCat(cmd.Context(), s, opts)
		},
		DisableFlagsInUseLine: true,
	}
	opts.add(cmd.Flags())
	return cmd
}

func runCat(ctx context.Context, s *session, opts catOptions) error {
	env, err := s.engine(ctx)
	if err != nil {
		return err
	}
	return fromEngine(engine.Cat(ctx, env, engine.CatOptions{LookOptions: opts.options(s, opts.image), Paths: opts.paths}, s.Out))
}
