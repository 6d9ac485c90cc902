package store

import (
	"context"
	"database/sql"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"

	"github.com/opencontainers/go-digest"
)

// Usage is what the store takes on disk, in bytes: the sum of the first six is
// what du tells, to the block.
type Usage struct {
	Images     int64 // all that an image needs
	Containers int64 // what containers wrote, and what only they need of images that were removed
	Volumes    int64
	Cache      int64 // all that only the build cache needs, and extracted chains, cache mounts and the history of builds
	Undo       int64 // all that is kept for undo alone
	Other      int64 // the database, directories, unfinished blobs, what no row names

	OtherFiles  int   // how many files Other is
	Reclaimable int64 // of Images: all but what a process works on or a container needs
	PerImage    []ImageUsage
	Records     []CacheRecord
	Entries     int // of the journal
}

// ImageUsage is what one image takes on disk.
type ImageUsage struct {
	Image  Image
	Shared int64 // other images need it too
	Unique int64
	InUse  bool
}

// The classes of files that Usage tells apart.
const (
	classImages     = "images"
	classContainers = "containers"
	classVolumes    = "volumes"
	classCache      = "cache"
	classUndo       = "undo"
	classOther      = "other"
)

// Usage measures the store.
func (c *collector) Usage(ctx context.Context) (Usage, error) {
	var u Usage
	var g *graph
	trees, err := c.measureTrees(ctx)
	if err != nil {
		return Usage{}, err
	}
	err = c.files.db.View(ctx, func(tx *sql.Tx) (err error) {
		u = Usage{}
		if g, err = readGraph(ctx, tx); err != nil {
			return err
		}
		if u.Records, err = c.cacheRecords(ctx, tx, g, trees); err != nil {
			return err
		}
		images, err := listImages(ctx, tx, true)
		if err != nil {
			return err
		}
		u.PerImage = g.measure(images, disk{c.files.root})
		return tx.QueryRowContext(ctx, "SELECT COUNT(*) FROM journal").Scan(&u.Entries)
	})
	if err != nil {
		return Usage{}, fmt.Errorf("measure store: %w", err)
	}
	classOf := g.classes()
	sizes, err := walkSizes(c.files.root, func(path string, info fs.FileInfo) string {
		class := c.class(path, g, classOf)
		if class == classOther && !info.IsDir() {
			u.OtherFiles++
		}
		return class
	})
	if err != nil {
		return Usage{}, err
	}
	u.Images, u.Containers, u.Cache = sizes[classImages], sizes[classContainers], sizes[classCache]
	u.Volumes, u.Undo, u.Other = sizes[classVolumes], sizes[classUndo], sizes[classOther]
	u.Reclaimable = u.Images - g.inUse(disk{c.files.root})
	return u, nil
}

// classes says of each node what it is there for.
func (g *graph) classes() []string {
	list := make([]string, len(g.digests))
	for _, c := range []struct{ kind, class string }{{rootJournal, classUndo}, {rootContainer, classContainers}, {rootCache, classCache}, {rootImage, classImages}} {
		for n, ok := range g.reach(func(r root) bool { return r.kind == c.kind }) {
			if ok {
				list[n] = c.class
			}
		}
	}
	return list
}

// class is what a file of the store is there for.
func (c *collector) class(path string, g *graph, classOf []string) string {
	rel, err := filepath.Rel(c.files.root, path)
	if err != nil {
		return classOther
	}
	dir, rest, _ := strings.Cut(rel, string(filepath.Separator))
	var dgst digest.Digest
	switch dir {
	case "rootfs", "cachemounts", "builds":
		return classCache
	case "containers":
		return classContainers
	case "volumes":
		if rest != "" { // not the place for them
			return classVolumes
		}
	case "blobs":
		algorithm, name := filepath.Split(rest)
		dgst = digest.NewDigestFromEncoded(digest.Algorithm(filepath.Clean(algorithm)), name)
	case "indexes":
		dgst = digest.NewDigestFromEncoded(digest.SHA256, strings.TrimSuffix(rest, ".data"))
	}
	if n, ok := g.nodes[dgst.String()]; ok && classOf[n] != "" {
		return classOf[n]
	}
	return classOther
}

// inUse is how many bytes of images a process works on, or a container needs.
func (g *graph) inUse(d disk) (n int64) {
	images := g.reach(func(r root) bool { return r.kind == rootImage })
	for i, used := range g.reach(func(r root) bool { return r.kind == rootLease || r.kind == rootContainer }) {
		if used && images[i] {
			n += d.size(g.digests[i])
		}
	}
	return n
}

// measure tells what each image takes, and what of it others need too.
func (g *graph) measure(images []Image, d disk) []ImageUsage {
	roots := map[digest.Digest][]node{}
	for _, r := range g.roots {
		if r.kind == rootImage {
			roots[r.image] = append(roots[r.image], r.node)
		}
	}
	reached := make([][]node, len(images))
	needs := make([]int, len(g.digests))
	for i, img := range images {
		seen := map[node]bool{}
		stack := roots[img.ID]
		for len(stack) > 0 {
			n := stack[len(stack)-1]
			stack = stack[:len(stack)-1]
			if seen[n] {
				continue
			}
			seen[n] = true
			needs[n]++
			reached[i] = append(reached[i], n)
			stack = append(stack, g.children[n]...)
		}
	}
	sizes := make([]int64, len(g.digests))
	for n, dgst := range g.digests {
		if needs[n] > 0 {
			sizes[n] = d.size(dgst)
		}
	}
	used := g.usedImages()
	list := make([]ImageUsage, len(images))
	for i, img := range images {
		list[i] = ImageUsage{Image: img, InUse: used[img.ID]}
		for _, n := range reached[i] {
			if needs[n] > 1 {
				list[i].Shared += sizes[n]
			} else {
				list[i].Unique += sizes[n]
			}
		}
	}
	return list
}
