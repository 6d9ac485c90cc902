package cli

import (
	"fmt"
	"io"
	"regexp"
	"strings"

	"strake/internal/engine"
)

// explanations collects why steps were not in the cache, to be printed when
// the display is done.
type explanations struct{ list []engine.Explanation }

func (e *explanations) add(x engine.Explanation) { e.list = append(e.list, x) }

func (e *explanations) write(w io.Writer) {
	if len(e.list) == 0 {
		fmt.Fprintln(w, "Every step was in the cache.")
		return
	}
	for _, x := range e.list {
		fmt.Fprintf(w, "%s\n  not cached: %s\n", x.Step, x.Reason)
		for _, c := range x.Changes {
			fmt.Fprintf(w, "    %s\n", describe(c))
		}
		if x.More > 0 {
			fmt.Fprintf(w, "    and %d more\n", x.More)
		}
	}
}

// nameless are digests: they say nothing to people.
var nameless = regexp.MustCompile(`@?\b(sha256:)?[0-9a-f]{64}\b`)

// describe tells of a change by the names of what changed.
func describe(c engine.InputChange) string {
	if c.Step != "" {
		from := nameless.ReplaceAllString(c.Step, "")
		if _, name, ok := strings.Cut(c.Input, " /"); ok {
			return fmt.Sprintf("~ /%s of %s", name, from)
		}
		return "~ files of " + from
	}
	from, to := c.From, c.To
	if strings.HasPrefix(c.Input, "file ") {
		was, is := fileSum(from), fileSum(to)
		if from, to = fileKind(from), fileKind(to); from == to && was == is {
			return fmt.Sprintf("~ %s other attributes", c.Input)
		} else if from == to {
			return fmt.Sprintf("~ %s other content", c.Input)
		}
	}
	from, to = clip(nameless.ReplaceAllString(from, "")), clip(nameless.ReplaceAllString(to, ""))
	switch {
	case c.From == "":
		return "+ " + strings.TrimSuffix(c.Input+" "+strings.TrimPrefix(to, aFile), " ")
	case c.To == "":
		return "- " + strings.TrimSuffix(c.Input+" "+strings.TrimPrefix(from, aFile), " ")
	case from == "" && to == "":
		return "~ " + c.Input
	}
	return fmt.Sprintf("~ %s %s -> %s", c.Input, from, to)
}

// aFile is what most files are.
const aFile = "file"

// fileKind is what a listing says of a file, but for its content.
func fileKind(what string) string {
	kind, rest, _ := strings.Cut(what, ":")
	switch kind {
	case "f":
		return aFile
	case "x":
		return "executable file"
	case "d":
		return "directory"
	case "l":
		return "link to " + rest
	case "n":
		return "device"
	}
	return what
}

// fileSum is what a listing says of the content of a file.
func fileSum(what string) string {
	kind, rest, _ := strings.Cut(what, ":")
	sum, _, _ := strings.Cut(rest, ":")
	return kind + sum
}

func clip(s string) string { return ellipsis(s, 72) }
