package proxy

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"strake/internal/hub"
	"strake/internal/registry"
	"strake/internal/sqldb"
)

// fetch is a blob on its way from another registry: one request there, whose bytes
// go to a file, and any number of readers here that follow it. The last byte is
// held back until the digest is right, so that no reader takes other bytes for the
// blob.
type fetch struct {
	size int64

	mu      sync.Mutex
	moved   sync.Cond
	file    *os.File
	n       int64 // bytes that are there
	done    bool
	err     error
	holders int // who closes the file when they are none
}

func newFetch(dir string, size int64) (*fetch, error) {
	f, err := os.CreateTemp(dir, "fetch-*")
	if err != nil {
		return nil, fmt.Errorf("fetch blob: %w", err)
	}
	if err := os.Remove(f.Name()); err != nil { // it lives as long as it is open
		return nil, errors.Join(fmt.Errorf("fetch blob: %w", err), f.Close())
	}
	x := &fetch{size: size, file: f, holders: 1}
	x.moved.L = &x.mu
	return x, nil
}

// Write takes in the next bytes.
func (f *fetch) Write(p []byte) (int, error) {
	if f.n+int64(len(p)) > f.size {
		return 0, fmt.Errorf("more than the %d bytes that were said: %w", f.size, errdefs.ErrFailedPrecondition)
	}
	n, err := f.file.WriteAt(p, f.n)
	f.mu.Lock()
	f.n += int64(n)
	f.mu.Unlock()
	f.moved.Broadcast()
	return n, err
}

// end tells the readers that no more comes.
func (f *fetch) end(err error) {
	f.mu.Lock()
	f.done, f.err = true, err
	f.mu.Unlock()
	f.moved.Broadcast()
}

func (f *fetch) release() error {
	f.mu.Lock()
	f.holders--
	last := f.holders == 0
	f.mu.Unlock()
	if last {
		return f.file.Close()
	}
	return nil
}

// reader follows a fetch.
type reader struct {
	f    *fetch
	at   int64
	stop func() bool
	gone func() error
	once sync.Once
}

// follow opens what is fetched at an offset. The reader ends with ctx.
func (f *fetch) follow(ctx context.Context, at int64) io.ReadCloser {
	f.mu.Lock()
	f.holders++
	f.mu.Unlock()
	return &reader{f: f, at: at, gone: func() error { return context.Cause(ctx) }, stop: context.AfterFunc(ctx, f.moved.Broadcast)}
}

func (r *reader) Read(p []byte) (int, error) {
	f := r.f
	f.mu.Lock()
	for {
		if err := r.gone(); err != nil {
			f.mu.Unlock()
			return 0, err
		}
		there := f.n
		if !f.done || f.err != nil {
			there = min(there, f.size-1)
		}
		if r.at < there {
			p = p[:min(int64(len(p)), there-r.at)]
			break
		}
		if f.done {
			err := f.err
			f.mu.Unlock()
			if err == nil {
				err = io.EOF
			}
			return 0, err
		}
		f.moved.Wait()
	}
	f.mu.Unlock()
	n, err := f.file.ReadAt(p, r.at)
	r.at += int64(n)
	return n, err
}

// Close leaves the fetch, which goes on.
func (r *reader) Close() (err error) {
	r.once.Do(func() {
		r.stop()
		err = r.f.release()
	})
	return err
}

// refers reports whether a cached manifest of a repository refers to a blob:
// nothing else is fetched for anybody.
func refers(ctx context.Context, db *sqldb.DB, repo string, dgst digest.Digest) error {
	var n int
	err := db.Get(ctx, `SELECT 1 FROM refs f JOIN repositories r ON r.id = f.repository WHERE r.name = $1 AND f.child = $2 LIMIT 1`,
		[]any{repo, dgst.String()}, &n)
	if errors.Is(err, sql.ErrNoRows) {
		return registry.Errorf(registry.BlobUnknown, "blob unknown to registry")
	}
	return err
}

// StatBlob implements registry.Reader.
func (c *Cache) StatBlob(ctx context.Context, repo string, dgst digest.Digest) (ocispec.Descriptor, error) {
	desc, err := c.Hub.StatBlob(ctx, repo, dgst)
	if !errdefs.IsNotFound(err) {
		return desc, err
	}
	at, ok, ferr := c.find(ctx, repo)
	if ferr != nil || !ok {
		return desc, errors.Join(ferr, either(ferr == nil, err))
	}
	if err := refers(ctx, c.db, repo, dgst); err != nil {
		return desc, err
	}
	there, err := c.remote(at.Proxy)
	if err == nil {
		desc, err = there.StatBlob(ctx, at.name, dgst)
	}
	return desc, outward(err, at)
}

func either(when bool, err error) error {
	if when {
		return err
	}
	return nil
}

// BlobURL implements registry.Redirector: of a blob that is not here it knows no
// URL.
func (c *Cache) BlobURL(ctx context.Context, repo string, dgst digest.Digest) (string, error) {
	url, err := c.Hub.BlobURL(ctx, repo, dgst)
	if !errdefs.IsNotFound(err) {
		return url, err
	}
	if _, ok, ferr := c.find(ctx, repo); ferr != nil || !ok {
		return "", errors.Join(ferr, either(ferr == nil, err))
	}
	return "", nil
}

// OpenBlob implements registry.Reader. A blob that is not here is stored while it
// goes to whoever asked, and to all others that ask meanwhile.
func (c *Cache) OpenBlob(ctx context.Context, repo string, dgst digest.Digest, offset int64) (registry.Blob, error) {
	blob, err := c.Hub.OpenBlob(ctx, repo, dgst, offset)
	if !errdefs.IsNotFound(err) {
		return blob, err
	}
	at, ok, ferr := c.find(ctx, repo)
	if ferr != nil || !ok {
		return blob, errors.Join(ferr, either(ferr == nil, err))
	}
	if err := refers(ctx, c.db, repo, dgst); err != nil {
		return blob, err
	}
	f, err := c.join(ctx, at, dgst)
	if errors.Is(err, errEnded) {
		return c.Hub.OpenBlob(ctx, repo, dgst, offset)
	}
	if err != nil {
		return blob, outward(err, at)
	}
	desc := ocispec.Descriptor{MediaType: "application/octet-stream", Digest: dgst, Size: f.size}
	if offset < 0 || offset > f.size {
		return blob, errors.Join(fmt.Errorf("blob %s: offset %d of %d: %w", dgst, offset, f.size, errdefs.ErrOutOfRange), f.release())
	}
	r := f.follow(ctx, offset)
	return registry.Blob{ReadCloser: r, Desc: desc}, f.release()
}

// errEnded says that a fetch ended before anybody could follow it.
var errEnded = fmt.Errorf("the fetch ended: %w", errdefs.ErrUnavailable)

// join returns the fetch of a blob, held for the caller; a new one if need be.
func (c *Cache) join(ctx context.Context, at place, dgst digest.Digest) (*fetch, error) {
	key := at.repo + "@" + dgst.String()
	hold := func() *fetch {
		c.mu.Lock()
		defer c.mu.Unlock()
		f := c.fetches[key]
		if f != nil {
			f.mu.Lock()
			f.holders++
			f.mu.Unlock()
		}
		return f
	}
	if f := hold(); f != nil {
		return f, nil
	}
	// Of those that ask at once one begins.
	_, err, _ := c.ask.Do("blob "+key, func() (any, error) {
		if f := hold(); f != nil {
			return nil, f.release()
		}
		return nil, c.begin(context.WithoutCancel(ctx), at, dgst, key)
	})
	if err != nil {
		return nil, err
	}
	if f := hold(); f != nil {
		return f, nil
	}
	return nil, errEnded
}

// begin begins to fetch a blob.
func (c *Cache) begin(ctx context.Context, at place, dgst digest.Digest, key string) error {
	select {
	case c.running <- struct{}{}:
	default:
		return registry.Errorf(registry.TooManyRequests, "%d blobs are being fetched already", maxFetches)
	}
	end := func() { <-c.running }
	there, err := c.remote(at.Proxy)
	if err != nil {
		end()
		return err
	}
	blob, err := there.OpenBlob(ctx, at.name, dgst, 0)
	if err != nil {
		end()
		return err
	}
	f, err := newFetch(c.opts.Spool, blob.Desc.Size)
	if err != nil || blob.Desc.Size < 0 {
		end()
		return errors.Join(err, blob.Close(), either(err == nil, fmt.Errorf("blob %s: its size is not told: %w", dgst, errdefs.ErrUnavailable)))
	}
	c.mu.Lock()
	c.fetches[key] = f
	c.mu.Unlock()
	go func() {
		defer end()
		err := run(asSystem(ctx), c.Hub, at, dgst, f, blob)
		c.mu.Lock()
		delete(c.fetches, key)
		c.mu.Unlock()
		if err := errors.Join(err, f.release()); err != nil {
			c.opts.Log.Warn("fetch blob", "repository", at.repo, "digest", dgst, "err", err)
		}
	}()
	return nil
}

// run moves a blob to the file, and from there to the Hub.
func run(ctx context.Context, h *hub.Hub, at place, dgst digest.Digest, f *fetch, blob registry.Blob) error {
	verifier := dgst.Verifier()
	_, err := io.Copy(io.MultiWriter(f, verifier), blob)
	err = errors.Join(err, blob.Close())
	if err == nil && (f.n != f.size || !verifier.Verified()) {
		err = fmt.Errorf("blob %s: %s sent other bytes: %w", dgst, at.Host, errdefs.ErrDataLoss)
	}
	f.end(err)
	if err != nil {
		return err
	}
	desc := ocispec.Descriptor{MediaType: "application/octet-stream", Digest: dgst, Size: f.size}
	return h.PushBlob(ctx, at.repo, desc, io.NewSectionReader(f.file, 0, f.size))
}
