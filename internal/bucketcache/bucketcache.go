// Package bucketcache keeps images, of build cache, in a bucket of a server that keeps bytes under
// keys, as BuildKit does:
//
//	<blobs><digest>       a blob
//	<manifests><name>     a cache: BuildKit's list of layers and records
//
// The list is the config of the manifest that a Cache is given, with the descriptors of its
// layers besides ("blobs"); the manifest is made again of it. The server keeps each object whole
// or not at all, and everything that is in a bucket is as hostile as whoever may write there.
package bucketcache

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"strake/internal/image"
)

// Bucket is where objects are. It is safe for concurrent use.
type Bucket interface {
	// Get opens an object from offset on. It fails with errdefs.ErrNotFound.
	Get(ctx context.Context, key string, offset int64) (io.ReadCloser, error)
	// Use reports whether there is an object, of this size in bytes, and may note that it is used.
	Use(ctx context.Context, key string, size int64) (bool, error)
	// Put writes an object of the bytes of desc, or none: it fails with errdefs.ErrDataLoss where
	// body has others.
	Put(ctx context.Context, key string, desc ocispec.Descriptor, body io.Reader) error
	// PutBytes writes an object, in the place of one that may be there.
	PutBytes(ctx context.Context, key string, b []byte) error
}

// Options say where in the bucket a cache is.
type Options struct {
	Blobs, Manifests string // what their keys begin with
	ConfigType       string // media type of the list, in the manifest
}

// Cache is an image.Source and an image.Target. It is safe for concurrent use.
type Cache struct {
	opts   Options
	bucket Bucket

	small image.Memory // manifests and their lists
}

// New makes a Cache; nothing is asked yet.
func New(bucket Bucket, opts Options) *Cache {
	return &Cache{opts: opts, bucket: bucket}
}

func (c *Cache) blobKey(d digest.Digest) string { return c.opts.Blobs + d.String() }

func (c *Cache) nameKey(name string) string { return c.opts.Manifests + name }

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
	body, err := c.bucket.Get(ctx, c.nameKey(name), 0)
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
		Config: c.small.Keep(c.opts.ConfigType, b), Layers: append([]ocispec.Descriptor{}, l.descriptors()...),
	})
	if err != nil {
		return desc, fmt.Errorf("cache %q: %w", name, err)
	}
	return c.small.Keep(ocispec.MediaTypeImageManifest, manifest), nil
}

// Fetch implements image.Fetcher.
func (c *Cache) Fetch(ctx context.Context, desc ocispec.Descriptor, offset int64) (io.ReadCloser, error) {
	if body, ok := c.small.Open(desc.Digest, offset); ok {
		return body, nil
	}
	return c.bucket.Get(ctx, c.blobKey(desc.Digest), offset)
}

// isSmall reports whether desc is kept in memory until it gets a name.
func (c *Cache) isSmall(desc ocispec.Descriptor) bool {
	return desc.MediaType == ocispec.MediaTypeImageManifest || desc.MediaType == c.opts.ConfigType
}

// Exists implements image.Target.
func (c *Cache) Exists(ctx context.Context, desc ocispec.Descriptor) (bool, error) {
	if _, ok := c.small.Kept(desc.Digest); ok || c.isSmall(desc) {
		return ok, nil
	}
	return c.bucket.Use(ctx, c.blobKey(desc.Digest), desc.Size)
}

// Push implements image.Target.
func (c *Cache) Push(ctx context.Context, desc ocispec.Descriptor, open image.Opener) (err error) {
	if c.isSmall(desc) {
		return c.small.Read(ctx, desc, open, image.MaxConfigSize)
	}
	body, err := open(ctx, 0)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, body.Close()) }()
	return c.bucket.Put(ctx, c.blobKey(desc.Digest), desc, body)
}

// Tag implements image.Target: it writes the list of a manifest, under each of the names that
// semicolons part.
func (c *Cache) Tag(ctx context.Context, desc ocispec.Descriptor, names string) error {
	b, ok := c.small.Kept(desc.Digest)
	var manifest ocispec.Manifest
	if !ok || json.Unmarshal(b, &manifest) != nil {
		return fmt.Errorf("manifest %s: %w", desc.Digest, errdefs.ErrNotFound)
	}
	fields := map[string]json.RawMessage{}
	if b, ok = c.small.Kept(manifest.Config.Digest); !ok || json.Unmarshal(b, &fields) != nil {
		return fmt.Errorf("list %s: %w", manifest.Config.Digest, errdefs.ErrNotFound)
	}
	var err error
	if fields["blobs"], err = json.Marshal(manifest.Layers); err == nil {
		b, err = json.Marshal(fields)
	}
	if err == nil && len(b) > image.MaxConfigSize {
		err = fmt.Errorf("its list is larger than %d bytes: %w", image.MaxConfigSize, errdefs.ErrInvalidArgument)
	}
	if err != nil {
		return fmt.Errorf("write the cache: %w", err)
	}
	for _, name := range strings.Split(names, ";") {
		if err := c.bucket.PutBytes(ctx, c.nameKey(name), b); err != nil {
			return fmt.Errorf("write cache %q: %w", name, err)
		}
	}
	return nil
}
