package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"strake/internal/content"
	"strake/internal/flock"
	"strake/internal/image"
	"strake/internal/sqldb"
)

// contents is the half of a Store that holds bytes: blobs, layers and their
// indexes. What they mean to people, names and images, is the other half.
type contents struct {
	root  string
	db    *sqldb.DB
	blobs *content.Dir
	*leases
}

func (s *contents) indexPath(diffID digest.Digest) string {
	return filepath.Join(s.root, "indexes", diffID.Encoded())
}

func (s *contents) sidePath(diffID digest.Digest) string {
	return s.indexPath(diffID) + ".data"
}

// openGate opens and locks a store's commit gate. Commits take it shared, around the
// renames and the transaction that make files reachable; GC takes it exclusive
// while it removes the files that no row names.
func openGate(ctx context.Context, root string, how flock.Mode) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(root, "gate"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("commit gate: %w", err)
	}
	if err := flock.Wait(ctx, f, how); err != nil {
		return nil, errors.Join(fmt.Errorf("commit gate: %w", err), f.Close())
	}
	return f, nil
}

// PutBlob stores a small blob: a config, a manifest or an index.
func (s *contents) PutBlob(ctx context.Context, mediaType string, b []byte) (ocispec.Descriptor, error) {
	desc := image.Bytes(mediaType, b)
	return desc, s.Push(ctx, desc, func(_ context.Context, offset int64) (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(b[offset:])), nil
	})
}
