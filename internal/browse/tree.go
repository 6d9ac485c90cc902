package browse

import (
	"maps"
	"slices"
	"strings"

	"strake/internal/engine"
)

// node is one name of the tree that is shown: the files as they are once a layer
// and those below it lie one over the other, and what that layer deletes.
type node struct {
	name     string
	path     string
	mark     string // of the layer: "A", "C", "D"; "" for what it leaves alone
	dir      bool
	target   string
	size     int64
	hidden   int // the layer, from 1, that hides the file later; 0: none
	children map[string]*node

	total   int64 // bytes of the files below
	touched bool  // it or something below has a mark
}

// grow makes the tree of the layers up to the one with the index last.
func grow(layers []engine.LayerInfo, last int) *node {
	root := &node{dir: true}
	for i := range layers[:last+1] {
		for k := range layers[i].List {
			c := &layers[i].List[k]
			root.apply(c, i == last)
		}
	}
	root.sum()
	return root
}

// apply lays one change over the tree. What the last layer deletes stays, marked.
func (n *node) apply(c *engine.FileChange, last bool) {
	dir := n
	rest := c.Path
	for {
		part, more, deeper := strings.Cut(rest, "/")
		if !deeper {
			break
		}
		next := dir.children[part]
		if next == nil {
			return // below what the same layer deletes: it cannot be
		}
		dir, rest = next, more
	}
	old := dir.children[rest]
	if c.Kind == engine.FileDeleted {
		switch {
		case old != nil && last:
			old.markAll("D")
		case old != nil:
			delete(dir.children, rest)
		}
		return
	}
	now := &node{name: rest, path: c.Path, dir: c.IsDir(), target: c.Target, size: c.Size}
	if c.HiddenBy > 0 {
		now.hidden = c.HiddenBy + 1
	}
	if now.dir && old != nil && old.dir {
		now.children = old.children
	}
	if last {
		now.mark = c.Kind.String()
	}
	if dir.children == nil {
		dir.children = map[string]*node{}
	}
	dir.children[rest] = now
}

func (n *node) markAll(mark string) {
	n.mark = mark
	for _, child := range n.children {
		child.markAll(mark)
	}
}

func (n *node) sum() {
	n.total, n.touched = n.size, n.mark != ""
	for _, child := range n.children {
		child.sum()
		n.total += child.total
		n.touched = n.touched || child.touched
	}
}

// row is a line of the tree.
type row struct {
	*node
	depth int
	open  bool
}

// view says what of a tree is shown.
type view struct {
	changes bool            // what the layer changes alone
	filter  string          // paths that have this text alone, in any case
	open    map[string]bool // directories that were opened, or closed
	unfold  bool            // the others are open
}

// rows lists what is shown of a tree.
func (v *view) rows(root *node) (list []row) {
	matching := map[*node]bool{}
	if v.filter != "" {
		root.match(strings.ToLower(v.filter), matching)
	}
	var walk func(n *node, depth int)
	walk = func(n *node, depth int) {
		for _, name := range slices.Sorted(maps.Keys(n.children)) {
			child := n.children[name]
			if v.changes && !child.touched || v.filter != "" && !matching[child] {
				continue
			}
			open, set := v.open[child.path]
			if !set {
				open = v.unfold || v.filter != ""
			}
			list = append(list, row{node: child, depth: depth, open: open})
			if child.dir && open {
				walk(child, depth+1)
			}
		}
	}
	walk(root, 0)
	return list
}

// match notes the nodes whose path has the text, and those on the way to them.
func (n *node) match(text string, found map[*node]bool) bool {
	ok := n.path != "" && strings.Contains(strings.ToLower("/"+n.path), text)
	for _, child := range n.children {
		if child.match(text, found) {
			ok = true
		}
	}
	if ok {
		found[n] = true
	}
	return ok
}
