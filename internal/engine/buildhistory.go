package engine

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"

	"strake/internal/attest"
	"strake/internal/build"
	"strake/internal/progress"
)

// States of a build.
const (
	BuildRunning   = "Running"
	BuildCompleted = "Completed"
	BuildFailed    = "Error"
	BuildCanceled  = "Canceled"
)

// BuildRecord is what is known of a build that is over, or that goes on: its Completed is
// zero.
type BuildRecord struct {
	Ref        string
	Name       string // of the context and the target, a bake file's or else the Dockerfile's
	Context    string
	Dockerfile string
	Target     string `json:",omitempty"`
	Status     string
	Created    time.Time
	Completed  time.Time
	Error      string        `json:",omitempty"`
	Images     []string      `json:",omitempty"` // the names that were asked for
	ID         digest.Digest `json:",omitempty"`
	Steps      []BuildStep   // in the order in which they began
	Misses     []Explanation `json:",omitempty"` // why steps were not in the cache

	unfinished bool // of a journal: the build goes on, or its process died
}

// BuildStep is one step of a build.
type BuildStep struct {
	Name      string
	Cached    bool `json:",omitempty"`
	Started   time.Time
	Completed time.Time // zero: it was canceled
	Error     string    `json:",omitempty"`
	LogBytes  int       `json:",omitempty"`
	LogCut    bool      `json:",omitempty"` // it printed more than is kept, as its log says
	Printed   int       `json:",omitempty"` // bytes that it printed, where LogCut
}

// recorder makes the record of a build of what it tells. Its methods are called
// by one goroutine at a time, but may be by several.
type recorder struct {
	mu     sync.Mutex
	record BuildRecord
	steps  map[string]int // by ID: place in the record
	logs   []*stepLog
	size   int // of logs

	journal buildJournal
	lasts   *time.Timer // begins the journal
}

// newRecorder makes the recorder of a build, whose journal begin makes.
func newRecorder(opts NamedBuild, begin beginJournal) *recorder {
	r := &recorder{steps: map[string]int{}, journal: buildJournal{begin: begin}, record: BuildRecord{
		Ref: strings.ToLower(rand.Text())[:25], Context: opts.contextName(), Dockerfile: "Dockerfile", Target: opts.Target,
		Created: time.Now(), Images: opts.Names,
	}}
	if opts.Dockerfile != "" {
		r.record.Dockerfile = filepath.Base(build.Redact(opts.Dockerfile))
	}
	if info, err := os.Stat(opts.Context); err == nil && info.IsDir() {
		if dir, err := filepath.Abs(opts.Context); err == nil {
			r.record.Context = dir
		}
	}
	r.record.Name = filepath.Base(r.record.Context)
	if r.record.Dockerfile != "Dockerfile" {
		r.record.Name += "/" + r.record.Dockerfile
	}
	if target := cmp.Or(opts.Name, opts.Target); target != "" {
		r.record.Name += " (" + target + ")"
	}
	if opts.StopAt > 0 {
		r.record.Name += fmt.Sprintf(" (to line %d)", opts.StopAt)
	}
	return r
}

// watch has the events and explanations of a build told to r besides.
func (r *recorder) watch(opts *BuildOptions) {
	progressed, explained := opts.Progress, opts.Explain
	opts.Progress = func(e progress.Event) {
		r.event(e)
		if progressed != nil {
			progressed(e)
		}
	}
	opts.Explain = func(x Explanation) {
		r.missed(kept(x))
		if explained != nil {
			explained(x)
		}
	}
	r.lasts = time.AfterFunc(journalDelay, func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.journal.open(r)
	})
}

func (r *recorder) missed(x Explanation) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.journal.missed(x)
	r.record.Misses = append(r.record.Misses, x)
	r.journal.open(r)
}

// kept is what is kept of an explanation: not the values of variables that look like secrets.
func kept(x Explanation) Explanation {
	x.Changes = slices.Clone(x.Changes)
	for i := range x.Changes {
		c := &x.Changes[i]
		if name, ok := strings.CutPrefix(c.Input, build.VariableInput); ok {
			c.From, c.To = attest.Clean(name, c.From), attest.Clean(name, c.To)
		}
	}
	return x
}

func (r *recorder) event(e progress.Event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	at, ok := r.steps[e.ID]
	if !ok {
		at = len(r.record.Steps)
		r.steps[e.ID] = at
		r.add(BuildStep{Name: e.Name, Started: e.Time})
		r.journal.step(at, r.record.Steps[at])
	}
	step := &r.record.Steps[at]
	switch e.State {
	case progress.Logged, progress.Warned:
		r.print(at, e.Log)
		r.journal.log(r, at, e.Log)
	case progress.Cached, progress.Done, progress.Failed:
		step.Completed, step.Cached = e.Time, e.State == progress.Cached
		if e.Err != nil {
			step.Error = e.Err.Error()
		}
		r.journal.step(at, *step)
	}
}

// add begins a step.
func (r *recorder) add(step BuildStep) {
	r.record.Steps, r.logs = append(r.record.Steps, step), append(r.logs, &stepLog{})
}

// print keeps what a step prints.
func (r *recorder) print(at int, text []byte) {
	before := r.logs[at].size()
	_, _ = r.logs[at].Write(text) // into memory
	r.size += r.logs[at].size() - before
	r.bound()
}

// bound forgets the output of steps that are done, the first to end first, where
// that of all is too much.
func (r *recorder) bound() {
	for r.size > maxBuildLog {
		first := -1
		for i, step := range r.record.Steps {
			if r.logs[i].size() > 0 && (first < 0 || endsBefore(step, r.record.Steps[first])) {
				first = i
			}
		}
		r.size -= r.logs[first].size()
		r.logs[first].drop()
	}
}

// endsBefore tells whether a step ended before another, or began before it where
// neither has ended.
func endsBefore(a, b BuildStep) bool {
	switch {
	case a.Completed.IsZero() && b.Completed.IsZero():
		return a.Started.Before(b.Started)
	case a.Completed.IsZero() || b.Completed.IsZero():
		return b.Completed.IsZero()
	}
	return a.Completed.Before(b.Completed)
}

// save keeps the record of a build that ended so.
func (r *recorder) save(ctx context.Context, env *Env, result BuildResult, buildErr error) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.lasts.Stop()
	r.record.Completed, r.record.Status, r.record.ID = time.Now(), BuildCompleted, result.ID
	if buildErr != nil {
		r.record.Status, r.record.Error = BuildFailed, buildErr.Error()
		if ctx.Err() != nil {
			r.record.Status = BuildCanceled
		}
	}
	value, err := json.Marshal(r.measured())
	if err != nil {
		return fmt.Errorf("keep the record of the build: %w", err)
	}
	err = env.Store.SaveBuild(context.WithoutCancel(ctx), r.record.Ref, value, r.text())
	if failed := r.journal.close(); err != nil {
		return errors.Join(err, failed) // otherwise the record has all of it
	}
	return nil
}

// text is what all steps printed, as far as it is kept.
func (r *recorder) text() []byte {
	var log bytes.Buffer
	for _, l := range r.logs {
		text, _ := l.text()
		log.Write(text)
	}
	return log.Bytes()
}

// measured is the record, with what is in text of each step.
func (r *recorder) measured() BuildRecord {
	for i, l := range r.logs {
		text, cut := l.text()
		step := &r.record.Steps[i]
		if step.LogBytes, step.LogCut = len(text), cut; cut {
			step.Printed = l.printed
		}
	}
	return r.record
}

// BuildHistory is the records of the builds, those that go on first, then the newest. Some
// of the oldest are removed as others come.
func BuildHistory(ctx context.Context, env *Env) ([]BuildRecord, error) {
	values, err := env.Store.Builds(ctx)
	if err != nil {
		return nil, err
	}
	list, err := unfinishedBuilds(ctx, env)
	if err != nil {
		return nil, err
	}
	for _, value := range values {
		var r BuildRecord
		if json.Unmarshal(value, &r) == nil && r.Ref != "" && filepath.Base(r.Ref) == r.Ref { // a crash may have cut it
			list = append(list, r)
		}
	}
	slices.SortStableFunc(list, func(a, b BuildRecord) int {
		if running := b.Status == BuildRunning; running != (a.Status == BuildRunning) {
			return map[bool]int{true: 1, false: -1}[running]
		}
		return b.Completed.Compare(a.Completed)
	})
	return list, nil
}

// BuildRefPrefix begins a ref where builds of several builders are told apart: that
// of the only builder, and of its only node.
const BuildRefPrefix = "default/default/"

// FindBuild is the record that ref names: by its beginning, with BuildRefPrefix or without, as ^N the N-th before
// the last, as "" the last. It fails with errdefs.ErrNotFound.
func FindBuild(ctx context.Context, env *Env, ref string) (BuildRecord, error) {
	list, err := BuildHistory(ctx, env)
	if err != nil {
		return BuildRecord{}, err
	}
	if back, ok := strings.CutPrefix(ref, "^"); ok || ref == "" {
		n, err := strconv.Atoi("0" + back)
		if err == nil && n < len(list) {
			return list[n], nil
		}
		if err == nil && ref == "" {
			return BuildRecord{}, fmt.Errorf("no records found: %w", errdefs.ErrNotFound)
		}
		list = nil
	}
	ref = strings.TrimPrefix(ref, BuildRefPrefix)
	var found []BuildRecord
	for _, r := range list {
		if strings.HasPrefix(r.Ref, ref) {
			found = append(found, r)
		}
	}
	switch len(found) {
	case 0:
		return BuildRecord{}, fmt.Errorf("no record found for ref %q: %w", ref, errdefs.ErrNotFound)
	case 1:
		return found[0], nil
	}
	return BuildRecord{}, fmt.Errorf("%d records begin with %q: %w", len(found), ref, errdefs.ErrInvalidArgument)
}

// logOf is all that is kept of what the steps of a build printed, and its record at that time.
func logOf(ctx context.Context, env *Env, r BuildRecord) (BuildRecord, []byte, error) {
	if r.unfinished {
		replayed, err := replayBuild(env, r.Ref)
		if err != nil {
			return r, nil, err
		}
		if replayed != nil {
			return replayed.settled(r.Status, r.Completed), replayed.text(), nil
		}
		if r, err = FindBuild(ctx, env, r.Ref); err != nil { // it ended meanwhile
			return r, nil, err
		}
	}
	log, err := env.Store.BuildLog(r.Ref)
	return r, log, err
}

// StepLog is what a step of a build printed. It is named by its place
// among the steps, from 1, or by a part of its name that no other has. It fails
// with errdefs.ErrNotFound.
func StepLog(ctx context.Context, env *Env, r BuildRecord, name string) ([]byte, error) {
	r, log, err := logOf(ctx, env, r)
	if err != nil {
		return nil, err
	}
	number, err := strconv.Atoi(name)
	var found [][]byte
	var names []string
	for i, step := range r.Steps {
		n := min(step.LogBytes, len(log))
		if err == nil && i+1 == number || err != nil && strings.Contains(step.Name, name) {
			found, names = append(found, log[:n]), append(names, strconv.Quote(step.Name))
		}
		log = log[n:]
	}
	switch len(found) {
	case 0:
		return nil, fmt.Errorf("build %s has no step %q: %w", r.Ref, name, errdefs.ErrNotFound)
	case 1:
		return found[0], nil
	}
	return nil, fmt.Errorf("%d steps have %q in their names, such as %s: %w", len(found), name, strings.Join(names[:2], " and "), errdefs.ErrInvalidArgument)
}

// RemoveBuilds removes the records of builds, and their logs. It fails with
// errdefs.ErrFailedPrecondition for one that goes on.
func RemoveBuilds(_ context.Context, env *Env, list ...BuildRecord) error {
	for _, r := range list {
		if r.Status == BuildRunning {
			return fmt.Errorf("build %s is running: %w", r.Ref, errdefs.ErrFailedPrecondition)
		}
		if err := env.Store.RemoveBuild(r.Ref); err != nil {
			return err
		}
	}
	return nil
}
