package remote

import (
	"context"
	"errors"
	"fmt"
	"hash"
	"io"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// mirrorReader reads a blob that a mirror has begun to serve. When that fails
// in the middle, it goes on from the next site. What is found to be wrong at
// the end cannot be taken back: then the mirrors that it came from are given
// up, so that another try gets it from elsewhere.
type mirrorReader struct {
	rc     io.ReadCloser
	mirror *mirrorSite                                            // that rc is of; nil is the registry
	used   []*mirrorSite                                          // before, and now
	open   func(offset int64) (io.ReadCloser, *mirrorSite, error) // within the Fetch that the reads belong to
	ended  func() error                                           // of its context
	desc   ocispec.Descriptor
	offset int64
	hash   hash.Hash // nil when the first bytes are not read here
}

func newMirrorReader(ctx context.Context, r *Repository, desc ocispec.Descriptor, offset int64, rc io.ReadCloser, m *mirrorSite) *mirrorReader {
	b := &mirrorReader{rc: rc, mirror: m, used: []*mirrorSite{m}, desc: desc, offset: offset}
	if offset == 0 {
		b.hash = desc.Digest.Algorithm().Hash()
	}
	b.open = func(offset int64) (io.ReadCloser, *mirrorSite, error) {
		return r.open(ctx, desc, offset)
	}
	b.ended = ctx.Err
	return b
}

func (b *mirrorReader) Read(p []byte) (int, error) {
	for {
		n, err := b.rc.Read(p)
		b.offset += int64(n)
		if b.hash != nil {
			b.hash.Write(p[:n]) // never fails
		}
		if errors.Is(err, io.EOF) && b.offset >= b.desc.Size {
			b.check()
			return n, err
		}
		if err == nil || b.mirror == nil {
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
	if b.rc, b.mirror = rc, m; m != nil {
		b.used = append(b.used, m)
	}
	return nil
}

// check gives up the mirrors that something other than the blob came from.
func (b *mirrorReader) check() {
	if b.hash == nil || digest.NewDigest(b.desc.Digest.Algorithm(), b.hash) == b.desc.Digest {
		return
	}
	for _, m := range b.used {
		m.fail(fmt.Errorf("blob %s: other bytes: %w", b.desc.Digest, errdefs.ErrDataLoss))
	}
}

// Close ends the request.
func (b *mirrorReader) Close() error { return b.rc.Close() }
