package engine

import (
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"strake/internal/build"
	"strake/internal/image"
)

// The build cache leaves the store in the form of BuildKit's: a manifest whose
// config lists layers and records, or the same list in an image's config. A
// record's digest is a cache key of ours: BuildKit finds none of its own in it.
const (
	cacheConfigType = "application/vnd.buildkit.cacheconfig.v0"
	inlineCacheKey  = "moby.buildkit.cache.v0"
	maxCacheRecords = 100_000
)

// cacheConfig is the list.
type cacheConfig struct {
	Layers  []cacheLayer  `json:"layers,omitempty"`
	Records []cacheRecord `json:"records,omitempty"`
	Mounts  []cacheMount  `json:"mounts,omitempty"` // ours; BuildKit passes over it
}

// cacheLayer is a blob of the manifest, and what is in it.
type cacheLayer struct {
	Blob        digest.Digest     `json:"blob,omitempty"`
	Parent      int               `json:"parent,omitempty"`
	Annotations *cacheAnnotations `json:"annotations,omitempty"`
}

type cacheAnnotations struct {
	MediaType string        `json:"mediaType,omitempty"`
	DiffID    digest.Digest `json:"diffID,omitempty"`
	Size      int64         `json:"size,omitempty"`
	CreatedAt time.Time     `json:"createdAt,omitzero"`
}

// cacheRecord is what one step made: a layer of the list.
type cacheRecord struct {
	Digest  digest.Digest `json:"digest,omitempty"`
	Results []cacheResult `json:"layers,omitempty"`
}

type cacheResult struct {
	Layer     int       `json:"layer"`
	CreatedAt time.Time `json:"createdAt,omitzero"`
}

// noParent is the parent of a layer of which it is not said on what it lies.
const noParent = -1

// newCacheConfig lists records; blob says what a layer's blob is.
func newCacheConfig(records []build.CacheRecord, blob func(digest.Digest) cacheLayer) cacheConfig {
	var c cacheConfig
	at := map[digest.Digest]int{}
	for _, r := range records {
		id := r.Layers[0] // a step makes one
		if _, ok := at[id]; !ok {
			at[id] = len(c.Layers)
			c.Layers = append(c.Layers, blob(id))
		}
		c.Records = append(c.Records, cacheRecord{Digest: r.Key, Results: []cacheResult{{Layer: at[id], CreatedAt: r.Created}}})
	}
	return c
}

// cachedStep is what a cache from elsewhere says of a step.
type cachedStep struct {
	diffID  digest.Digest
	blob    ocispec.Descriptor
	created time.Time
}

// parseCacheConfig reads a list, which may be hostile, and returns its steps by
// key. Records of BuildKit's own, which have inputs or no diffID, are left out,
// and so are those of a layer for which blob, which is asked once, finds none. The
// cache mounts are as they are listed.
func parseCacheConfig(b []byte, blob func(cacheLayer) (ocispec.Descriptor, bool)) (map[digest.Digest]cachedStep, []cacheMount, error) {
	var c cacheConfig
	if err := json.Unmarshal(b, &c); err != nil {
		return nil, nil, fmt.Errorf("cache: %w: %w", err, errdefs.ErrInvalidArgument)
	}
	if max(len(c.Records), len(c.Layers), len(c.Mounts)) > maxCacheRecords {
		return nil, nil, fmt.Errorf("cache: %d records of %d layers, more than %d: %w", len(c.Records), len(c.Layers), maxCacheRecords, errdefs.ErrResourceExhausted)
	}
	layers := make([]*cachedStep, len(c.Layers))
	for i, l := range c.Layers {
		if l.Annotations == nil || image.CheckDigest(l.Annotations.DiffID) != nil {
			continue
		}
		if desc, ok := blob(l); ok && IsLayer(desc) {
			layers[i] = &cachedStep{diffID: l.Annotations.DiffID, blob: desc}
		}
	}
	steps := map[digest.Digest]cachedStep{}
	for _, r := range c.Records {
		if len(r.Results) != 1 || image.CheckDigest(r.Digest) != nil {
			continue
		}
		at := r.Results[0].Layer
		if at < 0 || at >= len(layers) {
			return nil, nil, fmt.Errorf("cache: record %s names layer %d of %d: %w", r.Digest, at, len(layers), errdefs.ErrInvalidArgument)
		}
		if year := r.Results[0].CreatedAt.UTC().Year(); year < 0 || year > 9999 {
			return nil, nil, fmt.Errorf("cache: record %s is of the year %d: %w", r.Digest, year, errdefs.ErrInvalidArgument)
		}
		if layers[at] != nil {
			steps[r.Digest] = cachedStep{layers[at].diffID, layers[at].blob, r.Results[0].CreatedAt}
		}
	}
	return steps, c.Mounts, nil
}

// inlineCache puts the records of the layers that an image has into its config.
func inlineCache(config []byte, layers []digest.Digest, records []build.CacheRecord) ([]byte, error) {
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(config, &fields); err != nil {
		return nil, fmt.Errorf("inline cache: %w", err)
	}
	list := newCacheConfig(inLayers(records, layers), func(id digest.Digest) cacheLayer {
		return cacheLayer{Blob: id, Parent: noParent, Annotations: &cacheAnnotations{DiffID: id}}
	})
	return withInlineCache(fields, list)
}

// replaceLayers has a config name others for its layers, as many, and has the cache that is in it say which of them holds what.
// Where they are its own the config stays as it is.
func replaceLayers(config []byte, layers []digest.Digest) ([]byte, error) {
	var fields map[string]json.RawMessage
	var rootFS ocispec.RootFS
	err := json.Unmarshal(config, &fields)
	if err == nil {
		err = json.Unmarshal(fields["rootfs"], &rootFS)
	}
	if err != nil {
		return nil, fmt.Errorf("layers of the config: %w", err)
	}
	before := rootFS.DiffIDs
	if slices.Equal(before, layers) {
		return config, nil
	}
	rootFS.DiffIDs = layers
	if fields["rootfs"], err = json.Marshal(rootFS); err != nil {
		return nil, fmt.Errorf("layers of the config: %w", err)
	}
	var inline []byte
	if json.Unmarshal(fields[inlineCacheKey], &inline) != nil {
		return json.Marshal(fields) // without a cache
	}
	var list cacheConfig
	if err := json.Unmarshal(inline, &list); err != nil {
		return nil, fmt.Errorf("inline cache: %w", err)
	}
	for i, l := range list.Layers {
		if at := slices.Index(before, l.Blob); at >= 0 {
			list.Layers[i].Blob = layers[at]
		}
	}
	return withInlineCache(fields, list)
}

// withInlineCache is a config of those fields and a cache.
func withInlineCache(fields map[string]json.RawMessage, list cacheConfig) ([]byte, error) {
	b, err := json.Marshal(list)
	if err == nil {
		fields[inlineCacheKey], err = json.Marshal(b)
	}
	if err != nil {
		return nil, fmt.Errorf("inline cache: %w", err)
	}
	return json.Marshal(fields)
}

// inLayers are the records whose layer is among layers.
func inLayers(records []build.CacheRecord, layers []digest.Digest) []build.CacheRecord {
	return slices.DeleteFunc(slices.Clone(records), func(r build.CacheRecord) bool { return !slices.Contains(layers, r.Layers[0]) })
}
