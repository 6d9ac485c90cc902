package jobs

import (
	"context"
	"crypto/rand"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	mathrand "math/rand/v2"
	"runtime/debug"
	"sync"
	"time"

	"strake/internal/sqldb"
)

// ErrGiveUp is wrapped by the error of a job that need not be tried again.
var ErrGiveUp = errors.New("not to be tried again")

// Handler does the jobs of a kind.
type Handler struct {
	Do func(ctx context.Context, job Job) error
	// Concurrency is how many are done at once by this replica; 0 is 1.
	Concurrency int
	// Timeout ends the context of an attempt; 0 is ten minutes.
	Timeout time.Duration
	// Attempts is after how many that failed a job is given up; 0 is 12.
	Attempts int
	// Backoff is the pause after the first failure, twice as long after each more,
	// an hour at most; 0 is 5 seconds.
	Backoff time.Duration
}

// Options say what a Queue does.
type Options struct {
	Handlers map[string]Handler // by kind
	Poll     time.Duration      // how often the database is asked for jobs; 0 is 2 seconds
	Lease    time.Duration      // how long a claim holds unless it is prolonged; 0 is a minute
	Log      *slog.Logger       // nil: nothing is logged
}

const (
	defaultTimeout  = 10 * time.Minute
	defaultAttempts = 12
	defaultBackoff  = 5 * time.Second
	maxBackoff      = time.Hour
	defaultPoll     = 2 * time.Second
	defaultLease    = time.Minute
)

// Queue does jobs. Its methods are safe for concurrent use.
type Queue struct {
	db   *sqldb.DB
	opts Options
	wake map[string]chan struct{}
}

// New makes a queue on a database that has the table of jobs.
func New(db *sqldb.DB, opts Options) *Queue {
	opts.Poll = orElse(opts.Poll, defaultPoll)
	opts.Lease = orElse(opts.Lease, defaultLease)
	if opts.Log == nil {
		opts.Log = slog.New(slog.DiscardHandler)
	}
	handlers := make(map[string]Handler, len(opts.Handlers))
	q := &Queue{db: db, wake: map[string]chan struct{}{}}
	for kind, h := range opts.Handlers {
		h.Concurrency = orElse(h.Concurrency, 1)
		h.Timeout = orElse(h.Timeout, defaultTimeout)
		h.Attempts = orElse(h.Attempts, defaultAttempts)
		h.Backoff = orElse(h.Backoff, defaultBackoff)
		handlers[kind] = h
		q.wake[kind] = make(chan struct{}, 1)
	}
	opts.Handlers = handlers
	q.opts = opts
	return q
}

func orElse[T ~int | ~int64](value, other T) T {
	if value <= 0 {
		return other
	}
	return value
}

// Wake has the queue look for jobs of a kind now. It is for who has added one, once
// its transaction is committed; without it the job waits for the next poll.
func (q *Queue) Wake(kind string) {
	select {
	case q.wake[kind] <- struct{}{}:
	default: // it is awake, or has no such kind
	}
}

// Run does jobs until ctx ends, and returns when those under way have ended: their
// contexts end with ctx, and another attempt is made of them later. Errors of the
// database are logged and do not end it.
func (q *Queue) Run(ctx context.Context) {
	var all sync.WaitGroup
	for kind, h := range q.opts.Handlers {
		all.Go(func() { q.dispatch(ctx, kind, h) })
	}
	all.Wait()
}

// dispatch claims jobs of a kind while there is room for them.
func (q *Queue) dispatch(ctx context.Context, kind string, h Handler) {
	var running sync.WaitGroup
	defer running.Wait()
	room := make(chan struct{}, h.Concurrency)
	for {
		select {
		case <-ctx.Done():
			return
		case room <- struct{}{}:
		}
		c, err := q.claim(ctx, kind)
		if err != nil && ctx.Err() == nil {
			q.opts.Log.Error("claim job", "kind", kind, "error", err)
		}
		if c != nil {
			running.Go(func() {
				defer func() { <-room }()
				q.do(ctx, h, c)
			})
			continue
		}
		<-room
		select {
		case <-ctx.Done():
			return
		case <-q.wake[kind]:
		case <-time.After(q.opts.Poll/2 + jitter(q.opts.Poll)):
		}
	}
}

// claimed is a job that is this replica's for a while.
type claimed struct {
	Job
	version int64
	token   string
}

// claim takes a job of the kind that is due, or none.
func (q *Queue) claim(ctx context.Context, kind string) (*claimed, error) {
	const due = "kind = $1 AND failed = 0 AND not_before <= $2 AND claimed_until <= $2"
	now := time.Now()
	var found []claimed
	err := q.db.View(ctx, func(tx *sql.Tx) (err error) {
		query := "SELECT key, version FROM jobs WHERE " + due + " ORDER BY not_before, key LIMIT 16"
		found, err = sqldb.Collect(ctx, tx, query, []any{kind, now.UnixMilli()}, func(rows *sql.Rows, c *claimed) error {
			*c = claimed{Job: Job{Kind: kind}, token: rand.Text()}
			return rows.Scan(&c.Key, &c.version)
		})
		return err
	})
	if err != nil {
		return nil, err
	}
	// Replicas that poll at once take different ones.
	if n := min(len(found), 4); n > 1 {
		i := int(jitter(time.Duration(n)))
		found[0], found[i] = found[i], found[0]
	}
	for _, c := range found {
		err := q.db.Update(ctx, func(tx *sql.Tx) error {
			var notBefore int64
			err := tx.QueryRowContext(ctx, "UPDATE jobs SET claim = $3, claimed_until = $4, attempts = attempts + 1 WHERE "+due+
				" AND key = $5 AND version = $6 RETURNING payload, not_before, attempts",
				kind, now.UnixMilli(), c.token, now.Add(q.opts.Lease).UnixMilli(), c.Key, c.version).Scan(&c.Payload, &notBefore, &c.Attempts)
			c.NotBefore = time.UnixMilli(notBefore)
			return err
		})
		if !errors.Is(err, sql.ErrNoRows) { // another was faster
			return &c, err
		}
	}
	return nil, nil
}

// do does a job and writes down how it went.
func (q *Queue) do(ctx context.Context, h Handler, c *claimed) {
	attempt, cancel := context.WithTimeout(ctx, h.Timeout)
	defer cancel()
	settled, release := context.WithCancel(context.WithoutCancel(ctx))
	var held sync.WaitGroup
	held.Go(func() { q.hold(settled, cancel, c) })
	defer held.Wait()
	defer release()
	start := time.Now()
	err := run(attempt, h, c.Job)
	log := q.opts.Log.With("kind", c.Kind, "key", c.Key, "attempt", c.Attempts, "took", time.Since(start).Round(time.Millisecond))
	// How it went is written down even when the program is about to end.
	ending, end := context.WithTimeout(context.WithoutCancel(ctx), q.opts.Lease)
	defer end()
	stopped := err != nil && ctx.Err() != nil
	if err != nil {
		log.Warn("job failed", "error", err)
	} else {
		log.Debug("job done")
	}
	if err := q.settle(ending, h, c, err, stopped); err != nil {
		log.Error("settle job", "error", err)
	}
}

// run calls the handler; its panic is an error that need not come again.
func run(ctx context.Context, h Handler, job Job) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic: %v\n%s: %w", p, debug.Stack(), ErrGiveUp)
		}
	}()
	return h.Do(ctx, job)
}

// hold prolongs a claim until ctx ends, and ends the job when it is lost.
func (q *Queue) hold(ctx context.Context, lost context.CancelFunc, c *claimed) {
	tick := time.NewTicker(q.opts.Lease / 3)
	defer tick.Stop()
	until := time.Now().Add(q.opts.Lease)
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		next := time.Now().Add(q.opts.Lease)
		var rows int64
		err := q.db.Update(ctx, func(tx *sql.Tx) error {
			res, err := tx.ExecContext(ctx, "UPDATE jobs SET claimed_until = $4 WHERE kind = $1 AND key = $2 AND claim = $3", c.Kind, c.Key, c.token, next.UnixMilli())
			if err == nil {
				rows, err = res.RowsAffected()
			}
			return err
		})
		switch {
		case err == nil && rows == 1:
			until = next
		case err == nil || time.Now().After(until):
			lost()
			return
		}
	}
}

// settle ends a claim: the job is done, is to be tried later, or is given up. A
// stopped one does not count as an attempt. One that was added again meanwhile is
// due again.
func (q *Queue) settle(ctx context.Context, h Handler, c *claimed, failure error, stopped bool) error {
	text := ""
	if failure != nil {
		text = failure.Error()
		text = text[:min(len(text), maxError)]
	}
	return q.db.Update(ctx, func(tx *sql.Tx) error {
		if failure == nil {
			_, err := tx.ExecContext(ctx, "DELETE FROM jobs WHERE kind = $1 AND key = $2 AND claim = $3 AND version = $4", c.Kind, c.Key, c.token, c.version)
			if err != nil {
				return err
			}
		}
		later := time.Now()
		failed, back := 0, 0
		switch {
		case stopped:
			back = 1
		case failure != nil:
			later = later.Add(backoff(h.Backoff, c.Attempts))
			if c.Attempts >= h.Attempts || errors.Is(failure, ErrGiveUp) {
				failed = 1
			}
		}
		_, err := tx.ExecContext(ctx, `UPDATE jobs SET claim = '', claimed_until = 0, error = $4,
			attempts = CASE WHEN version = $5 THEN attempts - $8 ELSE 0 END,
			not_before = CASE WHEN version = $5 THEN $6 ELSE not_before END,
			failed = CASE WHEN version = $5 THEN $7 ELSE 0 END
			WHERE kind = $1 AND key = $2 AND claim = $3`, c.Kind, c.Key, c.token, text, c.version, later.UnixMilli(), failed, back)
		return err
	})
}

// backoff is the pause after the attempt of this number failed, from 1: up to a
// quarter more than twice the one before.
func backoff(first time.Duration, attempt int) time.Duration {
	pause := first
	for range attempt - 1 {
		if pause *= 2; pause >= maxBackoff {
			pause = maxBackoff
			break
		}
	}
	return pause + jitter(pause/4+1)
}

// jitter is a time below most, so that replicas do not act as one.
func jitter(most time.Duration) time.Duration {
	return mathrand.N(most) //nolint:gosec // nothing secret hangs on it
}
