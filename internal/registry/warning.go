package registry

import (
	"net/http"
	"strings"
)

// maxWarnings is how many bytes the Warning headers of an answer have at most, as
// the specification demands.
const maxWarnings = 4096

// AddWarning adds a warning that clients show their users to an answer's header:
// Warning: 299 - "text". It leaves out one that is there already or that would be
// too much.
func AddWarning(h http.Header, text string) {
	text = strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return '?'
		}
		return r
	}, text)
	value := `299 - "` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(text) + `"`
	size := len(value)
	for _, have := range h.Values("Warning") {
		if have == value {
			return
		}
		size += len(have)
	}
	if size <= maxWarnings {
		h.Add("Warning", value)
	}
}
