package registry

import (
	"fmt"
	"net/http"
	"strconv"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
)

// immutable is the Cache-Control of what a digest names: it never changes. Whoever
// must be asked whether one may have it is asked all the same, for only the
// client's own cache keeps what came with an Authorization.
var immutable = []string{"max-age=31536000, immutable"}

// contentHeader sets what every answer about a blob or a manifest has.
func contentHeader(h http.Header, mediaType string, dgst digest.Digest, size int64) {
	h["Content-Type"] = []string{mediaType}
	h["Content-Length"] = []string{strconv.FormatInt(size, 10)}
	h["Docker-Content-Digest"] = []string{string(dgst)}
	h["Etag"] = []string{`"` + string(dgst) + `"`}
	h["X-Content-Type-Options"] = []string{"nosniff"}
}

func blobHeader(h http.Header, dgst digest.Digest, size int64) {
	contentHeader(h, "application/octet-stream", dgst, size)
	h["Accept-Ranges"] = []string{"bytes"}
	h["Cache-Control"] = immutable
}

// notModified answers 304 where the client has dgst already.
func (c *call) notModified(dgst digest.Digest) bool {
	if !matches(c.r.Header.Get("If-None-Match"), `"`+string(dgst)+`"`) {
		return false
	}
	h := c.w.Header()
	h.Del("Content-Length")
	h.Del("Content-Type")
	c.w.WriteHeader(http.StatusNotModified)
	return true
}

func statBlob(c *call) error {
	desc, err := c.reg.StatBlob(c.r.Context(), c.repo, digest.Digest(c.arg))
	if err != nil {
		return err
	}
	blobHeader(c.w.Header(), desc.Digest, desc.Size)
	if !c.notModified(desc.Digest) {
		c.w.WriteHeader(http.StatusOK)
	}
	return nil
}

func getBlob(c *call) (err error) {
	dgst := digest.Digest(c.arg)
	if c.r.Header.Get("If-None-Match") != "" {
		desc, err := c.reg.StatBlob(c.r.Context(), c.repo, dgst)
		if err != nil {
			return err
		}
		blobHeader(c.w.Header(), dgst, desc.Size)
		if c.notModified(dgst) {
			return nil
		}
	}
	if elsewhere, err := c.redirectBlob(dgst); err != nil || elsewhere {
		return err
	}
	if asked, ok := parseRange(c.r.Header.Get("Range")); asked != nil || !ok {
		// An If-Range that is not of this blob is of something else that the
		// client has a part of: it gets the whole.
		if tag := c.r.Header.Get("If-Range"); tag == "" || tag == `"`+c.arg+`"` {
			return c.blobRange(dgst, asked, ok)
		}
	}
	blob, err := c.reg.OpenBlob(c.r.Context(), c.repo, dgst, 0)
	if err != nil {
		return err
	}
	blobHeader(c.w.Header(), dgst, blob.Desc.Size)
	c.w.WriteHeader(http.StatusOK)
	return c.sendBlob(blob, blob.Desc.Size)
}

// redirectBlob sends the client where it can fetch the blob, or a part of it, if
// that is elsewhere.
func (c *call) redirectBlob(dgst digest.Digest) (elsewhere bool, err error) {
	r, ok := c.reg.(Redirector)
	if !ok {
		return false, nil
	}
	url, err := r.BlobURL(c.r.Context(), c.repo, dgst)
	if err != nil || url == "" {
		return false, err
	}
	h := c.w.Header()
	for _, name := range []string{"Content-Type", "Etag", "Accept-Ranges"} {
		h.Del(name) // of the blob's own answer
	}
	h.Set("Location", url)
	h.Set("Docker-Content-Digest", string(dgst))
	h.Set("Cache-Control", "no-store") // it is good for a while only
	return true, c.empty(http.StatusTemporaryRedirect)
}

// blobRange answers with a part of a blob, or 416 where ok is false or there is
// no such part.
func (c *call) blobRange(dgst digest.Digest, asked *byteRange, ok bool) error {
	desc, err := c.reg.StatBlob(c.r.Context(), c.repo, dgst)
	if err != nil {
		return err
	}
	var first, length int64
	if ok {
		first, length, ok = asked.within(desc.Size)
	}
	if !ok {
		c.w.Header().Set("Content-Range", fmt.Sprintf("bytes */%d", desc.Size))
		return fmt.Errorf("range %.60q of %d bytes: %w", c.r.Header.Get("Range"), desc.Size, errdefs.ErrOutOfRange)
	}
	blob, err := c.reg.OpenBlob(c.r.Context(), c.repo, dgst, first)
	if err != nil {
		return err
	}
	blobHeader(c.w.Header(), dgst, length)
	c.w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", first, first+length-1, desc.Size))
	c.w.WriteHeader(http.StatusPartialContent)
	return c.sendBlob(blob, length)
}

// sendBlob sends length bytes of blob, and closes it.
func (c *call) sendBlob(blob Blob, length int64) error {
	err := c.send(blob.ReadCloser, length)
	if cerr := blob.Close(); err == nil && cerr != nil {
		err = fmt.Errorf("%w: %w", errBodySent, cerr)
	}
	return err
}

func deleteBlob(c *call) error {
	if err := c.reg.DeleteBlob(c.r.Context(), c.repo, digest.Digest(c.arg)); err != nil {
		return err
	}
	return c.empty(http.StatusAccepted)
}

// empty answers status without a body.
func (c *call) empty(status int) error {
	c.w.Header().Set("Content-Length", "0")
	c.w.WriteHeader(status)
	return nil
}
