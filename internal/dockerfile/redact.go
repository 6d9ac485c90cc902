package dockerfile

import (
	"bytes"
	"slices"
	"strings"

	"github.com/moby/buildkit/frontend/dockerfile/parser"
)

// Redacted is the source of a parsed file with text in the place of the values that ARG, ENV and LABEL give to names that secret
// is true of. Such an instruction is on one line then, and has no comments in it.
func (f *File) Redacted(secret func(name string) bool, text string) []byte {
	lines := slices.Collect(bytes.Lines(f.source))
	for _, n := range f.tree.Children {
		r := redaction{secret: secret, text: text}
		r.instruction(n)
		if !r.found || n.StartLine < 1 || n.EndLine > len(lines) {
			continue
		}
		clear(lines[n.StartLine-1 : n.EndLine])
		lines[n.StartLine-1] = []byte(strings.Join(r.words, " ") + "\n")
	}
	return bytes.Join(lines, nil)
}

// redaction writes one instruction anew.
type redaction struct {
	secret func(name string) bool
	text   string
	words  []string
	found  bool // a secret was left out
}

func (r *redaction) instruction(n *parser.Node) {
	r.words = append(r.words, strings.ToUpper(n.Value))
	switch strings.ToLower(n.Value) {
	case "onbuild":
		if n.Next != nil && len(n.Next.Children) == 1 {
			r.instruction(n.Next.Children[0])
		}
	case "arg":
		for word := n.Next; word != nil; word = word.Next {
			name, value, given := strings.Cut(word.Value, "=")
			if !given {
				r.words = append(r.words, name)
				continue
			}
			r.assign(name, "=", value)
		}
	case "env", "label":
		for name := n.Next; name != nil && name.Next != nil && name.Next.Next != nil; name = name.Next.Next.Next {
			separator := name.Next.Next.Value
			if separator == "" {
				separator = " " // ENV name value
			}
			r.assign(name.Value, separator, name.Next.Value)
		}
	}
}

func (r *redaction) assign(name, separator, value string) {
	if value != "" && r.secret(name) {
		value, r.found = r.text, true
	}
	r.words = append(r.words, name+separator+value)
}
