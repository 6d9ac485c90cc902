package progress

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
)

// A step that begins is shown after grace, or when there is more to tell of it.
// While another step is shown, it waits until it has ended or has maxPending
// lines, or until nothing was shown for patience.
const (
	grace      = 100 * time.Millisecond
	maxPending = 64
	patience   = time.Second
)

// plain shows steps as lines. Those of steps that run at once are not mixed line
// by line, and each change of step is marked.
type plain struct {
	steps
	w        io.Writer
	current  *step     // shown last, and running
	shown    time.Time // when something was shown last
	first    bool
	numbered int // steps shown
	paused   bool
	closed   bool
	err      error
}

func newPlain(w io.Writer) *plain { return &plain{w: w, first: true} }

// Handle is Display's.
func (p *plain) Handle(e Event) {
	p.mu.Lock()
	defer p.mu.Unlock()
	st := p.apply(e)
	switch {
	case p.paused:
	case e.State == Started:
		time.AfterFunc(grace, func() { p.late(st) })
	case st.state.Final(), p.current == nil, p.current == st:
		p.show(st)
	case len(st.pending) >= maxPending, time.Since(p.shown) >= patience:
		p.show(st)
	}
}

// late shows a step that began a while ago and has told nothing since.
func (p *plain) late(st *step) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.closed && !p.paused && p.current == nil && !st.state.Final() {
		p.show(st)
	}
}

// show writes what is new of a step.
func (p *plain) show(st *step) {
	var b strings.Builder
	p.shown = time.Now()
	if st.index == 0 {
		p.numbered++
		st.index = p.numbered
	}
	if st != p.current {
		if p.current != nil && !p.current.state.Final() {
			fmt.Fprintf(&b, "#%d ...\n", p.current.index)
		}
		if !p.first {
			b.WriteByte('\n')
		}
		p.first = false
		fmt.Fprintf(&b, "#%d %s\n", st.index, st.name)
		p.current = st
	}
	lines := slices.Concat(st.events, st.pending)
	for _, w := range st.warned {
		lines = append(lines, "WARN: "+w)
	}
	st.events, st.pending, st.warned = nil, nil, nil
	for _, l := range lines {
		fmt.Fprintf(&b, "#%d %s\n", st.index, l)
	}
	switch st.state {
	case Cached:
		fmt.Fprintf(&b, "#%d CACHED\n", st.index)
	case Done:
		fmt.Fprintf(&b, "#%d DONE %.1fs\n", st.index, st.ended.Sub(st.begun).Seconds())
	case Failed:
		fmt.Fprintf(&b, "#%d ERROR: %v\n", st.index, st.err)
	case Canceled:
		fmt.Fprintf(&b, "#%d CANCELED\n", st.index)
	}
	if st.state.Final() {
		p.current, st.told = nil, true
	}
	if _, err := io.WriteString(p.w, b.String()); err != nil && p.err == nil {
		p.err = err
	}
}

// Pause is Display's.
func (p *plain) Pause() func() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.paused = true
	return func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.paused = false
		for _, st := range p.order {
			if len(st.pending)+len(st.events)+len(st.warned) > 0 || st.state.Final() && !st.told {
				p.show(st)
			}
		}
	}
}

// Close is Display's.
func (p *plain) Close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	for _, st := range p.order {
		if len(st.pending) > 0 || len(st.events) > 0 {
			p.show(st)
		}
	}
	if p.err != nil {
		return p.err
	}
	return p.failures(p.w)
}
