package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"strake/internal/engine"
)

type policyEvalOptions struct {
	file, platform string
	print          bool
	fields         []string
}

func newPolicyEvalCommand(s *session) *cobra.Command {
	var opts policyEvalOptions
	cmd := &cobra.Command{
		Use:   "eval [OPTIONS] source",
		Short: "Evaluate policy for a source",
		Long: "Ask FILE.rego about a source: docker-image://IMAGE, the address of a file or of a repository, or a path. It fails where that is denied;\n" +
			"with -D it shows the evaluation. --print asks no policy: it shows what policies see of the source as input, and with --fields what\n" +
			"somebody has to look for: image.labels, image.provenance, git.commit, http.checksum.",
		Args: argsBetween(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return runPolicyEval(cmd.Context(), s, opts, args[0])
		},
		DisableFlagsInUseLine: true,
	}
	flags := cmd.Flags()
	flags.StringVarP(&opts.file, "file", "f", "Dockerfile", "Policy filename to evaluate")
	flags.StringVar(&opts.file, "filename", "Dockerfile", "Policy filename to evaluate")
	flags.Lookup("filename").Hidden = true // its older name
	flags.BoolVar(&opts.print, "print", false, "Print policy output")
	flags.StringSliceVar(&opts.fields, "fields", nil, "Fields to evaluate")
	flags.StringVar(&opts.platform, "platform", "", "Target platform for policy evaluation")
	flags.BoolVarP(&s.debug, "debug", "D", s.debug, "Enable debug logging")
	return cmd
}

func runPolicyEval(ctx context.Context, s *session, opts policyEvalOptions, source string) error {
	env, err := s.contained(ctx)
	if err != nil {
		return err
	}
	asked := engine.EvalPolicyOptions{
		Name: filepath.Base(opts.file), File: filepath.Base(opts.file) + ".rego", Source: source, Platform: opts.platform,
		Log: func(line string) {
			if s.debug || opts.print {
				fmt.Fprintln(s.Err, line)
			}
		},
	}
	if opts.print {
		input, err := engine.PolicyInput(ctx, env, asked, opts.fields)
		if err != nil {
			return fmt.Errorf("ERROR: %w", err)
		}
		_, err = fmt.Fprintf(s.Out, "%s\n", input)
		return err
	}
	if opts.file == "-" {
		asked.Name, asked.File, asked.Policy = "stdin", "-", s.In
	} else {
		f, err := os.Open(opts.file + ".rego")
		if err != nil {
			return fmt.Errorf("ERROR: failed to read policy file %s: %w", asked.File, err)
		}
		defer func() { _ = f.Close() }() // it was read
		asked.Policy = f
	}
	err = engine.EvalPolicy(ctx, env, asked)
	if denied := (*engine.PolicyDenial)(nil); errors.As(err, &denied) {
		if len(denied.Messages) == 0 {
			return errors.New("ERROR: policy denied")
		}
		return fmt.Errorf("ERROR: policy denied: %s", strings.Join(denied.Messages, "; "))
	}
	if err != nil {
		return fmt.Errorf("ERROR: %w", err)
	}
	return nil
}

func newPolicyTestCommand(s *session) *cobra.Command {
	var run, filename string
	cmd := &cobra.Command{
		Use:   "test <path>",
		Short: "Run policy tests",
		Args:  argsBetween(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			err := engine.TestPolicy(cmd.Context(), s.Out, s.Err, args[0], filename, run)
			if failed := (*exec.ExitError)(nil); errors.As(err, &failed) {
				return statusError{code: exitFailure}
			}
			if err != nil {
				return fmt.Errorf("ERROR: %w", err)
			}
			return nil
		},
		DisableFlagsInUseLine: true,
	}
	cmd.Flags().StringVar(&run, "run", "", "Run only tests with name containing this substring")
	cmd.Flags().StringVar(&filename, "filename", "Dockerfile", "Name of the Dockerfile to validate")
	return cmd
}
