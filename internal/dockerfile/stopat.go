package dockerfile

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/parser"
)

// stopAt takes away what follows the instruction at o.StopAt in its stage of f,
// and returns the stage's number.
func (o *Options) stopAt(f *File) (int, error) {
	line := o.StopAt
	in := func(at []parser.Range) bool { return slices.Contains(linesOf(at), line) }
	for i := range f.stages {
		st := &f.stages[i]
		end := slices.IndexFunc(st.Commands, func(cmd instructions.Command) bool { return in(cmd.Location()) }) + 1
		if end == 0 && !in(st.Location) {
			continue
		}
		if _, ok := o.namedContext(st.Name); ok && st.Name != "" {
			return 0, parser.WithLocation(fmt.Errorf("cannot stop at line %d: a build context takes the place of stage %s", line, st.Name), st.Location)
		}
		st.Commands = st.Commands[:end]
		return i, nil
	}
	return 0, f.noStop(line)
}

// noStop says why there is no state of the build at a line.
func (f *File) noStop(line int) error {
	var near []string
	for _, n := range f.tree.Children {
		at := fmt.Sprintf("%s at line %d", strings.ToUpper(n.Value), n.StartLine)
		switch {
		case n.EndLine < line:
			near = []string{at}
		case n.StartLine > line:
			near = append(near, at)
		default:
			err := errors.New(at + " comes before the first FROM: there is nothing to stop at")
			return parser.WithLocation(err, toRange(n.StartLine, n.EndLine))
		}
		if n.StartLine > line {
			break
		}
	}
	what := "the nearest are "
	if len(near) == 1 {
		what = "the nearest is "
	}
	err := fmt.Errorf("there is no instruction at line %d: %s%s", line, what, strings.Join(near, " and "))
	return parser.WithLocation(err, toRange(line, line))
}

func toRange(start, end int) []parser.Range {
	return []parser.Range{{Start: parser.Position{Line: start}, End: parser.Position{Line: end}}}
}
