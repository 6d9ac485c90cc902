package store

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"strake/internal/archive"
	"strake/internal/content"
	"strake/internal/image"
	"strake/internal/sqldb"
)

// Recipe says how to compress a layer. The zero one asks for whatever form is
// there, else for gzip.
type Recipe struct {
	Compression archive.Compression // "", archive.Gzip or archive.Zstd
	Level       int                 // 0: the default, or any where a form is there
}

// ParseRecipe parses "gzip" or "zstd", with or without a level: "zstd:19".
func ParseRecipe(s string) (Recipe, error) {
	kind, level, leveled := strings.Cut(s, ":")
	r := Recipe{Compression: archive.Compression(kind)}
	highest, ok := map[archive.Compression]int{archive.Gzip: 9, archive.Zstd: 22}[r.Compression]
	if leveled {
		var err error
		r.Level, err = strconv.Atoi(level)
		ok = ok && err == nil && r.Level >= 1 && r.Level <= highest
	}
	if !ok {
		return Recipe{}, fmt.Errorf("invalid compression %q: must be gzip or zstd, or one with a level: gzip:1 to gzip:9, zstd:1 to zstd:22: %w",
			s, errdefs.ErrInvalidArgument)
	}
	return r, nil
}

func (r Recipe) String() string {
	if r.Level == 0 {
		return string(r.Compression)
	}
	return fmt.Sprintf("%s:%d", r.Compression, r.Level)
}

func (r Recipe) mediaType() string {
	if r.Compression == archive.Zstd {
		return ocispec.MediaTypeImageLayerZstd
	}
	return ocispec.MediaTypeImageLayerGzip
}

// CompressOptions say how layers are compressed.
type CompressOptions struct {
	Recipe Recipe
	// Tee, when not nil, is called before a form of a layer is made, with the
	// layer's digest and size and the form's media type. It gives who wants the
	// bytes while they are, or nil.
	Tee func(layer ocispec.Descriptor) Tee
}

// Tee takes the bytes of a blob while it is made. Write does not fail: a Tee
// that has had enough drops the rest.
type Tee interface {
	io.Writer
	// Done ends the blob: it is desc, or, after a failure, nothing.
	Done(desc ocispec.Descriptor, err error)
}

// Compress returns a compressed form of a layer that is in the store: one that
// is there and fits the recipe, or one that it makes and keeps. The bytes are
// the same on every machine.
func (s *contents) Compress(ctx context.Context, id digest.Digest, opts CompressOptions) (ocispec.Descriptor, error) {
	if err := s.hold(ctx, id); err != nil {
		return ocispec.Descriptor{}, err
	}
	for {
		form, err := findForm(ctx, s.db, id, opts.Recipe)
		if err == nil {
			return heldForm(ctx, s, form, id)
		}
		if !errdefs.IsNotFound(err) {
			return ocispec.Descriptor{}, err
		}
		if opts.Recipe.Compression == "" {
			opts.Recipe.Compression = archive.Gzip
		}
		w, err := s.blobs.Writer(ctx, refUnpack+opts.Recipe.String()+"-"+id.String(), content.WriterOptions{})
		if errdefs.IsUnavailable(err) {
			if err := sleep(ctx, pollInterval); err != nil {
				return ocispec.Descriptor{}, err
			}
			continue
		}
		if err != nil {
			return ocispec.Descriptor{}, fmt.Errorf("compress %s: %w", id, err)
		}
		desc, err := s.compress(ctx, id, w, opts)
		if err := errors.Join(err, w.Close()); err != nil {
			return ocispec.Descriptor{}, fmt.Errorf("compress %s: %w", id, err)
		}
		return desc, nil
	}
}

// Form returns the compressed form of a layer that is in the store, or the layer
// itself, a plain tar, where there is none.
func Form(ctx context.Context, s *Store, layer ocispec.Descriptor) (ocispec.Descriptor, error) {
	form, err := findForm(ctx, s.db, layer.Digest, Recipe{})
	if errdefs.IsNotFound(err) {
		return layer, s.hold(ctx, layer.Digest)
	}
	if err != nil {
		return form, err
	}
	return heldForm(ctx, s.contents, form, layer.Digest)
}

// heldForm leases a form of a layer that was found, and annotates one that is an eStargz, as its
// manifest did where it came from.
func heldForm(ctx context.Context, s *contents, form ocispec.Descriptor, id digest.Digest) (ocispec.Descriptor, error) {
	if err := s.hold(ctx, form.Digest); err != nil || !strings.HasSuffix(form.MediaType, string(archive.Gzip)) {
		return form, err
	}
	annotated, err := describeEstargz(ctx, s, form, id)
	if errdefs.IsNotFound(err) {
		return form, nil
	}
	return annotated, err
}

// findForm returns a compressed form of a layer that is in the store and fits the
// recipe, or fails with errdefs.ErrNotFound.
func findForm(ctx context.Context, db *sqldb.DB, id digest.Digest, recipe Recipe) (d ocispec.Descriptor, err error) {
	query := `SELECT c.digest, c.media_type, c.size FROM compressed c JOIN blobs b ON b.digest = c.digest WHERE c.diff_id = $1`
	args := []any{id.String()}
	switch {
	case recipe.Level > 0:
		query, args = query+" AND c.recipe = $2", append(args, recipe.String())
	case recipe.Compression != "":
		query, args = query+" AND c.media_type LIKE $2", append(args, "%"+string(recipe.Compression))
	}
	err = db.View(ctx, func(tx *sql.Tx) error {
		return tx.QueryRowContext(ctx, query+" ORDER BY b.created, c.digest LIMIT 1", args...).Scan(&d.Digest, &d.MediaType, &d.Size)
	})
	if errors.Is(err, sql.ErrNoRows) {
		err = errdefs.ErrNotFound
	}
	if err != nil {
		return d, fmt.Errorf("compressed form of %s: %w", id, err)
	}
	return d, nil
}

// findDiffID returns the layer that a compressed form holds, or the layer itself, or fails with errdefs.ErrNotFound.
func findDiffID(ctx context.Context, db *sqldb.DB, form digest.Digest) (id digest.Digest, err error) {
	err = db.View(ctx, func(tx *sql.Tx) error {
		id, err = diffID(ctx, tx, form)
		return err
	})
	return id, err
}

// findRecipe tells how a compressed form was made here. It fails with
// errdefs.ErrInvalidArgument for one that came as it is.
func findRecipe(ctx context.Context, db *sqldb.DB, form digest.Digest) (Recipe, error) {
	var text string
	err := db.View(ctx, func(tx *sql.Tx) error {
		return tx.QueryRowContext(ctx, "SELECT recipe FROM compressed WHERE digest = $1", form.String()).Scan(&text)
	})
	if err != nil {
		return Recipe{}, fmt.Errorf("recipe of %s: %w", form, err)
	}
	return ParseRecipe(text)
}

// compress makes a form in w, and keeps it.
func (s *contents) compress(ctx context.Context, id digest.Digest, w content.Writer, opts CompressOptions) (ocispec.Descriptor, error) {
	tar, err := s.blobs.Open(ctx, id)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	desc, err := opts.write(ctx, w, id, tar)
	if err := errors.Join(err, tar.Close()); err != nil {
		return desc, err
	}
	if err := s.hold(ctx, desc.Digest); err != nil {
		return desc, err
	}
	return desc, s.commit(ctx, func() error { return w.Commit(ctx, desc.Size, desc.Digest) }, func(tx *sql.Tx) error {
		if err := recordBlob(ctx, tx, desc); err != nil {
			return err
		}
		return recordCompressed(ctx, tx, desc, id, opts.Recipe.String())
	})
}

// write compresses the layer id, whose tar is given, into w and, where there is
// one, the tee.
func (opts CompressOptions) write(ctx context.Context, w content.Writer, id digest.Digest, tar content.ReaderAt) (desc ocispec.Descriptor, err error) {
	if err := w.Truncate(0); err != nil {
		return desc, err
	}
	desc.MediaType = opts.Recipe.mediaType()
	var out io.Writer = w
	if opts.Tee != nil {
		if tee := opts.Tee(ocispec.Descriptor{MediaType: desc.MediaType, Digest: id, Size: tar.Size()}); tee != nil {
			defer func() { tee.Done(desc, err) }()
			out = io.MultiWriter(w, tee)
		}
	}
	z, err := archive.Compress(out, opts.Recipe.Compression, opts.Recipe.Level)
	if err != nil {
		return desc, err
	}
	_, err = io.Copy(z, content.NewReader(cancellable(ctx, io.NewSectionReader(tar, 0, tar.Size())), id, tar.Size()))
	err = errors.Join(err, z.Close())
	desc.Digest, desc.Size = w.Digest(), w.Offset()
	return desc, err
}

// readerFunc is a function that reads.
type readerFunc func(b []byte) (int, error)

func (f readerFunc) Read(b []byte) (int, error) { return f(b) }

// cancellable reads r until ctx is cancelled.
func cancellable(ctx context.Context, r io.Reader) io.Reader {
	return readerFunc(func(b []byte) (int, error) {
		if err := ctx.Err(); err != nil {
			return 0, err
		}
		return r.Read(b)
	})
}

// compressAtOnce is how many layers are compressed at once. Each uses all cores;
// the others fill the time that an upload takes.
const compressAtOnce = 3

// PushManifest returns the manifest with which an image is pushed: its own when
// every layer of that is in the store as the manifest names it, compressed;
// otherwise one with the layers' compressed forms, made as opts say where there
// is none, several at a time.
func (s *Store) PushManifest(ctx context.Context, img Image, opts CompressOptions) (ocispec.Descriptor, error) {
	m, _, err := image.ReadManifest(ctx, s, img.Manifest)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	foreign := func(l ocispec.Descriptor) bool { return !isLayer(l.MediaType) }
	if !isImageConfig(m.Config.MediaType) || slices.ContainsFunc(m.Layers, foreign) {
		return img.Manifest, nil // an artifact
	}
	config, _, err := image.ReadConfig(ctx, s, m.Config)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	asIs := true
	group, groupCtx := errgroup.WithContext(ctx)
	group.SetLimit(compressAtOnce)
	for i, l := range m.Layers {
		_, statErr := s.blobs.Stat(ctx, l.Digest)
		if statErr == nil && l.Digest != config.RootFS.DiffIDs[i] {
			continue
		}
		asIs = false
		group.Go(func() error {
			if statErr != nil && !errdefs.IsNotFound(statErr) {
				return statErr
			}
			form, err := s.Compress(groupCtx, config.RootFS.DiffIDs[i], opts)
			m.Layers[i] = form
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return ocispec.Descriptor{}, err
	}
	if asIs {
		return img.Manifest, nil
	}
	pushed := ocispec.Manifest{
		Versioned:   specs.Versioned{SchemaVersion: 2},
		MediaType:   ocispec.MediaTypeImageManifest,
		Config:      m.Config,
		Layers:      m.Layers,
		Annotations: m.Annotations,
	}
	pushed.Config.MediaType = ocispec.MediaTypeImageConfig
	b, err := json.Marshal(pushed)
	if err != nil {
		return ocispec.Descriptor{}, fmt.Errorf("image %s: %w", img.ID, err)
	}
	return s.PutBlob(ctx, pushed.MediaType, b)
}
