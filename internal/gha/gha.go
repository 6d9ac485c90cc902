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
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"strake/internal/azblob"
	"strake/internal/image"
)

const (
	service     = "twirp/github.actions.results.api.v1.CacheService/"
	maxAnswer   = 1 << 20 // bytes of an answer of the service
	maxManifest = 4 << 20 // bytes of the entry of a name
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
	client  azblob.Client
	version string

	small image.Memory // manifests, which are written when they get a name
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
		opts: opts, base: base, client: azblob.Client{HTTP: &http.Client{}, Pause: time.Second}, version: hex.EncodeToString(sum[:]),
	}, nil
}

func blobKey(d digest.Digest) string {
	return "strake-blob-" + d.Algorithm().String() + "-" + d.Encoded()
}

// nameKey begins the keys of a name's entries.
func (c *Cache) nameKey(ref string) string { return "strake-index-" + c.opts.Scope + "-" + ref + "#" }

// call calls a method of the service. It fails with errdefs.ErrAlreadyExists,
// ErrPermissionDenied or ErrUnavailable.
func (c *Cache) call(ctx context.Context, method string, in, out any) (err error) {
	body, err := json.Marshal(in)
	if err != nil {
		return err
	}
	res, err := c.client.Do(ctx, func() (*http.Request, error) {
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

// Resolve implements image.Source.
func (c *Cache) Resolve(ctx context.Context, ref string) (desc ocispec.Descriptor, err error) {
	key := c.nameKey(ref)
	address, err := c.find(ctx, key, key)
	if err != nil {
		return desc, err
	}
	body, err := c.client.Get(ctx, address, 0)
	if err != nil {
		return desc, fmt.Errorf("download of cache entry %s: %w", key, err)
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
	return c.small.Keep(manifest.MediaType, b), nil
}

// Fetch implements image.Fetcher.
func (c *Cache) Fetch(ctx context.Context, desc ocispec.Descriptor, offset int64) (io.ReadCloser, error) {
	if body, ok := c.small.Open(desc.Digest, offset); ok {
		return body, nil
	}
	address, err := c.find(ctx, blobKey(desc.Digest))
	if err != nil {
		return nil, err
	}
	body, err := c.client.Get(ctx, address, offset)
	if err != nil {
		return nil, fmt.Errorf("download of the cache entry of %s: %w", desc.Digest, err)
	}
	return body, nil
}

// Exists implements image.Target.
func (c *Cache) Exists(ctx context.Context, desc ocispec.Descriptor) (bool, error) {
	if _, ok := c.small.Kept(desc.Digest); ok || desc.MediaType == ocispec.MediaTypeImageManifest {
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
	if desc.MediaType == ocispec.MediaTypeImageManifest {
		return c.small.Read(ctx, desc, open, maxManifest)
	}
	body, err := open(ctx, 0)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, body.Close()) }()
	err = c.put(ctx, blobKey(desc.Digest), desc, body)
	if errdefs.IsAlreadyExists(err) {
		return nil
	}
	return err
}

// Tag implements image.Target.
func (c *Cache) Tag(ctx context.Context, desc ocispec.Descriptor, ref string) error {
	b, ok := c.small.Kept(desc.Digest)
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
		err = c.client.Put(ctx, made.URL, desc, body)
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
