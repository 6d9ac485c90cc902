package dockerfile

import (
	"slices"
	"strconv"
	"strings"

	"strake/internal/build"
)

// Build arguments that say what a scan of the image sees besides it: a boolean, or names of stages.
const (
	scanContext = "BUILDKIT_SBOM_SCAN_CONTEXT" // in the target's stage: the context
	scanStage   = "BUILDKIT_SBOM_SCAN_STAGE"   // in another stage that is built: its files
)

// scanned are the files that a scan of what is built sees besides it, by name.
func scanned(c *compiler, target *stage) map[string]*build.Vertex {
	list := map[string]*build.Vertex{}
	if c.globals.asks(target, scanContext) {
		switch {
		case c.opts.Files != nil:
			list["context"] = c.opts.Files
		case c.opts.Context != nil:
			list["context"] = contextFiles(c.opts.Context, "[context] ")
		}
	}
	reach := map[*stage]bool{}
	target.reach(reach)
	for _, s := range c.stages {
		if s != target && reach[s] && !s.external && c.globals.asks(s, scanStage) {
			list[s.title] = s.whole()
		}
	}
	return list
}

// asks reports whether a build argument is on for a stage. It must be declared, there or before the first FROM.
func (g *globals) asks(s *stage, name string) bool {
	value, _ := g.Get(name)
	for _, a := range s.args {
		if a.Key == name && a.Value != nil {
			value = *a.Value
		}
	}
	if on, err := strconv.ParseBool(value); err == nil {
		return on
	}
	return value != "" && slices.Contains(strings.Split(value, ","), s.title)
}
