package registry

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// startUpload answers end-4a, end-4b and end-11.
func (c *call) startUpload() error {
	ctx, query := c.r.Context(), c.r.URL.Query()
	if mount := query.Get("mount"); mount != "" && query.Get("from") != "" {
		done, err := c.mount(digest.Digest(mount), query.Get("from"))
		if done || err != nil {
			return err
		}
	} else if dgst := digest.Digest(query.Get("digest")); dgst != "" && c.r.ContentLength >= 0 {
		if err := CheckDigest(dgst); err != nil {
			return err
		}
		desc := ocispec.Descriptor{MediaType: "application/octet-stream", Digest: dgst, Size: c.r.ContentLength}
		if err := c.reg.PushBlob(ctx, c.repo, desc, c.r.Body); err != nil {
			return err
		}
		return created(c, "blobs", dgst)
	}
	up, err := c.reg.StartUpload(ctx, c.repo)
	if err != nil {
		return err
	}
	if err := up.Close(); err != nil {
		return err
	}
	return c.uploadAnswer(up, http.StatusAccepted)
}

// mount reports whether it mounted dgst and answered. What cannot be mounted is
// to be uploaded; whether it exists elsewhere is not told.
func (c *call) mount(dgst digest.Digest, from string) (bool, error) {
	if err := CheckDigest(dgst); err != nil {
		return false, err
	}
	if err := CheckName(from); err != nil {
		return false, err
	}
	_, err := c.reg.MountBlob(c.r.Context(), c.repo, from, dgst)
	if err == nil {
		return true, created(c, "blobs", dgst)
	}
	for _, kind := range []error{errdefs.ErrNotFound, errdefs.ErrPermissionDenied, errdefs.ErrUnauthenticated, errdefs.ErrNotImplemented} {
		if errors.Is(err, kind) {
			return false, nil
		}
	}
	return false, err
}

// created answers 201 for a blob or manifest.
func created(c *call, kind string, dgst digest.Digest) error {
	h := c.w.Header()
	h.Set("Location", "/v2/"+c.repo+"/"+kind+"/"+dgst.String())
	h.Set("Docker-Content-Digest", dgst.String())
	h.Set("Content-Length", "0")
	c.w.WriteHeader(http.StatusCreated)
	return nil
}

// uploadAnswer tells where the upload goes on and how far it is.
func (c *call) uploadAnswer(up Upload, status int) error {
	h := c.w.Header()
	h.Set("Location", "/v2/"+c.repo+"/blobs/uploads/"+url.PathEscape(up.ID()))
	h.Set("Range", fmt.Sprintf("0-%d", max(up.Offset()-1, 0)))
	h.Set("Docker-Upload-Uuid", up.ID())
	h.Set("Content-Length", "0")
	c.w.WriteHeader(status)
	return nil
}

func (c *call) resume() (Upload, error) {
	if len(c.arg) > 4096 || strings.Trim(c.arg, uploadIDChars) != "" {
		return nil, Errorf(BlobUploadUnknown, "upload unknown")
	}
	return c.reg.ResumeUpload(c.r.Context(), c.repo, c.arg)
}

const uploadIDChars = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"

func (c *call) uploadStatus() error {
	up, err := c.withUpload(func(Upload) error { return nil })
	if err != nil {
		return err
	}
	return c.uploadAnswer(up, http.StatusNoContent)
}

// receive adds the request's body to up. What came before the connection broke
// is kept.
func (c *call) receive(up Upload) error {
	if cr := c.r.Header.Get("Content-Range"); cr != "" {
		first, last, ok := parseContentRange(cr)
		if !ok || c.r.ContentLength >= 0 && c.r.ContentLength != last-first+1 {
			return Errorf(BlobUploadInvalid, "malformed Content-Range or a body of another length")
		}
		if first != up.Offset() {
			c.w.Header().Set("Location", "/v2/"+c.repo+"/blobs/uploads/"+url.PathEscape(up.ID()))
			c.w.Header().Set("Range", fmt.Sprintf("0-%d", max(up.Offset()-1, 0)))
			return fmt.Errorf("chunk starts at %d, the upload is at %d: %w", first, up.Offset(), errdefs.ErrOutOfRange)
		}
	}
	body := &bodyReader{r: c.r.Body}
	if _, err := copyBody(up, body); err != nil {
		if body.err != nil {
			return Errorf(BlobUploadInvalid, "receive chunk: %w", err)
		}
		return fmt.Errorf("store chunk: %w", err)
	}
	return nil
}

// bodyReader keeps a failure to read apart from one to write.
type bodyReader struct {
	r   io.Reader
	err error
}

func (b *bodyReader) Read(p []byte) (int, error) {
	n, err := b.r.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		b.err = err
	}
	return n, err
}

// parseContentRange parses "<first>-<last>", with or without a unit before.
func parseContentRange(s string) (first, last int64, ok bool) {
	s = strings.TrimPrefix(s, "bytes ")
	s, _, _ = strings.Cut(s, "/")
	a, b, _ := strings.Cut(s, "-")
	first, err1 := strconv.ParseInt(a, 10, 64)
	last, err2 := strconv.ParseInt(b, 10, 64)
	return first, last, err1 == nil && err2 == nil && first >= 0 && last >= first-1
}

// withUpload calls fn with the request's upload, which is released whatever
// happens.
func (c *call) withUpload(fn func(up Upload) error) (up Upload, err error) {
	if up, err = c.resume(); err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, up.Close()) }()
	return up, fn(up)
}

func (c *call) patchUpload() error {
	up, err := c.withUpload(c.receive)
	if err != nil {
		return err
	}
	return c.uploadAnswer(up, http.StatusAccepted)
}

func (c *call) finishUpload() error {
	dgst := digest.Digest(c.r.URL.Query().Get("digest"))
	if err := CheckDigest(dgst); err != nil {
		return err
	}
	_, err := c.withUpload(func(up Upload) error {
		if err := c.receive(up); err != nil {
			return err
		}
		_, err := up.Commit(c.r.Context(), dgst)
		return err
	})
	if err != nil {
		return err
	}
	return created(c, "blobs", dgst)
}

func (c *call) cancelUpload() error {
	_, err := c.withUpload(func(up Upload) error { return up.Cancel(c.r.Context()) })
	if err != nil {
		return err
	}
	c.w.WriteHeader(http.StatusNoContent)
	return nil
}
