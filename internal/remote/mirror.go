package remote

import (
	"context"
	"errors"
	"io"
	"strings"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// mirrorReader reads a blob that a mirror has begun to serve. When that fails
// in the middle, it goes on from the next site.
type mirrorReader struct {
	rc     io.ReadCloser
	mirror *mirrorSite                                            // that rc is of; nil is the registry
	open   func(offset int64) (io.ReadCloser, *mirrorSite, error) // within the Fetch that the reads belong to
	ended  func() error                                           // of its context
	offset int64
	size   int64
}

func newMirrorReader(ctx context.Context, r *Repository, desc ocispec.Descriptor, offset int64, rc io.ReadCloser, m *mirrorSite) *mirrorReader {
	return &mirrorReader{
		rc: rc, mirror: m, offset: offset, size: desc.Size, ended: ctx.Err,
		open: func(offset int64) (io.ReadCloser, *mirrorSite, error) { return r.open(ctx, desc, offset) },
	}
}

func (b *mirrorReader) Read(p []byte) (int, error) {
	for {
		n, err := b.rc.Read(p)
		b.offset += int64(n)
		if err == nil || b.mirror == nil || errors.Is(err, io.EOF) && b.offset >= b.size {
			return n, err
		}
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		if err := b.goOn(err); err != nil || n > 0 {
			return n, err
		}
	}
}

// goOn goes on from the next site after a mirror has failed with err. Without
// one that is why it fails.
func (b *mirrorReader) goOn(err error) error {
	if b.ended() != nil {
		return err
	}
	b.mirror.fail(err)
	b.mirror.down.Store(true) // even if it says that it lacks the blob now
	rc, m, next := b.open(b.offset)
	if next != nil {
		return errors.Join(err, next)
	}
	_ = b.rc.Close() // it is broken
	b.rc, b.mirror = rc, m
	return nil
}

// Close ends the request.
func (b *mirrorReader) Close() error { return b.rc.Close() }

// Doubt implements image.Doubter: of the sites that the bytes came from, the
// mirrors are not asked again.
func (r *Repository) Doubt(desc ocispec.Descriptor) (from string, again bool) {
	r.mu.Lock()
	sites := r.gave[desc.Digest]
	delete(r.gave, desc.Digest)
	r.mu.Unlock()
	var names []string
	for _, s := range sites {
		names = append(names, s.String())
		if m := r.mirror(s); m != nil {
			again = true
			m.down.Store(true)
			r.reg.client.opts.Log.Warn("a mirror gave wrong bytes, and is not asked again", "mirror", s.String(), "digest", desc.Digest)
		}
	}
	return strings.Join(names, " and "), again
}
