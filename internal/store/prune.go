package store

import (
	"context"
	"database/sql"
	"fmt"
	"math"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"

	"strake/internal/flock"
	"strake/internal/sqldb"
)

// PruneOptions say what goes. Pinned images, and what a process works on, stay
// in any case.
type PruneOptions struct {
	What   string                            // how undo calls it
	Images func([]Image) []Image             // chooses of all images; nil: none goes
	Cache  func([]CacheRecord) []CacheRecord // chooses of all records; nil: none goes
	Builds bool                              // the history of builds goes too
	Undo   bool                              // all that is kept for undo goes too
	Now    bool                              // nothing of the images is kept for undo
	DryRun bool                              // change nothing
}

// PruneResult says what went, in order, or would go.
type PruneResult struct {
	Images    []RemoveResult // one for each image that was chosen
	Cache     []CacheRecord
	Leftovers []digest.Digest // blobs that nothing needed before either
	Freed     int64           // bytes on disk
	Held      int64           // bytes on disk that are kept for undo alone from now on
}

// The kinds of cache records, in BuildKit's words.
const (
	KindStep     = "regular"      // the result of a step
	KindContext  = "source.local" // which files of a build context are known
	KindMount    = "exec.cachemount"
	KindUnpacked = "internal" // an extracted chain, for kernels that cannot mount EROFS
)

// CacheRecord is one thing that builds can make again.
type CacheRecord struct {
	ID      string
	Kind    string
	Size    int64 // bytes on disk of its layers, or of the extracted chain
	Created time.Time
	Used    time.Time
	InUse   bool // by a process
	Shared  bool // an image has some of its layers
	Step    string
}

// Mutable reports whether builds change it after it was made, as BuildKit has it.
func (r *CacheRecord) Mutable() bool { return r.Kind == KindMount }

// Prune removes images and cache records, and all that nothing needs then, in
// one transaction. A dry run is the same transaction on a copy of the rows, and
// so tells exactly what Prune would do at that moment.
func (c *collector) Prune(ctx context.Context, opts PruneOptions) (PruneResult, error) {
	var res PruneResult
	var trees treeSizes
	var err error
	if opts.Cache != nil {
		if trees, err = c.measureTrees(ctx); err != nil {
			return PruneResult{}, fmt.Errorf("prune: %w", err)
		}
	}
	p, err := c.free(ctx, opts.DryRun, func(tx *sql.Tx) (*plan, error) {
		res = PruneResult{}
		return c.prune(ctx, tx, opts, trees, &res)
	})
	if err != nil {
		return PruneResult{}, fmt.Errorf("prune: %w", err)
	}
	res.Leftovers, res.Freed, res.Held = p.leftovers, p.freed, p.held
	return res, nil
}

func (c *collector) prune(ctx context.Context, tx *sql.Tx, opts PruneOptions, trees treeSizes, res *PruneResult) (*plan, error) {
	before, err := readGraph(ctx, tx)
	if err != nil {
		return nil, err
	}
	p := &plan{}
	if err := c.addStrays(ctx, before, p); err != nil {
		return nil, err
	}
	if opts.Cache != nil {
		if err := c.pruneCache(ctx, tx, before, opts.Cache, trees, res, p); err != nil {
			return nil, err
		}
	}
	if opts.Builds {
		list, err := c.builds().finished()
		if err != nil {
			return nil, err
		}
		for _, k := range list {
			p.dropBuild(k.id, k.disk)
		}
	}
	if opts.Undo {
		if err := forget(ctx, tx, "entry <= $1", int64(math.MaxInt64)); err != nil {
			return nil, err
		}
	}
	r := &removal{files: c.files, tx: tx, undo: c.journal.begin(opts.What, !opts.Now && !opts.Undo)}
	if opts.Images != nil {
		if err := c.pruneImages(ctx, before, opts, r, res); err != nil {
			return nil, err
		}
	}
	after, err := readGraph(ctx, tx)
	if err != nil {
		return nil, err
	}
	// What this change gives to undo is there only when its entry is written,
	// and the entry has the ID of the event that says how much was freed.
	pending := make(marks, len(after.digests))
	if r.undo.keep {
		for _, d := range r.undo.digests() {
			after.mark(pending, after.node(d.String()))
		}
	}
	p.compare(before, after, pending, disk{c.files.root})
	if opts.Images != nil {
		event, err := writeEvent(ctx, tx, Event{Type: "image", Action: "prune", Attributes: map[string]string{
			"reclaimed": strconv.FormatInt(p.freed+p.held, 10),
		}})
		if err != nil {
			return nil, err
		}
		r.event = event
	}
	return p, r.end(ctx)
}

// pruneImages removes the images that were chosen and nobody uses.
func (c *collector) pruneImages(ctx context.Context, g *graph, opts PruneOptions, r *removal, res *PruneResult) error {
	all, err := listImages(ctx, r.tx, true)
	if err != nil {
		return err
	}
	used := g.usedImages()
	for _, img := range opts.Images(all) {
		pinned, err := pinnedWithin(ctx, r.tx, img.ID)
		if err != nil {
			return err
		}
		if pinned || used[img.ID] {
			continue
		}
		r.res = RemoveResult{}
		if err := r.dropAll(ctx, img.ID); err != nil {
			return err
		}
		res.Images = append(res.Images, r.res)
	}
	return nil
}

// pinnedWithin reports whether an image, or another of the index that it stands
// for, is pinned.
func pinnedWithin(ctx context.Context, tx *sql.Tx, id digest.Digest) (bool, error) {
	return exists(ctx, tx, `images WHERE pinned = 1 AND (id = $1 OR id IN (SELECT image_id FROM variants
		WHERE root IN (SELECT root FROM variants WHERE image_id = $1 AND chosen = 1)))`, id.String())
}

// dropAll removes an image with all its names and digests; unless an index has
// it that another image stands for.
func (r *removal) dropAll(ctx context.Context, id digest.Digest) error {
	refs, err := r.column(ctx, `SELECT name FROM names WHERE image_id = $1 UNION ALL
		SELECT repository || '@' || digest FROM repo_digests WHERE image_id = $1 ORDER BY 1`, id.String())
	if err != nil {
		return err
	}
	for _, ref := range refs {
		if err := r.untag(ctx, ref); err != nil {
			return err
		}
	}
	img, err := r.image(ctx, id)
	if err != nil || len(references(img)) > 0 {
		return err
	}
	return r.dropImage(ctx, id)
}

// usedImages are the images that a lease reaches, and those of containers.
func (g *graph) usedImages() map[digest.Digest]bool {
	leased := g.reach(func(r root) bool { return r.kind == rootLease })
	used := map[digest.Digest]bool{}
	for _, r := range g.roots {
		if r.kind == rootImage && leased[r.node] || r.kind == rootContainer {
			used[r.image] = true
		}
	}
	return used
}

// pruneCache removes the records that were chosen and nobody uses.
func (c *collector) pruneCache(ctx context.Context, tx *sql.Tx, g *graph, choose func([]CacheRecord) []CacheRecord, trees treeSizes, res *PruneResult, p *plan) error {
	all, err := c.cacheRecords(ctx, tx, g, trees)
	if err != nil {
		return err
	}
	keys, dirs := []string{}, []string{}
	for _, record := range choose(all) {
		switch {
		case record.InUse:
			continue
		case record.Kind == KindUnpacked, record.Kind == KindMount:
			s := stray{path: c.treePath(record), size: record.Size, tree: true}
			p.strays, p.freed = append(p.strays, s), p.freed+s.size
		case record.Kind == KindContext:
			dirs = append(dirs, record.ID)
		default:
			keys = append(keys, record.ID)
		}
		res.Cache = append(res.Cache, record)
	}
	for _, q := range []string{"DELETE FROM cache WHERE key", "DELETE FROM cache_layers WHERE key", "DELETE FROM contexts WHERE dir"} {
		list := keys
		if q == "DELETE FROM contexts WHERE dir" {
			list = dirs
		}
		if _, err := tx.ExecContext(ctx, q+" IN (SELECT value FROM json_each($1))", jsonList(list)); err != nil {
			return err
		}
	}
	return nil
}

// cacheRecords lists all that builds can make again, the least recently used
// first. Of directories it knows those that were measured.
func (c *debris) cacheRecords(ctx context.Context, tx *sql.Tx, g *graph, sizes treeSizes) ([]CacheRecord, error) {
	var list []CacheRecord
	err := sqldb.Each(ctx, tx, `SELECT key, 'regular', slot, created, used FROM cache UNION ALL
		SELECT dir, 'source.local', '', used, used FROM contexts`, nil, func(rows *sql.Rows) error {
		var r CacheRecord
		var created, used int64
		err := rows.Scan(&r.ID, &r.Kind, &r.Step, &created, &used)
		if r.Step = strings.ReplaceAll(r.Step, "\x00", " "); r.Step == r.ID { // it has no place in a Dockerfile
			r.Step = ""
		}
		r.Created, r.Used = time.Unix(0, created), time.Unix(0, used)
		list = append(list, r)
		return err
	})
	if err != nil {
		return nil, err
	}
	layers := map[string][]node{}
	for _, r := range g.roots {
		if r.kind == rootCache {
			layers[r.owner] = append(layers[r.owner], r.node)
		}
	}
	// A layer counts for the one record that made it: the one with the fewest.
	maker := map[node]string{}
	for key, nodes := range layers {
		for _, n := range nodes {
			other, ok := maker[n]
			if !ok || len(nodes) < len(layers[other]) || len(nodes) == len(layers[other]) && key > other {
				maker[n] = key
			}
		}
	}
	images := g.reach(func(r root) bool { return r.kind == rootImage })
	leased := g.reach(func(r root) bool { return r.kind == rootLease })
	for i := range list {
		r := &list[i]
		if r.Kind != KindStep {
			continue
		}
		for _, n := range layers[r.ID] {
			if maker[n] == r.ID {
				r.Size += disk{c.files.root}.size(g.digests[n])
			}
			r.Shared, r.InUse = r.Shared || images[n], r.InUse || leased[n]
		}
	}
	trees, err := c.unpackedChains(sizes)
	if err != nil {
		return nil, err
	}
	mounts, err := c.cacheMounts(sizes)
	list = slices.Concat(list, trees, mounts)
	slices.SortStableFunc(list, func(a, b CacheRecord) int { return a.Used.Compare(b.Used) })
	return list, err
}

// treeSizes are the sizes, in bytes on disk, of directories that builds can make again, by path. They are measured before all
// writers are kept waiting: there may be many files in them.
type treeSizes map[string]int64

// measureTrees measures the chains that were extracted, and the cache mounts.
func (c *debris) measureTrees(ctx context.Context) (treeSizes, error) {
	chains, err := readDir(c.unpackedDir())
	if err != nil {
		return nil, err
	}
	paths, err := c.mountPaths()
	if err != nil {
		return nil, err
	}
	for _, e := range chains {
		paths = append(paths, filepath.Join(c.unpackedDir(), e.Name()))
	}
	sizes := treeSizes{}
	for _, path := range paths {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		if sizes[path], err = treeSize(path); err != nil {
			return nil, err
		}
	}
	return sizes, nil
}

// unpackedChains lists the chains that were extracted and measured. Who mounts
// one holds a lock on it.
func (c *debris) unpackedChains(sizes treeSizes) ([]CacheRecord, error) {
	entries, err := readDir(c.unpackedDir())
	if err != nil {
		return nil, err
	}
	var list []CacheRecord
	for _, e := range entries {
		path := filepath.Join(c.unpackedDir(), e.Name())
		size, ok := sizes[path]
		if !ok || !isHash(e.Name()) {
			continue
		}
		held, err := flock.Held(path, flock.Exclusive)
		if err != nil {
			return nil, err
		}
		made := changed(path)
		list = append(list, CacheRecord{
			ID: "unpacked/" + e.Name(), Kind: KindUnpacked, Size: size, Created: made, Used: made, InUse: held,
		})
	}
	return list, nil
}

// treePath is where the directory of a record is, an extracted chain or a cache
// mount.
func (c *debris) treePath(r CacheRecord) string {
	if r.Kind == KindMount {
		return c.cacheMountPath(r.ID)
	}
	return filepath.Join(c.unpackedDir(), filepath.Base(r.ID))
}

// Pin keeps images from every prune and from the budget, or no longer does.
func (c *collector) Pin(ctx context.Context, ref string, pinned bool) error {
	err := c.files.db.Update(ctx, func(tx *sql.Tx) error {
		f, err := find(ctx, tx, ref)
		if err != nil {
			return err
		}
		_, err = tx.ExecContext(ctx, "UPDATE images SET pinned = $2 WHERE id = $1", f.id.String(), pinned)
		return err
	})
	if err != nil {
		return fmt.Errorf("pin %q: %w", ref, err)
	}
	return nil
}
