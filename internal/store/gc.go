package store

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"os"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"
)

// collector frees space.
type collector struct {
	files   *contents
	journal *journal
	maxSize int64 // bytes on disk that the store may take; 0: any
}

// change is what a plan gives up.
type change struct {
	gone func(root) bool // roots that go
	held func(root) bool // of those, the ones that the journal takes over
}

// plan is what freeing space does to the disk, and what it leaves for undo.
type plan struct {
	dead      []digest.Digest // nothing needs them any more
	leftovers []digest.Digest // of dead, what nothing needed before either
	strays    []stray         // files and directories that no row names
	freed     int64           // bytes on disk
	held      int64           // bytes on disk that are kept for undo alone from now on
}

// makePlan works out what a change frees, and changes nothing.
func makePlan(g *graph, d disk, c change) *plan {
	p := &plan{}
	undoless := func(r root) bool { return r.kind != rootJournal }
	used := g.reach(undoless)
	known := g.reach(func(root) bool { return true })
	usedAfter := g.reach(func(r root) bool { return undoless(r) && !c.gone(r) })
	kept := g.reach(func(r root) bool { return !c.gone(r) || c.held(r) })
	for n, dgst := range g.digests {
		switch {
		case !kept[n]:
			size := d.size(dgst)
			p.freed += size
			p.dead = append(p.dead, dgst)
			if !known[n] && size > 0 {
				p.leftovers = append(p.leftovers, dgst)
			}
		case used[n] && !usedAfter[n]:
			p.held += d.size(dgst)
		}
	}
	return p
}

// keepAll is the change that gives nothing up: only what nothing needs goes.
func keepAll() change {
	never := func(root) bool { return false }
	return change{gone: never, held: never}
}

// free carries a plan out, which decide makes in one transaction. While it
// does, no file gets its name: the files that the plan saw are those that go. A
// dry run stops when the plan is made.
func (c *collector) free(ctx context.Context, dry bool, decide func(*sql.Tx) (*plan, error)) (p *plan, err error) {
	if err := c.files.reap(ctx); err != nil {
		return nil, err
	}
	gate, err := openGate(c.files.root, unix.LOCK_EX)
	if err != nil {
		return nil, err
	}
	defer closing(&err, gate.Close)
	if dry {
		err = c.files.db.View(ctx, func(tx *sql.Tx) error {
			p, err = decide(tx)
			return err
		})
		return p, err
	}
	err = c.files.db.Update(ctx, func(tx *sql.Tx) error {
		if p, err = decide(tx); err != nil {
			return err
		}
		return dropDead(ctx, tx, p.dead)
	})
	if err != nil {
		return nil, err
	}
	ctx = context.WithoutCancel(ctx) // the rows are gone: the files shall not outlive them
	var errs []error
	for _, dgst := range p.dead {
		for _, path := range (disk{c.files.root}).paths(dgst) {
			if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
				errs = append(errs, err)
			}
		}
	}
	for _, s := range p.strays {
		errs = append(errs, c.dropStray(ctx, s))
	}
	return p, errors.Join(errs...)
}

// dropDead drops all rows that say what digests are.
func dropDead(ctx context.Context, tx *sql.Tx, dead []digest.Digest) error {
	if len(dead) == 0 {
		return nil
	}
	list := jsonList(dead)
	for _, from := range []string{"blobs WHERE digest", "layers WHERE diff_id", "compressed WHERE digest", "refs WHERE parent", "sources WHERE digest"} {
		if _, err := tx.ExecContext(ctx, "DELETE FROM "+from+" IN (SELECT value FROM json_each($1))", list); err != nil { //nolint:gosec // constants
			return err
		}
	}
	return nil
}

// jsonList is how a query gets a list of any length.
func jsonList[T ~string](list []T) string {
	b, err := json.Marshal(list)
	if err != nil {
		return "[]" // strings can always be encoded
	}
	return string(b)
}

// GC removes what no name, image, cache record, journal entry or live lease
// reaches, and returns the bytes on disk that it freed. It first reaps the
// leases of dead processes. Work that runs at the same time is not disturbed.
func (c *collector) GC(ctx context.Context) (freed int64, err error) {
	p, err := c.free(ctx, false, func(tx *sql.Tx) (*plan, error) { return c.planAll(ctx, tx, keepAll()) })
	if err != nil {
		return 0, fmt.Errorf("collect: %w", err)
	}
	return p.freed, nil
}

// planAll plans a change over the whole store, strays included.
func (c *collector) planAll(ctx context.Context, tx *sql.Tx, ch change) (*plan, error) {
	g, err := readGraph(ctx, tx)
	if err != nil {
		return nil, err
	}
	p := makePlan(g, disk{c.files.root}, ch)
	return p, c.addStrays(ctx, g, p)
}

// freeScope makes a change and frees what of the scope nothing needs any more.
// It reads no more of the graph than that, and no directory.
func (c *collector) freeScope(ctx context.Context, change func(*sql.Tx) error, scope func() []digest.Digest) (freed int64, err error) {
	p, err := c.free(ctx, false, func(tx *sql.Tx) (*plan, error) {
		if err := change(tx); err != nil {
			return nil, err
		}
		g, err := readGraph(ctx, tx, scope()...)
		if err != nil {
			return nil, err
		}
		return makePlan(g, disk{c.files.root}, keepAll()), nil
	})
	if err != nil {
		return 0, err
	}
	return p.freed, nil
}

// sweep removes what no row names, and no more.
func (c *collector) sweep(ctx context.Context) error {
	_, err := c.free(ctx, false, func(tx *sql.Tx) (*plan, error) {
		g, err := readGraph(ctx, tx)
		if err != nil {
			return nil, err
		}
		p := &plan{}
		return p, c.addStrays(ctx, g, p)
	})
	return err
}

// addStrays adds to a plan what no row names.
func (c *collector) addStrays(ctx context.Context, g *graph, p *plan) error {
	var err error
	if p.strays, err = c.strays(ctx, g); err != nil {
		return err
	}
	for _, s := range p.strays {
		p.freed += s.size
	}
	return nil
}

// dropStray removes a stray, unless somebody has taken it up since.
func (c *collector) dropStray(ctx context.Context, s stray) error {
	if s.ref == "" {
		return os.RemoveAll(s.path)
	}
	err := c.files.blobs.Abort(ctx, s.ref)
	if errdefs.IsNotFound(err) || errdefs.IsUnavailable(err) {
		return nil
	}
	return err
}
