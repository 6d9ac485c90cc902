package cli

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"strake/internal/engine"
)

func newCommitCommand(s *session) *cobra.Command {
	opts := engine.CommitOptions{}
	var pause, noPause bool
	cmd := &cobra.Command{
		Use:   "commit [OPTIONS] CONTAINER [REPOSITORY[:TAG]]",
		Short: "Create a new image from a container's changes",
		Args:  argsBetween(1, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			opts.Ref = args[0]
			if len(args) > 1 {
				opts.Name = args[1]
			}
			opts.Pause = pause && !noPause
			return runCommit(cmd.Context(), s, opts)
		},
		Annotations:           map[string]string{aliasesKey: "strake container commit, strake commit"},
		DisableFlagsInUseLine: true,
	}
	flags := cmd.Flags()
	flags.BoolVarP(&pause, "pause", "p", true, "Pause container during commit (deprecated: use --no-pause instead)")
	flags.BoolVar(&noPause, "no-pause", false, "Disable pausing container during commit")
	flags.StringVarP(&opts.Message, "message", "m", "", "Commit message")
	flags.StringVarP(&opts.Author, "author", "a", "", `Author (e.g., "John Hannibal Smith <hannibal@a-team.com>")`)
	list(flags, &opts.Changes, "change", "c", "Apply Dockerfile instruction to the created image")
	return cmd
}

func runCommit(ctx context.Context, s *session, opts engine.CommitOptions) error {
	if opts.Name != "" {
		if err := engine.CheckName(opts.Name); err != nil {
			return err
		}
	}
	env, err := s.contained(ctx)
	if err != nil {
		return err
	}
	id, err := engine.Commit(ctx, env, opts)
	if err != nil {
		return fromEngine(err)
	}
	_, err = fmt.Fprintln(s.Out, id)
	return err
}
