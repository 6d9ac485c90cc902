// Package s3cache keeps images, of build cache, in a bucket of an S3 server, under BuildKit's keys:
//
//	<prefix><blobs prefix><digest>        a blob
//	<prefix><manifests prefix><name>      a cache: BuildKit's list of layers and records
//
// The list is the config of the manifest that a Cache is given, with the descriptors of its
// layers besides ("blobs"); the manifest is made again of it. The server keeps each object whole
// or not at all, and everything that is in a bucket is as hostile as whoever may write there.
package s3cache

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"strake/internal/image"
)

// maxTouched bounds what is touched, in bytes: S3 copies no larger object in one request.
const maxTouched = 5 << 30

// Options say which bucket, and where in it.
type Options struct {
	Bucket, Region  string
	Endpoint        string // URL of the server; "" is AWS's
	PathStyle       bool   // the bucket is in the path, not in the host
	Prefix          string // of all keys
	BlobsPrefix     string
	ManifestsPrefix string

	AccessKeyID, SecretAccessKey, SessionToken string

	ConfigType string        // media type of the list, in the manifest
	Touch      time.Duration // blobs older than this get a new time when they are used again
	Tries      int           // of a request that fails for no reason of its own; 0 is 4
}

// Cache is an image.Source and an image.Target. It is safe for concurrent use.
type Cache struct {
	opts   Options
	client *client

	mu   sync.Mutex
	made map[digest.Digest][]byte // manifests and their lists
}

// New makes a Cache; nothing is asked yet. It fails with errdefs.ErrInvalidArgument for an
// endpoint that is none.
func New(opts Options) (*Cache, error) {
	c, err := newClient(opts)
	if err != nil {
		return nil, err
	}
	return &Cache{opts: opts, client: c, made: map[digest.Digest][]byte{}}, nil
}

func (c *Cache) blobKey(d digest.Digest) string {
	return c.opts.Prefix + c.opts.BlobsPrefix + d.String()
}

func (c *Cache) nameKey(name string) string { return c.opts.Prefix + c.opts.ManifestsPrefix + name }

// list is what is read of a cache by its name.
type list struct {
	Layers []struct {
		Blob        digest.Digest
		Annotations *struct {
			MediaType string
			Size      int64
		}
	}
	Blobs []ocispec.Descriptor
}

// descriptors are the blobs that a list names.
func (l list) descriptors() (all []ocispec.Descriptor) {
	for _, layer := range l.Layers {
		if a := layer.Annotations; a != nil {
			l.Blobs = append(l.Blobs, ocispec.Descriptor{MediaType: a.MediaType, Digest: layer.Blob, Size: a.Size})
		}
	}
	seen := map[digest.Digest]bool{}
	for _, d := range l.Blobs {
		if image.CheckDigest(d.Digest) == nil && d.Size > 0 && d.MediaType != "" && !seen[d.Digest] {
			seen[d.Digest] = true
			all = append(all, ocispec.Descriptor{MediaType: d.MediaType, Digest: d.Digest, Size: d.Size})
		}
	}
	return all
}

// Resolve implements image.Source.
func (c *Cache) Resolve(ctx context.Context, name string) (desc ocispec.Descriptor, err error) {
	body, err := c.client.get(ctx, c.nameKey(name), 0)
	if err != nil {
		return desc, fmt.Errorf("cache %q: %w", name, err)
	}
	defer func() { err = errors.Join(err, body.Close()) }()
	b, err := io.ReadAll(io.LimitReader(body, image.MaxConfigSize+1))
	if err != nil {
		return desc, fmt.Errorf("cache %q: %w", name, err)
	}
	var l list
	if len(b) > image.MaxConfigSize || json.Unmarshal(b, &l) != nil {
		return desc, fmt.Errorf("cache %q is no list of records: %w", name, errdefs.ErrDataLoss)
	}
	manifest, err := json.Marshal(ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest,
		Config: c.keep(c.opts.ConfigType, b), Layers: append([]ocispec.Descriptor{}, l.descriptors()...),
	})
	if err != nil {
		return desc, fmt.Errorf("cache %q: %w", name, err)
	}
	return c.keep(ocispec.MediaTypeImageManifest, manifest), nil
}

// keep holds a manifest or a list in memory.
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
	return c.client.get(ctx, c.blobKey(desc.Digest), offset)
}

// small reports whether desc is kept in memory until it gets a name.
func (c *Cache) small(desc ocispec.Descriptor) bool {
	return desc.MediaType == ocispec.MediaTypeImageManifest || desc.MediaType == c.opts.ConfigType
}

// Exists implements image.Target. A blob that is there and old gets a new time, by which rules of
// the bucket may know what is not used.
func (c *Cache) Exists(ctx context.Context, desc ocispec.Descriptor) (bool, error) {
	if _, ok := c.kept(desc.Digest); ok || c.small(desc) {
		return ok, nil
	}
	written, err := c.client.written(ctx, c.blobKey(desc.Digest))
	if errdefs.IsNotFound(err) {
		return false, nil
	}
	if err == nil && time.Since(written) > c.opts.Touch && desc.Size <= maxTouched {
		err = c.client.touch(ctx, c.blobKey(desc.Digest))
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
	if !c.small(desc) {
		return c.client.put(ctx, c.blobKey(desc.Digest), desc, body)
	}
	b, err := io.ReadAll(io.LimitReader(body, image.MaxConfigSize))
	if err == nil && digest.FromBytes(b) != desc.Digest {
		err = fmt.Errorf("%s has other bytes: %w", desc.Digest, errdefs.ErrDataLoss)
	}
	if err == nil {
		c.keep(desc.MediaType, b)
	}
	return err
}

// Tag implements image.Target: it writes the list of a manifest, under each of the names that
// semicolons part.
func (c *Cache) Tag(ctx context.Context, desc ocispec.Descriptor, names string) error {
	b, ok := c.kept(desc.Digest)
	var manifest ocispec.Manifest
	if !ok || json.Unmarshal(b, &manifest) != nil {
		return fmt.Errorf("manifest %s: %w", desc.Digest, errdefs.ErrNotFound)
	}
	fields := map[string]json.RawMessage{}
	if b, ok = c.kept(manifest.Config.Digest); !ok || json.Unmarshal(b, &fields) != nil {
		return fmt.Errorf("list %s: %w", manifest.Config.Digest, errdefs.ErrNotFound)
	}
	var err error
	if fields["blobs"], err = json.Marshal(manifest.Layers); err == nil {
		b, err = json.Marshal(fields)
	}
	if err != nil {
		return fmt.Errorf("write the cache: %w", err)
	}
	for _, name := range strings.Split(names, ";") {
		if err := c.client.putBytes(ctx, c.nameKey(name), b, nil); err != nil {
			return fmt.Errorf("write cache %q: %w", name, err)
		}
	}
	return nil
}

// kind is what a status means.
func kind(status int) error {
	switch status {
	case http.StatusNotFound:
		return errdefs.ErrNotFound
	case http.StatusUnauthorized, http.StatusForbidden:
		return errdefs.ErrPermissionDenied
	case http.StatusBadRequest, http.StatusMovedPermanently, http.StatusTemporaryRedirect:
		return errdefs.ErrInvalidArgument
	}
	return errdefs.ErrUnavailable
}
