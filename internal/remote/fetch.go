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
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"

	"strake/internal/registry"
)

// blobReader reads a blob from offset on over as many requests as it takes.
type blobReader struct {
	dgst   digest.Digest
	log    *slog.Logger
	get    func(req request) (*http.Response, context.CancelFunc, error) // within the OpenBlob that the reads belong to
	wait   func(time.Duration) error                                     // likewise
	path   string
	scopes []string
	offset int64
	end    int64  // where to stop; 0: at the blob's end
	size   int64  // -1: not known yet
	etag   string // of the first answer, when it is a strong one
	failed int    // times in a row without a byte

	body   io.ReadCloser
	cancel context.CancelFunc
	quiet  time.Duration // that a body may be
	stall  *time.Timer
}

// newBlobReader makes a reader whose requests end with ctx.
func newBlobReader(ctx context.Context, r *Registry, repo string, dgst digest.Digest, offset int64) *blobReader {
	return &blobReader{
		dgst: dgst, log: r.client.opts.Log, path: blobPath(repo, dgst), scopes: pull(repo), offset: offset, size: -1, quiet: r.client.opts.Stall,
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
		if b.etag != "" {
			req.header.Set("If-Range", b.etag)
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
	if tag := resp.Header.Get("Etag"); strings.HasPrefix(tag, `"`) {
		b.etag = tag
	}
	if resp.StatusCode == http.StatusOK {
		b.end = 0 // it is the whole blob, in one stream
	}
	b.body, b.cancel = resp.Body, cancel
	b.stall = time.AfterFunc(b.quiet, cancel)
	return nil
}

// accept checks that resp continues the blob; of one that begins it again it
// passes over what is there already.
func (b *blobReader) accept(resp *http.Response) error {
	size := resp.ContentLength
	if resp.StatusCode == http.StatusPartialContent {
		first, total, ok := parseContentRange(resp.Header.Get("Content-Range"))
		if !ok || first != b.offset {
			return permanent(fmt.Errorf("blob %s: the registry sent another range", b.dgst))
		}
		size = total
	}
	if b.size >= 0 && size >= 0 && size != b.size {
		return permanent(fmt.Errorf("blob %s: its size was %d, is now %d", b.dgst, b.size, size))
	}
	b.size = size
	if size >= 0 && b.offset > size {
		return registry.Errorf(registry.RangeInvalid, "blob %s: offset %d of %d: %w", b.dgst, b.offset, size, errdefs.ErrOutOfRange)
	}
	if resp.StatusCode == http.StatusOK {
		if _, err := io.CopyN(io.Discard, resp.Body, b.offset); err != nil {
			return fmt.Errorf("blob %s: pass over %d bytes: %w", b.dgst, b.offset, err)
		}
	}
	return nil
}

// parseContentRange parses "bytes <first>-<last>/<total>"; a total of * is -1.
func parseContentRange(s string) (first, total int64, ok bool) {
	s, ok = strings.CutPrefix(s, "bytes ")
	span, all, ok2 := strings.Cut(s, "/")
	a, _, ok3 := strings.Cut(span, "-")
	first, err := strconv.ParseInt(a, 10, 64)
	if !ok || !ok2 || !ok3 || err != nil {
		return 0, 0, false
	}
	if all == "*" {
		return first, -1, true
	}
	total, err = strconv.ParseInt(all, 10, 64)
	return first, total, err == nil
}

func (b *blobReader) Read(p []byte) (int, error) {
	for {
		if b.body == nil {
			if err := b.open(); err != nil {
				return 0, fmt.Errorf("fetch %s from %d: %w", b.dgst, b.offset, err)
			}
		}
		if b.end > 0 {
			if b.offset == b.end {
				return 0, io.EOF
			}
			p = p[:min(int64(len(p)), b.end-b.offset)]
		}
		n, err := b.body.Read(p)
		b.offset += int64(n)
		if n > 0 {
			b.failed = 0
			b.stall.Reset(b.quiet)
		}
		if err == nil || errors.Is(err, io.EOF) && (b.size < 0 || b.offset == b.size || b.offset == b.end) {
			return n, err
		}
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		if err = b.broke(err); err != nil || n > 0 {
			return n, err
		}
	}
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
