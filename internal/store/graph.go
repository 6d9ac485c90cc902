package store

import (
	"context"
	"database/sql"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/opencontainers/go-digest"

	"strake/internal/sqldb"
)

// The kinds of roots: what keeps blobs.
const (
	rootImage     = "image"     // owner: image ID
	rootCache     = "cache"     // owner: key of the record
	rootLease     = "lease"     // owner: lease
	rootJournal   = "journal"   // owner: entry
	rootContainer = "container" // owner: container
)

// rootsQuery lists all that keeps a digest, and so all that it refers to, from
// GC: kind, owner, image (of the journal's and containers') and digest.
const rootsQuery = `
	SELECT 'image', image_id, image_id, root AS digest FROM names
	UNION ALL SELECT 'image', id, id, manifest FROM images
	UNION ALL SELECT 'image', image_id, image_id, digest FROM repo_digests
	UNION ALL SELECT 'image', image_id, image_id, root FROM variants
	UNION ALL SELECT 'image', image_id, image_id, manifest FROM variants
	UNION ALL SELECT 'cache', key, '', diff_id FROM cache_layers
	UNION ALL SELECT 'container', id, image_id, manifest FROM containers
	UNION ALL SELECT 'container', container_id, image_id, manifest FROM image_mounts
	UNION ALL SELECT 'lease', lease, '', digest FROM leases
	UNION ALL SELECT 'journal', CAST(entry AS TEXT), image_id, digest FROM journal_holds`

// all and exceptJournal choose roots: every one, and those that are not there
// for undo alone.
func all(root) bool             { return true }
func exceptJournal(r root) bool { return r.kind != rootJournal }

// node is a digest in a graph.
type node int32

// root is one reason to keep a node.
type root struct {
	kind, owner string
	image       digest.Digest // of an image, a container or a journal's row
	node        node
}

// graph is which digest needs which, at one moment, and what keeps them. It
// answers what would be freed if something were not there, without a change.
type graph struct {
	nodes    map[string]node
	digests  []digest.Digest
	children [][]node
	roots    []root
	blobs    map[node]bool // have a row; not read with a scope
	layers   map[node]bool // the same
}

// readGraph reads the whole graph. With scope it reads only what those digests
// reach; what refers to that from outside counts as kept.
func readGraph(ctx context.Context, tx *sql.Tx, scope ...digest.Digest) (*graph, error) {
	g := &graph{nodes: map[string]node{}, blobs: map[node]bool{}, layers: map[node]bool{}}
	refs, roots, blobs := "SELECT parent, child FROM refs", rootsQuery, "SELECT digest, 'blob' FROM blobs UNION ALL SELECT diff_id, 'layer' FROM layers"
	var args []any
	if len(scope) > 0 {
		within := `WITH RECURSIVE reached (digest) AS (SELECT value FROM json_each($1)
			UNION SELECT r.child FROM refs r JOIN reached s ON r.parent = s.digest) `
		refs = within + refs + " WHERE child IN reached"
		roots = within + "SELECT * FROM (" + rootsQuery + ") WHERE digest IN reached"
		blobs = within + "SELECT digest, '' FROM reached"
		args = []any{jsonList(scope)}
	}
	err := eachPair(ctx, tx, blobs, args, func(d, kind string) {
		switch n := g.node(d); kind {
		case "blob":
			g.blobs[n] = true
		case "layer":
			g.layers[n] = true
		}
	})
	if err != nil {
		return nil, fmt.Errorf("read graph: %w", err)
	}
	err = eachPair(ctx, tx, refs, args, func(parent, child string) {
		c := g.node(child)
		if _, inside := g.nodes[parent]; len(scope) > 0 && !inside {
			g.roots = append(g.roots, root{node: c}) // the parent is no part of the graph
			return
		}
		p := g.node(parent)
		g.children[p] = append(g.children[p], c)
	})
	if err != nil {
		return nil, fmt.Errorf("read graph: %w", err)
	}
	err = sqldb.Each(ctx, tx, roots, args, func(rows *sql.Rows) error {
		var r root
		var d string
		err := rows.Scan(&r.kind, &r.owner, &r.image, &d)
		r.node = g.node(d)
		g.roots = append(g.roots, r)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("read graph: %w", err)
	}
	return g, nil
}

// node is the node of a digest, made where it lacks.
func (g *graph) node(d string) node {
	n, ok := g.nodes[d]
	if !ok {
		n = node(len(g.digests))
		g.nodes[d] = n
		g.digests = append(g.digests, digest.Digest(d))
		g.children = append(g.children, nil)
	}
	return n
}

// marks says of each node whether it was reached.
type marks []bool

// reach marks what the roots reach that keep accepts.
func (g *graph) reach(keep func(root) bool) marks {
	m := make(marks, len(g.digests))
	for _, r := range g.roots {
		if keep(r) {
			g.mark(m, r.node)
		}
	}
	return m
}

// mark marks a node and all below it.
func (g *graph) mark(m marks, from node) {
	stack := []node{from}
	for len(stack) > 0 {
		n := stack[len(stack)-1]
		stack = stack[:len(stack)-1]
		if m[n] {
			continue
		}
		m[n] = true
		stack = append(stack, g.children[n]...)
	}
}

// disk says what files cost.
type disk struct{ root string }

// paths are where the files of a digest are, if it has them: the blob, and of a
// layer the index and the side data.
func (d disk) paths(dgst digest.Digest) []string {
	if dgst.Validate() != nil {
		return nil
	}
	index := filepath.Join(d.root, "indexes", dgst.Encoded())
	return []string{filepath.Join(d.root, "blobs", dgst.Algorithm().String(), dgst.Encoded()), index, index + ".data"}
}

// size is how many bytes the files of a digest take on disk.
func (d disk) size(dgst digest.Digest) (n int64) {
	for _, path := range d.paths(dgst) {
		n += allocated(path)
	}
	return n
}

// allocated is how many bytes a file takes on disk: 0 where there is none.
func allocated(path string) int64 {
	info, err := os.Lstat(path)
	if err != nil {
		return 0
	}
	return blocks(info)
}

// blocks is how many bytes a file takes on disk.
func blocks(info os.FileInfo) int64 {
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		return st.Blocks * 512
	}
	return info.Size()
}

// changed is when a file was made or last changed in any way.
func changed(path string) time.Time {
	info, err := os.Lstat(path)
	if err != nil {
		return time.Time{}
	}
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		return time.Unix(st.Ctim.Unix())
	}
	return info.ModTime()
}

// identity is what tells a file from all others, and how many names it has.
func identity(info os.FileInfo) (dev, ino, links uint64) {
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		return uint64(st.Dev), st.Ino, uint64(st.Nlink) //nolint:unconvert // their types differ between systems
	}
	return 0, 0, 1
}
