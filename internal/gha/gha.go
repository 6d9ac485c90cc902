// Package gha keeps images, of build cache, in the cache service of GitHub Actions: its
// version 2, twirp over JSON with uploads and downloads at signed addresses of Azure's
// blob storage.
//
// An entry has a key and never changes. A blob is the entry of its digest. A name is the
// youngest of the entries that begin with it: each Tag writes one more, of the manifest
// itself. The service decides who may read an entry (branches), and when it goes.
package gha

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"strake/internal/image"
)

const (
	service     = "twirp/github.actions.results.api.v1.CacheService/"
	blockSize   = 8 << 20 // bytes of a block of an upload, which is held in memory
	maxAnswer   = 1 << 20 // bytes of an answer of the service
	maxManifest = 4 << 20 // bytes of the entry of a name
	tries       = 4       // of a request that fails for no reason of its own
)

// Options say where the service is.
type Options struct {
	URL   string // of version 2
	Token string // of the action; sent to URL alone
	Scope string // of the names: caches of different scopes know nothing of each other
}

// Cache is an image.Source and an image.Target. It is safe for concurrent use.
type Cache struct {
	opts    Options
	base    *url.URL
	client  *http.Client
	pause   time.Duration // before the second try
	version string

	mu   sync.Mutex
	made map[digest.Digest][]byte // manifests, which are written when they get a name
}

// New makes a Cache; nothing is asked yet. It fails with errdefs.ErrInvalidArgument for a
// URL that is none.
func New(opts Options) (*Cache, error) {
	base, err := url.Parse(strings.TrimSuffix(opts.URL, "/") + "/")
	if err != nil || base.Host == "" || base.Scheme != "https" && base.Scheme != "http" {
		return nil, fmt.Errorf("address of the cache service %q: %w", opts.URL, errdefs.ErrInvalidArgument)
	}
	sum := sha256.Sum256([]byte("strake build cache 1"))
	return &Cache{
		opts: opts, base: base, client: &http.Client{}, pause: time.Second, version: hex.EncodeToString(sum[:]), made: map[digest.Digest][]byte{},
	}, nil
}

func blobKey(d digest.Digest) string {
	return "strake-blob-" + d.Algorithm().String() + "-" + d.Encoded()
}

// nameKey begins the keys of a name's entries.
func (c *Cache) nameKey(ref string) string { return "strake-index-" + c.opts.Scope + "-" + ref + "#" }

// call calls a method of the service. It fails with errdefs.ErrAlreadyExists,
// ErrPermissionDenied or ErrUnavailable.
func (c *Cache) call(ctx context.Context, method string, in, out any) error {
	body, err := json.Marshal(in)
	if err != nil {
		return err
	}
	res, err := c.try(ctx, func() (*http.Request, error) {
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, c.base.String()+service+method, bytes.NewReader(body))
		if err == nil {
			req.Header.Set("Content-Type", "application/json")
			req.Header.Set("Authorization", "Bearer "+c.opts.Token)
		}
		return req, err
	})
	if err != nil {
		return fmt.Errorf("%s: %w", method, err)
	}
	defer func() { err = errors.Join(err, res.Body.Close()) }()
	b, err := io.ReadAll(io.LimitReader(res.Body, maxAnswer))
	if err != nil {
		return fmt.Errorf("%s: %w", method, err)
	}
	if res.StatusCode == http.StatusOK {
		return json.Unmarshal(b, out)
	}
	var told struct{ Code, Msg string }
	if json.Unmarshal(b, &told) != nil || told.Msg == "" {
		told.Msg = res.Status
	}
	return fmt.Errorf("%s: %s: %w", method, told.Msg, kind(res.StatusCode))
}

// kind is what a status means.
func kind(status int) error {
	switch status {
	case http.StatusConflict:
		return errdefs.ErrAlreadyExists
	case http.StatusNotFound:
		return errdefs.ErrNotFound
	case http.StatusUnauthorized, http.StatusForbidden:
		return errdefs.ErrPermissionDenied
	}
	return errdefs.ErrUnavailable
}

// try sends a request until it is answered by something else than that it be sent again.
func (c *Cache) try(ctx context.Context, request func() (*http.Request, error)) (*http.Response, error) {
	for n := 1; ; n++ {
		req, err := request()
		if err != nil {
			return nil, err
		}
		res, err := c.client.Do(req)
		var address *url.Error
		if errors.As(err, &address) {
			err = address.Err // the address is signed
		}
		again := err != nil || res.StatusCode >= 500 || res.StatusCode == http.StatusTooManyRequests
		if !again || n == tries || ctx.Err() != nil {
			return res, err
		}
		if err == nil {
			err = res.Body.Close()
		}
		select {
		case <-time.After(c.pause << (n - 1)):
		case <-ctx.Done():
			return nil, errors.Join(context.Cause(ctx), err)
		}
	}
}

// signed checks an address that the service gave: encrypted, unless the service is not.
func (c *Cache) signed(address string) error {
	u, err := url.Parse(address)
	if err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != c.base.Scheme {
		return fmt.Errorf("the cache service gave no address of a blob: %w", errdefs.ErrUnavailable)
	}
	return nil
}

// find asks for the address of an entry: of this key, or of the youngest whose key begins
// with one of prefixes. It fails with errdefs.ErrNotFound.
func (c *Cache) find(ctx context.Context, key string, prefixes ...string) (string, error) {
	in := map[string]any{"key": key, "restore_keys": prefixes, "version": c.version}
	var out struct {
		OK      bool   `json:"ok"`
		URL     string `json:"signed_download_url"`
		Matched string `json:"matched_key"`
	}
	if err := c.call(ctx, "GetCacheEntryDownloadURL", in, &out); err != nil {
		return "", err
	}
	matches := out.Matched == key
	for _, p := range prefixes {
		matches = matches || strings.HasPrefix(out.Matched, p)
	}
	if !out.OK || !matches { // the service takes a key for a prefix, too
		return "", fmt.Errorf("cache entry %s: %w", key, errdefs.ErrNotFound)
	}
	return out.URL, c.signed(out.URL)
}

// open opens what is at a signed address.
func (c *Cache) open(ctx context.Context, address string, offset int64) (io.ReadCloser, error) {
	res, err := c.try(ctx, func() (*http.Request, error) {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
		if err == nil && offset > 0 {
			req.Header.Set("Range", fmt.Sprintf("bytes=%d-", offset))
		}
		return req, err
	})
	if err != nil {
		return nil, err
	}
	if want := map[bool]int{false: http.StatusOK, true: http.StatusPartialContent}[offset > 0]; res.StatusCode != want {
		return nil, errors.Join(fmt.Errorf("download of a cache entry: %s: %w", res.Status, kind(res.StatusCode)), res.Body.Close())
	}
	return res.Body, nil
}

// Resolve implements image.Source.
func (c *Cache) Resolve(ctx context.Context, ref string) (desc ocispec.Descriptor, err error) {
	key := c.nameKey(ref)
	address, err := c.find(ctx, key, key)
	if err != nil {
		return desc, err
	}
	body, err := c.open(ctx, address, 0)
	if err != nil {
		return desc, err
	}
	defer func() { err = errors.Join(err, body.Close()) }()
	b, err := io.ReadAll(io.LimitReader(body, maxManifest+1))
	if err != nil {
		return desc, err
	}
	var manifest ocispec.Manifest
	if len(b) > maxManifest || json.Unmarshal(b, &manifest) != nil || manifest.MediaType != ocispec.MediaTypeImageManifest {
		return desc, fmt.Errorf("cache entry %s is no manifest: %w", key, errdefs.ErrDataLoss)
	}
	return c.keep(manifest.MediaType, b), nil
}

// keep holds a manifest in memory.
func (c *Cache) keep(mediaType string, b []byte) ocispec.Descriptor {
	desc := ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(b), Size: int64(len(b))}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.made[desc.Digest] = b
	return desc
}

func (c *Cache) kept(d digest.Digest) ([]byte, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	b, ok := c.made[d]
	return b, ok
}

// Fetch implements image.Fetcher.
func (c *Cache) Fetch(ctx context.Context, desc ocispec.Descriptor, offset int64) (io.ReadCloser, error) {
	if b, ok := c.kept(desc.Digest); ok {
		return io.NopCloser(bytes.NewReader(b[min(offset, int64(len(b))):])), nil
	}
	address, err := c.find(ctx, blobKey(desc.Digest))
	if err != nil {
		return nil, err
	}
	return c.open(ctx, address, offset)
}

// Exists implements image.Target.
func (c *Cache) Exists(ctx context.Context, desc ocispec.Descriptor) (bool, error) {
	if _, ok := c.kept(desc.Digest); ok || desc.MediaType == ocispec.MediaTypeImageManifest {
		return ok, nil
	}
	_, err := c.find(ctx, blobKey(desc.Digest))
	if errdefs.IsNotFound(err) {
		return false, nil
	}
	return err == nil, err
}

// Push implements image.Target.
func (c *Cache) Push(ctx context.Context, desc ocispec.Descriptor, open image.Opener) (err error) {
	body, err := open(ctx, 0)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, body.Close()) }()
	if desc.MediaType == ocispec.MediaTypeImageManifest {
		b, err := io.ReadAll(io.LimitReader(body, maxManifest))
		if err == nil && digest.FromBytes(b) != desc.Digest {
			err = fmt.Errorf("manifest %s has other bytes: %w", desc.Digest, errdefs.ErrDataLoss)
		}
		if err == nil {
			c.keep(desc.MediaType, b)
		}
		return err
	}
	err = c.put(ctx, blobKey(desc.Digest), desc, body)
	if errdefs.IsAlreadyExists(err) {
		return nil
	}
	return err
}

// Tag implements image.Target.
func (c *Cache) Tag(ctx context.Context, desc ocispec.Descriptor, ref string) error {
	b, ok := c.kept(desc.Digest)
	if !ok {
		return fmt.Errorf("manifest %s: %w", desc.Digest, errdefs.ErrNotFound)
	}
	return c.put(ctx, c.nameKey(ref)+strconv.FormatInt(time.Now().UnixNano(), 16), desc, bytes.NewReader(b))
}

// put makes an entry: of the bytes of desc, or none. It fails with
// errdefs.ErrAlreadyExists where there is one, or another writes it.
func (c *Cache) put(ctx context.Context, key string, desc ocispec.Descriptor, body io.Reader) error {
	var made struct {
		OK  bool   `json:"ok"`
		URL string `json:"signed_upload_url"`
	}
	entry := map[string]any{"key": key, "version": c.version}
	if err := c.call(ctx, "CreateCacheEntry", entry, &made); err != nil {
		return err
	}
	if !made.OK {
		return fmt.Errorf("cache entry %s: %w", key, errdefs.ErrAlreadyExists)
	}
	err := c.signed(made.URL)
	if err == nil {
		err = c.upload(ctx, made.URL, desc, body)
	}
	if err != nil {
		return fmt.Errorf("upload of cache entry %s: %w", key, err)
	}
	entry["size_bytes"] = strconv.FormatInt(desc.Size, 10)
	var done struct {
		OK bool `json:"ok"`
	}
	if err := c.call(ctx, "FinalizeCacheEntryUpload", entry, &done); err != nil {
		return err
	}
	if !done.OK {
		return fmt.Errorf("cache entry %s was not taken: %w", key, errdefs.ErrUnavailable)
	}
	return nil
}

// upload writes blocks, and makes a blob of them when all of desc is there.
func (c *Cache) upload(ctx context.Context, address string, desc ocispec.Descriptor, body io.Reader) error {
	var list strings.Builder // of blocks, in Azure's XML
	blocks := 0
	sum := desc.Digest.Verifier()
	var size int64
	for buf := make([]byte, min(blockSize, desc.Size+1)); ; {
		n, err := io.ReadFull(body, buf)
		if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
			return err
		}
		last := err != nil
		if n > 0 {
			_, _ = sum.Write(buf[:n]) // a hash
			size += int64(n)
			id := base64.StdEncoding.EncodeToString(fmt.Appendf(nil, "%08d", blocks))
			if err := c.send(ctx, address, "block&blockid="+url.QueryEscape(id), buf[:n]); err != nil {
				return err
			}
			blocks++
			list.WriteString("<Latest>" + id + "</Latest>")
		}
		if last {
			break
		}
	}
	if size != desc.Size || !sum.Verified() {
		return fmt.Errorf("%s has other bytes: %w", desc.Digest, errdefs.ErrDataLoss)
	}
	return c.send(ctx, address, "blocklist", []byte("<BlockList>"+list.String()+"</BlockList>"))
}

// send does one operation on a blob.
func (c *Cache) send(ctx context.Context, address, operation string, b []byte) (err error) {
	separator := "?"
	if strings.Contains(address, "?") {
		separator = "&"
	}
	res, err := c.try(ctx, func() (*http.Request, error) {
		req, err := http.NewRequestWithContext(ctx, http.MethodPut, address+separator+"comp="+operation, bytes.NewReader(b))
		if err == nil {
			req.Header.Set("X-Ms-Version", "2020-10-02")
		}
		return req, err
	})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, res.Body.Close()) }()
	if res.StatusCode != http.StatusCreated {
		return fmt.Errorf("%s: %w", res.Status, kind(res.StatusCode))
	}
	return nil
}
