package engine

import (
	"context"
	"errors"
	"strconv"
	"time"

	"strake/internal/progress"
)

// followInterval is how often it is looked for what a build has printed since.
const followInterval = 200 * time.Millisecond

// BuildLogs tells the events of a build again, step by step; of one that goes on those so
// far, and then those that come, until it is over.
func BuildLogs(ctx context.Context, env *Env, r BuildRecord, tell func(progress.Event)) error {
	t := retold{tell: tell}
	for {
		begun := time.Now()
		now, log, err := logOf(ctx, env, r)
		if err != nil {
			return err
		}
		t.catchUp(now, log)
		if now.Status != BuildRunning {
			return nil
		}
		wait := max(followInterval, 10*time.Since(begun)) // a long journal takes its time to read
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(wait):
		}
		if r, err = FindBuild(ctx, env, now.Ref); err != nil {
			return err
		}
	}
}

// retold is how far the events of a build were told.
type retold struct {
	tell  func(progress.Event)
	steps []retoldStep
}

type retoldStep struct {
	printed int // bytes
	over    bool
}

// catchUp tells what r and its log have besides.
func (t *retold) catchUp(r BuildRecord, log []byte) {
	for i, step := range r.Steps {
		e := progress.Event{ID: strconv.Itoa(i + 1), Name: step.Name, State: progress.Started, Time: step.Started}
		if i == len(t.steps) {
			t.steps = append(t.steps, retoldStep{})
			t.tell(e)
		}
		told := &t.steps[i]
		n := min(step.LogBytes, len(log))
		text := log[:n]
		log = log[n:]
		printed := max(step.Printed, n)
		if more := printed - told.printed; more > 0 {
			e.State, e.Log = progress.Logged, text[max(0, n-more):]
			t.tell(e)
			told.printed = printed
		}
		if told.over || step.Completed.IsZero() && step.Error == "" && r.Status == BuildRunning {
			continue
		}
		told.over = true
		t.tell(ending(e, step))
	}
}

// ending is the last event of a step, of which e is another.
func ending(e progress.Event, step BuildStep) progress.Event {
	e.Log, e.Time, e.State = nil, step.Completed, progress.Done
	switch {
	case step.Error != "":
		e.State, e.Err = progress.Failed, errors.New(step.Error)
	case step.Cached:
		e.State = progress.Cached
	case step.Completed.IsZero():
		e.State, e.Time = progress.Canceled, step.Started
	}
	return e
}
