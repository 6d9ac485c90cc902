package hub

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"

	"strake/internal/content"
	"strake/internal/registry"
	"strake/internal/s3"
)

const (
	redirectFrom = 64 << 10         // bytes of a blob from which a client is sent to the bucket: one more request costs more than these
	redirectFor  = 15 * time.Minute // how long it may begin to read there
)

var _ registry.Redirector = (*Hub)(nil)

// storage is what holds the bytes.
type storage struct {
	content content.Store
	files   *content.Dir // content, where it is files; otherwise nil
	bucket  *s3.Store    // content, where clients may fetch from it; otherwise nil
}

func openStorage(ctx context.Context, opts Options) (s storage, err error) {
	if opts.Storage != "" {
		store, err := s3.Open(ctx, opts.Storage)
		if err != nil {
			return s, err
		}
		s.content = store
		if !opts.NoRedirect {
			s.bucket = store
		}
		return s, nil
	}
	if opts.Dir == "" {
		return s, fmt.Errorf("no directory and no storage: %w", errdefs.ErrInvalidArgument)
	}
	s.files, err = content.NewDir(opts.Dir)
	s.content = s.files
	return s, err
}

// open opens a blob at an offset.
func (s storage) open(ctx context.Context, dgst digest.Digest, offset int64) (io.ReadCloser, error) {
	if s.files == nil {
		blob, err := s.content.Open(ctx, dgst)
		if err != nil {
			return nil, err
		}
		return stream{io.NewSectionReader(blob, offset, blob.Size()-offset), blob}, nil
	}
	f, err := os.Open(s.files.Path(dgst)) // a plain *os.File goes out by sendfile
	if err != nil {
		return nil, err
	}
	if _, err := f.Seek(offset, io.SeekStart); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// stream is a blob from an offset on.
type stream struct {
	io.Reader
	io.Closer
}

// OpenBlob implements registry.Reader.
func (h *Hub) OpenBlob(ctx context.Context, repo string, dgst digest.Digest, offset int64) (registry.Blob, error) {
	desc, err := h.StatBlob(ctx, repo, dgst)
	if err != nil {
		return registry.Blob{}, err
	}
	if offset < 0 || offset > desc.Size {
		return registry.Blob{}, fmt.Errorf("blob %s: offset %d of %d: %w", dgst, offset, desc.Size, errdefs.ErrOutOfRange)
	}
	r, err := h.open(ctx, dgst, offset)
	if err != nil {
		return registry.Blob{}, fmt.Errorf("blob %s: %w", dgst, hide(err))
	}
	return registry.Blob{ReadCloser: r, Desc: desc}, nil
}

// BlobURL implements registry.Redirector.
func (h *Hub) BlobURL(ctx context.Context, repo string, dgst digest.Digest) (string, error) {
	if h.bucket == nil {
		return "", nil
	}
	desc, err := h.StatBlob(ctx, repo, dgst)
	if err != nil || desc.Size < redirectFrom {
		return "", err
	}
	return h.bucket.URL(ctx, dgst, redirectFor)
}
