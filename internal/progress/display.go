package progress

import (
	"fmt"
	"io"
	"os"
	"slices"
	"sync"
	"time"

	"golang.org/x/term"
)

// Display shows events. Its methods are safe for concurrent use.
type Display interface {
	// Handle shows e, now or soon.
	Handle(e Event)
	// Pause leaves the output to others until resume is called: what is told
	// meanwhile is shown then.
	Pause() (resume func())
	// Close shows what is left, with the last output of what failed.
	Close() error
}

// Modes of New.
const (
	Auto        = "auto"
	ModeTTY     = "tty"
	ModePlain   = "plain"
	ModeQuiet   = "quiet"
	ModeRawJSON = "rawjson"
)

// Options say how to show.
type Options struct {
	Out  io.Writer
	Mode string // "" is Auto: a table on a terminal, else lines
	// Verb is what the table's head says: "Building".
	Verb string
}

// New makes a display. It fails when the mode is unknown, or is ModeTTY and Out
// is no terminal.
func New(opts Options) (Display, error) {
	f, isFile := opts.Out.(*os.File)
	tty := isFile && term.IsTerminal(int(f.Fd()))
	if opts.Verb == "" {
		opts.Verb = "Building"
	}
	switch opts.Mode {
	case "", Auto:
		if tty && os.Getenv("TERM") != "dumb" {
			return newTable(f, opts.Verb), nil
		}
		return newPlain(opts.Out), nil
	case ModeTTY:
		if !tty {
			return nil, fmt.Errorf("failed to get console: %w", os.ErrInvalid)
		}
		return newTable(f, opts.Verb), nil
	case ModePlain:
		return newPlain(opts.Out), nil
	case ModeRawJSON:
		return newRawJSON(opts.Out), nil
	case ModeQuiet, "none":
		return quiet{}, nil
	}
	return nil, fmt.Errorf("invalid progress mode %s", opts.Mode)
}

type quiet struct{}

func (quiet) Handle(Event)  {}
func (quiet) Pause() func() { return func() {} }
func (quiet) Close() error  { return nil }

// tailLines is how much output of a failed step is repeated at the end.
const tailLines = 10

// maxLine bounds one line of output that is kept, in bytes.
const maxLine = 8 << 10

// step is what a display knows of one step.
type step struct {
	index   int // plain: in the order of being shown, from 1
	name    string
	begun   time.Time
	ended   time.Time
	state   State
	err     error
	items   []Item
	part    []byte   // a line that has no end yet
	pending []string // lines not shown yet (plain)
	tail    []string // the last lines
	warned  []string
	events  []string // plain: lines about items, not shown yet
	told    bool     // plain: how it ended was shown
}

// steps collects events.
type steps struct {
	mu    sync.Mutex
	byID  map[string]*step
	order []*step
	begun time.Time
}

// apply adds an event and returns its step.
func (s *steps) apply(e Event) *step {
	if e.Time.IsZero() {
		e.Time = time.Now()
	}
	st := s.byID[e.ID]
	if st == nil {
		if s.byID == nil {
			s.byID, s.begun = map[string]*step{}, e.Time
		}
		st = &step{name: e.Name, begun: e.Time}
		s.byID[e.ID] = st
		s.order = append(s.order, st)
	}
	switch {
	case e.State == Logged:
		st.log(e.Log, e.Time)
	case e.State == Moved:
		st.move(e.Item)
	case e.State == Warned:
		st.warned = append(st.warned, string(e.Log))
	case e.State.Final():
		if len(st.part) > 0 {
			st.log([]byte("\n"), e.Time)
		}
		st.state, st.err, st.ended = e.State, e.Err, e.Time
	}
	return st
}

// log takes output in: whole lines, and the rest for later.
func (st *step) log(b []byte, at time.Time) {
	for _, c := range b {
		switch {
		case c == '\n':
			line := string(lastCarriage(st.part))
			st.part = st.part[:0]
			st.pending = append(st.pending, fmt.Sprintf("%.3f %s", at.Sub(st.begun).Seconds(), line))
			st.tail = append(st.tail, line)
			if len(st.tail) > tailLines {
				st.tail = slices.Delete(st.tail, 0, 1)
			}
		case len(st.part) < maxLine:
			st.part = append(st.part, c)
		}
	}
}

// lastCarriage is what a line shows in the end: what follows its last "\r".
func lastCarriage(b []byte) []byte {
	end := len(b)
	for end > 0 && b[end-1] == '\r' {
		end--
	}
	b = b[:end]
	for i := end - 1; i >= 0; i-- {
		if b[i] == '\r' {
			return b[i+1:]
		}
	}
	return b
}

func (st *step) move(item Item) {
	for i := range st.items {
		if st.items[i].ID == item.ID {
			st.items[i] = item
			if item.Done {
				st.events = append(st.events, item.line())
			}
			return
		}
	}
	st.items = append(st.items, item)
	st.events = append(st.events, item.line())
}

func (i Item) line() string {
	s := i.ID
	switch {
	case i.Total > 0:
		s += " " + size(i.Current) + " / " + size(i.Total)
	case i.Current > 0 || hasColon(i.ID):
		s += " " + size(i.Current)
	}
	if i.Done {
		s += " done"
	}
	return s
}

func hasColon(s string) bool { return s != "" && s[len(s)-1] == ':' }

// size is n bytes as BuildKit writes them.
func size(n int64) string {
	v, unit := float64(n), 0
	for v >= 1000 && unit < 5 {
		v /= 1000
		unit++
	}
	if unit == 0 {
		return fmt.Sprintf("%dB", n)
	}
	return fmt.Sprintf("%.2f%cB", v, " kMGTP"[unit])
}

// seconds is how long the step took so far.
func (st *step) seconds(now time.Time) float64 {
	end := st.ended
	if end.IsZero() {
		end = now
	}
	return max(0, end.Sub(st.begun).Seconds())
}

// failures writes the last output of the steps that failed.
func (s *steps) failures(w io.Writer) error {
	for _, st := range s.order {
		if st.state != Failed {
			continue
		}
		if _, err := fmt.Fprintf(w, "------\n > %s:\n", st.name); err != nil {
			return err
		}
		for _, l := range st.tail {
			if _, err := fmt.Fprintln(w, l); err != nil {
				return err
			}
		}
		if _, err := fmt.Fprintln(w, "------"); err != nil {
			return err
		}
	}
	return nil
}
