package browse

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"strake/internal/engine"
)

const (
	modeFile = 0o100644
	modeDir  = 0o040755
	modeLink = 0o120777
)

// image is three layers: files come, one is replaced and a directory goes, and
// nothing happens.
func image() engine.LayersResult {
	layer := func(number int, changes ...engine.FileChange) engine.LayerInfo {
		l := engine.LayerInfo{Number: number, CreatedBy: fmt.Sprintf("RUN step\x1b[2J %d", number)}
		l.List = changes
		return l
	}
	return engine.LayersResult{Layers: []engine.LayerInfo{
		layer(1,
			engine.FileChange{Path: "d", Kind: engine.FileAdded, Mode: modeDir, HiddenBy: 1},
			engine.FileChange{Path: "d/e", Kind: engine.FileAdded, Mode: modeDir, HiddenBy: 1},
			engine.FileChange{Path: "d/e/x", Kind: engine.FileAdded, Mode: modeFile, Size: 5, HiddenBy: 1},
			engine.FileChange{Path: "etc", Kind: engine.FileAdded, Mode: modeDir},
			engine.FileChange{Path: "etc/passwd", Kind: engine.FileAdded, Mode: modeFile, Size: 7, HiddenBy: 1},
			engine.FileChange{Path: "etc/same\x1b]0;x\a", Kind: engine.FileAdded, Mode: modeFile, Size: 1},
		),
		layer(2,
			engine.FileChange{Path: "d", Kind: engine.FileDeleted, Mode: modeDir, Size: 5},
			engine.FileChange{Path: "etc/link", Kind: engine.FileAdded, Mode: modeLink, Target: "passwd\n"},
			engine.FileChange{Path: "etc/passwd", Kind: engine.FileChanged, Mode: modeFile, Size: 8},
		),
		layer(3),
	}}
}

func testModel(result engine.LayersResult) *model {
	return newModel(Options{Title: "i\x1b", Layers: result, Size: func(n int64) string { return fmt.Sprint(n) }})
}

// screen is what the model shows: the chosen layer, then the tree, one line a
// row, the one under the cursor marked.
func screen(m *model) string {
	var b strings.Builder
	fmt.Fprintf(&b, "layer %d", m.layer.at+1)
	for i := range m.rows {
		text, _ := m.line(&m.rows[i])
		mark := "\n"
		if m.inTree && i == m.file.at {
			mark = "\n>"
		}
		b.WriteString(mark + strings.Join(strings.Fields(text), " "))
	}
	return b.String()
}

func TestModel(t *testing.T) {
	m := testModel(image())
	const all = "A 5 - d/ (hidden by layer 2)\nA 5 - e/ (hidden by layer 2)\nA 5 x (hidden by layer 2)\n" +
		"A 8 - etc/\nA 7 passwd (hidden by layer 2)\nA 1 same\\x1b]0;x\\a"
	const changes = "D 5 - d/\nD 5 - e/\nD 5 x\n9 - etc/\nA 0 link -> passwd\\n\nC 8 passwd"
	for _, step := range []struct {
		key  key
		text string
		want string
	}{
		{keyNone, "", "layer 1\n" + all},
		{keyUp, "", "layer 1\n" + all},
		{keyDown, "", "layer 2\n" + changes},
		{keyTab, "", "layer 2\n>" + changes},
		{keyEnter, "", "layer 2\n>D 5 + d/\n9 - etc/\nA 0 link -> passwd\\n\nC 8 passwd"},
		{keyEnd, "", "layer 2\nD 5 + d/\n9 - etc/\nA 0 link -> passwd\\n\n>C 8 passwd"},
		{keyDown, "", "layer 2\nD 5 + d/\n9 - etc/\nA 0 link -> passwd\\n\n>C 8 passwd"},
		{keyLeft, "", "layer 2\nD 5 + d/\n>9 - etc/\nA 0 link -> passwd\\n\nC 8 passwd"},
		{keyText, "c", "layer 2\n>D 5 + d/\n9 + etc/"},
		{keyText, "/", "layer 2\n>D 5 + d/\n9 + etc/"},
		{keyText, "SAM", "layer 2\n>9 - etc/\n1 same\\x1b]0;x\\a"},
		{keyText, "q", "layer 2"},
		{keyBackspace, "", "layer 2\n>9 - etc/\n1 same\\x1b]0;x\\a"},
		{keyEnter, "", "layer 2\n>9 - etc/\n1 same\\x1b]0;x\\a"},
		{keyEscape, "", "layer 2\n>D 5 + d/\n9 + etc/"},
		{keyTab, "", "layer 2\nD 5 + d/\n9 + etc/"},
		{keyPageDown, "", "layer 3\n9 + etc/"},
		{keyText, "c", "layer 3"},
		{keyTab, "", "layer 3"},
		{keyDown, "", "layer 3"},
	} {
		if !m.press(step.key, step.text, 10) {
			t.Fatalf("%v %q quits", step.key, step.text)
		}
		if diff := cmp.Diff(step.want, screen(m)); diff != "" {
			t.Fatalf("after %v %q (-want +got):\n%s", step.key, step.text, diff)
		}
	}
	for _, text := range append(m.details(), m.title, m.layerLine(0), m.status()) {
		if strings.ContainsAny(text, "\x1b\a\n") {
			t.Errorf("control characters: %q", text)
		}
	}
	if m.press(keyText, "q", 10) || m.press(keyEscape, "", 10) || m.press(keyQuit, "", 10) {
		t.Error("does not quit")
	}
}

// An image without layers has nothing to move in.
func TestModelEmpty(t *testing.T) {
	m := testModel(engine.LayersResult{})
	for k := keyNone; k < keyEscape; k++ {
		m.press(k, "x", 3)
	}
	if got := m.details(); len(got) != 1 {
		t.Errorf("details: %q", got)
	}
}

func TestListMove(t *testing.T) {
	for _, c := range []struct {
		l             list
		at, n, height int
		want          list
	}{
		{list{}, 5, 10, 3, list{5, 3}},
		{list{5, 3}, 2, 10, 3, list{2, 2}},
		{list{9, 7}, 9, 4, 3, list{3, 1}},
		{list{3, 1}, 0, 0, 3, list{0, 0}},
		{list{9, 9}, 9, 10, 20, list{9, 0}},
	} {
		got := c.l
		if got.move(c.at, c.n, c.height); got != c.want {
			t.Errorf("%v to %d of %d, %d lines: %v, want %v", c.l, c.at, c.n, c.height, got, c.want)
		}
	}
}
