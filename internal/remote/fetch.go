package remote

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"

	"strake/internal/registry"
)

// version is what the first answer about a blob said of it. All that is read of
// the blob must be of one version: the readers of its pieces share it.
type version struct {
	mu   sync.Mutex
	size int64  // -1: not known yet
	etag string // a strong one, "" for none
}

// validator is what If-Range takes, "" for nothing.
func (v *version) validator() string {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.etag
}

// length is the blob's size, -1 when it is not known.
func (v *version) length() int64 {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.size
}

// admit fails unless an answer about the blob is of this version.
func (v *version) admit(dgst digest.Digest, size int64, etag string) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.size >= 0 && size >= 0 && size != v.size {
		return permanent(fmt.Errorf("blob %s: the registry has %d bytes, expected %d: %w", dgst, size, v.size, errdefs.ErrFailedPrecondition))
	}
	strong := strings.HasPrefix(etag, `"`)
	if strong && v.etag != "" && etag != v.etag {
		return permanent(fmt.Errorf("blob %s: the registry changed it while it was fetched: %w", dgst, errdefs.ErrFailedPrecondition))
	}
	if size >= 0 {
		v.size = size
	}
	if strong {
		v.etag = etag
	}
	return nil
}

// errRange says that a registry does not answer with the range that it is asked for.
var errRange = errors.New("the registry sent another range")

// blobReader reads a blob from offset on over as many requests as it takes.
type blobReader struct {
	dgst   digest.Digest
	log    *slog.Logger
	get    func(req request) (*http.Response, context.CancelFunc, error) // within the OpenBlob that the reads belong to
	wait   func(time.Duration) error                                     // likewise
	path   string
	scopes []string
	offset int64
	end    int64 // where to stop; 0: at the blob's end
	ranged bool  // fail with errRange where the whole blob is the answer
	blob   *version
	failed int // times in a row without a byte

	body   io.ReadCloser
	left   int64 // bytes that body has still; -1: it does not say
	skip   int64 // of them, how many are here already
	cancel context.CancelFunc
	quiet  time.Duration // that a body may be
	stall  *time.Timer
}

// newBlobReader makes a reader whose requests end with ctx.
func newBlobReader(ctx context.Context, r *Registry, repo string, dgst digest.Digest, offset int64, blob *version) *blobReader {
	return &blobReader{
		dgst: dgst, log: r.client.opts.Log, path: blobPath(repo, dgst), scopes: pull(repo), offset: offset, blob: blob, quiet: r.client.opts.Stall,
		wait: func(d time.Duration) error { return sleep(ctx, d) },
		get: func(req request) (*http.Response, context.CancelFunc, error) {
			ctx, cancel := context.WithCancel(ctx)
			resp, err := r.do(ctx, req)
			if err != nil {
				cancel()
			}
			return resp, cancel, err
		},
	}
}

// open asks for the bytes from offset on.
func (b *blobReader) open() error {
	req := request{method: http.MethodGet, path: b.path, scopes: b.scopes, accept: []int{http.StatusOK}}
	if b.offset > 0 || b.end > 0 {
		last := ""
		if b.end > 0 {
			last = strconv.FormatInt(b.end-1, 10)
		}
		req.header = http.Header{"Range": {fmt.Sprintf("bytes=%d-%s", b.offset, last)}}
		if tag := b.blob.validator(); tag != "" {
			req.header.Set("If-Range", tag)
		}
		req.accept = append(req.accept, http.StatusPartialContent)
	}
	resp, cancel, err := b.get(req)
	if err != nil {
		return err
	}
	if err := b.accept(resp); err != nil {
		cancel()
		return errors.Join(err, resp.Body.Close())
	}
	b.body, b.cancel = resp.Body, cancel
	b.stall = time.AfterFunc(b.quiet, cancel)
	return nil
}

// accept checks that resp continues the blob, or begins it again.
func (b *blobReader) accept(resp *http.Response) error {
	size := resp.ContentLength
	part := resp.StatusCode == http.StatusPartialContent
	if part {
		span, ok := parseContentRange(resp.Header.Get("Content-Range"))
		if b.left = span.last - span.first + 1; !ok || span.first != b.offset || b.end > 0 && span.last >= b.end || size >= 0 && size != b.left {
			return permanent(fmt.Errorf("blob %s: %w", b.dgst, errRange))
		}
		size = span.total
	} else if b.ranged {
		return permanent(fmt.Errorf("blob %s: %w: all of it", b.dgst, errRange))
	}
	if err := b.blob.admit(b.dgst, size, resp.Header.Get("Etag")); err != nil {
		return err
	}
	if size = b.blob.length(); size >= 0 && b.offset > size {
		return registry.Errorf(registry.RangeInvalid, "blob %s: offset %d of %d: %w", b.dgst, b.offset, size, errdefs.ErrOutOfRange)
	}
	b.skip = 0
	if !part { // the whole blob, in one stream
		b.left, b.skip, b.end = size, b.offset, 0
	}
	return nil
}

// span is a part of a blob, from first to last; total is its size, -1 when that
// is not told.
type span struct{ first, last, total int64 }

// parseContentRange parses "bytes <first>-<last>/<total>", where total may be *.
func parseContentRange(s string) (r span, ok bool) {
	s, ok = strings.CutPrefix(s, "bytes ")
	part, total, ok2 := strings.Cut(s, "/")
	first, last, ok3 := strings.Cut(part, "-")
	if !ok || !ok2 || !ok3 {
		return span{}, false
	}
	if total == "*" {
		total = "-1"
	}
	var errs [3]error
	r.first, errs[0] = strconv.ParseInt(first, 10, 64)
	r.last, errs[1] = strconv.ParseInt(last, 10, 64)
	r.total, errs[2] = strconv.ParseInt(total, 10, 64)
	if errors.Join(errs[:]...) != nil {
		return span{}, false
	}
	return r, r.first >= 0 && r.first <= r.last && (r.last < r.total || r.total == -1)
}

func (b *blobReader) Read(p []byte) (int, error) {
	for {
		if b.body == nil {
			if b.offset == b.stop() {
				return 0, io.EOF
			}
			if err := b.open(); err != nil {
				return 0, fmt.Errorf("fetch %s from %d: %w", b.dgst, b.offset, err)
			}
		}
		n, err := b.readBody(p)
		if n > 0 && err == nil {
			return n, nil
		}
		if _, final := errors.AsType[permanentError](err); final {
			return n, err
		}
		if err != nil {
			if b.offset == b.stop() || errors.Is(err, io.EOF) && b.stop() < 0 {
				return n, io.EOF
			}
			if errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			if err = b.broke(err); err != nil || n > 0 {
				return n, err
			}
		}
	}
}

// stop is the offset at which reading ends, -1 when that is not known.
func (b *blobReader) stop() int64 {
	if b.end > 0 {
		return b.end
	}
	return b.blob.length()
}

// readBody reads from the answer, past what is here already.
func (b *blobReader) readBody(p []byte) (int, error) {
	switch {
	case b.skip > 0:
		p = p[:min(int64(len(p)), b.skip)]
	case b.left >= 0: // one byte more tells whether it ends there
		p = p[:min(int64(len(p)), b.left+1)]
	}
	n, err := b.body.Read(p)
	if n > 0 {
		b.stall.Reset(b.quiet)
	}
	if b.left >= 0 {
		if b.left -= int64(n); b.left < 0 {
			return 0, permanent(fmt.Errorf("blob %s: the registry sent more than it said: %w", b.dgst, errdefs.ErrFailedPrecondition))
		}
	}
	if b.skip > 0 {
		b.skip -= int64(n)
		return 0, err
	}
	if b.offset += int64(n); n > 0 {
		b.failed = 0
	}
	return n, err
}

// broke drops the connection and waits before the next; it fails with err when
// there is to be none.
func (b *blobReader) broke(err error) error {
	_ = b.release() // it is broken
	b.failed++
	if b.failed >= maxTries {
		return fmt.Errorf("fetch %s: broken off at %d: %w", b.dgst, b.offset, err)
	}
	b.log.Debug("blob broken off, resuming", "digest", b.dgst, "offset", b.offset, "err", err)
	return b.wait(backoff(b.failed))
}

func (b *blobReader) release() error {
	if b.body == nil {
		return nil
	}
	b.stall.Stop()
	err := b.body.Close()
	b.cancel()
	b.body = nil
	return err
}

// Close ends the request. Reading after it would begin a new one.
func (b *blobReader) Close() error { return b.release() }
