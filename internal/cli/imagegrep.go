package cli

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"strake/internal/engine"
	"strake/internal/progress"
)

type imageGrepOptions struct {
	lookFlags
	pattern    string
	image      string
	path       string
	ignoreCase bool
	fixed      bool
	names      bool
	numbers    bool
	quiet      bool
}

// exitTrouble is grep's exit code for an error; 1 says that nothing matched.
const exitTrouble = 2

func newImageGrepCommand(s *session) *cobra.Command {
	var opts imageGrepOptions
	args := argsBetween(2, 3)
	cmd := &cobra.Command{
		Use:   "grep [OPTIONS] PATTERN IMAGE [PATH]",
		Short: "Search the files of an image",
		Long: `Search the files of an image

PATTERN is a regular expression (RE2, which has the syntax of grep -E), PATH a file
or a directory, searched with all below it (default: the whole image). Of a binary
file only that it matches is said. An image that is not here is read from its
registry.

Exit codes: 0 a line matches, 1 none does, 2 any error.`,
		Args: func(cmd *cobra.Command, list []string) error {
			if err := args(cmd, list); err != nil {
				return statusError{exitTrouble, err}
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			opts.pattern, opts.image, opts.path = args[0], args[1], "/"
			if len(args) > 2 {
				opts.path = args[2]
			}
			return runImageGrep(cmd.Context(), s, opts)
		},
		DisableFlagsInUseLine: true,
	}
	cmd.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return statusError{exitTrouble, flagError(cmd, err)}
	})
	flags := cmd.Flags()
	flags.BoolVarP(&opts.ignoreCase, "ignore-case", "i", false, "Ignore case")
	flags.BoolVarP(&opts.names, "files-with-matches", "l", false, "Print only the names of files that match")
	flags.BoolVarP(&opts.numbers, "line-number", "n", false, "Print line numbers")
	flags.BoolVarP(&opts.quiet, "quiet", "q", false, "Print nothing")
	flags.BoolVarP(&opts.fixed, "fixed-strings", "F", false, "PATTERN is text, not an expression")
	flags.BoolP("extended-regexp", "E", false, "PATTERN is an extended regular expression (always)")
	flags.BoolP("recursive", "r", false, "Search what is below directories (always)")
	opts.add(flags)
	return cmd
}

// errFound ends a search that is to find anything at all.
var errFound = errors.New("found")

func runImageGrep(ctx context.Context, s *session, opts imageGrepOptions) error {
	env, err := s.engine(ctx)
	if err != nil {
		return statusError{exitTrouble, err}
	}
	out := bufio.NewWriter(s.Out)
	n, err := engine.Grep(ctx, env, engine.GrepOptions{
		LookOptions: opts.options(s, opts.image), Pattern: opts.pattern, Path: opts.path,
		Fixed: opts.fixed, IgnoreCase: opts.ignoreCase, First: opts.names || opts.quiet,
	}, func(m engine.GrepMatch) error {
		if opts.quiet {
			return errFound
		}
		_, err := fmt.Fprintln(out, opts.matchLine(&m, isTerminal(s.Out)))
		return err
	})
	if errors.Is(err, errFound) {
		return nil
	}
	flushErr := out.Flush()
	switch {
	case err != nil:
		return statusError{exitTrouble, fromEngine(err)}
	case flushErr != nil:
		return statusError{exitTrouble, flushErr}
	case n == 0:
		return statusError{code: exitFailure}
	}
	return nil
}

// matchLine is a match as grep prints it, escaped for a terminal.
func (o *imageGrepOptions) matchLine(m *engine.GrepMatch, terminal bool) string {
	path, text := m.Path, string(m.Text)
	if terminal {
		path = progress.Printable(path)
		parts := strings.Split(text, "\t")
		for i, part := range parts {
			parts[i] = progress.Printable(part)
		}
		text = strings.Join(parts, "\t")
	}
	switch {
	case o.names:
		return path
	case m.Binary:
		return path + ": binary file matches"
	}
	prefix := ""
	if !m.Alone {
		prefix = path + ":"
	}
	if o.numbers {
		prefix += strconv.Itoa(m.Line) + ":"
	}
	return prefix + text
}
