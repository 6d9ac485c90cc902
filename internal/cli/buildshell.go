package cli

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/term"

	"strake/internal/engine"
	"strake/internal/progress"
)

// stageShell is the value of --shell-on-error that has none.
const stageShell = "default"

// debugShell is the shell that is asked for, or nil. It needs a terminal.
func (o buildOptions) debugShell(s *session) (*engine.Shell, error) {
	if o.shell == "" {
		return nil, nil
	}
	in, _ := s.In.(*os.File)
	out, _ := s.Err.(*os.File)
	if !isTerminal(in) || !isTerminal(out) {
		return nil, errors.New("--shell-on-error needs a terminal as standard input and standard error")
	}
	shell := &engine.Shell{In: in, Out: out}
	if o.shell != stageShell {
		shell.Args = strings.Fields(o.shell)
	}
	return shell, nil
}

// announceShell has the display wait for the shell, says what it is in, and leaves
// the terminal as it was, however the shell ends.
func announceShell(shell *engine.Shell, show progress.Display) func(step string, failure error) func() {
	return func(step string, failure error) func() {
		resume := show.Pause()
		fmt.Fprintf(shell.Out, "\n%s\n%s\nThis shell is in the step as it failed; the build ends with it.\n", visible(step), visible(failure.Error()))
		was, err := term.GetState(int(shell.In.Fd()))
		return func() {
			if err == nil {
				_ = term.Restore(int(shell.In.Fd()), was) // it may be gone
			}
			resume()
		}
	}
}
