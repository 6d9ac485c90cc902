package cli

import (
	"errors"
	"fmt"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
)

// The exit codes, which are docker's. A command that a signal ended exits with
// 128 and the signal's number; run exits with the code of its process.
const (
	exitFailure      = 1   // any error
	exitTemplate     = 64  // --format of inspect, info or version does not parse
	exitUsage        = 125 // a flag that is not known or not valid; run: no container could be started
	exitNotRunnable  = 126 // run: the command is no program
	exitNotFound     = 127 // run: the command does not exist
	usageHint        = "\n\nUsage:  %s\n\nRun '%s --help' for more information"
	moreInformation  = "\n\nRun '%s --help' for more information"
	engineErrorTitle = "Error: "
)

const exitCodesHelp = `Exit codes: 0 success, 1 any error, 64 a --format that does not parse, 125 a flag
that is not valid or a container that could not be started, 126 a command that
cannot be executed, 127 a command that does not exist, 128+n ended by signal n;
run exits with the code of its process.
`

// statusError is an error with an exit code of its own. Without err nothing is
// printed.
type statusError struct {
	code int
	err  error
}

func (e statusError) Error() string {
	if e.err == nil {
		return ""
	}
	return e.err.Error()
}

func (e statusError) Unwrap() error { return e.err }

// engineError marks what docker would print as its daemon's answer.
type engineError struct{ err error }

func (e engineError) Error() string { return engineErrorTitle + e.err.Error() }

func (e engineError) Unwrap() error { return e.err }

// fromEngine marks an error that a verb returned, once.
func fromEngine(err error) error {
	if _, marked := errors.AsType[engineError](err); err == nil || marked {
		return err
	}
	return engineError{err}
}

func exitCode(err error) int {
	var status statusError
	if errors.As(err, &status) {
		return status.code
	}
	return exitFailure
}

// runError gives a failure of run its exit code and docker's form.
func runError(cmd *cobra.Command, err error) error {
	if end, ok := errors.AsType[statusError](err); ok {
		return end
	}
	text := err.Error()
	code := exitUsage
	var fromEngine engineError
	switch {
	case !errors.As(err, &fromEngine):
	case strings.Contains(text, "executable file not found"), strings.Contains(text, syscall.ENOENT.Error()):
		code = exitNotFound
	case strings.Contains(text, syscall.EACCES.Error()), strings.Contains(text, syscall.EISDIR.Error()):
		code = exitNotRunnable
	}
	return statusError{code, fmt.Errorf("%s: %w"+moreInformation, cmd.Root().Name(), err, cmd.CommandPath())}
}

func flagError(cmd *cobra.Command, err error) error {
	return statusError{exitUsage, fmt.Errorf("%w"+usageHint, err, cmd.UseLine(), cmd.CommandPath())}
}

// argsBetween takes low to high arguments; high < 0 is any number.
func argsBetween(low, high int) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) >= low && (high < 0 || len(args) <= high) {
			return nil
		}
		var want string
		hint := usageHint
		switch {
		case high == 0:
			want = "accepts no arguments"
		case low == high:
			want = fmt.Sprintf("requires %d %s", low, arguments(low))
		case high < 0:
			want = fmt.Sprintf("requires at least %d %s", low, arguments(low))
			hint = strings.Replace(hint, "Run", "See", 1) // as docker has it
		case low == 0:
			want = fmt.Sprintf("requires at most %d %s", high, arguments(high))
		default:
			want = fmt.Sprintf("requires at least %d and at most %d %s", low, high, arguments(high))
		}
		return fmt.Errorf("%s: '%s' %s"+hint,
			cmd.Root().Name(), cmd.CommandPath(), want, cmd.UseLine(), cmd.CommandPath())
	}
}

func arguments(n int) string {
	if n == 1 {
		return "argument"
	}
	return "arguments"
}

// unknownCommand is what a command says that only has subcommands.
func unknownCommand(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		_, err := fmt.Fprint(cmd.ErrOrStderr(), usage(cmd))
		return err
	}
	if !cmd.HasParent() {
		return fmt.Errorf("%s: unknown command: %s %s"+moreInformation, cmd.Name(), cmd.Name(), args[0], cmd.Name())
	}
	return fmt.Errorf("%s: unknown command: %s %s"+usageHint,
		cmd.Root().Name(), cmd.CommandPath(), args[0], cmd.UseLine(), cmd.CommandPath())
}
