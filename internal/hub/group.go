package hub

import (
	"context"
	"database/sql"
	"fmt"
	"sync"

	"strake/internal/sqldb"
)

// maxGroup is how many changes share a transaction at most.
const maxGroup = 64

// group makes changes that come at once share a transaction of SQLite, which has
// one writer and waits for the disk at the end of each: each change in a savepoint
// of its own, so that one that fails takes back nothing of the others. PostgreSQL
// has many writers and groups what they wait for by itself.
type group struct {
	db *sqldb.DB

	mu      sync.Mutex
	waiting []*change
	busy    bool // somebody runs what waits
}

// change is a change that waits for its transaction.
type change struct {
	run  func(tx *sql.Tx) error
	err  error
	done chan struct{}
}

// update is sqldb's Update with the context that run is to use: a change that has
// begun is ended, for the transaction is not its caller's alone.
func (g *group) update(ctx context.Context, run func(ctx context.Context, tx *sql.Tx) error) error {
	if g.db.Dialect() != sqldb.SQLite {
		return g.db.Update(ctx, func(tx *sql.Tx) error { return run(ctx, tx) })
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	ctx = context.WithoutCancel(ctx)
	c := &change{run: func(tx *sql.Tx) error { return run(ctx, tx) }, done: make(chan struct{})}
	g.mu.Lock()
	g.waiting = append(g.waiting, c)
	first := !g.busy
	g.busy = true
	g.mu.Unlock()
	if first {
		g.next(ctx)
	}
	<-c.done
	return c.err
}

// next runs what waits, up to maxGroup changes, and sees to it that the rest is
// run, too.
func (g *group) next(ctx context.Context) {
	g.mu.Lock()
	n := min(len(g.waiting), maxGroup)
	changes := g.waiting[:n:n]
	g.waiting = g.waiting[n:]
	g.mu.Unlock()
	g.run(ctx, changes)
	for _, c := range changes {
		close(c.done)
	}
	g.mu.Lock()
	g.busy = len(g.waiting) > 0
	more := g.busy
	g.mu.Unlock()
	if more { // the caller has waited for its own change, not for those
		go g.next(ctx)
	}
}

// run makes the changes: together, or where that fails each alone, so that an
// error is told to whom it concerns.
func (g *group) run(ctx context.Context, changes []*change) {
	if len(changes) > 1 {
		err := g.db.Update(ctx, func(tx *sql.Tx) error {
			for _, c := range changes {
				if err := inSavepoint(ctx, tx, c); err != nil {
					return err
				}
			}
			return nil
		})
		if err == nil {
			return
		}
	}
	for _, c := range changes {
		c.err = g.db.Update(ctx, func(tx *sql.Tx) error { return guarded(tx, c) })
	}
}

// inSavepoint makes c, or keeps its error and takes back what it did. It fails
// where the transaction is lost.
func inSavepoint(ctx context.Context, tx *sql.Tx, c *change) error {
	if _, err := tx.ExecContext(ctx, "SAVEPOINT change"); err != nil {
		return err
	}
	if c.err = guarded(tx, c); c.err != nil {
		if _, err := tx.ExecContext(ctx, "ROLLBACK TO change"); err != nil {
			return err
		}
	}
	_, err := tx.ExecContext(ctx, "RELEASE change")
	return err
}

// guarded makes c. A panic is an error of c alone: others wait for the same
// transaction.
func guarded(tx *sql.Tx, c *change) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("change: panic: %v", r)
		}
	}()
	return c.run(tx)
}
