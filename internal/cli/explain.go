package cli

import (
	"fmt"
	"io"

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
			switch {
			case c.From == "":
				fmt.Fprintf(w, "    + %s %s\n", c.Input, clip(c.To))
			case c.To == "":
				fmt.Fprintf(w, "    - %s %s\n", c.Input, clip(c.From))
			default:
				fmt.Fprintf(w, "    ~ %s %s -> %s\n", c.Input, clip(c.From), clip(c.To))
			}
		}
		if x.More > 0 {
			fmt.Fprintf(w, "    and %d more\n", x.More)
		}
	}
}

func clip(s string) string { return ellipsis(s, 72) }
