package remote

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/url"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// BlobStream is the upload of a blob that is still being made and whose digest
// is not known yet: what is written goes out at once. It is a help and no
// promise. When the registry fails, what follows is dropped, and the blob, once
// it is made, is pushed as any other, from where the stream broke off. It is
// for one goroutine.
type BlobStream struct {
	out    *io.PipeWriter
	broken bool
	cancel context.CancelFunc
	finish func(desc ocispec.Descriptor) error // within the call that began it
	leave  func()                              // likewise; waits for the end
}

// Stream begins an upload. key names what is going to be written, which is the
// same bytes every time: an upload of them that an earlier process left is taken
// up. Finish or Cancel must be called.
func (r *Repository) Stream(ctx context.Context, key string) *BlobStream {
	ctx, cancel := context.WithCancel(ctx)
	in, out := io.Pipe()
	ended := make(chan struct{})
	uploads := r.reg.uploads(r.name)
	var location *url.URL
	var err error
	go func() {
		defer close(ended)
		location, err = uploads.sendStream(ctx, key, in)
		_ = in.CloseWithError(io.ErrClosedPipe) // never fails
	}()
	finish := func(desc ocispec.Descriptor) error {
		<-ended
		if err == nil {
			err = uploads.commit(ctx, location, desc.Digest)
		}
		uploads.forget(ctx, key)
		if err == nil {
			r.hold(desc.Digest)
		} else if location != nil && interrupted(err) {
			uploads.leave(ctx, desc.Digest.String(), location, err)
		}
		return err
	}
	leave := func() {
		<-ended
		uploads.leave(ctx, key, location, errors.Join(err, context.Canceled))
	}
	return &BlobStream{out: out, cancel: cancel, finish: finish, leave: leave}
}

// sendStream uploads what it reads until the end, and returns where the upload
// goes on, also with an error when it got so far.
func (r uploader) sendStream(ctx context.Context, key string, in io.Reader) (*url.URL, error) {
	location, offset := r.remembered(ctx, key)
	if offset == 0 {
		var err error
		if location, err = r.begin(ctx, key); err != nil {
			return nil, err
		}
	}
	if _, err := io.CopyN(io.Discard, in, offset); err != nil {
		return location, err
	}
	resp, err := r.do(ctx, request{
		method: http.MethodPatch, url: location, scopes: push(r.repo), header: octets(), once: true,
		accept: []int{http.StatusAccepted, http.StatusNoContent}, size: -1,
		body: func() (io.ReadCloser, error) { return io.NopCloser(in), nil },
	})
	if err != nil {
		return location, err
	}
	discard(resp)
	return r.location(ctx, location, resp)
}

// Write takes the next bytes. It does not fail.
func (s *BlobStream) Write(p []byte) (int, error) {
	if !s.broken {
		_, err := s.out.Write(p)
		s.broken = err != nil
	}
	return len(p), nil
}

// Finish makes what was written the blob desc, and fails where the registry
// does.
func (s *BlobStream) Finish(desc ocispec.Descriptor) error {
	defer s.cancel()
	_ = s.out.Close() // never fails
	return s.finish(desc)
}

// Cancel ends a stream whose blob was not made.
func (s *BlobStream) Cancel() {
	s.cancel()
	_ = s.out.CloseWithError(context.Canceled) // never fails
	s.leave()
}
