package engine

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"strake/internal/build"
	"strake/internal/progress"
)

// TestRecorderBounds: of a step that prints without end the beginning and the end are kept, and of all steps the last.
func TestRecorderBounds(t *testing.T) {
	r := newRecorder(BuildOptions{Context: "app"})
	begun := time.Now()
	for i := range 14 {
		id := strconv.Itoa(i)
		r.event(progress.Event{ID: id, Name: id, State: progress.Started, Time: begun})
		for n := range 150_000 / (1 + 4*(i%2)) { // one in two prints little
			r.event(progress.Event{ID: id, State: progress.Logged, Log: fmt.Appendf(nil, "%019d\n", n)})
		}
		if i > 0 {
			r.event(progress.Event{ID: id, State: progress.Done, Time: begun.Add(time.Duration(i) * time.Second)})
		}
	}
	size := 0
	for i, l := range r.logs {
		size += l.size()
		text, cut := l.text()
		lines := strings.Split(string(text), "\n")
		begin, last := fmt.Sprintf("%019d", 0), fmt.Sprintf("%019d", 150_000/(1+4*(i%2))-1)
		switch {
		case i == 1 || i == 2:
			if len(lines) != 2 || !cut || !strings.Contains(lines[0], " bytes of the output were not kept]") {
				t.Errorf("step %d: %.80q", i, text)
			}
		case i%2 == 1:
			if cut || lines[0] != begin || lines[len(lines)-2] != last {
				t.Errorf("step %d: cut %v, %.20q", i, cut, text)
			}
		default:
			if !cut || lines[0] != begin || lines[len(lines)-2] != last || strings.Count(string(text), "not kept]\n") != 1 || len(text) > maxStepLog+100 {
				t.Errorf("step %d: cut %v, %d bytes, %.20q, %q", i, cut, len(text), text, lines[len(lines)-2:])
			}
			if _, err := strconv.Atoi(lines[len(lines)/4]); err != nil {
				t.Error(err)
			}
		}
	}
	if size > maxBuildLog || size < maxBuildLog/2 {
		t.Errorf("%d bytes", size)
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
