package engine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"strake/internal/build"
	"strake/internal/image"
	"strake/internal/layout"
	"strake/internal/reference"
	"strake/internal/remote"
	"strake/internal/store"
)

// Cache is one place that build cache comes from or goes to.
type Cache struct {
	Type  string // registry, local, gha, s3, azblob or inline
	Attrs map[string]string
}

// ParseCaches parses what buildx's --cache-from and --cache-to have: names of a
// registry, or "type=...,key=value".
func ParseCaches(text string) ([]Cache, error) {
	if text == "" {
		return nil, nil
	}
	fields, err := csvFields(text)
	if err != nil {
		return nil, invalid("invalid value of a cache: %v", err) // which may have credentials
	}
	var list []Cache
	if !strings.Contains(text, "=") {
		for _, ref := range fields {
			list = append(list, Cache{Type: "registry", Attrs: map[string]string{"ref": ref}})
		}
		return list, nil
	}
	c, before := Cache{Attrs: map[string]string{}}, ""
	for _, field := range fields {
		key, value, ok := strings.Cut(field, "=")
		if !ok {
			return nil, invalid("a cache has a field without \"=\", after %q", before) // perhaps what is behind a comma of a credential
		}
		before = key
		if key = strings.ToLower(key); key == "type" {
			c.Type = value
		} else {
			c.Attrs[key] = value
		}
	}
	switch c.Type {
	case "":
		keys := slices.Sorted(maps.Keys(c.Attrs)) // values may be credentials
		return nil, invalid("type required for a cache with %s", strings.Join(keys, ", "))
	case "registry", "local", "inline", "gha", "s3", "azblob":
		return []Cache{c}, nil
	}
	return nil, invalid("unknown cache type: %q", c.Type)
}

// named is the name of a registry's cache.
func (c Cache) named() (reference.Named, error) {
	if c.Attrs["ref"] == "" {
		return reference.Named{}, invalid("registry cache requires ref")
	}
	named, err := reference.Parse(c.Attrs["ref"])
	if err != nil {
		return named, invalid("cache %q: %v", c.Attrs["ref"], err)
	}
	return named.OrLatest(), nil
}

// repository is where a registry's cache is.
func (c Cache) repository(env *Env) (*remote.Repository, reference.Named, error) {
	named, err := c.named()
	if err != nil {
		return nil, named, err
	}
	insecure := false
	if err := (Output{Attrs: c.Attrs}).parseBool("registry.insecure", &insecure); err != nil {
		return nil, named, err
	}
	if insecure {
		repo, err := env.Remote.InsecureRepository(named)
		return repo, named, err
	}
	repo, err := env.Remote.Repository(named)
	return repo, named, err
}

// String is the place as it is told.
func (c Cache) String() string {
	switch c.Type {
	case "registry":
		return c.Attrs["ref"]
	case "local":
		return "local:" + c.Attrs["src"]
	}
	return c.Type
}

// checkFrom fails for a cache that nothing can be read from.
func (c Cache) checkFrom() error {
	switch {
	case c.Type == "registry":
		if _, err := c.named(); err != nil {
			return err
		}
	case c.Type == "gha":
		if _, err := c.github(); err != nil {
			return err
		}
	case c.Type == "s3" || c.Type == "azblob":
		if _, _, err := c.bucket(); err != nil {
			return err
		}
	case c.Type == "inline":
		return invalid("inline cache is read from its image: --cache-from type=registry,ref=IMAGE")
	case c.Attrs["src"] == "":
		return invalid("local cache importer requires src")
	}
	_, err := c.mounts(true)
	return err
}

// importCaches reads what caches say, which is all that is read of one until a
// step is found in it. One that cannot be read is left out.
func importCaches(ctx context.Context, env *Env, solver *build.Solver, caches []Cache, targets []ocispec.Platform) (list []build.RemoteCache, err error) {
	var all []Cache
	for _, c := range caches {
		all = append(all, c.perName()...)
	}
	for _, c := range all {
		step := solver.Begin("importing cache manifest from " + c.String())
		remote, err := openCache(ctx, env, c, targets)
		if step.End(ctx, err) == nil {
			list = append(list, remote)
		} else if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
	}
	return list, nil
}

// importedCache is a build.RemoteCache.
type importedCache struct {
	env   *Env
	src   image.Source
	steps map[digest.Digest]cachedStep // by key
	// mounts are by the digest of their key; nil: none are taken.
	mounts map[digest.Digest]ocispec.Descriptor
}

// openCache reads the list of a cache, be it one or an image with a list inside.
func openCache(ctx context.Context, env *Env, c Cache, targets []ocispec.Platform) (*importedCache, error) {
	cache := &importedCache{env: env, steps: map[digest.Digest]cachedStep{}}
	mounts, err := c.mounts(true)
	if err != nil {
		return nil, err
	}
	if mounts {
		cache.mounts = map[digest.Digest]ocispec.Descriptor{}
	}
	root, err := cache.resolve(ctx, c)
	if err != nil {
		return nil, err
	}
	if !image.IsIndex(root.MediaType) {
		return cache, cache.read(ctx, root)
	}
	index, _, err := image.ReadIndex(ctx, cache.src, root)
	if err != nil {
		return nil, err
	}
	if at := slices.IndexFunc(index.Manifests, func(d ocispec.Descriptor) bool { return d.MediaType == cacheConfigType }); at >= 0 {
		return cache, cache.readList(ctx, index.Manifests[at], index.Manifests)
	}
	for _, platform := range orDefault(targets) {
		manifest, err := image.FindManifest(ctx, cache.src, root, platform)
		if errdefs.IsNotFound(err) {
			continue
		}
		if err == nil {
			err = cache.read(ctx, manifest)
		}
		if err != nil {
			return nil, err
		}
	}
	return cache, nil
}

func (c *importedCache) resolve(ctx context.Context, from Cache) (ocispec.Descriptor, error) {
	if from.Type == "registry" {
		repo, named, err := from.repository(c.env)
		if err != nil {
			return ocispec.Descriptor{}, err
		}
		c.src = repo
		root, err := repo.Resolve(ctx, named.TagOrDigest())
		if err != nil {
			err = pullError(named, err)
		}
		return root, err
	}
	if from.Type == "gha" {
		entries, err := from.github()
		if err != nil {
			return ocispec.Descriptor{}, err
		}
		c.src = entries
		return entries.Resolve(ctx, githubName)
	}
	if from.Type == "s3" || from.Type == "azblob" {
		entries, name, err := from.bucket()
		if err != nil {
			return ocispec.Descriptor{}, err
		}
		c.src = entries
		return entries.Resolve(ctx, name)
	}
	src, ref := from.Attrs["src"], from.Attrs["digest"]
	if ref == "" {
		if ref = from.Attrs["tag"]; ref == "" {
			ref = "latest"
		}
	}
	if _, err := os.Stat(filepath.Join(src, ocispec.ImageLayoutFile)); err != nil {
		return ocispec.Descriptor{}, fmt.Errorf("could not read %s: %w", src, errors.Unwrap(err))
	}
	dir, err := layout.Open(src)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	c.src = dir
	return dir.Resolve(ctx, ref)
}

// read adds what a manifest's config lists. A layer that it lists is one of the
// manifest's blobs, whatever else it says.
func (c *importedCache) read(ctx context.Context, desc ocispec.Descriptor) error {
	manifest, _, err := image.ReadManifest(ctx, c.src, desc)
	if err != nil {
		return err
	}
	if manifest.Config.MediaType == cacheConfigType {
		return c.readList(ctx, manifest.Config, manifest.Layers)
	}
	b, err := image.ReadAll(ctx, c.src, manifest.Config, image.MaxConfigSize)
	if err != nil {
		return err
	}
	config, err := image.ParseConfig(b)
	if err != nil {
		return err
	}
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(b, &fields); err != nil {
		return err
	}
	var inline []byte
	if err := json.Unmarshal(fields[inlineCacheKey], &inline); err != nil {
		return nil //nolint:nilerr // an image without a cache
	}
	_, err = c.add(inline, func(l cacheLayer) (ocispec.Descriptor, bool) {
		at := slices.Index(config.RootFS.DiffIDs, l.Blob)
		if at < 0 || at >= len(manifest.Layers) {
			return ocispec.Descriptor{}, false
		}
		return manifest.Layers[at], true
	})
	return err
}

// readList adds what config lists of the blobs beside it.
func (c *importedCache) readList(ctx context.Context, config ocispec.Descriptor, beside []ocispec.Descriptor) error {
	b, err := image.ReadAll(ctx, c.src, config, image.MaxConfigSize)
	if err != nil {
		return err
	}
	blobs := map[digest.Digest]ocispec.Descriptor{}
	for _, d := range beside {
		blobs[d.Digest] = d
	}
	mounts, err := c.add(b, func(l cacheLayer) (ocispec.Descriptor, bool) {
		desc, ok := blobs[l.Blob]
		return desc, ok
	})
	c.addMounts(mounts, blobs)
	return err
}

func (c *importedCache) add(list []byte, blob func(cacheLayer) (ocispec.Descriptor, bool)) ([]cacheMount, error) {
	steps, mounts, err := parseCacheConfig(list, blob)
	maps.Copy(c.steps, steps)
	return mounts, err
}

// Fetch implements build.RemoteCache.
func (c *importedCache) Fetch(ctx context.Context, key digest.Digest) (build.CacheRecord, error) {
	step, ok := c.steps[key]
	if !ok {
		return build.CacheRecord{}, fmt.Errorf("step %s: %w", key, errdefs.ErrNotFound)
	}
	found := build.CacheRecord{Key: key, Layers: []digest.Digest{step.diffID}, Created: step.created}
	_, err := c.env.Store.Layer(ctx, step.diffID)
	if !errdefs.IsNotFound(err) {
		return found, err
	}
	if err := hasRoom(ctx, c.env, []ocispec.Descriptor{step.blob}); err != nil {
		return found, err
	}
	if err := image.CopyGraph(ctx, c.src, c.env.Store, step.blob, image.CopyOptions{}); err != nil {
		return found, fmt.Errorf("layer %s: %w", step.diffID, copyError(err))
	}
	_, err = c.env.Store.Layer(ctx, step.diffID)
	if errdefs.IsNotFound(err) {
		err = store.OpenEstargz(ctx, c.env.Store, step.blob.Digest, step.diffID)
	}
	if errdefs.IsNotFound(err) {
		return found, fmt.Errorf("blob %s does not hold the layer %s: %w", step.blob.Digest, step.diffID, errdefs.ErrFailedPrecondition)
	}
	return found, err
}
