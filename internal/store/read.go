package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"strake/internal/image"
	"strake/internal/layer"
)

// isLayer reports whether the media type is that of a layer tar, in any
// compression.
func isLayer(mediaType string) bool {
	switch mediaType {
	case ocispec.MediaTypeImageLayer, ocispec.MediaTypeImageLayerGzip, ocispec.MediaTypeImageLayerZstd,
		image.MediaTypeDockerLayer, image.MediaTypeDockerLayerGzip, image.MediaTypeDockerLayerZstd:
		return true
	}
	return false
}

// whole restricts blobs to those of which no child is missing. They can be, after
// a repair that could not heal all: copying the image again brings them.
const whole = ` AND NOT EXISTS (SELECT 1 FROM refs r WHERE r.parent = $1
	AND NOT EXISTS (SELECT 1 FROM blobs b WHERE b.digest = r.child)
	AND NOT EXISTS (SELECT 1 FROM compressed c JOIN layers l ON l.diff_id = c.diff_id WHERE c.digest = r.child))`

// Exists implements image.Target. What it finds stays until Close: it leases
// first. A layer exists when its tar and index do, whatever became of the
// compressed form it is named by; a manifest, when all that it needs does.
func (s *contents) Exists(ctx context.Context, desc ocispec.Descriptor) (bool, error) {
	if err := s.hold(ctx, desc.Digest); err != nil {
		return false, err
	}
	var ok bool
	err := s.db.View(ctx, func(tx *sql.Tx) error {
		var err error
		if isLayer(desc.MediaType) {
			_, err = diffID(ctx, tx, desc.Digest)
			ok = err == nil
			if errdefs.IsNotFound(err) {
				return nil
			}
			return err
		}
		query := "blobs WHERE digest = $1"
		if image.IsManifest(desc.MediaType) {
			query += whole
		}
		ok, err = exists(ctx, tx, query, desc.Digest.String())
		return err
	})
	if err != nil {
		return false, fmt.Errorf("look up %s: %w", desc.Digest, err)
	}
	return ok, nil
}

// Fetch implements image.Source. A plain layer is served by its diffID.
func (s *contents) Fetch(ctx context.Context, desc ocispec.Descriptor, offset int64) (io.ReadCloser, error) {
	r, err := s.blobs.Open(ctx, desc.Digest)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", desc.Digest, err)
	}
	if offset > r.Size() {
		err := fmt.Errorf("read %s: offset %d of %d bytes: %w", desc.Digest, offset, r.Size(), errdefs.ErrOutOfRange)
		return nil, errors.Join(err, r.Close())
	}
	return section{io.NewSectionReader(r, offset, r.Size()-offset), r}, nil
}

type section struct {
	*io.SectionReader
	io.Closer
}

// ReadBlob reads a manifest or a config, verified.
func (s *contents) ReadBlob(ctx context.Context, desc ocispec.Descriptor) ([]byte, error) {
	return image.ReadAll(ctx, s, desc, image.MaxConfigSize)
}

// Layer says where the files of a layer are, or fails with errdefs.ErrNotFound.
func (s *contents) Layer(ctx context.Context, id digest.Digest) (layer.Files, error) {
	f := layer.Files{DiffID: id, Tar: s.blobs.Path(id), Index: s.indexPath(id)}
	var side int64
	err := s.db.Get(ctx, "SELECT size, side_size FROM layers WHERE diff_id = $1", []any{id.String()}, &f.Size, &side)
	if errors.Is(err, sql.ErrNoRows) {
		err = errdefs.ErrNotFound
	}
	if err != nil {
		return layer.Files{}, fmt.Errorf("layer %s: %w", id, err)
	}
	if side > 0 {
		f.Side = s.sidePath(id)
	}
	return f, nil
}

// HoldLayers leases layers: none of them is removed before Close. It fails with
// errdefs.ErrNotFound when one is gone already.
func (s *contents) HoldLayers(ctx context.Context, ids ...digest.Digest) error {
	if err := s.hold(ctx, ids...); err != nil {
		return err
	}
	for _, id := range ids {
		if _, err := s.Layer(ctx, id); err != nil {
			return err
		}
	}
	return nil
}

func syncParent(path string) error {
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}
