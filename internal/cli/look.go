package cli

import (
	"fmt"
	"io"
	"strings"

	"github.com/spf13/pflag"

	"strake/internal/engine"
	"strake/internal/progress"
)

// lookFlags are the flags of all commands that look into an image.
type lookFlags struct {
	platform string
	remote   bool
}

func (f *lookFlags) add(flags *pflag.FlagSet) {
	flags.StringVar(&f.platform, "platform", "", `Look into the image for the given platform. Formatted as "os[/arch[/variant]]" (e.g., "linux/amd64")`)
	flags.BoolVar(&f.remote, "remote", false, "Read the image from its registry, even if it is here (default: if it is not here)")
}

// options name an image; docker://NAME, as skopeo has it, is the registry's.
func (f *lookFlags) options(s *session, ref string) engine.LookOptions {
	ref, remote := strings.CutPrefix(ref, "docker://")
	look := engine.LookOptions{
		Ref: ref, Platform: f.platform, Remote: f.remote || remote,
		Reading: func(name string) { fmt.Fprintf(s.Err, "Reading %s from its registry\n", name) },
	}
	if isTerminal(s.Err) {
		look.Progress = newTransfer(s.Err, transferVerbs{"Waiting", "Already here", "Reading", "", "Read"}).event
	}
	return look
}

// shown is a name as it goes to out: as it is, but escaped on a terminal.
func shown(out io.Writer, name string) string {
	if isTerminal(out) {
		return progress.Printable(name)
	}
	return name
}
