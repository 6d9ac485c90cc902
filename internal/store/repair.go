package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"strake/internal/archive"
	"strake/internal/content"
	"strake/internal/flock"
	"strake/internal/image"
)

// RepairOptions say what a repair may use.
type RepairOptions struct {
	// Fetch opens a blob of a repository (canonical name); nil: there is no
	// network.
	Fetch func(ctx context.Context, repository string, desc ocispec.Descriptor, offset int64) (io.ReadCloser, error)
	// Did, when not nil, is told each thing that was done, in one line.
	Did func(line string)
}

// Repair puts right what Check found, as far as that can be done: nothing is
// given up before its replacement is there. A blob that cannot be had again
// moves to damaged/, its images stay listed, and copying one of them in again
// heals it. Whether something is left, the next Check tells.
func (s *Store) Repair(ctx context.Context, findings []Finding, opts RepairOptions) error {
	if opts.Did == nil {
		opts.Did = func(string) {}
	}
	r := &repairer{Store: s, RepairOptions: opts}
	if slices.ContainsFunc(findings, func(f Finding) bool { return f.Kind == KindSchema }) {
		return r.redefine(ctx) // the next check says what else there is
	}
	var err error
	if r.census, err = s.takeCensus(ctx); err != nil {
		return fmt.Errorf("repair: %w", err)
	}
	steps := []struct {
		kind Kind
		do   func(context.Context, Finding) error
	}{
		{KindDatabase, r.database}, {KindLayer, r.layer}, {KindIndex, r.index}, {KindBlob, r.blob}, {KindImage, r.image}, {KindRows, r.rows},
	}
	// Children before their parents.
	findings = slices.Clone(findings)
	slices.SortStableFunc(findings, func(a, b Finding) int { return rank(a.desc) - rank(b.desc) })
	for _, step := range steps {
		for _, f := range findings {
			if f.Kind != step.kind {
				continue
			}
			if err := step.do(ctx, f); err != nil {
				return fmt.Errorf("repair %s: %w", f.What, err)
			}
		}
	}
	if slices.ContainsFunc(findings, func(f Finding) bool { return f.Kind == KindLeftover }) {
		if err := r.leftovers(ctx, findings); err != nil {
			return fmt.Errorf("repair: %w", err)
		}
	}
	return nil
}

func rank(desc ocispec.Descriptor) int {
	switch {
	case image.IsManifest(desc.MediaType):
		return 1
	case image.IsIndex(desc.MediaType):
		return 2
	}
	return 0
}

// repairer is one repair.
type repairer struct {
	*Store
	RepairOptions
	census *census
}

func (r *repairer) did(format string, args ...any) { r.Did(fmt.Sprintf(format, args...)) }

// redefine makes the tables of the database again what they were made as.
func (r *repairer) redefine(ctx context.Context) error {
	mended, err := r.db.Redefine(ctx, r.schema)
	if err != nil {
		r.did("the schema of strake.db cannot be mended: %v", err)
		return ctx.Err()
	}
	for _, name := range mended {
		r.did("defined %s again", name)
	}
	return nil
}

// database has SQLite build its indexes again: of what it finds wrong, that is
// what can be mended.
func (r *repairer) database(ctx context.Context, f Finding) error {
	err := r.db.Update(ctx, func(tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, "REINDEX")
		return err
	})
	if err != nil {
		r.did("%s: cannot be mended: %v", f.What, err)
		return ctx.Err()
	}
	r.did("built the indexes of %s again: %s", f.What, f.Detail)
	return nil
}

// rows puts rows in order.
func (r *repairer) rows(ctx context.Context, f Finding) error {
	if err := r.db.Update(ctx, func(tx *sql.Tx) error { return f.fix(ctx, tx) }); err != nil {
		return err
	}
	r.did("corrected %s: %s", f.What, f.Detail)
	return nil
}

// image makes the row of an image again that a name points to.
func (r *repairer) image(ctx context.Context, f Finding) error {
	img, err := r.AddImage(ctx, AddImageOptions{Root: f.desc, Names: []string{f.What}})
	if err != nil {
		return ctx.Err() // the next check says what it lacks
	}
	r.did("recorded image %s of %s again", img.ID, f.What)
	return nil
}

// layer gets a layer's tar again, from a compressed form that is here or from a
// repository, and its index with it.
func (r *repairer) layer(ctx context.Context, f Finding) error {
	id := r.census.diffID(f.desc.Digest)
	live := r.census.live(f.desc.Digest) || r.census.live(id)
	if !live && !r.census.undoable(id) {
		return r.drop(ctx, f, id)
	}
	forms := r.census.forms(id)
	for _, form := range forms {
		rc, err := r.contents.Fetch(ctx, form, 0)
		if err == nil {
			err = r.replaceLayer(ctx, form, id, rc)
		}
		if err == nil {
			r.did("made layer %s again from its compressed form", id)
			return nil
		}
		if err := ctx.Err(); err != nil {
			return err
		}
	}
	take := func(form ocispec.Descriptor) func(io.ReadCloser, string) error {
		return func(rc io.ReadCloser, _ string) error { return r.replaceLayer(ctx, form, id, rc) }
	}
	if isLayer(f.desc.MediaType) && len(forms) == 0 && !r.census.holdsLayer(id) {
		take = func(form ocispec.Descriptor) func(io.ReadCloser, string) error { // what it inflates to is not known
			return func(rc io.ReadCloser, _ string) error {
				return r.Push(ctx, form, func(context.Context, int64) (io.ReadCloser, error) { return rc, nil })
			}
		}
	}
	for _, form := range append(forms, f.desc) {
		if from := r.fetch(ctx, form, take(form)); from != "" {
			r.did("fetched layer %s again from %s", id, from)
			return nil
		}
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	if !live {
		return r.drop(ctx, f, id)
	}
	return r.setAside(ctx, f, id)
}

// fetch tries the repositories that are known to hold a blob, and returns the
// one whose bytes take took.
func (r *repairer) fetch(ctx context.Context, desc ocispec.Descriptor, take func(rc io.ReadCloser, repository string) error) string {
	if r.Fetch == nil {
		return ""
	}
	_, repositories := r.census.users(desc.Digest)
	sources, err := r.Sources(ctx, desc.Digest)
	if err == nil {
		repositories = append(repositories, sources...)
	}
	slices.Sort(repositories)
	for _, repository := range slices.Compact(repositories) {
		rc, err := r.Fetch(ctx, repository, desc, 0)
		if err == nil {
			err = take(rc, repository)
		}
		if err == nil {
			return repository
		}
		r.did("%s: %v", repository, err)
	}
	return ""
}

// index makes the index of a layer again from its tar.
func (r *repairer) index(ctx context.Context, f Finding) (err error) {
	id := f.desc.Digest
	tar, err := r.blobs.Open(ctx, id)
	if errdefs.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	defer closing(&err, tar.Close)
	p, err := r.newIndex(ctx)
	if err != nil {
		return err
	}
	defer closing(&err, p.Close)
	err = p.readFrom(ctx, content.NewReader(io.NewSectionReader(tar, 0, tar.Size()), id, tar.Size()))
	if err == nil {
		err = p.sync(ctx)
	}
	if err != nil {
		return fmt.Errorf("layer %s: %w", id, err)
	}
	err = r.commit(ctx, func() error { return p.commitIndex(id) }, func(tx *sql.Tx) error { return replaceLayerRow(ctx, tx, id, p.sizes) })
	if err != nil {
		return err
	}
	r.did("made the index of layer %s again", id)
	return nil
}

// replaceLayerRow records a layer anew: what its index weighs may be different.
func replaceLayerRow(ctx context.Context, tx *sql.Tx, id digest.Digest, is sizes) error {
	if _, err := tx.ExecContext(ctx, "DELETE FROM layers WHERE diff_id = $1", id.String()); err != nil {
		return err
	}
	return recordLayer(ctx, tx, id, is)
}

// replaceLayer reads the layer desc from rc, which it closes, and puts the tar
// and the index in the place of those that are there.
func (r *repairer) replaceLayer(ctx context.Context, desc ocispec.Descriptor, id digest.Digest, rc io.ReadCloser) (err error) {
	defer closing(&err, rc.Close)
	tar, _, err := archive.Decompress(cancellable(ctx, rc))
	if err != nil {
		return err
	}
	defer closing(&err, tar.Close)
	p, err := r.newLayer(ctx, refRepair+id.String())
	if err != nil {
		return err
	}
	defer closing(&err, p.Close)
	if err = p.readFrom(ctx, tar); err == nil && p.w.Digest() != id {
		err = fmt.Errorf("blob %s holds layer %s, not %s: %w", desc.Digest, p.w.Digest(), id, errdefs.ErrFailedPrecondition)
	}
	if err == nil {
		err = p.sync(ctx)
	}
	if err != nil {
		return errors.Join(err, p.discard(ctx))
	}
	if err := r.hold(ctx, id); err != nil {
		return err
	}
	return r.commit(ctx, func() error {
		if err := r.removeBlob(ctx, id); err != nil {
			return err
		}
		return p.commitFiles(ctx, id)
	}, func(tx *sql.Tx) error {
		if err := replaceLayerRow(ctx, tx, id, p.sizes); err != nil || desc.Digest == id {
			return err
		}
		return recordCompressed(ctx, tx, desc, id, "")
	})
}

// removeBlob makes room for a blob whose replacement is at hand.
func (r *repairer) removeBlob(ctx context.Context, d digest.Digest) error {
	err := errors.Join(r.blobs.Delete(ctx, d), os.RemoveAll(filepath.Join(r.root, "damaged", d.Encoded())))
	if errdefs.IsNotFound(err) {
		return nil
	}
	return err
}

// blob gets a manifest, a config or a compressed layer again.
func (r *repairer) blob(ctx context.Context, f Finding) error {
	if !r.census.live(f.desc.Digest) {
		return r.drop(ctx, f, f.desc.Digest)
	}
	take := func(rc io.ReadCloser, repository string) error {
		err := r.replaceBlob(ctx, f.desc, rc)
		if rank(f.desc) > 0 && errdefs.IsFailedPrecondition(err) { // its children are missing too
			err = image.CopyGraph(ctx, fetcher{r, repository}, r.Store, f.desc, image.CopyOptions{Select: r.held})
		}
		return err
	}
	if from := r.fetch(ctx, f.desc, take); from != "" {
		r.did("fetched %s %s again from %s", noun(f.desc), f.desc.Digest, from)
		return nil
	}
	if z, ok := r.census.compressed[f.desc.Digest]; ok {
		if err := r.recompress(ctx, f.desc, z.diffID); err == nil {
			r.did("compressed layer %s again to %s", z.diffID, f.desc.Digest)
			return nil
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		return r.drop(ctx, f, f.desc.Digest) // its tar is here: it can be compressed when it is pushed
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	return r.setAside(ctx, f, f.desc.Digest)
}

// fetcher is a repository as an image.Source.
type fetcher struct {
	*repairer
	repository string
}

func (f fetcher) Fetch(ctx context.Context, desc ocispec.Descriptor, offset int64) (io.ReadCloser, error) {
	return f.RepairOptions.Fetch(ctx, f.repository, desc, offset)
}

// held chooses of an index the manifests that were here.
func (r *repairer) held(index ocispec.Index) ([]ocispec.Descriptor, error) {
	return slices.DeleteFunc(slices.Clone(index.Manifests), func(m ocispec.Descriptor) bool {
		_, ok := r.census.blobs[m.Digest]
		for _, of := range r.census.images {
			ok = ok || of.Digest == m.Digest
		}
		return !ok
	}), nil
}

// noun is what people call a blob.
func noun(desc ocispec.Descriptor) string {
	switch {
	case image.IsManifest(desc.MediaType):
		return "manifest"
	case image.IsIndex(desc.MediaType):
		return "index"
	case desc.MediaType == ocispec.MediaTypeImageLayer, desc.MediaType == image.MediaTypeDockerLayer:
		return "layer"
	case isLayer(desc.MediaType):
		return "compressed layer"
	case isImageConfig(desc.MediaType):
		return "config"
	}
	return "blob"
}

// replaceBlob reads the blob desc from rc, which it closes, and puts it in the
// place of the one that is there.
func (r *repairer) replaceBlob(ctx context.Context, desc ocispec.Descriptor, rc io.ReadCloser) (err error) {
	defer closing(&err, rc.Close)
	ref := refRepair + desc.Digest.String()
	w, err := r.blobs.Writer(ctx, ref, content.WriterOptions{})
	if err != nil {
		return err
	}
	defer closing(&err, w.Close)
	if err := w.Truncate(0); err != nil {
		return err
	}
	if _, err := io.Copy(w, content.NewReader(cancellable(ctx, rc), desc.Digest, desc.Size)); err != nil {
		return errors.Join(err, w.Close(), r.blobs.Abort(context.WithoutCancel(ctx), ref))
	}
	if err := r.hold(ctx, desc.Digest); err != nil {
		return err
	}
	rows := func(tx *sql.Tx) error { return recordBlob(ctx, tx, desc) }
	if image.IsManifest(desc.MediaType) || image.IsIndex(desc.MediaType) {
		rows = func(tx *sql.Tx) error { return r.recordGraph(ctx, tx, desc) }
	}
	return r.commit(ctx, func() error {
		if err := r.removeBlob(ctx, desc.Digest); err != nil {
			return err
		}
		return w.Commit(ctx, desc.Size, desc.Digest)
	}, rows)
}

// recompress makes a compressed form again that was made here: the same bytes
// come out.
func (r *repairer) recompress(ctx context.Context, desc ocispec.Descriptor, id digest.Digest) error {
	recipe, err := findRecipe(ctx, r.db, desc.Digest)
	if err != nil {
		return err
	}
	tar, err := r.blobs.Open(ctx, id)
	if err != nil {
		return err
	}
	pr, pw := io.Pipe()
	go func() {
		z, err := archive.Compress(pw, recipe.Compression, recipe.Level)
		if err == nil {
			_, err = io.Copy(z, io.NewSectionReader(tar, 0, tar.Size()))
			err = errors.Join(err, z.Close())
		}
		pw.CloseWithError(errors.Join(err, tar.Close()))
	}()
	return r.replaceBlob(ctx, desc, pr)
}

// drop removes a blob that nothing needs, or that can be made again.
func (r *repairer) drop(ctx context.Context, f Finding, d digest.Digest) error {
	if err := r.forget(ctx, d, func(path string) error { return os.Remove(path) }); err != nil {
		return err
	}
	r.did("dropped %s %s: %s", noun(r.census.describe(d)), d, f.Detail)
	return nil
}

// setAside moves a blob that cannot be had again out of the way of its images,
// so that copying one of them in again brings it.
func (r *repairer) setAside(ctx context.Context, f Finding, d digest.Digest) error {
	if _, ok := r.census.blobs[d]; !ok {
		return nil
	}
	aside := filepath.Join(r.root, "damaged")
	if err := os.MkdirAll(aside, 0o700); err != nil {
		return err
	}
	err := r.forget(ctx, d, func(path string) error {
		to := filepath.Join(aside, d.Encoded())
		return errors.Join(os.Rename(path, to), syncParent(to))
	})
	if err != nil {
		return err
	}
	if _, ok := r.census.blobFiles[d]; ok {
		r.did("moved %s %s to damaged/, as nobody is known to have it: %s", noun(r.census.describe(d)), d, f.Detail)
	}
	return nil
}

// forget deletes the rows of a blob or layer, and then takes its files away.
func (r *repairer) forget(ctx context.Context, d digest.Digest, take func(path string) error) (err error) {
	gate, err := openGate(ctx, r.root, flock.Exclusive)
	if err != nil {
		return err
	}
	defer closing(&err, gate.Close)
	err = r.db.Update(ctx, func(tx *sql.Tx) error {
		for _, q := range []string{"DELETE FROM blobs WHERE digest = $1", "DELETE FROM layers WHERE diff_id = $1"} {
			if _, err := tx.ExecContext(ctx, q, d.String()); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	if err := take(r.blobs.Path(d)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if _, ok := r.census.layers[d]; !ok {
		return nil
	}
	return errors.Join(os.RemoveAll(r.indexPath(d)), os.RemoveAll(r.sidePath(d)))
}

// leftovers removes what dead processes left.
func (r *repairer) leftovers(ctx context.Context, findings []Finding) error {
	if err := r.reap(ctx); err != nil {
		return err
	}
	if err := r.sweep(ctx); err != nil {
		return err
	}
	for _, f := range findings {
		if f.Kind != KindLeftover || f.foreign {
			continue
		}
		if f.fix != nil {
			if err := r.db.Update(ctx, func(tx *sql.Tx) error { return f.fix(ctx, tx) }); err != nil {
				return err
			}
		}
		switch filepath.Dir(f.What) {
		case "work", "damaged":
			if err := os.RemoveAll(filepath.Join(r.root, f.What)); err != nil {
				return err
			}
		}
		r.did("removed %s: %s", f.What, f.Detail)
	}
	return nil
}
