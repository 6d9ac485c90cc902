package registry

import (
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
)

// blobHeader sets what every answer about a blob has.
func blobHeader(h http.Header, dgst digest.Digest, length int64) {
	h.Set("Content-Type", "application/octet-stream")
	h.Set("Content-Length", strconv.FormatInt(length, 10))
	h.Set("Docker-Content-Digest", dgst.String())
	h.Set("Etag", `"`+dgst.String()+`"`)
	h.Set("Accept-Ranges", "bytes")
	h.Set("Cache-Control", "max-age=31536000, immutable")
	h.Set("X-Content-Type-Options", "nosniff")
}

func (c *call) statBlob() error {
	desc, err := c.reg.StatBlob(c.r.Context(), c.repo, digest.Digest(c.arg))
	if err != nil {
		return err
	}
	blobHeader(c.w.Header(), desc.Digest, desc.Size)
	c.w.WriteHeader(http.StatusOK)
	return nil
}

func (c *call) getBlob() (err error) {
	ctx, dgst := c.r.Context(), digest.Digest(c.arg)
	if match := c.r.Header.Get("If-None-Match"); match == `"`+c.arg+`"` {
		if _, err := c.reg.StatBlob(ctx, c.repo, dgst); err != nil {
			return err
		}
		c.w.WriteHeader(http.StatusNotModified)
		return nil
	}
	first, last, ranged := parseRange(c.r.Header.Get("Range"))
	if tag := c.r.Header.Get("If-Range"); tag != "" && tag != `"`+c.arg+`"` { // a part of something else
		first, last, ranged = 0, -1, false
	}
	if ranged && first < 0 { // the last -first bytes
		desc, err := c.reg.StatBlob(ctx, c.repo, dgst)
		if err != nil {
			return err
		}
		first = max(desc.Size+first, 0)
	}
	blob, err := c.reg.OpenBlob(ctx, c.repo, dgst, first)
	if err != nil {
		return err
	}
	defer func() {
		if cerr := blob.Close(); err == nil && cerr != nil {
			err = fmt.Errorf("%w: %w", errBodySent, cerr)
		}
	}()
	size := blob.Desc.Size
	if ranged && first >= size {
		c.w.Header().Set("Content-Range", fmt.Sprintf("bytes */%d", size))
		return fmt.Errorf("range from %d of %d bytes: %w", first, size, errdefs.ErrOutOfRange)
	}
	if last < 0 || last >= size {
		last = size - 1
	}
	length := last - first + 1
	blobHeader(c.w.Header(), dgst, length)
	status := http.StatusOK
	if ranged {
		status = http.StatusPartialContent
		c.w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", first, last, size))
	}
	c.w.WriteHeader(status)
	// A *os.File inside a *io.LimitedReader is what the server hands to sendfile.
	n, err := io.Copy(c.w, &io.LimitedReader{R: blob.ReadCloser, N: length})
	if err == nil && n != length {
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		return fmt.Errorf("%w: %d of %d bytes: %w", errBodySent, n, length, err)
	}
	return nil
}

// parseRange parses a Range header of one range. first is negative for the
// last bytes, last is -1 for up to the end. What is not understood, several
// ranges too, is no range: the whole is a right answer to all.
func parseRange(s string) (first, last int64, ok bool) {
	spec, ok := strings.CutPrefix(s, "bytes=")
	a, b, dash := strings.Cut(spec, "-")
	if !ok || !dash {
		return 0, -1, false
	}
	if a == "" {
		n, err := strconv.ParseInt(b, 10, 64)
		if err != nil || n <= 0 {
			return 0, -1, false
		}
		return -n, -1, true
	}
	first, err := strconv.ParseInt(a, 10, 64)
	if err != nil || first < 0 {
		return 0, -1, false
	}
	if b == "" {
		return first, -1, true
	}
	last, err = strconv.ParseInt(b, 10, 64)
	if err != nil || last < first {
		return 0, -1, false
	}
	return first, last, true
}

func (c *call) deleteBlob() error {
	if err := c.reg.DeleteBlob(c.r.Context(), c.repo, digest.Digest(c.arg)); err != nil {
		return err
	}
	c.w.Header().Set("Content-Length", "0")
	c.w.WriteHeader(http.StatusAccepted)
	return nil
}
