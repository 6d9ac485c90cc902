package cli

import (
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/docker/go-units"

	"strake/internal/engine"
)

// transfer shows the layers of a pull or push as docker does: on a terminal one
// line per layer that changes in place, elsewhere one line per change, without
// the counts of bytes.
type transfer struct {
	out   io.Writer
	width int // of the terminal; 0: none
	verbs transferVerbs
	lines map[string]int // a layer's line, counted from the first
	last  map[string]layerStatus
}

// transferVerbs are the words for a layer's states.
type transferVerbs struct{ waiting, exists, copying, copied, done string }

// layerStatus is what a line says.
type layerStatus struct {
	text  string
	begun time.Time // when bytes began to move
	drawn time.Time // when its bar was drawn last
}

var (
	pullVerbs = transferVerbs{"Pulling fs layer", "Already exists", "Downloading", "Download complete", "Pull complete"}
	pushVerbs = transferVerbs{"Preparing", "Layer already exists", "Pushing", "", "Pushed"}
	loadVerbs = transferVerbs{"Waiting", "Already exists", "Loading layer", "", "Loaded"}
	copyVerbs = transferVerbs{"Waiting", "Already exists", "Copying", "", "Copied"}
)

func newTransfer(out io.Writer, verbs transferVerbs) *transfer {
	t := &transfer{out: out, verbs: verbs, lines: map[string]int{}, last: map[string]layerStatus{}}
	if isTerminal(out) {
		t.width = terminalWidth(out, 80)
	}
	return t
}

// redrawEvery bounds how often moving bytes are shown.
const redrawEvery = 100 * time.Millisecond

// event shows one step of a copy.
func (t *transfer) event(e engine.Event) {
	if !engine.IsLayer(e.Desc) {
		return
	}
	id := shortID(e.Desc.Digest.String())
	switch e.State {
	case engine.StateWaiting:
		t.status(id, t.verbs.waiting, "")
	case engine.StateExists:
		t.status(id, t.verbs.exists, "")
	case engine.StateMounted:
		t.status(id, "Mounted from "+familiarPath(e.From), "")
	case engine.StateDone:
		if t.verbs.copied != "" {
			t.status(id, t.verbs.copied, "")
		}
		t.status(id, t.verbs.done, "")
	case engine.StateCopying:
		if t.width > 0 && time.Since(t.last[id].drawn) >= redrawEvery {
			t.status(id, t.verbs.copying, t.bar(id, e.Offset, e.Desc.Size))
		}
	}
}

func familiarPath(repository string) string { return strings.TrimPrefix(repository, "docker.io/") }

// status shows a layer's line.
func (t *transfer) status(id, text, bar string) {
	if was, ok := t.last[id]; ok && was.text == text && bar == "" {
		return
	}
	state := t.last[id]
	state.text = text
	if bar != "" {
		state.drawn = time.Now()
		if state.begun.IsZero() {
			state.begun = state.drawn
		}
	}
	t.last[id] = state
	if t.width == 0 {
		fmt.Fprintf(t.out, "%s: %s\n", id, text)
		return
	}
	line, ok := t.lines[id]
	if !ok {
		line = len(t.lines)
		t.lines[id] = line
		fmt.Fprintln(t.out)
	}
	up := len(t.lines) - line
	fmt.Fprintf(t.out, "\x1b[%dA\x1b[2K\r%s: %s %s\r\x1b[%dB", up, id, text, bar, up)
}

// bar draws how much has moved: an arrow where there is room, the counts, the
// time that is left.
func (t *transfer) bar(id string, current, total int64) string {
	if total <= 0 {
		return fmt.Sprintf("%8v", units.HumanSize(float64(current)))
	}
	percent := min(int(float64(current)/float64(total)*100)/2, 50)
	var b strings.Builder
	if t.width > 110 {
		fmt.Fprintf(&b, "[%s>%s] ", strings.Repeat("=", percent), strings.Repeat(" ", 50-percent))
	}
	fmt.Fprintf(&b, "%8v/%v", units.HumanSize(float64(current)), units.HumanSize(float64(total)))
	if begun := t.last[id].begun; t.width > 50 && !begun.IsZero() && current > 0 && percent < 50 {
		spent := time.Since(begun)
		left := time.Duration(float64(spent) / float64(current) * float64(total-current))
		fmt.Fprintf(&b, " %s", left.Round(time.Second))
	}
	return b.String()
}
