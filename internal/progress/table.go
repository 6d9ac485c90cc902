package progress

import (
	"fmt"
	"io"
	"os"
	"strings"
	"time"
	"unicode/utf8"

	"golang.org/x/term"
)

// redraw is the least time between two drawings.
const redraw = 100 * time.Millisecond

// tailHeight is how many lines of a running step's output are shown.
const tailHeight = 6

// table shows steps as a table that is drawn again over itself. One drawing is
// one write, so that it does not flicker; the size of the terminal is asked for
// each time.
type table struct {
	steps
	out   io.Writer
	size  func() (width, height int)
	verb  string
	lines int // drawn last
	err   error
	stop  chan struct{}
	done  chan struct{}

	paused bool
}

func newTable(f *os.File, verb string) *table {
	t := &table{out: f, verb: verb, stop: make(chan struct{}), done: make(chan struct{})}
	t.size = func() (int, int) {
		w, h, err := term.GetSize(int(f.Fd()))
		if err != nil || w <= 0 || h <= 0 {
			return 80, 24
		}
		return w, h
	}
	go t.loop()
	return t
}

// loop draws until Close.
func (t *table) loop() {
	defer close(t.done)
	tick := time.NewTicker(redraw)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			t.draw(false)
		case <-t.stop:
			return
		}
	}
}

// Handle is Display's.
func (t *table) Handle(e Event) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.apply(e)
}

// Pause is Display's. The table stays, and is drawn again below what others wrote.
func (t *table) Pause() func() {
	t.draw(false)
	t.mu.Lock()
	defer t.mu.Unlock()
	t.paused, t.lines = true, 0
	return func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		t.paused = false
	}
}

// Close is Display's.
func (t *table) Close() error {
	close(t.stop)
	<-t.done
	t.draw(true)
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.err != nil {
		return t.err
	}
	return t.failures(t.out)
}

// draw writes the table over the last one.
func (t *table) draw(all bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.order) == 0 || t.paused {
		return
	}
	width, height := t.size()
	rows := t.rows(time.Now(), width, height, all)
	var b strings.Builder
	b.WriteString("\x1b[?25l") // hide the cursor
	if t.lines > 0 {
		// A terminal made smaller has scrolled: what is above it stays.
		fmt.Fprintf(&b, "\x1b[%dA", min(t.lines, height-1))
	}
	b.WriteString("\r\x1b[J")
	for _, r := range rows {
		b.WriteString(r)
		b.WriteByte('\n')
	}
	b.WriteString("\x1b[?25h")
	t.lines = len(rows)
	if _, err := io.WriteString(t.out, b.String()); err != nil && t.err == nil {
		t.err = err
	}
}

const (
	blue   = "\x1b[34m"
	red    = "\x1b[31m"
	yellow = "\x1b[33m"
	faint  = "\x1b[2m"
	reset  = "\x1b[0m"
)

// rows makes the lines of the table: its head, then the steps. Where there is
// no room for all, steps that have ended go first.
func (t *table) rows(now time.Time, width, height int, all bool) []string {
	ended := 0
	for _, st := range t.order {
		if st.state.Final() {
			ended++
		}
	}
	head := fmt.Sprintf("[+] %s %.1fs (%d/%d)", t.verb, now.Sub(t.begun).Seconds(), ended, len(t.order))
	if all && ended == len(t.order) {
		head += " FINISHED"
	}
	limit := height - 2
	shown := t.order
	if !all && len(shown) > limit {
		drop := len(shown) - max(limit, 1)
		shown = nil
		for _, st := range t.order {
			if drop > 0 && st.state.Final() {
				drop--
				continue
			}
			shown = append(shown, st)
		}
		shown = shown[max(0, len(shown)-max(limit, 1)):]
	}
	rows := []string{cut(head, width)}
	room := limit - len(shown)
	for _, st := range shown {
		rows = append(rows, t.row(st, now, width))
		if all || st.state.Final() {
			continue
		}
		for _, extra := range st.extra(min(room, tailHeight), width) {
			rows = append(rows, extra)
			room--
		}
	}
	return rows
}

// row is one step's line: name left, time right.
func (t *table) row(st *step, now time.Time, width int) string {
	name, color := st.name, ""
	switch st.state {
	case Cached:
		name, color = "CACHED "+name, blue
	case Done:
		color = blue
	case Failed:
		name, color = "ERROR "+name, red
	case Canceled:
		name, color = "CANCELED "+name, yellow
	}
	secs := st.seconds(now)
	if secs < 0.05 || st.state == Cached {
		secs = 0
	}
	right := fmt.Sprintf(" %.1fs", secs)
	left := cut(" => "+strings.ReplaceAll(name, "\t", " "), width-len(right)-1)
	line := left + strings.Repeat(" ", max(0, width-utf8.RuneCountInString(left)-len(right))) + right
	if color == "" || os.Getenv("NO_COLOR") != "" {
		return line
	}
	return color + line + reset
}

// extra is what is shown below a running step: what it moves and its output.
func (st *step) extra(room, width int) []string {
	var out []string
	for _, i := range st.items {
		if !i.Done {
			out = append(out, cut(" => => "+i.line(), width))
		}
	}
	tail := st.tail
	if len(st.part) > 0 {
		tail = append(tail[:len(tail):len(tail)], string(lastCarriage(st.part)))
	}
	for _, l := range tail {
		out = append(out, faint+cut(" => => # "+visible(l), width)+reset)
	}
	return out[max(0, len(out)-max(room, 0)):]
}

// visible takes control characters and escape sequences out.
func visible(s string) string {
	var b strings.Builder
	escape := false
	for _, r := range s {
		switch {
		case r == 0x1b:
			escape = true
		case escape:
			escape = r == '[' || r == ';' || r == '?' || r >= '0' && r <= '9'
		case r == '\t':
			b.WriteByte(' ')
		case r >= 0x20 && r != 0x7f:
			b.WriteRune(r)
		}
	}
	return b.String()
}

// cut shortens s to width runes.
func cut(s string, width int) string {
	if width <= 0 {
		return ""
	}
	if utf8.RuneCountInString(s) <= width {
		return s
	}
	return string([]rune(s)[:width])
}
