package store

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"

	"strake/internal/flock"
)

// collector frees space.
type collector struct {
	debris
	journal    *journal
	maxSize    int64 // bytes on disk that the store may take; 0: any
	nearlyFull func(path string) bool
}

// plan is what freeing space does to the disk, and what it leaves for undo.
type plan struct {
	dead      []digest.Digest        // nothing needs them any more
	leftovers []digest.Digest        // of dead, what nothing needed before either
	strays    []stray                // files and directories that no row names
	evicted   map[digest.Digest]bool // compressed layers that go although they are needed; freed has them
	freed     int64                  // bytes on disk
	held      int64                  // bytes on disk that are kept for undo alone from now on
}

// compare adds what a change frees, by the graphs before it and after it; undo
// marks what of after the journal gets besides.
func (p *plan) compare(before, after *graph, undo marks, d disk) {
	used, known := before.reach(exceptJournal), before.reach(all)
	usedAfter, kept := after.reach(exceptJournal), after.reach(all)
	for n, dgst := range before.digests {
		m, ok := after.nodes[dgst.String()]
		switch {
		case p.evicted[dgst] && ok && kept[m]:
		case p.evicted[dgst]:
			p.dead = append(p.dead, dgst)
		case !ok || !kept[m] && !undo[m]:
			size := d.size(dgst)
			p.freed += size
			p.dead = append(p.dead, dgst)
			if !known[n] && size > 0 {
				p.leftovers = append(p.leftovers, dgst)
			}
		case used[n] && !usedAfter[m]:
			p.held += d.size(dgst)
		}
	}
}

// dropBuild adds the record of a build, which takes size bytes on disk.
func (p *plan) dropBuild(id string, size int64) {
	p.strays, p.freed = append(p.strays, stray{build: id, size: size}), p.freed+size
}

// unneeded adds what nothing of a graph needs.
func (p *plan) unneeded(g *graph, d disk) { p.compare(g, g, make(marks, len(g.digests)), d) }

// free carries a plan out, which decide makes in one transaction. While it
// does, no file gets its name: the files that the plan saw are those that go. A
// dry run makes the plan on a copy of the rows, waits for nobody and keeps nobody
// waiting: a file that gets its name just then it may take for one without a row.
func (c *collector) free(ctx context.Context, dry bool, decide func(*sql.Tx) (*plan, error)) (p *plan, err error) {
	if dry {
		err = c.files.db.Rehearse(ctx, func(tx *sql.Tx) error {
			if err := c.files.forgetDead(ctx, tx); err != nil {
				return err
			}
			p, err = decide(tx)
			return err
		})
		return p, err
	}
	if err := c.files.reap(ctx); err != nil {
		return nil, err
	}
	gate, err := openGate(ctx, c.files.root, flock.Exclusive)
	if err != nil {
		return nil, err
	}
	err = c.files.db.Update(ctx, func(tx *sql.Tx) error {
		if p, err = decide(tx); err != nil {
			return err
		}
		return dropDead(ctx, tx, p.dead)
	})
	if err != nil {
		return nil, errors.Join(err, gate.Close())
	}
	ctx = context.WithoutCancel(ctx) // the rows are gone: the files shall not outlive them
	var errs []error
	for _, dgst := range slices.AppendSeq(p.dead, maps.Keys(p.evicted)) {
		for _, path := range (disk{c.files.root}).paths(dgst) {
			if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
				errs = append(errs, err)
			}
		}
	}
	var trees []stray // which have locks of their own, and may have many files: nobody waits for them
	for _, s := range p.strays {
		if s.tree {
			trees = append(trees, s)
			continue
		}
		errs = append(errs, c.dropStray(ctx, s))
	}
	errs = append(errs, gate.Close())
	for _, s := range trees {
		errs = append(errs, removeTree(s.path))
		if above := filepath.Dir(s.path); filepath.Dir(above) == cacheMountsDir(c.files.root) {
			errs = append(errs, removeEmpty(above))
		}
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
	p, err := c.free(ctx, false, func(tx *sql.Tx) (*plan, error) { return c.planAll(ctx, tx) })
	if err != nil {
		return 0, fmt.Errorf("collect: %w", err)
	}
	return p.freed, nil
}

// planAll plans for all that nothing needs, strays included.
func (c *collector) planAll(ctx context.Context, tx *sql.Tx) (*plan, error) {
	g, err := readGraph(ctx, tx)
	if err != nil {
		return nil, err
	}
	p := &plan{}
	p.unneeded(g, disk{c.files.root})
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
		p := &plan{}
		p.unneeded(g, disk{c.files.root})
		return p, nil
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
func (c *debris) addStrays(ctx context.Context, g *graph, p *plan) error {
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
func (c *debris) dropStray(ctx context.Context, s stray) error {
	if s.build != "" {
		return c.builds().RemoveBuild(s.build)
	}
	if s.ref == "" {
		return os.RemoveAll(s.path)
	}
	err := c.files.blobs.Abort(ctx, s.ref)
	if errdefs.IsNotFound(err) || errdefs.IsUnavailable(err) {
		return nil
	}
	return err
}
