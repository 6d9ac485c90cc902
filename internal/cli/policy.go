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

func newPolicyEvalCommand(s *session) *cobra.Command {
	var file, platform string
	cmd := &cobra.Command{
		Use:   "eval [OPTIONS] source",
		Short: "Evaluate policy for a source",
		Long: "Ask FILE.rego about a source: docker-image://IMAGE, the address of a file or of a repository, or a path. It fails where that is denied;\n" +
			"with -D it shows the evaluation.",
		Args: argsBetween(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return runPolicyEval(cmd.Context(), s, file, platform, args[0])
		},
		DisableFlagsInUseLine: true,
	}
	cmd.Flags().StringVarP(&file, "file", "f", "Dockerfile", "Policy filename to evaluate")
	cmd.Flags().StringVar(&platform, "platform", "", "Target platform for policy evaluation")
	cmd.Flags().BoolVarP(&s.debug, "debug", "D", s.debug, "Enable debug logging")
	return cmd
}

func runPolicyEval(ctx context.Context, s *session, file, platform, source string) error {
	env, err := s.contained(ctx)
	if err != nil {
		return err
	}
	opts := engine.EvalPolicyOptions{Name: filepath.Base(file), File: filepath.Base(file) + ".rego", Source: source, Platform: platform, Log: func(line string) {
		if s.debug {
			fmt.Fprintln(s.Err, line)
		}
	}}
	if file == "-" {
		opts.Name, opts.File, opts.Policy = "stdin", "-", s.In
	} else {
		f, err := os.Open(file + ".rego")
		if err != nil {
			return fmt.Errorf("ERROR: failed to read policy file %s: %w", opts.File, err)
		}
		defer func() { _ = f.Close() }() // it was read
		opts.Policy = f
	}
	err = engine.EvalPolicy(ctx, env, opts)
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
