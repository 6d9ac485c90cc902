package image

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Memory holds manifests and other small blobs between their making and their use. The zero value
// is empty. It is safe for concurrent use.
type Memory struct {
	mu    sync.Mutex
	blobs map[digest.Digest][]byte
}

// Keep holds bytes, which nobody may change afterwards, and describes them.
func (m *Memory) Keep(mediaType string, b []byte) ocispec.Descriptor {
	desc := ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(b), Size: int64(len(b))}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.blobs == nil {
		m.blobs = map[digest.Digest][]byte{}
	}
	m.blobs[desc.Digest] = b
	return desc
}

// Kept is what is held under a digest.
func (m *Memory) Kept(d digest.Digest) ([]byte, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	b, ok := m.blobs[d]
	return b, ok
}

// Open reads what is held from offset on; ok is false where nothing is.
func (m *Memory) Open(d digest.Digest, offset int64) (_ io.ReadCloser, ok bool) {
	b, ok := m.Kept(d)
	return io.NopCloser(bytes.NewReader(b[min(offset, int64(len(b))):])), ok
}

// Read holds the bytes of desc that open gives. Those of another digest, and more than most, are
// errdefs.ErrDataLoss.
func (m *Memory) Read(ctx context.Context, desc ocispec.Descriptor, open Opener, most int64) (err error) {
	body, err := open(ctx, 0)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, body.Close()) }()
	b, err := io.ReadAll(io.LimitReader(body, most))
	if err != nil {
		return err
	}
	if digest.FromBytes(b) != desc.Digest {
		return fmt.Errorf("%s has other bytes: %w", desc.Digest, errdefs.ErrDataLoss)
	}
	m.Keep(desc.MediaType, b)
	return nil
}
