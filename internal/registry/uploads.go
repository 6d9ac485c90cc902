package registry

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// startUpload answers end-4a, end-4b, end-4c and end-11.
func startUpload(c *call) error {
	query := c.r.URL.Query()
	if alg := query.Get("digest-algorithm"); alg != "" && alg != string(digest.SHA256) && alg != string(digest.SHA512) {
		return Errorf(DigestInvalid, "digests of the algorithm %.40q are not supported, but sha256 and sha512", alg)
	}
	if mount := query.Get("mount"); mount != "" {
		done, err := c.mount(digest.Digest(mount), query.Get("from"))
		if done || err != nil {
			return err
		}
	} else if dgst := digest.Digest(query.Get("digest")); dgst != "" {
		return c.pushBlob(dgst)
	}
	up, err := c.reg.StartUpload(c.r.Context(), c.repo)
	if err != nil {
		return err
	}
	if err := up.Close(); err != nil {
		return err
	}
	if c.opts.MinChunk > 0 {
		c.w.Header().Set("Oci-Chunk-Min-Length", strconv.FormatInt(c.opts.MinChunk, 10))
	}
	return c.uploadAnswer(up, http.StatusAccepted)
}

// pushBlob takes the request's body for the blob dgst.
func (c *call) pushBlob(dgst digest.Digest) error {
	if err := CheckDigest(dgst); err != nil {
		return err
	}
	ctx := c.r.Context()
	if c.r.ContentLength >= 0 {
		desc := ocispec.Descriptor{MediaType: "application/octet-stream", Digest: dgst, Size: c.r.ContentLength}
		if err := c.reg.PushBlob(ctx, c.repo, desc, c.body(c.r.Body)); err != nil {
			return err
		}
		return c.created("blobs", dgst)
	}
	up, err := c.reg.StartUpload(ctx, c.repo)
	if err != nil {
		return err
	}
	if err = c.receive(up); err == nil {
		_, err = up.Commit(ctx, dgst)
	} else { // nobody knows its name to resume it
		err = errors.Join(err, up.Cancel(context.WithoutCancel(ctx)))
	}
	if err := errors.Join(err, up.Close()); err != nil {
		return err
	}
	return c.created("blobs", dgst)
}

// mount reports whether it mounted dgst and answered. What cannot be mounted is
// to be uploaded; whether it exists elsewhere is not told.
func (c *call) mount(dgst digest.Digest, from string) (bool, error) {
	if err := CheckDigest(dgst); err != nil {
		return false, err
	}
	if from != "" && !validName(from) {
		return false, nil
	}
	_, err := c.reg.MountBlob(c.r.Context(), c.repo, from, dgst)
	if err == nil {
		return true, c.created("blobs", dgst)
	}
	for _, kind := range []error{errdefs.ErrNotFound, errdefs.ErrPermissionDenied, errdefs.ErrUnauthenticated, errdefs.ErrNotImplemented} {
		if errors.Is(err, kind) {
			return false, nil
		}
	}
	return false, err
}

// created answers 201 for a blob or manifest.
func (c *call) created(kind string, dgst digest.Digest) error {
	h := c.w.Header()
	h.Set("Location", "/v2/"+c.repo+"/"+kind+"/"+dgst.String())
	h.Set("Docker-Content-Digest", dgst.String())
	return c.empty(http.StatusCreated)
}

// uploadAnswer tells where the upload goes on and how far it is.
func (c *call) uploadAnswer(up Upload, status int) error {
	h := c.w.Header()
	h.Set("Location", "/v2/"+c.repo+"/blobs/uploads/"+url.PathEscape(up.ID()))
	h.Set("Range", fmt.Sprintf("0-%d", max(up.Offset()-1, 0)))
	h.Set("Docker-Upload-Uuid", up.ID())
	if status == http.StatusNoContent {
		c.w.WriteHeader(status)
		return nil
	}
	return c.empty(status)
}

func (c *call) resume() (Upload, error) {
	if len(c.arg) > 4096 || strings.Trim(c.arg, uploadIDChars) != "" {
		return nil, Errorf(BlobUploadUnknown, "upload unknown")
	}
	return c.reg.ResumeUpload(c.r.Context(), c.repo, c.arg)
}

const uploadIDChars = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"

func uploadStatus(c *call) error {
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
	return c.copyBody(up)
}

// expect fails where up, with more bytes, will be refused.
func expect(c *call, up Upload, more int64) error {
	e, ok := up.(Expecter)
	if !ok {
		return nil
	}
	desc := ocispec.Descriptor{Size: up.Offset() + more}
	if dgst := digest.Digest(c.r.URL.Query().Get("digest")); CheckDigest(dgst) == nil {
		desc.Digest = dgst
	}
	return e.Expect(c.r.Context(), desc)
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

func patchUpload(c *call) error {
	up, err := c.withUpload(c.receive)
	if err != nil {
		return err
	}
	return c.uploadAnswer(up, http.StatusAccepted)
}

func finishUpload(c *call) error {
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
	return c.created("blobs", dgst)
}

func cancelUpload(c *call) error {
	_, err := c.withUpload(func(up Upload) error { return up.Cancel(c.r.Context()) })
	if err != nil {
		return err
	}
	c.w.WriteHeader(http.StatusNoContent)
	return nil
}
