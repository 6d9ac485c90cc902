package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"

	"strake/internal/content"
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
func openGate(ctx context.Context, root string, how int) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(root, "gate"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("commit gate: %w", err)
	}
	for wait := time.Millisecond; ; wait = min(2*wait, maxGateWait) {
		err := unix.Flock(int(f.Fd()), how|unix.LOCK_NB)
		switch {
		case err == nil:
			return f, nil
		case errors.Is(err, unix.EWOULDBLOCK):
			err = sleep(ctx, wait)
		case errors.Is(err, unix.EINTR):
			continue
		}
		if err != nil {
			return nil, errors.Join(fmt.Errorf("commit gate: %w", err), f.Close())
		}
	}
}

// maxGateWait is how long the gate is left alone between two looks at it.
const maxGateWait = 16 * time.Millisecond

// PutBlob stores a small blob: a config, a manifest or an index.
func (s *contents) PutBlob(ctx context.Context, mediaType string, b []byte) (ocispec.Descriptor, error) {
	desc := image.Bytes(mediaType, b)
	return desc, s.Push(ctx, desc, func(_ context.Context, offset int64) (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(b[offset:])), nil
	})
}
