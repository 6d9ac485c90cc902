package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"strake/internal/engine"
)

type importOptions struct {
	source   string // a file, a URL or "-"
	name     string
	changes  []string
	message  string
	platform string
}

func newImportCommand(s *session) *cobra.Command {
	var opts importOptions
	cmd := &cobra.Command{
		Use:   "import [OPTIONS] file|URL|- [REPOSITORY[:TAG]]",
		Short: "Import the contents from a tarball to create a filesystem image",
		Args:  argsBetween(1, -1),
		RunE: func(cmd *cobra.Command, args []string) error {
			opts.source = args[0]
			if len(args) > 1 {
				opts.name = args[1]
			}
			return runImport(cmd.Context(), s, opts)
		},
		Annotations:           map[string]string{aliasesKey: "strake image import, strake import"},
		DisableFlagsInUseLine: true,
	}
	flags := cmd.Flags()
	list(flags, &opts.changes, "change", "c", "Apply Dockerfile instruction to the created image")
	flags.StringVarP(&opts.message, "message", "m", "", "Set commit message for imported image")
	platformFlag(flags, &opts.platform)
	return cmd
}

func runImport(ctx context.Context, s *session, opts importOptions) (err error) {
	options := engine.ImportOptions{Name: opts.name, Changes: opts.changes, Message: opts.message, Platform: opts.platform}
	switch {
	case opts.source == "-":
		options.Source = s.input(ctx)
	case strings.HasPrefix(opts.source, "http://"), strings.HasPrefix(opts.source, "https://"):
		options.URL = opts.source
	default:
		f, err := os.Open(opts.source)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, f.Close()) }()
		options.Source = f
	}
	if opts.name != "" {
		if err := engine.CheckName(opts.name); err != nil {
			return err
		}
	}
	env, err := s.engine(ctx)
	if err != nil {
		return err
	}
	result, err := engine.Import(ctx, env, options)
	if err != nil {
		return fromEngine(err)
	}
	_, err = fmt.Fprintln(s.Out, result.ID)
	return err
}
