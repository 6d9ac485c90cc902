package cli

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"strake/internal/engine"
)

type loadOptions struct {
	input     string
	quiet     bool
	platforms []string
}

func newLoadCommand(s *session) *cobra.Command {
	var opts loadOptions
	cmd := &cobra.Command{
		Use:   "load [OPTIONS]",
		Short: "Load an image from a tar archive or STDIN",
		Args:  argsBetween(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return runLoad(cmd.Context(), s, opts)
		},
		Annotations:           map[string]string{aliasesKey: "strake image load, strake load"},
		DisableFlagsInUseLine: true,
	}
	flags := cmd.Flags()
	flags.StringVarP(&opts.input, "input", "i", "", "Read from tar archive file, instead of STDIN")
	flags.BoolVarP(&opts.quiet, "quiet", "q", false, "Suppress the load output")
	flags.StringSliceVar(&opts.platforms, "platform", nil, `Load only the given platform(s). Formatted as a comma-separated list of "os[/arch[/variant]]" (e.g., "linux/amd64,linux/arm64/v8").`)
	return cmd
}

func runLoad(ctx context.Context, s *session, opts loadOptions) (err error) {
	if err := checkPlatforms(opts.platforms); err != nil {
		return fmt.Errorf("invalid platform: %w", err)
	}
	load := engine.LoadOptions{Input: s.input(ctx), Platforms: opts.platforms}
	if opts.input != "" {
		f, err := os.Open(opts.input)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, f.Close()) }()
		load.Input = f
	} else if isTerminal(s.In) {
		return errors.New("requested load from stdin, but stdin is empty")
	}
	if !opts.quiet && isTerminal(s.Out) {
		load.Progress = newTransfer(s.Out, loadVerbs).event
	}
	env, err := s.engine(ctx)
	if err != nil {
		return err
	}
	loaded, err := engine.Load(ctx, env, load)
	if err != nil {
		return fromEngine(err)
	}
	for _, old := range loaded.Replaced {
		fmt.Fprintf(s.Out, "The image %s already exists, renaming the old one with ID %s to empty string\n", old.Name, old.ID)
	}
	for _, image := range loaded.Images {
		if image.Name == "" {
			fmt.Fprintln(s.Out, "Loaded image ID:", image.ID)
		} else {
			fmt.Fprintln(s.Out, "Loaded image:", image.Name)
		}
	}
	return nil
}
