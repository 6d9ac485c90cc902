package store

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"strake/internal/archive"
	"strake/internal/content"
	"strake/internal/image"
)

// Compress returns a compressed form of a layer that is in the store: one that
// is there, or a gzip that it makes and keeps. The bytes are the same on every
// machine.
func (s *contents) Compress(ctx context.Context, id digest.Digest) (ocispec.Descriptor, error) {
	if err := s.hold(ctx, id); err != nil {
		return ocispec.Descriptor{}, err
	}
	ref := refUnpack + "gzip-" + id.String()
	for {
		forms, err := s.Compressed(ctx, id)
		if err != nil {
			return ocispec.Descriptor{}, err
		}
		if len(forms) > 0 {
			return forms[0], s.hold(ctx, forms[0].Digest)
		}
		w, err := s.blobs.Writer(ctx, ref, content.WriterOptions{})
		if errdefs.IsUnavailable(err) {
			if err := sleep(ctx, pollInterval); err != nil {
				return ocispec.Descriptor{}, err
			}
			continue
		}
		if err != nil {
			return ocispec.Descriptor{}, fmt.Errorf("compress %s: %w", id, err)
		}
		desc, err := s.compress(ctx, id, w)
		if err := errors.Join(err, w.Close()); err != nil {
			return ocispec.Descriptor{}, fmt.Errorf("compress %s: %w", id, err)
		}
		return desc, nil
	}
}

func (s *contents) compress(ctx context.Context, id digest.Digest, w content.Writer) (desc ocispec.Descriptor, err error) {
	if err := w.Truncate(0); err != nil {
		return ocispec.Descriptor{}, err
	}
	tar, err := s.blobs.Open(ctx, id)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	defer closing(&err, tar.Close)
	z, err := archive.Compress(w, archive.Gzip, 0)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	_, err = io.Copy(z, content.NewReader(cancellable(ctx, io.NewSectionReader(tar, 0, tar.Size())), id, tar.Size()))
	if err := errors.Join(err, z.Close()); err != nil {
		return ocispec.Descriptor{}, err
	}
	desc = ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayerGzip, Digest: w.Digest(), Size: w.Offset()}
	if err := s.hold(ctx, desc.Digest); err != nil {
		return desc, err
	}
	return desc, s.commit(ctx, func() error { return w.Commit(ctx, desc.Size, desc.Digest) }, func(tx *sql.Tx) error {
		if err := recordBlob(ctx, tx, desc); err != nil {
			return err
		}
		return recordCompressed(ctx, tx, desc, id)
	})
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

// PushManifest returns the manifest with which an image is pushed: its own when
// every layer of that is in the store as the manifest names it, compressed;
// otherwise one with the layers' compressed forms, made where there is none.
func (s *Store) PushManifest(ctx context.Context, img Image) (ocispec.Descriptor, error) {
	m, _, err := image.ReadManifest(ctx, s, img.Manifest)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	if !isImageConfig(m.Config.MediaType) {
		return img.Manifest, nil // an artifact
	}
	config, _, err := image.ReadConfig(ctx, s, m.Config)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	asIs := true
	for i, l := range m.Layers {
		if !isLayer(l.MediaType) {
			return img.Manifest, nil
		}
		_, err := s.blobs.Stat(ctx, l.Digest)
		if err != nil && !errdefs.IsNotFound(err) {
			return ocispec.Descriptor{}, err
		}
		if err == nil && l.Digest != config.RootFS.DiffIDs[i] {
			continue
		}
		asIs = false
		if m.Layers[i], err = s.Compress(ctx, config.RootFS.DiffIDs[i]); err != nil {
			return ocispec.Descriptor{}, err
		}
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
