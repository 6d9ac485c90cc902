package engine

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"time"

	"strake/internal/store"
)

// errBuildDied is what became of a build whose process died.
var errBuildDied = errors.New("the process of the build died")

// beginJournal makes the journal of a build.
type beginJournal func(ref string) (*store.BuildJournal, error)

// buildJournal keeps what a build tells while it goes on, so that it is there when the
// process dies. It begins with the first step that is not in the cache, or when the build
// lasts: one that finds all of its steps writes nothing. It is a list of entries; where it
// becomes long it begins again with what the recorder has.
type buildJournal struct {
	begin beginJournal
	to    *store.BuildJournal // nil: it has not begun
	room  int                 // bytes until it begins again
	over  bool                // it begins no more
	err   error               // the first; nothing is written after it
}

// journalDelay is how long a build lasts until it has a journal, whatever it does.
const journalDelay = 200 * time.Millisecond

// journalEntry is a line of JSON in the journal, with the output that comes after it.
type journalEntry struct {
	Record *BuildRecord `json:",omitempty"` // of the first entry: all but the output
	Miss   *Explanation `json:",omitempty"`

	Step  int        // place in the record
	State *BuildStep `json:",omitempty"` // the step begins, or becomes this
	Lost  int        `json:",omitempty"` // bytes of output that are not kept
	Log   int        `json:",omitempty"` // bytes of output, which come after the line
}

// open begins the journal with what r has, unless it has begun.
func (j *buildJournal) open(r *recorder) {
	if j.err != nil || j.over || j.to != nil {
		return
	}
	if j.to, j.err = j.begin(r.record.Ref); j.err == nil {
		j.restart(r)
	}
}

// restart has the journal hold what r has.
func (j *buildJournal) restart(r *recorder) {
	var all bytes.Buffer
	j.err = appendEntry(&all, journalEntry{Record: &r.record}, nil)
	for i, l := range r.logs {
		tail := l.tail[max(0, len(l.tail)-maxStepLog/2):]
		lost := l.printed - len(l.head) - len(tail)
		if len(l.head) > 0 {
			j.err = errors.Join(j.err, appendEntry(&all, journalEntry{Step: i}, l.head))
		}
		if lost+len(tail) > 0 {
			j.err = errors.Join(j.err, appendEntry(&all, journalEntry{Step: i, Lost: lost}, tail))
		}
	}
	if j.err == nil {
		j.room, j.err = maxBuildLog, j.to.Restart(all.Bytes())
	}
}

// log adds what a step printed, which r has already.
func (j *buildJournal) log(r *recorder, step int, text []byte) {
	j.add(journalEntry{Step: step}, text)
	if j.to != nil && j.err == nil && j.room < 0 {
		j.restart(r)
	}
}

func (j *buildJournal) step(at int, step BuildStep) {
	j.add(journalEntry{Step: at, State: &step}, nil)
}

func (j *buildJournal) missed(x Explanation) { j.add(journalEntry{Miss: &x}, nil) }

func (j *buildJournal) add(e journalEntry, text []byte) {
	if j.to == nil || j.err != nil {
		return
	}
	var entry bytes.Buffer
	if j.err = appendEntry(&entry, e, text); j.err == nil {
		j.room -= entry.Len()
		_, j.err = j.to.Write(entry.Bytes())
	}
}

func appendEntry(to *bytes.Buffer, e journalEntry, text []byte) error {
	e.Log = len(text)
	if err := json.NewEncoder(to).Encode(e); err != nil {
		return err
	}
	to.Write(text)
	return nil
}

// close returns why the journal was not written to its end.
func (j *buildJournal) close() error {
	j.over = true
	if j.to == nil {
		return j.err
	}
	return errors.Join(j.err, j.to.Close())
}

// unfinishedBuilds are the records of the builds that have a journal and no record.
func unfinishedBuilds(ctx context.Context, env *Env) ([]BuildRecord, error) {
	builds, err := env.Store.UnfinishedBuilds(ctx)
	if err != nil {
		return nil, err
	}
	var list []BuildRecord
	for _, b := range builds {
		r, err := replayBuild(env, b.ID)
		if err != nil {
			return nil, err
		}
		if r == nil {
			continue
		}
		status := BuildRunning
		if !b.Running {
			status = BuildFailed
		}
		list = append(list, r.settled(status, b.Time))
	}
	return list, nil
}

// settled is the record of a build that goes on, or whose process died at a time.
func (r *recorder) settled(status string, at time.Time) BuildRecord {
	record := r.measured()
	record.Status, record.unfinished = status, true
	if status == BuildFailed {
		record.Completed, record.Error = at, errBuildDied.Error()
	}
	return record
}

// replayBuild reads a journal, as far as it was written; nil where there is none that says
// which build it is of.
func replayBuild(env *Env, ref string) (r *recorder, err error) {
	f, err := env.Store.OpenBuildJournal(ref)
	if err != nil || f == nil {
		return nil, err
	}
	defer closing(&err, f.Close)
	r = &recorder{}
	in := bufio.NewReader(f)
	for r.replay(in) {
	}
	if r.record.Ref != ref {
		return nil, nil
	}
	return r, nil
}

// replay does what one entry tells, and reports whether it was there, all of it.
func (r *recorder) replay(in *bufio.Reader) bool {
	line, err := in.ReadBytes('\n')
	var e journalEntry
	if err != nil || json.Unmarshal(line, &e) != nil {
		return false
	}
	if e.Record != nil {
		steps := e.Record.Steps
		r.record, r.record.Steps = *e.Record, nil
		for _, step := range steps {
			r.add(step)
		}
		return true
	}
	if e.Miss != nil {
		r.record.Misses = append(r.record.Misses, *e.Miss)
		return true
	}
	if e.State != nil && e.Step == len(r.logs) {
		r.add(*e.State)
	}
	if e.Step < 0 || e.Step >= len(r.logs) || e.Log < 0 {
		return false
	}
	if e.State != nil {
		r.record.Steps[e.Step] = *e.State
	}
	r.logs[e.Step].printed += e.Lost
	text, err := io.ReadAll(io.LimitReader(in, int64(e.Log)))
	r.print(e.Step, text)
	return err == nil && len(text) == e.Log
}
