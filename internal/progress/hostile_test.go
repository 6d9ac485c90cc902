package progress

import (
	"fmt"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
)

// oneAtATime is an output that notices two writers at once.
type oneAtATime struct {
	busy, overlaps atomic.Int32
	text           strings.Builder
}

func (o *oneAtATime) Write(p []byte) (int, error) {
	defer o.busy.Add(-1)
	if o.busy.Add(1) > 1 {
		o.overlaps.Add(1)
		return len(p), nil
	}
	runtime.Gosched()
	return o.text.Write(p)
}

// TestCVE_2024_36623 shows the steps of many goroutines at once, and closes the
// display meanwhile: one at a time writes, and whole lines.
func TestCVE_2024_36623(t *testing.T) {
	var out oneAtATime
	d := newPlain(&out)
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			id := fmt.Sprint(i)
			for range 200 {
				d.Handle(Event{ID: id, Name: "step " + id, State: Started})
				d.Handle(Event{ID: id, Name: "step " + id, State: Logged, Log: []byte("line of " + id + "\n")})
			}
		})
	}
	wg.Go(func() {
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	})
	wg.Wait()
	if n := out.overlaps.Load(); n > 0 {
		t.Errorf("%d writes while another one was under way", n)
	}
	for line := range strings.Lines(out.text.String()) {
		if !strings.HasSuffix(line, "\n") || strings.Count(line, "line of") > 1 {
			t.Errorf("torn line %q", line)
		}
	}
}
