package s3

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"sync"

	"github.com/minio/minio-go/v7"
	"github.com/opencontainers/go-digest"

	"strake/internal/content"
)

// skip is how far ahead a reader reads on instead of asking anew.
const skip = 256 << 10 // bytes

// reader is a ReaderAt of a blob. It goes on with the answer that it has as long
// as it is read in order.
type reader struct {
	size int64
	get  func(offset int64) (io.ReadCloser, error)

	mu     sync.Mutex
	body   io.ReadCloser // at pos; nil: none
	pos    int64
	closed bool
}

// Open implements content.Provider. The ReaderAt is good until ctx is done.
func (s *Store) Open(ctx context.Context, dgst digest.Digest) (content.ReaderAt, error) {
	key, err := s.key(dgst)
	if err != nil {
		return nil, err
	}
	body, info, _, err := s.client.GetObject(ctx, s.bucket, key, minio.GetObjectOptions{})
	if err != nil {
		return nil, fmt.Errorf("blob %s: %w", dgst, classify(err))
	}
	get := func(offset int64) (io.ReadCloser, error) {
		var opts minio.GetObjectOptions
		if offset > 0 {
			if err := opts.SetRange(offset, 0); err != nil {
				return nil, err
			}
		}
		body, _, _, err := s.client.GetObject(ctx, s.bucket, key, opts)
		if err != nil {
			return nil, fmt.Errorf("blob %s: %w", dgst, classify(err))
		}
		return body, nil
	}
	return &reader{size: info.Size, get: get, body: body}, nil
}

// Size implements content.ReaderAt.
func (r *reader) Size() int64 { return r.size }

// ReadAt implements content.ReaderAt. An answer that breaks off is asked for
// once more.
func (r *reader) ReadAt(p []byte, offset int64) (n int, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return 0, fs.ErrClosed
	}
	if offset < 0 {
		return 0, fs.ErrInvalid
	}
	if offset >= r.size {
		return 0, io.EOF
	}
	end := error(nil)
	if rest := r.size - offset; int64(len(p)) > rest {
		p, end = p[:rest], io.EOF
	}
	for try := range 2 {
		if err = r.seek(offset + int64(n)); err != nil {
			continue
		}
		var got int
		got, err = io.ReadFull(r.body, p[n:])
		n += got
		r.pos += int64(got)
		if err == nil {
			return n, end
		}
		if dropErr := r.drop(); try > 0 {
			err = errors.Join(err, dropErr)
		}
	}
	return n, err
}

// seek makes body be at offset.
func (r *reader) seek(offset int64) error {
	if r.body != nil && r.pos < offset && offset-r.pos <= skip {
		n, err := io.CopyN(io.Discard, r.body, offset-r.pos)
		r.pos += n
		if err != nil {
			return errors.Join(err, r.drop())
		}
	}
	if r.body != nil && r.pos == offset {
		return nil
	}
	if err := r.drop(); err != nil {
		return err
	}
	body, err := r.get(offset)
	if err != nil {
		return err
	}
	r.body, r.pos = body, offset
	return nil
}

// drop closes body.
func (r *reader) drop() error {
	if r.body == nil {
		return nil
	}
	body := r.body
	r.body = nil
	return body.Close()
}

// Close implements content.ReaderAt.
func (r *reader) Close() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.closed = true
	return r.drop()
}
