package browse

import (
	"fmt"
	"strings"

	"strake/internal/engine"
	"strake/internal/progress"
)

// key is a key that means something.
type key int

// Keys; a keyText types its text, or is the command of that letter.
const (
	keyNone key = iota
	keyText
	keyUp
	keyDown
	keyLeft
	keyRight
	keyPageUp
	keyPageDown
	keyHome
	keyEnd
	keyEnter
	keyTab
	keyBackspace
	keyEscape
	keyQuit
)

// style is how a piece of text looks.
type style int

// Styles.
const (
	styleText style = iota
	styleTitle
	styleDim
	styleAdded
	styleChanged
	styleDeleted
	styleCursor      // the line that keys act on
	styleCursorFaint // the line that they would act on, in the other half
)

// fewChanges is up to how many changes of a layer are shown unfolded.
const fewChanges = 200

// model is the state of the browser. It knows no terminal: keys come in, lines
// go out.
type model struct {
	title  string
	size   func(int64) string
	layers []engine.LayerInfo

	layer  list // of the layers
	file   list // of the tree's rows
	inTree bool // the keys act on the tree
	view   view
	typing bool // a filter is being typed

	tree *node
	rows []row
}

// list is a cursor in a list, and the part of the list that is seen.
type list struct{ at, top int }

// move puts the cursor at a line of n, and keeps it among those that are seen.
func (l *list) move(at, n, height int) {
	l.at = max(0, min(at, n-1))
	l.top = max(0, min(l.top, l.at, n-height))
	l.top = max(l.top, l.at-max(height, 1)+1)
}

func newModel(opts Options) *model {
	m := &model{size: opts.Size, layers: opts.Layers.Layers, view: view{changes: true, open: map[string]bool{}}}
	m.title = fmt.Sprintf("%s  %d layers, %s of files, %s wasted, efficiency %.1f%%", progress.Printable(opts.Title),
		len(m.layers), m.size(opts.Layers.Size), m.size(opts.Layers.Waste), 100*opts.Layers.Efficiency())
	m.choose(0)
	return m
}

// choose shows the tree of a layer.
func (m *model) choose(layer int) {
	m.layer.at = max(0, min(layer, len(m.layers)-1))
	m.tree = &node{dir: true}
	if len(m.layers) > 0 {
		m.tree = grow(m.layers, m.layer.at)
		m.view.unfold = m.view.changes && len(m.layers[m.layer.at].List) <= fewChanges
	}
	m.list()
	m.file = list{}
}

func (m *model) list() { m.rows = m.view.rows(m.tree) }

// press acts on a key, with so many lines to a page, and tells whether to go on.
func (m *model) press(k key, text string, page int) bool {
	switch {
	case k == keyQuit:
		return false
	case m.typing:
		m.typeFilter(k, text)
	case k == keyText && text == "q", k == keyEscape && m.view.filter == "":
		return false
	case k == keyEscape:
		m.setFilter("")
	case k == keyText && text == "/":
		m.typing, m.inTree = true, true
	case k == keyText && text == "c":
		m.view.changes = !m.view.changes
		m.choose(m.layer.at)
	case k == keyTab:
		m.inTree = !m.inTree
	case m.inTree:
		m.pressTree(k, text, page)
	case k == keyRight || k == keyEnter:
		m.inTree = true
	default:
		if at := moved(m.layer.at, k, text, page, len(m.layers)); at != m.layer.at {
			m.choose(at)
		}
	}
	return true
}

func (m *model) typeFilter(k key, text string) {
	switch k {
	case keyText:
		m.setFilter(m.view.filter + text)
	case keyBackspace:
		if runes := []rune(m.view.filter); len(runes) > 0 {
			m.setFilter(string(runes[:len(runes)-1]))
		}
	case keyEscape:
		m.typing = false
		m.setFilter("")
	case keyEnter, keyTab, keyDown:
		m.typing = false
	}
}

func (m *model) setFilter(text string) {
	m.view.filter = text
	m.list()
	m.file = list{}
}

func (m *model) pressTree(k key, text string, page int) {
	if len(m.rows) == 0 {
		return
	}
	r := m.rows[m.file.at]
	fold := k == keyEnter || k == keyText && text == " " || k == keyRight && !r.open || k == keyLeft && r.open
	switch {
	case fold && r.dir:
		m.view.open[r.path] = !r.open
		m.list()
	case k == keyLeft && r.depth == 0:
		m.inTree = false
	case k == keyLeft:
		for m.rows[m.file.at].depth >= r.depth { // to the directory it is in
			m.file.at--
		}
	default:
		m.file.at = moved(m.file.at, k, text, page, len(m.rows))
	}
}

// moved is where a key takes a cursor in a list of n.
func moved(at int, k key, text string, page, n int) int {
	switch {
	case k == keyUp || text == "k":
		at--
	case k == keyDown || text == "j":
		at++
	case k == keyPageUp:
		at -= page
	case k == keyPageDown:
		at += page
	case k == keyHome || text == "g":
		at = 0
	case k == keyEnd || text == "G":
		at = n - 1
	}
	return max(0, min(at, n-1))
}

// details tells of the layer that is chosen.
func (m *model) details() []string {
	if len(m.layers) == 0 {
		return []string{"The image has no layers."}
	}
	l := &m.layers[m.layer.at]
	by := l.CreatedBy
	if by == "" {
		by = "<missing>"
	}
	return []string{
		fmt.Sprintf("Layer %d", l.Number),
		fmt.Sprintf("%s of files, %s wasted", m.size(l.Size), m.size(l.Waste)),
		fmt.Sprintf("%d added, %d changed, %d deleted", l.Added, l.Changed, l.Deleted),
		progress.Printable(l.DiffID.String()),
		"",
		progress.Printable(by),
	}
}

// layerLine is a layer's line in the list.
func (m *model) layerLine(i int) string {
	l := &m.layers[i]
	return fmt.Sprintf("%3d %8s %8s  %s", l.Number, m.size(l.Size), m.size(l.Waste), progress.Printable(l.CreatedBy))
}

// line is a row of the tree, and its style.
func (m *model) line(r *row) (string, style) {
	fold := "  "
	if r.dir {
		fold = "+ "
		if r.open {
			fold = "- "
		}
	}
	name := progress.Printable(r.name)
	if r.dir {
		name += "/"
	}
	if r.target != "" {
		name += " -> " + progress.Printable(r.target)
	}
	if r.hidden > 0 && r.mark != "D" {
		name += fmt.Sprintf("  (hidden by layer %d)", r.hidden)
	}
	mark, look := " ", styleText
	switch r.mark {
	case "A":
		mark, look = r.mark, styleAdded
	case "C":
		mark, look = r.mark, styleChanged
	case "D":
		mark, look = r.mark, styleDeleted
	}
	return fmt.Sprintf("%s %8s  %s%s%s", mark, m.size(r.total), strings.Repeat("  ", r.depth), fold, name), look
}

// status is the last line.
func (m *model) status() string {
	if m.typing {
		return "Filter: " + progress.Printable(m.view.filter) + "_   (enter keeps it, escape drops it)"
	}
	what := "c all files"
	if !m.view.changes {
		what = "c changes only"
	}
	if m.view.filter != "" {
		what = "filter: " + progress.Printable(m.view.filter) + "   escape drops it   " + what
	}
	return "tab switch   enter fold   / filter   " + what + "   q quit"
}
