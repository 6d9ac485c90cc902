package remote

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"io"
	"net/url"
	"strings"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"strake/internal/registry"
)

// chunkSize is how much of an upload through the Upload interface goes out in
// one request.
const chunkSize = 8 << 20

// upload is a registry.Upload: what is written goes out in chunks.
type upload struct {
	send     func() error // flush, within the call that opened it: Write and Close have no context
	reg      *Registry
	repo     string
	location *url.URL
	offset   int64 // that the registry holds
	buf      []byte
	err      error
	done     bool
}

// StartUpload implements registry.Writer.
func (r *Registry) StartUpload(ctx context.Context, repo string) (registry.Upload, error) {
	if err := registry.CheckName(repo); err != nil {
		return nil, err
	}
	location, err := r.uploads(repo).start(ctx)
	if err != nil {
		return nil, err
	}
	return newUpload(ctx, r, repo, location), nil
}

// ResumeUpload implements registry.Writer. Only uploads at the registry's
// origin can be resumed: an ID must not lead the client anywhere else.
func (r *Registry) ResumeUpload(ctx context.Context, repo, id string) (registry.Upload, error) {
	unknown := registry.Errorf(registry.BlobUploadUnknown, "upload unknown to the registry")
	if err := registry.CheckName(repo); err != nil {
		return nil, err
	}
	path, err := base64.RawURLEncoding.DecodeString(id)
	if err != nil {
		return nil, unknown
	}
	origin, err := r.origin(ctx)
	if err != nil {
		return nil, err
	}
	location, err := origin.Parse(string(path))
	if err != nil || !sameOrigin(origin, location) ||
		strings.HasPrefix(location.Path, "/v2/") && !strings.HasPrefix(location.Path, "/v2/"+repo+"/blobs/uploads/") {
		return nil, unknown
	}
	location, offset, err := r.uploads(repo).state(ctx, location)
	if err != nil {
		return nil, err
	}
	u := newUpload(ctx, r, repo, location)
	u.offset = offset
	return u, nil
}

func newUpload(ctx context.Context, r *Registry, repo string, location *url.URL) *upload {
	u := &upload{reg: r, repo: repo, location: location}
	u.send = func() error { return u.flush(ctx) }
	return u
}

// ID implements registry.Upload: it is the path of the Location.
func (u *upload) ID() string {
	return base64.RawURLEncoding.EncodeToString([]byte(u.location.RequestURI()))
}

// Offset implements registry.Upload.
func (u *upload) Offset() int64 { return u.offset + int64(len(u.buf)) }

func (u *upload) Write(p []byte) (int, error) {
	if u.err != nil {
		return 0, u.err
	}
	if u.buf == nil {
		u.buf = make([]byte, 0, chunkSize)
	}
	n := 0
	for len(p) > 0 {
		k := min(len(p), chunkSize-len(u.buf))
		u.buf = append(u.buf, p[:k]...)
		p, n = p[k:], n+k
		if len(u.buf) == chunkSize {
			if err := u.send(); err != nil {
				return n, err
			}
		}
	}
	return n, nil
}

// flush sends what is buffered.
func (u *upload) flush(ctx context.Context) error {
	if u.err != nil || len(u.buf) == 0 {
		return u.err
	}
	chunk := u.buf
	open := func(context.Context, int64) (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(chunk)), nil }
	end := u.offset + int64(len(chunk))
	next, err := u.reg.uploads(u.repo).patch(ctx, u.location, u.offset, end, open)
	if err != nil {
		u.err = err
		return err
	}
	u.location, u.offset, u.buf = next, end, u.buf[:0]
	return nil
}

// Commit implements registry.Upload.
func (u *upload) Commit(ctx context.Context, dgst digest.Digest) (ocispec.Descriptor, error) {
	desc := ocispec.Descriptor{MediaType: "application/octet-stream", Digest: dgst, Size: u.Offset()}
	if err := errors.Join(registry.CheckDigest(dgst), u.flush(ctx)); err != nil {
		return desc, err
	}
	u.done = true
	return desc, u.reg.uploads(u.repo).commit(ctx, u.location, dgst)
}

// Cancel implements registry.Upload.
func (u *upload) Cancel(ctx context.Context) error {
	u.done = true
	u.reg.uploads(u.repo).cancel(ctx, u.location)
	return nil
}

// Close implements registry.Upload.
func (u *upload) Close() error {
	if u.done {
		return nil
	}
	return u.send()
}
