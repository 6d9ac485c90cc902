package store

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"strake/internal/archive"
	"strake/internal/content"
	"strake/internal/layer"
)

// Estargz is a layer as an eStargz: another layer than the one that it was made of, for its tar ends with a table of contents.
type Estargz struct {
	Blob   ocispec.Descriptor // with the annotations by which it is read lazily
	DiffID digest.Digest
}

// MakeEstargz returns the layer id, which is in the store, as an eStargz of a gzip level (0: the default), made and kept as a layer that was pulled, or
// found: what a layer and a level gave before is remembered. A layer whose compressed form is an eStargz is its own. The bytes
// are the same on every machine. Of processes that make the same one, one does and the others wait.
func MakeEstargz(ctx context.Context, s *Store, id digest.Digest, level int) (Estargz, error) {
	if err := s.hold(ctx, id); err != nil {
		return Estargz{}, err
	}
	m := estargzMaker{s: s, id: id, level: level}
	for {
		made, err := m.find(ctx)
		if errdefs.IsNotFound(err) {
			made, err = m.take(ctx)
		}
		if errors.Is(err, errBusy) {
			if err = sleep(ctx, pollInterval); err == nil {
				continue
			}
		}
		if err != nil {
			return Estargz{}, fmt.Errorf("compress %s: %w", id, err)
		}
		return made, nil
	}
}

// estargzMaker makes one layer an eStargz.
type estargzMaker struct {
	s     *Store
	id    digest.Digest
	level int
}

// key is under which is remembered what was made.
func (m estargzMaker) key() string { return fmt.Sprintf("estargz:%d:%s", m.level, m.id) }

// find fails with errdefs.ErrNotFound where the eStargz, all of it, is not in the store.
func (m estargzMaker) find(ctx context.Context) (made Estargz, err error) {
	if made, err = m.own(ctx); !errdefs.IsNotFound(err) {
		return made, err
	}
	b, err := m.s.LoadCache(ctx, m.key())
	if err != nil {
		return made, err
	}
	if err := json.Unmarshal(b, &made); err != nil {
		return made, fmt.Errorf("cache of %q: %w", m.key(), err)
	}
	if err := m.s.HoldLayers(ctx, made.DiffID); err != nil {
		return made, err
	}
	if err := m.s.hold(ctx, made.Blob.Digest); err != nil {
		return made, err
	}
	_, err = m.s.blobs.Stat(ctx, made.Blob.Digest)
	return made, err
}

// own is the layer itself, where it came as an eStargz; else it fails with errdefs.ErrNotFound.
func (m estargzMaker) own(ctx context.Context) (made Estargz, err error) {
	form, err := findForm(ctx, m.s.db, m.id, Recipe{Compression: archive.Gzip})
	if err != nil {
		return made, err
	}
	if err := m.s.hold(ctx, form.Digest); err != nil {
		return made, err
	}
	form, err = describeEstargz(ctx, m.s.contents, form, m.id)
	return Estargz{Blob: form, DiffID: m.id}, err
}

// describeEstargz annotates a blob of the store that holds the layer id. It fails with
// errdefs.ErrNotFound where that is no eStargz.
func describeEstargz(ctx context.Context, s *contents, desc ocispec.Descriptor, id digest.Digest) (_ ocispec.Descriptor, err error) {
	blob, err := s.blobs.Open(ctx, desc.Digest)
	if err != nil {
		return desc, err
	}
	defer closing(&err, blob.Close)
	_, toc, err := archive.EstargzTOC(blob, blob.Size())
	if err != nil {
		return desc, err
	}
	return annotateEstargz(ctx, s, desc, id, toc)
}

func annotateEstargz(ctx context.Context, s *contents, desc ocispec.Descriptor, id, toc digest.Digest) (ocispec.Descriptor, error) {
	files, err := s.Layer(ctx, id)
	desc.Annotations = map[string]string{
		archive.EstargzTOCAnnotation:  toc.String(),
		archive.EstargzSizeAnnotation: strconv.FormatInt(files.Size, 10),
	}
	return desc, err
}

// take makes the eStargz. It fails with errBusy while another process does.
func (m estargzMaker) take(ctx context.Context) (made Estargz, err error) {
	w, err := m.s.blobs.Writer(ctx, fmt.Sprintf("%sestargz-%d-%s", refUnpack, m.level, m.id), content.WriterOptions{})
	if errdefs.IsUnavailable(err) {
		return made, errBusy
	}
	if err != nil {
		return made, err
	}
	defer closing(&err, w.Close)
	toc, err := m.write(ctx, w)
	if err != nil {
		return made, err
	}
	blob := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayerGzip, Digest: w.Digest(), Size: w.Offset()}
	if err := m.s.hold(ctx, blob.Digest); err != nil {
		return made, err
	}
	whole := cancellable(ctx, io.NewSectionReader(w, 0, blob.Size))
	err = m.s.unpack(ctx, blob, whole, func() error { return w.Commit(ctx, blob.Size, blob.Digest) })
	if err != nil {
		return made, err
	}
	id, err := findDiffID(ctx, m.s.db, blob.Digest)
	if err == nil {
		blob, err = annotateEstargz(ctx, m.s.contents, blob, id, toc)
	}
	if err != nil {
		return made, err
	}
	made = Estargz{Blob: blob, DiffID: id}
	b, err := json.Marshal(made)
	if err != nil {
		return made, err
	}
	return made, m.s.SaveCache(ctx, m.key(), m.key(), nil, b)
}

// write compresses the layer's tar into w.
func (m estargzMaker) write(ctx context.Context, w content.Writer) (toc digest.Digest, err error) {
	if err := w.Truncate(0); err != nil {
		return "", err
	}
	tar, err := m.s.blobs.Open(ctx, m.id)
	if err != nil {
		return "", err
	}
	defer closing(&err, tar.Close)
	verified := content.NewReader(cancellable(ctx, io.NewSectionReader(tar, 0, tar.Size())), m.id, tar.Size())
	return archive.CompressEstargz(w, verified, m.level)
}

// OpenEstargz takes in the layer id that an eStargz was made of, whose blob is in the store: the tar without the table of contents. It fails with
// errdefs.ErrNotFound where the blob is no eStargz, and with errdefs.ErrFailedPrecondition where it was made of another layer.
func OpenEstargz(ctx context.Context, s *Store, blob, id digest.Digest) (err error) {
	whole, err := s.blobs.Open(ctx, blob)
	if err != nil {
		return err
	}
	defer closing(&err, whole.Close)
	end, _, err := archive.EstargzTOC(whole, whole.Size())
	if err != nil {
		return fmt.Errorf("blob %s: %w", blob, err)
	}
	tar, _, err := archive.Decompress(cancellable(ctx, io.NewSectionReader(whole, 0, end)))
	if err != nil {
		return fmt.Errorf("blob %s: %w", blob, err)
	}
	defer closing(&err, tar.Close)
	staged, err := s.StageLayer(ctx, func(w io.Writer) error { _, err := io.Copy(w, tar); return err })
	if err != nil {
		return fmt.Errorf("blob %s: %w", blob, err)
	}
	defer closing(&err, staged.Close)
	if got := staged.Files().DiffID; got != id {
		return fmt.Errorf("blob %s was made of the layer %s, not of %s: %w", blob, got, id, errdefs.ErrFailedPrecondition)
	}
	return s.CommitLayers(ctx, []layer.Commit{{Staged: staged}})
}
