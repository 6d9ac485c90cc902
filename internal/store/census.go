package store

import (
	"context"
	"database/sql"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"strake/internal/content"
	"strake/internal/flock"
	"strake/internal/sqldb"
)

// census is one consistent look at the rows and the files of a store.
type census struct {
	blobs      map[digest.Digest]int64 // row: size
	layers     map[digest.Digest]layerRow
	compressed map[digest.Digest]compressedRow
	variants   []variantRow
	images     map[digest.Digest]ocispec.Descriptor
	facts      map[digest.Digest]imageFacts
	roots      []rootRow // names and repo digests

	containers map[string]bool // that have a row

	refs    *graph // and the manifests that indexes keep
	parents [][]node
	needed  marks // what an image, a container, a repo digest, a cache record or a living process needs

	blobFiles  map[digest.Digest]int64
	indexFiles map[string]int64 // by name: size
	alive      map[string]bool  // lease files: whether the owner lives
}

type layerRow struct{ size, index, side int64 }

type compressedRow struct {
	diffID    digest.Digest
	mediaType string
	size      int64
}

// variantRow is a manifest that an index keeps.
type variantRow struct {
	root     digest.Digest
	manifest ocispec.Descriptor
	image    digest.Digest // "" for none
}

// rootRow is a name or a repo digest.
type rootRow struct {
	name   string // canonical
	digest bool   // it is a repo digest
	root   ocispec.Descriptor
	image  digest.Digest
}

// takeCensus looks while no commit is between its files and its rows.
func (s *Store) takeCensus(ctx context.Context) (c *census, err error) {
	gate, err := openGate(ctx, s.root, flock.Exclusive)
	if err != nil {
		return nil, err
	}
	defer closing(&err, gate.Close)
	c = &census{
		blobs: map[digest.Digest]int64{}, layers: map[digest.Digest]layerRow{}, compressed: map[digest.Digest]compressedRow{},
		images: map[digest.Digest]ocispec.Descriptor{}, facts: map[digest.Digest]imageFacts{}, blobFiles: map[digest.Digest]int64{}, indexFiles: map[string]int64{}, alive: map[string]bool{},
	}
	// Leases before rows: one that is given up in between leaves no rows behind.
	if err := s.leaseFiles(c.alive); err != nil {
		return nil, err
	}
	if err := s.db.View(ctx, func(tx *sql.Tx) error { return c.readRows(ctx, tx) }); err != nil {
		return nil, err
	}
	err = s.blobs.Walk(ctx, func(info content.Info) error {
		c.blobFiles[info.Digest] = info.Size
		return nil
	})
	if err != nil {
		return nil, err
	}
	entries, err := os.ReadDir(filepath.Join(s.root, "indexes"))
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		info, err := e.Info()
		if err != nil {
			return nil, err
		}
		c.indexFiles[e.Name()] = info.Size()
	}
	return c, nil
}

func (c *census) readRows(ctx context.Context, tx *sql.Tx) error {
	type query struct {
		text string
		scan func(scan func(...any) error) error
	}
	var d digest.Digest
	for _, q := range []query{
		{"SELECT digest, size FROM blobs", func(scan func(...any) error) error {
			var size int64
			err := scan(&d, &size)
			c.blobs[d] = size
			return err
		}},
		{"SELECT diff_id, size, index_size, side_size FROM layers", func(scan func(...any) error) error {
			var l layerRow
			err := scan(&d, &l.size, &l.index, &l.side)
			c.layers[d] = l
			return err
		}},
		{"SELECT digest, diff_id, media_type, size FROM compressed", func(scan func(...any) error) error {
			var z compressedRow
			err := scan(&d, &z.diffID, &z.mediaType, &z.size)
			c.compressed[d] = z
			return err
		}},
		{"SELECT root, manifest, manifest_type, manifest_size, image_id FROM variants", func(scan func(...any) error) error {
			var v variantRow
			err := scan(&v.root, &v.manifest.Digest, &v.manifest.MediaType, &v.manifest.Size, &v.image)
			c.variants = append(c.variants, v)
			return err
		}},
		{`SELECT id, manifest, manifest_type, manifest_size, created, size, os, architecture, variant, labels
			FROM images`, func(scan func(...any) error) error {
			var m ocispec.Descriptor
			var f imageFacts
			err := scan(&d, &m.Digest, &m.MediaType, &m.Size, &f.created, &f.size, &f.os, &f.architecture, &f.variant, &f.labels)
			c.images[d], c.facts[d] = m, f
			return err
		}},
		{`SELECT name, 0, root, root_type, root_size, image_id FROM names UNION ALL
			SELECT repository || '@' || digest, 1, digest, root_type, root_size, image_id FROM repo_digests`, func(scan func(...any) error) error {
			var r rootRow
			err := scan(&r.name, &r.digest, &r.root.Digest, &r.root.MediaType, &r.root.Size, &r.image)
			c.roots = append(c.roots, r)
			return err
		}},
	} {
		err := sqldb.Each(ctx, tx, q.text, nil, func(rows *sql.Rows) error { return q.scan(checkDigests(rows.Scan)) })
		if err != nil {
			return fmt.Errorf("%s: %w", q.text, err)
		}
	}
	g, err := readGraph(ctx, tx)
	if err != nil {
		return err
	}
	for _, d := range g.digests {
		if d.Validate() != nil {
			return fmt.Errorf("%q is no digest: %w", d, errdefs.ErrDataLoss)
		}
	}
	c.follow(g)
	return nil
}

// follow sets all that follows from which digest needs which.
func (c *census) follow(g *graph) {
	for _, v := range c.variants {
		root := g.node(v.root.String())
		g.children[root] = append(g.children[root], g.node(v.manifest.Digest.String()))
	}
	from := []digest.Digest{}
	for _, r := range c.roots {
		from = append(from, r.root.Digest, r.image)
	}
	for id, m := range c.images {
		from = append(from, id, m.Digest)
	}
	start := []node{}
	c.containers = map[string]bool{}
	for _, d := range from {
		start = append(start, g.node(d.String()))
	}
	for _, r := range g.roots {
		if r.kind == rootContainer {
			c.containers[r.owner] = true
		}
		if r.kind == rootCache || r.kind == rootContainer || r.kind == rootLease && c.alive[r.owner] {
			start = append(start, r.node)
		}
	}
	c.refs, c.needed, c.parents = g, make(marks, len(g.digests)), make([][]node, len(g.digests))
	for _, n := range start {
		g.mark(c.needed, n)
	}
	for parent, children := range g.children {
		for _, child := range children {
			c.parents[child] = append(c.parents[child], node(parent))
		}
	}
}

// checkDigests makes scan fail at a digest that is none: in a damaged database
// a row may hold anything.
func checkDigests(scan func(...any) error) func(...any) error {
	return func(dest ...any) error {
		if err := scan(dest...); err != nil {
			return err
		}
		for _, d := range dest {
			if d, ok := d.(*digest.Digest); ok && *d != "" && d.Validate() != nil {
				return fmt.Errorf("%q is no digest: %w", *d, errdefs.ErrDataLoss)
			}
		}
		return nil
	}
}

// leaseFiles finds the leases that have a file, and whether their owners live.
func (s *leases) leaseFiles(alive map[string]bool) error {
	entries, err := os.ReadDir(filepath.Join(s.root, "leases"))
	if err != nil {
		return err
	}
	for _, e := range entries {
		if alive[e.Name()], err = s.alive(e.Name()); err != nil {
			return err
		}
	}
	return nil
}

// inUse reports whether a living process holds a lease on the digest.
func (c *census) inUse(d digest.Digest) bool {
	n, ok := c.refs.nodes[d.String()]
	return ok && slices.ContainsFunc(c.refs.roots, func(r root) bool { return r.node == n && r.kind == rootLease && c.alive[r.owner] })
}

// holdsLayer reports whether the layer that a manifest names as d is here, by
// its rows.
func (c *census) holdsLayer(d digest.Digest) bool {
	if _, ok := c.layers[d]; ok {
		return true
	}
	z, ok := c.compressed[d]
	if ok {
		_, ok = c.layers[z.diffID]
	}
	return ok
}

// forms are the compressed forms of a layer that are known, here or not.
func (c *census) forms(id digest.Digest) []ocispec.Descriptor {
	var list []ocispec.Descriptor
	for d, z := range c.compressed {
		if z.diffID == id {
			list = append(list, ocispec.Descriptor{Digest: d, MediaType: z.mediaType, Size: z.size})
		}
	}
	return list
}

// diffID is the layer that d is or, as a compressed blob, holds.
func (c *census) diffID(d digest.Digest) digest.Digest {
	if z, ok := c.compressed[d]; ok {
		return z.diffID
	}
	return d
}

// ancestors are the digests from which refs lead to d, and d.
func (c *census) ancestors(d digest.Digest) map[digest.Digest]bool {
	up := map[digest.Digest]bool{d: true}
	n, ok := c.refs.nodes[d.String()]
	if !ok {
		return up
	}
	for rest := []node{n}; len(rest) > 0; {
		n, rest = rest[len(rest)-1], rest[:len(rest)-1]
		for _, parent := range c.parents[n] {
			if p := c.refs.digests[parent]; !up[p] {
				up[p] = true
				rest = append(rest, parent)
			}
		}
	}
	return up
}

// leadsTo reports whether refs lead from parent to child in one step.
func (c *census) leadsTo(parent, child digest.Digest) bool {
	p, ok := c.refs.nodes[parent.String()]
	n, also := c.refs.nodes[child.String()]
	return ok && also && slices.Contains(c.refs.children[p], n)
}

// users names the images that need d: by their names, or IDs of the nameless.
// repositories are those that are known to hold one of these images.
func (c *census) users(d digest.Digest) (images, repositories []string) {
	up := c.ancestors(d)
	named, names, repos := map[digest.Digest]bool{}, map[string]bool{}, map[string]bool{}
	for _, r := range c.roots {
		if !up[r.root.Digest] && !up[r.image] && !up[c.images[r.image].Digest] {
			continue
		}
		if r.digest {
			repos[repositoryOf(r.name)] = true
			continue
		}
		named[r.image], names[r.name] = true, true
	}
	for id, m := range c.images {
		if (up[id] || up[m.Digest]) && !named[id] {
			names[id.String()] = true
		}
	}
	return slices.Sorted(maps.Keys(names)), slices.Sorted(maps.Keys(repos))
}

// live reports whether an image, a repo digest, a cache record or a living
// process needs d.
func (c *census) live(d digest.Digest) bool {
	n, ok := c.refs.nodes[d.String()]
	return ok && c.needed[n]
}

// undoable reports whether a journal entry keeps d.
func (c *census) undoable(d digest.Digest) bool {
	up := c.ancestors(d)
	return slices.ContainsFunc(c.refs.roots, func(r root) bool { return r.kind == rootJournal && up[c.refs.digests[r.node]] })
}

// whole reports whether d, and all that refs lead to from it, is here.
func (c *census) whole(d digest.Digest) bool {
	m := make(marks, len(c.refs.digests))
	c.refs.mark(m, c.refs.nodes[d.String()])
	for n, reached := range m {
		if !reached {
			continue
		}
		if _, ok := c.blobs[c.refs.digests[n]]; !ok && !c.holdsLayer(c.refs.digests[n]) {
			return false
		}
	}
	return true
}
