package cli

import (
	"fmt"
	"io"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/spf13/pflag"

	"strake/internal/engine"
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
	return engine.LookOptions{
		Ref: ref, Platform: f.platform, Remote: f.remote || remote,
		Reading: func(name string) { fmt.Fprintf(s.Err, "Reading %s from its registry\n", name) },
	}
}

// printable escapes what a terminal could take for a command, and what would
// break a line. Text comes from images, which may be hostile.
func printable(s string) string {
	clean := true
	for i, r := range s {
		if !unicode.IsPrint(r) || r == utf8.RuneError && !strings.HasPrefix(s[i:], string(utf8.RuneError)) {
			clean = false
			break
		}
	}
	if clean {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); {
		r, n := utf8.DecodeRuneInString(s[i:])
		switch {
		case r == utf8.RuneError && n == 1:
			fmt.Fprintf(&b, `\x%02x`, s[i])
		case unicode.IsPrint(r):
			b.WriteRune(r)
		default:
			b.WriteString(strings.Trim(strconv.QuoteRune(r), "'"))
		}
		i += n
	}
	return b.String()
}

// shown is a name as it goes to out: as it is, but escaped on a terminal.
func shown(out io.Writer, name string) string {
	if isTerminal(out) {
		return printable(name)
	}
	return name
}
