package store

import (
	"context"
	"database/sql"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"strconv"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"strake/internal/sqldb"
)

// lowSpace is the part of a file system that has to stay free for undo to keep
// anything: one in ten.
const lowSpace = 10

// Settle is what a verb calls that has added to the store: it collects what undo
// has kept for long enough, and all that it keeps where the file system is
// nearly full; then it brings the store down to its budget. It returns the
// bytes on disk that it freed.
func (c *collector) Settle(ctx context.Context) (freed int64, err error) {
	until, err := c.overdue(ctx)
	if err == nil && until > 0 {
		freed, err = c.forgetJournal(ctx, until)
	}
	if err != nil || c.maxSize <= 0 {
		return freed, err
	}
	n, err := c.enforce(ctx)
	return freed + n, err
}

// overdue is the ID of the newest journal entry that is to go; 0 for none.
func (c *collector) overdue(ctx context.Context) (id int64, err error) {
	var newest int64
	err = c.files.db.View(ctx, func(tx *sql.Tx) error {
		if err := tx.QueryRowContext(ctx, "SELECT COALESCE(MAX(id), 0) FROM journal").Scan(&newest); err != nil || newest == 0 {
			return err
		}
		id, err = c.journal.expired(ctx, tx)
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("read journal: %w", err)
	}
	if newest != 0 && c.nearlyFull(c.files.root) {
		return newest, nil
	}
	return id, nil
}

// nearlyFull reports whether the file system of a path has less free than undo
// leaves to others.
func nearlyFull(path string) bool {
	var st unix.Statfs_t
	return unix.Statfs(path, &st) == nil && st.Bavail < st.Blocks/lowSpace
}

// forgetJournal collects the journal's entries up to an ID.
func (c *collector) forgetJournal(ctx context.Context, until int64) (int64, error) {
	p, err := c.free(ctx, false, func(tx *sql.Tx) (*plan, error) {
		if err := forget(ctx, tx, "entry <= $1", until); err != nil {
			return nil, err
		}
		return c.planAll(ctx, tx)
	})
	if err != nil {
		return 0, fmt.Errorf("collect journal: %w", err)
	}
	return p.freed, nil
}

// Reclaim collects all that is kept for undo, and reports whether that freed
// anything: what a write does that found the disk full, before it tries again.
func (c *collector) Reclaim(ctx context.Context) bool {
	freed, err := c.forgetJournal(ctx, math.MaxInt64)
	return err == nil && freed > 0
}

// victim is one thing that the budget may take: the row of a kind.
type victim struct {
	kind  victimKind
	entry int64         // of a victimEntry
	blob  digest.Digest // of a victimBlob
	tree  string        // path of a victimTree
	size  int64         // of a victimTree or a victimBuild: bytes on disk
	key   string        // of a victimRecord or a victimBuild
	image digest.Digest // of a victimImage
}

// victimKind says what a victim is.
type victimKind int

const (
	victimBuild  victimKind = iota // the record of a build and its log
	victimEntry                    // of the journal
	victimBlob                     // a compressed layer
	victimTree                     // an extracted chain or a cache mount
	victimRecord                   // of the cache
	victimImage
)

// enforce brings the store down to its budget: first the history of builds, then
// what undo keeps, the oldest first; then, each the least recently used first, what can be made again of
// what stays (compressed layers, extracted chains), the build cache, and images
// that are neither pinned nor in use. No more goes than has to.
func (c *collector) enforce(ctx context.Context) (int64, error) {
	if far, err := c.farBelow(ctx); err != nil || far {
		return 0, err
	}
	size, err := treeSize(c.files.root)
	if err != nil {
		return 0, err
	}
	excess := size - c.maxSize
	if excess <= 0 {
		return 0, nil
	}
	trees, err := c.measureTrees(ctx)
	if err != nil {
		return 0, err
	}
	p, err := c.free(ctx, false, func(tx *sql.Tx) (*plan, error) { return c.evict(ctx, tx, excess, trees) })
	if err != nil {
		return 0, fmt.Errorf("keep to max-size: %w", err)
	}
	return p.freed, nil
}

// farBelow reports whether the store takes less than nine tenths of its budget,
// by its rows: to measure each of its files takes much longer.
func (c *collector) farBelow(ctx context.Context) (bool, error) {
	entries, err := os.ReadDir(c.files.root)
	if err != nil {
		return false, fmt.Errorf("measure store: %w", err)
	}
	var total int64
	for _, e := range entries {
		if e.Name() == "blobs" || e.Name() == "indexes" {
			continue // what the rows tell of
		}
		size, err := treeSize(filepath.Join(c.files.root, e.Name()))
		if err != nil {
			return false, err
		}
		total += size
	}
	var blobs, indexes int64
	err = c.files.db.Get(ctx, `SELECT (SELECT COALESCE(SUM(size + $1), 0) FROM blobs),
		(SELECT COALESCE(SUM(index_size + side_size + $1), 0) FROM layers)`, []any{block}, &blobs, &indexes)
	if err != nil {
		return false, fmt.Errorf("measure store: %w", err)
	}
	return total+blobs+indexes < c.maxSize-c.maxSize/10, nil
}

// block is how many bytes a file may take on disk beyond those that it has.
const block = 4096

// evict drops the rows of as many victims as it takes to free excess bytes.
func (c *collector) evict(ctx context.Context, tx *sql.Tx, excess int64, trees treeSizes) (*plan, error) {
	g, err := readGraph(ctx, tx)
	if err != nil {
		return nil, err
	}
	p := &plan{evicted: map[digest.Digest]bool{}}
	if err := c.addStrays(ctx, g, p); err != nil {
		return nil, err
	}
	victims, err := c.victims(ctx, tx, g, trees)
	if err != nil {
		return nil, err
	}
	sizes := make([]int64, len(g.digests))
	for n, dgst := range g.digests {
		sizes[n] = disk{c.files.root}.size(dgst)
	}
	count := sort.Search(len(victims), func(k int) bool { return p.freed+g.freedBy(victims[:k], sizes) >= excess })
	if err := c.take(ctx, tx, victims[:count], p); err != nil {
		return nil, err
	}
	after, err := readGraph(ctx, tx)
	if err != nil {
		return nil, err
	}
	p.compare(g, after, make(marks, len(after.digests)), disk{c.files.root})
	return p, nil
}

// freedBy is how many bytes go when these victims do.
func (g *graph) freedBy(victims []victim, sizes []int64) (freed int64) {
	gone := map[victim]bool{}
	for _, v := range victims {
		gone[v] = true
		freed += v.size
	}
	kept := g.reach(func(r root) bool {
		switch r.kind {
		case rootJournal:
			id, err := strconv.ParseInt(r.owner, 10, 64)
			return err != nil || !gone[victim{kind: victimEntry, entry: id}]
		case rootCache:
			return !gone[victim{kind: victimRecord, key: r.owner}]
		case rootImage:
			return !gone[victim{kind: victimImage, image: r.image}]
		}
		return true
	})
	for n, dgst := range g.digests {
		if !kept[n] || gone[victim{kind: victimBlob, blob: dgst}] {
			freed += sizes[n]
		}
	}
	return freed
}

// victims lists what the budget may take, in the order in which it does.
func (c *collector) victims(ctx context.Context, tx *sql.Tx, g *graph, trees treeSizes) ([]victim, error) {
	leased := g.reach(func(r root) bool { return r.kind == rootLease })
	builds, err := c.builds().finished()
	if err != nil {
		return nil, err
	}
	var list []victim
	for _, k := range builds {
		list = append(list, victim{kind: victimBuild, key: k.id, size: k.disk})
	}
	err = sqldb.Each(ctx, tx, "SELECT id FROM journal ORDER BY id", nil, func(rows *sql.Rows) error {
		v := victim{kind: victimEntry}
		err := rows.Scan(&v.entry)
		list = append(list, v)
		return err
	})
	if err != nil {
		return nil, err
	}
	err = sqldb.Each(ctx, tx, `SELECT b.digest FROM blobs b JOIN compressed c ON c.digest = b.digest
		JOIN layers l ON l.diff_id = c.diff_id WHERE c.digest <> c.diff_id ORDER BY b.used, b.digest`, nil, func(rows *sql.Rows) error {
		v := victim{kind: victimBlob}
		err := rows.Scan(&v.blob)
		if !leased[g.node(v.blob.String())] {
			list = append(list, v)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	records, err := c.cacheRecords(ctx, tx, g, trees)
	if err != nil {
		return nil, err
	}
	for _, r := range records {
		if r.Kind == KindUnpacked && !r.InUse {
			list = append(list, victim{kind: victimTree, tree: c.treePath(r), size: r.Size})
		}
	}
	for _, r := range records {
		switch {
		case r.InUse:
		case r.Kind == KindStep:
			list = append(list, victim{kind: victimRecord, key: r.ID})
		case r.Kind == KindMount:
			list = append(list, victim{kind: victimTree, tree: c.treePath(r), size: r.Size})
		}
	}
	images, err := listImages(ctx, tx, true)
	if err != nil {
		return nil, err
	}
	slices.SortStableFunc(images, func(a, b Image) int { return a.Used.Compare(b.Used) })
	used := g.usedImages()
	for _, img := range images {
		if pinned, err := pinnedWithin(ctx, tx, img.ID); err != nil {
			return nil, err
		} else if !pinned && !used[img.ID] {
			list = append(list, victim{kind: victimImage, image: img.ID})
		}
	}
	return list, nil
}

// take drops the rows of victims.
func (c *collector) take(ctx context.Context, tx *sql.Tx, victims []victim, p *plan) error {
	r := &removal{files: c.files, tx: tx, undo: &entry{}, opts: RemoveOptions{Force: true}}
	for _, v := range victims {
		var err error
		switch v.kind {
		case victimBuild:
			p.dropBuild(v.key, v.size)
		case victimEntry:
			err = forget(ctx, tx, "entry <= $1", v.entry)
		case victimBlob:
			// The row of compressed stays: it says what the blob held.
			_, err = tx.ExecContext(ctx, "DELETE FROM blobs WHERE digest = $1", v.blob.String())
			p.evicted[v.blob] = true
		case victimTree:
			p.strays = append(p.strays, stray{path: v.tree, size: v.size, tree: true})
			p.freed += v.size
		case victimRecord:
			for _, q := range []string{"DELETE FROM cache WHERE key = $1", "DELETE FROM cache_layers WHERE key = $1"} {
				if err == nil {
					_, err = tx.ExecContext(ctx, q, v.key)
				}
			}
		case victimImage:
			err = r.dropAll(ctx, v.image)
		}
		if err != nil {
			return err
		}
	}
	for d := range p.evicted {
		p.freed += disk{c.files.root}.size(d)
	}
	return r.end(ctx)
}
