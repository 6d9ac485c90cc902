package engine

import (
	"bytes"
	"testing"
	"time"

	"strake/internal/progress"
)

// TestRecorderBounds: of a step that prints without end the beginning is kept, and of all steps together no more than of a build.
func TestRecorderBounds(t *testing.T) {
	r := newRecorder(BuildOptions{Context: "app"})
	for _, id := range []string{"1", "2", "3", "4", "5", "6", "7", "8", "9"} {
		r.event(progress.Event{ID: id, Name: id, State: progress.Started, Time: time.Now()})
		for range 3 {
			r.event(progress.Event{ID: id, State: progress.Logged, Log: bytes.Repeat([]byte(id), maxStepLog/2)})
		}
		r.event(progress.Event{ID: id, State: progress.Done, Time: time.Now()})
	}
	for i, step := range r.record.Steps {
		want := maxStepLog
		if i == 8 {
			want = 0
		}
		if step.LogBytes != want || !step.LogCut || r.logs[i].Len() != want {
			t.Errorf("step %d: %+v", i, step)
		}
	}
	if r.size != maxBuildLog {
		t.Errorf("%d bytes", r.size)
	}
}
