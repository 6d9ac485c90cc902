package engine

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"strake/internal/build"
	"strake/internal/progress"
	"strake/internal/store"
)

// noJournal is the journal of a recorder of no store.
func noJournal(string) (*store.BuildJournal, error) { return nil, errors.New("no journal") }

// TestRecorderBounds: of a step that prints without end the beginning and the end are kept, and of all steps the last.
func TestRecorderBounds(t *testing.T) {
	r := newRecorder(NamedBuild{BuildOptions: BuildOptions{Context: "app"}}, noJournal)
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
	r := newRecorder(NamedBuild{BuildOptions: BuildOptions{Context: "app"}}, noJournal)
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

// TestJournalIsWhatTheRecorderHas: whatever was printed, and however often the journal began again, what a dead process leaves
// is what its recorder had; the file is bounded.
func TestJournalIsWhatTheRecorderHas(t *testing.T) {
	env := testEnv(t)
	r := newRecorder(NamedBuild{BuildOptions: BuildOptions{Context: "app"}}, env.Store.BeginBuild)
	opts := BuildOptions{}
	r.watch(&opts)
	r.lasts.Stop()
	opts.Progress(progress.Event{ID: "cached", Name: "cached", State: progress.Started})
	opts.Progress(progress.Event{ID: "cached", State: progress.Cached, Time: time.Now()})
	opts.Progress(progress.Event{ID: "cached", State: progress.Warned, Log: []byte("a warning\n")})
	if r.journal.to != nil || r.journal.err != nil {
		t.Fatalf("nothing ran, and there is a journal: %v", r.journal.err)
	}
	opts.Explain(Explanation{Step: "RUN make"})
	compare := func(printed int) {
		t.Helper()
		list, err := BuildHistory(t.Context(), env)
		if err != nil || len(list) != 1 || list[0].Status != BuildRunning || !list[0].Completed.IsZero() {
			t.Fatalf("after %d: %d records, %v", printed, len(list), err)
		}
		got, text, err := logOf(t.Context(), env, list[0])
		if err != nil || !bytes.Equal(text, r.text()) {
			t.Fatalf("after %d: %d bytes, want %d, %v", printed, len(text), len(r.text()), err)
		}
		want := r.measured()
		want.Status, want.unfinished = BuildRunning, true
		if diff := cmp.Diff(want, got, cmpopts.IgnoreUnexported(BuildRecord{})); diff != "" {
			t.Fatalf("after %d: %s", printed, diff)
		}
	}
	chunk := bytes.Repeat([]byte("0123456789abcde\n"), 4000)
	var biggest int64
	for i := range 3 * maxBuildLog / len(chunk) {
		id := strconv.Itoa(i * i % 17)
		opts.Progress(progress.Event{ID: id, Name: id, State: progress.Started})
		opts.Progress(progress.Event{ID: id, State: progress.Logged, Log: chunk})
		if i%97 == 0 {
			opts.Progress(progress.Event{ID: id, State: progress.Failed, Err: errors.New("no"), Time: time.Now()})
			opts.Explain(Explanation{Step: id})
			compare(i)
		}
		info, err := os.Stat(filepath.Join(env.Store.Root(), "builds", r.record.Ref+".live"))
		if err != nil {
			t.Fatal(err)
		}
		biggest = max(biggest, info.Size())
	}
	compare(-1)
	if biggest > 2*maxBuildLog+1<<20 {
		t.Errorf("the journal has %d bytes", biggest)
	}
	if err := RemoveBuilds(t.Context(), env, r.settled(BuildRunning, time.Time{})); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("removed a build that goes on: %v", err)
	}
	if err := r.journal.close(); err != nil {
		t.Fatal(err)
	}
	dead, err := FindBuild(t.Context(), env, "")
	if err != nil || dead.Status != BuildFailed || dead.Error != errBuildDied.Error() || dead.Completed.IsZero() {
		t.Errorf("%s %q: %v", dead.Status, dead.Error, err)
	}
}

// TestJournalThatWasCut: of a journal that ends anywhere what is whole is read, and nothing else.
func TestJournalThatWasCut(t *testing.T) {
	env := testEnv(t)
	r := newRecorder(NamedBuild{BuildOptions: BuildOptions{Context: "app"}}, env.Store.BeginBuild)
	for i := range 3 {
		id := strconv.Itoa(i)
		r.event(progress.Event{ID: id, Name: "step " + id, State: progress.Started})
		r.journal.open(r)
		r.event(progress.Event{ID: id, State: progress.Logged, Log: []byte("first {}\n")})
		r.event(progress.Event{ID: id, State: progress.Logged, Log: []byte("second\n")})
		r.event(progress.Event{ID: id, State: progress.Done, Time: time.Now()})
	}
	path := filepath.Join(env.Store.Root(), "builds", r.record.Ref+".live")
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	text := r.text()
	for n := range whole {
		if err := os.WriteFile(path, whole[:n], 0o600); err != nil {
			t.Fatal(err)
		}
		list, err := BuildHistory(t.Context(), env)
		if err != nil || len(list) > 1 {
			t.Fatal(len(list), err)
		}
		if len(list) == 0 {
			continue // its first line is cut
		}
		_, got, err := logOf(t.Context(), env, list[0])
		if err != nil || !bytes.HasPrefix(text, got) {
			t.Fatalf("of %d bytes: %q, %v", n, got, err)
		}
	}
	if err := r.journal.close(); err != nil {
		t.Fatal(err)
	}
}
