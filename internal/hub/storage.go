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

// openStorage opens what holds the bytes.
func (h *Hub) openStorage(ctx context.Context, opts Options) error {
	if opts.Storage != "" {
		store, err := s3.Open(ctx, opts.Storage)
		if err != nil {
			return err
		}
		h.content = store
		if !opts.NoRedirect {
			h.bucket = store
		}
		return nil
	}
	if opts.Dir == "" {
		return fmt.Errorf("no directory and no storage: %w", errdefs.ErrInvalidArgument)
	}
	files, err := content.NewDir(opts.Dir)
	h.content, h.files = files, files
	return err
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
	var r io.ReadCloser
	if h.files != nil {
		r, err = openFile(h.files.Path(dgst), offset)
	} else {
		r, err = h.openStream(ctx, dgst, offset)
	}
	if err != nil {
		return registry.Blob{}, fmt.Errorf("blob %s: %w", dgst, hide(err))
	}
	return registry.Blob{ReadCloser: r, Desc: desc}, nil
}

// openFile opens a file at an offset. A plain *os.File goes out by sendfile.
func openFile(path string, offset int64) (io.ReadCloser, error) {
	f, err := os.Open(path)
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

func (h *Hub) openStream(ctx context.Context, dgst digest.Digest, offset int64) (io.ReadCloser, error) {
	blob, err := h.content.Open(ctx, dgst)
	if err != nil {
		return nil, err
	}
	return stream{io.NewSectionReader(blob, offset, blob.Size()-offset), blob}, nil
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
