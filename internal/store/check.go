package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"strake/internal/image"
	"strake/internal/sqldb"
)

// Kind is what a Finding concerns.
type Kind string

// The kinds of findings.
const (
	KindDatabase Kind = "database" // SQLite finds its file broken
	KindSchema   Kind = "schema"   // a table of the database is not what it was made as
	KindBlob     Kind = "blob"     // a manifest, a config or a compressed layer
	KindLayer    Kind = "layer"    // the tar of a layer
	KindIndex    Kind = "index"    // what was made of a layer's tar
	KindImage    Kind = "image"    // an image or a name of one
	KindRows     Kind = "rows"     // rows that lead nowhere, or are too few
	KindLeftover Kind = "leftover" // what a dead process left: it costs space, and nothing else
)

// Finding is one thing that is wrong with a store.
type Finding struct {
	Kind   Kind
	What   string   // a digest, a name, a key of the cache, a path below the root
	Detail string   // what is wrong with it
	Images []string // the images that need it: canonical names, or IDs of the nameless

	desc ocispec.Descriptor // the blob or layer; what is not known of it is zero
	fix  rowFix             // of rows

	foreign bool // a leftover that is not the store's: it stays
}

// rowFix puts rows in order.
type rowFix func(ctx context.Context, tx *sql.Tx) error

// CheckOptions say how closely to look.
type CheckOptions struct {
	Quick bool // compare sizes and rows, read no layer
	// Progress, when not nil, is told of the bytes that were read, from one
	// goroutine at a time.
	Progress func(done, total int64)
}

// CheckResult says what was looked at and what was found.
type CheckResult struct {
	Images, Layers, Blobs int
	Bytes                 int64 // of all blobs
	Findings              []Finding
}

// Check compares a store's rows with its files, its files with their digests,
// its indexes with their tars, and follows every image to its last layer. It
// changes nothing. Other processes may work on the store meanwhile: what they
// have under way is not found wrong.
func (s *Store) Check(ctx context.Context, opts CheckOptions) (CheckResult, error) {
	altered, err := s.checkSchema(ctx)
	if err != nil || len(altered) > 0 {
		return CheckResult{Findings: altered}, err
	}
	first, err := s.takeCensus(ctx)
	if err != nil {
		return CheckResult{}, fmt.Errorf("check: %w", err)
	}
	result := CheckResult{Images: len(first.images), Layers: len(first.layers), Blobs: len(first.blobs)}
	for _, size := range first.blobs {
		result.Bytes += size
	}
	found, err := s.look(ctx, first)
	if err != nil {
		return result, fmt.Errorf("check: %w", err)
	}
	var bad []Finding
	if !opts.Quick {
		if bad, err = s.checkBytes(ctx, first, slices.Collect(maps.Keys(first.blobs)), opts.Progress); err != nil {
			return result, fmt.Errorf("check: %w", err)
		}
	}
	if len(found)+len(bad) == 0 {
		return result, nil
	}
	// What another process changed while this one looked is not wrong.
	second, err := s.takeCensus(ctx)
	if err != nil {
		return result, fmt.Errorf("check: %w", err)
	}
	again, err := s.look(ctx, second)
	if err != nil {
		return result, fmt.Errorf("check: %w", err)
	}
	result.Findings = slices.DeleteFunc(again, func(f Finding) bool {
		return !slices.ContainsFunc(found, func(g Finding) bool { return g.Kind == f.Kind && g.What == f.What })
	})
	var suspects []digest.Digest
	for _, f := range bad {
		if _, ok := second.blobs[f.desc.Digest]; ok && !slices.Contains(suspects, f.desc.Digest) {
			suspects = append(suspects, f.desc.Digest)
		}
	}
	bad, err = s.checkBytes(ctx, second, suspects, nil)
	if err != nil {
		return result, fmt.Errorf("check: %w", err)
	}
	for _, f := range bad {
		if !slices.ContainsFunc(result.Findings, func(g Finding) bool { return g.Kind == f.Kind && g.What == f.What }) {
			result.Findings = append(result.Findings, f)
		}
	}
	for i, f := range result.Findings {
		if f.desc.Digest != "" {
			result.Findings[i].Images, _ = second.users(f.desc.Digest)
		}
	}
	return result, nil
}

// checkSchema compares what the database is with what it should be. While it is
// not that, no row can be trusted.
func (s *Store) checkSchema(ctx context.Context) ([]Finding, error) {
	altered, err := s.db.Altered(ctx, s.schema)
	if err != nil {
		return nil, fmt.Errorf("check: %w", err)
	}
	var list []Finding
	for _, name := range altered {
		list = append(list, Finding{Kind: KindSchema, What: name, Detail: "its definition is damaged; what it holds was not checked"})
	}
	return list, nil
}

// look is all of a check that reads no layer.
func (s *Store) look(ctx context.Context, c *census) ([]Finding, error) {
	l := &lookout{store: s, census: c, seen: map[string]bool{}}
	if err := l.database(ctx); err != nil {
		return nil, err
	}
	l.files()
	l.rows()
	for _, walk := range []func(context.Context) error{l.graphs, l.leftovers} {
		if err := walk(ctx); err != nil {
			return nil, err
		}
	}
	return l.found, nil
}

// lookout gathers what is wrong with one census, each thing once.
type lookout struct {
	store  *Store
	census *census
	found  []Finding
	seen   map[string]bool
}

func (l *lookout) tell(f Finding) {
	if key := string(f.Kind) + " " + f.What; !l.seen[key] {
		l.seen[key] = true
		l.found = append(l.found, f)
	}
}

func (l *lookout) blob(kind Kind, desc ocispec.Descriptor, detail string, args ...any) {
	l.tell(Finding{Kind: kind, What: desc.Digest.String(), Detail: fmt.Sprintf(detail, args...), desc: desc})
}

func (l *lookout) leftover(path, detail string) {
	l.tell(Finding{Kind: KindLeftover, What: path, Detail: detail})
}

// database asks SQLite.
func (l *lookout) database(ctx context.Context) error {
	return l.store.db.View(ctx, func(tx *sql.Tx) error {
		return sqldb.Each(ctx, tx, "PRAGMA integrity_check(20)", nil, func(rows *sql.Rows) error {
			var text string
			if err := rows.Scan(&text); err != nil {
				return err
			}
			if text != "ok" {
				l.tell(Finding{Kind: KindDatabase, What: "strake.db", Detail: strings.Join(strings.Fields(text), " ")})
			}
			return nil
		})
	})
}

// files compares rows and files.
func (l *lookout) files() {
	c := l.census
	for d, size := range c.blobs {
		have, ok := c.blobFiles[d]
		kind := c.kindOf(d)
		switch {
		case !ok:
			l.blob(kind, c.describe(d), "its file is missing")
		case have != size:
			l.blob(kind, c.describe(d), "has %d bytes, not %d", have, size)
		}
	}
	for d, row := range c.layers {
		if _, ok := c.blobs[d]; !ok {
			l.blob(KindLayer, c.describe(d), "its tar is missing")
		}
		if have, ok := c.indexFiles[d.Encoded()]; !ok || have != row.index {
			l.blob(KindIndex, c.describe(d), "index has %d bytes, not %d", have, row.index)
		}
		if have := c.indexFiles[d.Encoded()+".data"]; have != row.side {
			l.blob(KindIndex, c.describe(d), "side data has %d bytes, not %d", have, row.side)
		}
	}
	for d := range c.blobFiles {
		if _, ok := c.blobs[d]; !ok && !c.inUse(d) {
			l.leftover(filepath.Join("blobs", d.Algorithm().String(), d.Encoded()), "no row names it")
		}
	}
	for name := range c.indexFiles {
		if !isHash(strings.TrimSuffix(name, ".data")) {
			continue
		}
		d := digest.NewDigestFromEncoded(digest.SHA256, strings.TrimSuffix(name, ".data"))
		if _, ok := c.layers[d]; !ok && !c.inUse(d) {
			l.leftover(filepath.Join("indexes", name), "no row names it")
		}
	}
}

// kindOf is the kind of a finding about the blob d.
func (c *census) kindOf(d digest.Digest) Kind {
	if _, ok := c.layers[d]; ok {
		return KindLayer
	}
	return KindBlob
}

// describe is what the rows tell of a blob.
func (c *census) describe(d digest.Digest) ocispec.Descriptor {
	desc := ocispec.Descriptor{Digest: d, Size: c.blobs[d]}
	if z, ok := c.compressed[d]; ok {
		desc.MediaType, desc.Size = z.mediaType, z.size
	}
	if row, ok := c.layers[d]; ok {
		desc.MediaType, desc.Size = ocispec.MediaTypeImageLayer, row.size
	}
	for id, m := range c.images {
		switch d {
		case m.Digest:
			return m
		case id:
			desc.MediaType = ocispec.MediaTypeImageConfig
		}
	}
	for _, r := range c.roots {
		if r.root.Digest == d {
			return r.root
		}
	}
	return desc
}

// rows compares rows with rows.
func (l *lookout) rows() {
	c := l.census
	remove := func(query string, args ...any) rowFix {
		return func(ctx context.Context, tx *sql.Tx) error {
			_, err := tx.ExecContext(ctx, query, args...)
			return err
		}
	}
	for n, parent := range c.refs.digests {
		if len(c.refs.children[n]) == 0 {
			continue
		}
		_, held := c.blobs[parent]
		_, known := c.compressed[parent]
		if !held && !known && !c.live(parent) && !c.undoable(parent) {
			fix := func(ctx context.Context, tx *sql.Tx) error {
				err := remove("DELETE FROM refs WHERE parent = $1", parent.String())(ctx, tx)
				return errors.Join(err, remove("DELETE FROM variants WHERE root = $1", parent.String())(ctx, tx))
			}
			l.tell(Finding{Kind: KindRows, What: "refs of " + parent.String(), Detail: "it is not in the store", fix: fix})
		}
	}
	for d, z := range c.compressed {
		if !c.leadsTo(d, z.diffID) {
			fix := func(ctx context.Context, tx *sql.Tx) error { return recordRefs(ctx, tx, d, z.diffID) }
			l.tell(Finding{Kind: KindRows, What: "refs of " + d.String(), Detail: "its layer is not among them", fix: fix})
		}
	}
	for _, r := range c.roots {
		if _, ok := c.images[r.image]; ok {
			continue
		}
		if !r.digest {
			l.tell(Finding{Kind: KindImage, What: r.name, Detail: "names image " + r.image.String() + ", which is not there", desc: r.root})
			continue
		}
		repository, dgst, _ := strings.Cut(r.name, "@")
		l.tell(Finding{
			Kind: KindRows, What: "repository digest " + r.name, Detail: "no image has it",
			fix: remove("DELETE FROM repo_digests WHERE repository = $1 AND digest = $2 AND image_id = $3", repository, dgst, r.image.String()),
		})
	}
	l.variants()
	for _, r := range c.refs.roots {
		l.root(r)
	}
}

// root looks at a row of what is no image and needs a digest.
func (l *lookout) root(r root) {
	c, d := l.census, l.census.refs.digests[r.node]
	_, isLayer := c.layers[d]
	_, owned := c.alive[r.owner]
	remove := func(queries ...string) rowFix {
		return func(ctx context.Context, tx *sql.Tx) error {
			for _, q := range queries {
				if _, err := tx.ExecContext(ctx, q, r.owner); err != nil {
					return err
				}
			}
			return nil
		}
	}
	switch {
	case r.kind == rootCache && !isLayer:
		l.tell(Finding{
			Kind: KindRows, What: "cache record " + r.owner, Detail: "needs layer " + d.String() + ", which is not there",
			fix: remove("DELETE FROM cache WHERE key = $1", "DELETE FROM cache_layers WHERE key = $1"),
		})
	case r.kind == rootJournal && !c.whole(d):
		l.tell(Finding{
			Kind: KindRows, What: "entry " + r.owner + " of undo", Detail: "needs " + d.String() + ", which is not whole",
			fix: func(ctx context.Context, tx *sql.Tx) error {
				return forget(ctx, tx, "CAST(entry AS TEXT) = $1", r.owner)
			},
		})
	case r.kind == rootLease && !owned:
		l.tell(Finding{
			Kind: KindLeftover, What: "rows of lease " + r.owner, Detail: "the lease is gone",
			fix: remove("DELETE FROM leases WHERE lease = $1"),
		})
	}
}

// variants compares what indexes keep with the names that lead to them and with
// the images that they are.
func (l *lookout) variants() {
	c := l.census
	kept := map[digest.Digest]bool{}
	broken := map[digest.Digest]string{}
	for _, v := range c.variants {
		kept[v.root] = true
		if _, ok := c.images[v.image]; v.image != "" && !ok {
			broken[v.root] = "names image " + v.image.String() + ", which is not there"
		}
	}
	named := map[digest.Digest]bool{}
	for _, r := range c.roots {
		if !image.IsIndex(r.root.MediaType) || r.digest {
			continue
		}
		named[r.root.Digest] = true
		detail := broken[r.root.Digest]
		if _, ok := c.images[r.image]; ok && !kept[r.root.Digest] {
			detail = "its index keeps no image"
		}
		if detail != "" {
			l.tell(Finding{Kind: KindImage, What: r.name, Detail: detail, desc: r.root})
		}
	}
	for root, detail := range broken {
		if !named[root] {
			l.tell(Finding{Kind: KindRows, What: "manifests of " + root.String(), Detail: detail, fix: func(ctx context.Context, tx *sql.Tx) error {
				_, err := tx.ExecContext(ctx, `DELETE FROM variants WHERE root = $1 AND image_id <> ''
					AND image_id NOT IN (SELECT id FROM images)`, root.String())
				return err
			}})
		}
	}
}

// graphs follows every image from what names it to its last layer.
func (l *lookout) graphs(ctx context.Context) error {
	c := l.census
	roots := map[digest.Digest]ocispec.Descriptor{}
	for _, r := range c.roots {
		roots[r.root.Digest] = r.root
	}
	for _, m := range c.images {
		roots[m.Digest] = m
	}
	for _, v := range c.variants {
		roots[v.manifest.Digest] = v.manifest
	}
	for _, root := range roots {
		if err := l.graph(ctx, root); err != nil {
			return err
		}
	}
	for id, facts := range c.facts {
		if err := l.image(ctx, id, facts); err != nil {
			return err
		}
	}
	return nil
}

// image compares the row of an image with its config, if that can be read.
func (l *lookout) image(ctx context.Context, id digest.Digest, have imageFacts) error {
	config, _, err := image.ReadConfig(ctx, l.store, ocispec.Descriptor{Digest: id, Size: l.census.blobs[id]})
	if err != nil {
		return ctx.Err() // the blob is what is wrong
	}
	want, err := factsOf(config, func(d digest.Digest) (int64, error) {
		row, ok := l.census.layers[d]
		if !ok {
			return 0, errdefs.ErrNotFound
		}
		return row.size, nil
	})
	if err != nil || want == have {
		return ctx.Err() // a layer that lacks is what is wrong
	}
	l.tell(Finding{
		Kind: KindRows, What: "image " + id.String(), Detail: "what is noted of it is not what its config says",
		fix: func(ctx context.Context, tx *sql.Tx) error { return correctImage(ctx, tx, id, want) },
	})
	return nil
}

// graph looks at one manifest or index, which has to be there.
func (l *lookout) graph(ctx context.Context, desc ocispec.Descriptor) error {
	c := l.census
	if _, ok := c.blobs[desc.Digest]; !ok {
		l.blob(KindBlob, desc, "is missing")
		return nil
	}
	if !image.IsManifest(desc.MediaType) && !image.IsIndex(desc.MediaType) {
		return nil
	}
	b, err := l.store.ReadBlob(ctx, desc)
	var children []ocispec.Descriptor
	if err == nil {
		children, err = image.Children(desc.MediaType, b)
	}
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case err != nil:
		l.blob(KindBlob, desc, "cannot be read: %s", reason(err))
		return nil
	}
	want := make([]digest.Digest, 0, 2*len(children))
	for _, child := range children {
		if image.IsIndex(desc.MediaType) {
			continue // variants says which of them are here
		}
		want = append(want, child.Digest)
		if isLayer(child.MediaType) {
			want = append(want, c.diffID(child.Digest))
			if !c.holdsLayer(child.Digest) {
				l.blob(KindLayer, child, "is missing")
			}
			continue
		}
		if _, ok := c.blobs[child.Digest]; !ok {
			l.blob(KindBlob, child, "is missing")
		}
	}
	for _, d := range want {
		if !c.leadsTo(desc.Digest, d) {
			l.tell(Finding{
				Kind: KindRows, What: "refs of " + desc.Digest.String(), Detail: d.String() + " is not among them",
				fix: func(ctx context.Context, tx *sql.Tx) error { return recordRefs(ctx, tx, desc.Digest, want...) },
			})
		}
	}
	return nil
}

// reason is what an error says without the names of what was tried.
func reason(err error) string {
	if errors.Is(err, os.ErrNotExist) || errdefs.IsNotFound(err) {
		return "its file is missing"
	}
	return err.Error()
}
