package cli

import (
	"io"
	"strings"
	"unicode"
)

// forTerminal returns out, or where that is a terminal one that shows what would
// command it. Texts of an image (its history, its labels) are whatever its maker
// wrote. Elsewhere the bytes are as docker gives them.
func forTerminal(out io.Writer) io.Writer {
	if !isTerminal(out) {
		return out
	}
	return visibleWriter{out}
}

// visibleWriter writes text with its control characters made visible.
type visibleWriter struct{ out io.Writer }

func (w visibleWriter) Write(b []byte) (int, error) {
	if _, err := io.WriteString(w.out, visible(string(b))); err != nil {
		return 0, err
	}
	return len(b), nil
}

// visible writes control characters, but those that lay a text out, as ^[ and
// the like.
func visible(s string) string {
	command := func(r rune) bool { return unicode.IsControl(r) && r != '\n' && r != '\t' }
	if strings.IndexFunc(s, command) < 0 {
		return s
	}
	var b strings.Builder
	for _, r := range s {
		switch {
		case !command(r):
			b.WriteRune(r)
		case r < 0x80:
			b.WriteByte('^')
			b.WriteByte(byte(r) ^ 0x40)
		default: // ESC and a letter, in one
			b.WriteString("^[")
			b.WriteByte(byte(r) - 0x40)
		}
	}
	return b.String()
}
