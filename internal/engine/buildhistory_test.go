package engine

import (
	"bytes"
	"slices"
	"testing"
	"time"

	"strake/internal/build"
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

// TestRecorderSecrets: the user is told what a variable was; what is kept for later has no value that looks like a secret.
func TestRecorderSecrets(t *testing.T) {
	r := newRecorder(BuildOptions{Context: "app"})
	var told Explanation
	opts := BuildOptions{Explain: func(x Explanation) { told = x }}
	r.watch(&opts)
	opts.Explain(Explanation{Step: "RUN make", Changes: []build.Change{
		{Input: "variable API_TOKEN", From: "hunter1", To: "hunter2"},
		{Input: "variable NEW_TOKEN", To: "hunter3"},
		{Input: "variable SITE", From: "https://joe:hunter4@example.com/", To: "none"},
		{Input: "variable VERSION", From: "1", To: "2"},
		{Input: "file secret/token", From: "a", To: "b"},
	}})
	want := []build.Change{
		{Input: "variable API_TOKEN", From: "xxxxx", To: "xxxxx"},
		{Input: "variable NEW_TOKEN", To: "xxxxx"},
		{Input: "variable SITE", From: "https://xxxxx@example.com/", To: "none"},
		{Input: "variable VERSION", From: "1", To: "2"},
		{Input: "file secret/token", From: "a", To: "b"},
	}
	if got := r.record.Misses[0].Changes; !slices.Equal(got, want) {
		t.Errorf("kept %v, want %v", got, want)
	}
	if told.Changes[0].To != "hunter2" {
		t.Errorf("told %v", told.Changes)
	}
}
