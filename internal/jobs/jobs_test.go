package jobs

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/containerd/errdefs"

	"strake/internal/sqldb"
)

func open(t *testing.T) *sqldb.DB {
	t.Helper()
	db, err := sqldb.Open(t.Context(), sqldb.Options{Path: filepath.Join(t.TempDir(), "jobs.db")})
	if err == nil {
		err = db.Migrate(t.Context(), Migrations())
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	return db
}

func add(t *testing.T, db *sqldb.DB, list ...Job) {
	t.Helper()
	err := db.Update(t.Context(), func(tx *sql.Tx) error {
		for _, job := range list {
			if err := Add(t.Context(), tx, job); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func list(t *testing.T, db *sqldb.DB) string {
	t.Helper()
	all, err := List(t.Context(), db, "k", 100)
	if err != nil {
		t.Fatal(err)
	}
	text := []string{}
	for _, s := range all {
		text = append(text, fmt.Sprintf("%s %s %d %v %v %.8s", s.Key, s.Payload, s.Attempts, s.Running, s.Failed, s.Error))
	}
	slices.Sort(text)
	return strings.Join(text, "; ")
}

// start runs a queue until the test ends.
func start(t *testing.T, db *sqldb.DB, h Handler) *Queue {
	t.Helper()
	q := New(db, Options{Handlers: map[string]Handler{"k": h}, Poll: 20 * time.Millisecond})
	ctx, cancel := context.WithCancel(t.Context())
	var ended sync.WaitGroup
	ended.Go(func() { q.Run(ctx) })
	t.Cleanup(func() { cancel(); ended.Wait() })
	return q
}

// eventually waits for what is listed to be what is wanted.
func eventually(t *testing.T, db *sqldb.DB, want string) {
	t.Helper()
	got := ""
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		if got = list(t, db); got == want {
			return
		}
	}
	t.Fatalf("the table has %q, want %q", got, want)
}

// Every job is done exactly once by replicas that share a database, and no more of
// them at once than each may.
func TestConcurrentReplicas(t *testing.T) {
	db := open(t)
	const count = 60
	var done sync.Map
	var busy, most atomic.Int64
	do := func(_ context.Context, job Job) error {
		most.Store(max(most.Load(), busy.Add(1)))
		defer busy.Add(-1)
		time.Sleep(2 * time.Millisecond)
		if n, again := done.LoadOrStore(job.Key, job.Payload); again {
			return fmt.Errorf("%v was done before", n)
		}
		return nil
	}
	for i := range count {
		add(t, db, Job{Kind: "k", Key: fmt.Sprint("a", i), Payload: "p"})
	}
	for range 3 {
		start(t, db, Handler{Do: do, Concurrency: 2})
	}
	eventually(t, db, "")
	for i := range count {
		if p, ok := done.Load(fmt.Sprint("a", i)); !ok || p != "p" {
			t.Errorf("job %d: %v, %v", i, p, ok)
		}
	}
	if most.Load() > 6 {
		t.Errorf("%d at once", most.Load())
	}
}

// What fails is tried again and then given up, and adding it begins anew.
func TestRetries(t *testing.T) {
	db := open(t)
	var works atomic.Bool
	q := start(t, db, Handler{Attempts: 3, Backoff: time.Millisecond, Do: func(_ context.Context, job Job) error {
		switch {
		case job.Key == "never":
			return fmt.Errorf("wrong: %w", ErrGiveUp)
		case job.Key == "panics":
			panic("oh")
		case works.Load():
			return nil
		}
		return errors.New("broken")
	}})
	add(t, db, Job{Kind: "k", Key: "often"}, Job{Kind: "k", Key: "never"}, Job{Kind: "k", Key: "panics"}, Job{Kind: "k", Key: "later", NotBefore: time.Now().Add(time.Hour)})
	eventually(t, db, "later  0 false false ; never  1 false true wrong: n; often  3 false true broken; panics  1 false true panic: o")
	works.Store(true)
	add(t, db, Job{Kind: "k", Key: "often"})
	q.Wake("k")
	err := db.Update(t.Context(), func(tx *sql.Tx) error {
		return errors.Join(Remove(t.Context(), tx, "k", "never"), Remove(t.Context(), tx, "k", "panics"), Remove(t.Context(), tx, "k", "nothing"))
	})
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, db, "later  0 false false ")
}

// A job that is added while it is done is done again, with the new payload.
func TestAddedWhileRunning(t *testing.T) {
	db := open(t)
	begun, goOn := make(chan string, 8), make(chan error)
	start(t, db, Handler{Do: func(_ context.Context, job Job) error {
		begun <- job.Payload
		return <-goOn
	}})
	add(t, db, Job{Kind: "k", Key: "x", Payload: "1"})
	if got := <-begun; got != "1" {
		t.Fatal(got)
	}
	add(t, db, Job{Kind: "k", Key: "x", Payload: "2"})
	goOn <- nil
	if got := <-begun; got != "2" {
		t.Fatal(got)
	}
	eventually(t, db, "x 2 1 true false ")
	goOn <- nil
	eventually(t, db, "")
}

// A job of a replica that died is another's once the claim ran out, and a replica
// that ends gives its jobs back at once.
func TestKilledReplica(t *testing.T) {
	db := open(t)
	add(t, db, Job{Kind: "k", Key: "x"})
	dead := New(db, Options{Handlers: map[string]Handler{"k": {}}, Lease: 200 * time.Millisecond})
	c, err := dead.claim(t.Context(), "k")
	if err != nil || c == nil || c.Key != "x" {
		t.Fatal(c, err)
	}
	if other, err := dead.claim(t.Context(), "k"); err != nil || other != nil {
		t.Fatal("claimed twice: ", other, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	begun := make(chan int, 8)
	h := Handler{Do: func(ctx context.Context, job Job) error {
		begun <- job.Attempts
		<-ctx.Done()
		return ctx.Err()
	}}
	q := New(db, Options{Handlers: map[string]Handler{"k": h}, Poll: 10 * time.Millisecond, Lease: time.Minute})
	var ended sync.WaitGroup
	ended.Go(func() { q.Run(ctx) })
	if n := <-begun; n != 2 {
		t.Errorf("attempt %d, want the second", n)
	}
	cancel()
	ended.Wait()
	if got := list(t, db); got != "x  1 false false context " {
		t.Errorf("after the end: %q", got)
	}
	// What the dead one would say now changes nothing.
	if err := dead.settle(t.Context(), Handler{}, c, nil, false); err != nil || list(t, db) == "" {
		t.Errorf("%v: a lost claim ended the job", err)
	}
}

// A claim is prolonged while the work goes on, and one that is lost ends the work.
func TestHeldClaims(t *testing.T) {
	db := open(t)
	begun, ended := make(chan bool), make(chan error, 1)
	h := Handler{Do: func(ctx context.Context, _ Job) error {
		begun <- true
		select {
		case <-ctx.Done():
			ended <- nil
		case <-time.After(20 * time.Second):
			ended <- errors.New("went on without a claim")
		}
		return ctx.Err()
	}}
	q := New(db, Options{Handlers: map[string]Handler{"k": h}, Poll: 10 * time.Millisecond, Lease: 150 * time.Millisecond})
	ctx, cancel := context.WithCancel(t.Context())
	var over sync.WaitGroup
	over.Go(func() { q.Run(ctx) })
	defer over.Wait()
	defer cancel()
	add(t, db, Job{Kind: "k", Key: "x"})
	<-begun
	time.Sleep(400 * time.Millisecond)
	if got := list(t, db); got != "x  1 true false " {
		t.Errorf("after two leases: %q", got)
	}
	if err := db.Update(t.Context(), func(tx *sql.Tx) error { return Remove(t.Context(), tx, "k", "x") }); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

func TestAddBounds(t *testing.T) {
	db := open(t)
	for _, job := range []Job{{}, {Kind: "k", Key: strings.Repeat("x", maxName+1)}, {Kind: "k", Payload: strings.Repeat("x", maxPayload+1)}} {
		err := db.Update(t.Context(), func(tx *sql.Tx) error { return Add(t.Context(), tx, job) })
		if !errdefs.IsInvalidArgument(err) {
			t.Errorf("%.20q: %v", job.Kind, err)
		}
	}
}

func TestBackoff(t *testing.T) {
	for attempt, want := range map[int]time.Duration{1: time.Second, 2: 2 * time.Second, 5: 16 * time.Second, 99: maxBackoff} {
		if got := backoff(time.Second, attempt); got < want || got > want+want/4+1 {
			t.Errorf("after %d: %v, want %v to a quarter more", attempt, got, want)
		}
	}
}
