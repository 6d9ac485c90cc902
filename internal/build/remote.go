package build

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
)

// CacheRecord is what a cache that leaves this store says of one step: no input
// of it, which may be a build argument's value.
type CacheRecord struct {
	Key     digest.Digest   // the step's cache key
	Layers  []digest.Digest // diffIDs of what it made
	Created time.Time
}

// RemoteCache is a cache that another build left. Its methods are safe for
// concurrent use.
type RemoteCache interface {
	// Fetch takes the layers that a step made into the store and returns its
	// record. It fails with errdefs.ErrNotFound where the cache has none. The
	// layers are those whose diffIDs the record says.
	Fetch(ctx context.Context, key digest.Digest) (CacheRecord, error)
	// OpenMount opens the tar of what a cache mount held, by the digest of its key. What is read is right only when
	// the end was read without an error. It fails with errdefs.ErrNotFound where the cache has none.
	OpenMount(ctx context.Context, key digest.Digest) (io.ReadCloser, error)
}

// Exchange is the cache that a build takes from elsewhere, and can give.
type Exchange struct {
	// Remote are asked for steps that miss, in their order. They are settled
	// before anything is solved.
	Remote []RemoteCache

	mu      sync.Mutex
	used    map[digest.Digest]CacheRecord // by key
	mounts  map[string]UsedMount          // by key
	secrets map[string]Mount              // by ID
}

// NewExchange makes one that takes nothing.
func NewExchange() *Exchange {
	return &Exchange{used: map[digest.Digest]CacheRecord{}, mounts: map[string]UsedMount{}, secrets: map[string]Mount{}}
}

// recordKey is the key of a step as others know it.
func recordKey(key string) digest.Digest {
	return digest.NewDigestFromEncoded(digest.SHA256, strings.TrimPrefix(key, keyPrefix))
}

// fetchRecord finds a step that missed in the remote caches. What is found becomes
// a record of this store: only keys that a build computed itself ever do. A cache
// that fails is as good as one that has nothing.
func fetchRecord(ctx context.Context, s *Solver, v *Vertex, key string, inputs []Input, p *Reporter) (*record, error) {
	for _, remote := range s.opts.Exchange.Remote {
		found, err := remote.Fetch(ctx, recordKey(key))
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		if err == nil && len(found.Layers) != 1 {
			err = fmt.Errorf("%d layers for one step: %w", len(found.Layers), errdefs.ErrInvalidArgument)
		}
		if err == nil {
			err = s.opts.Store.HoldLayers(ctx, found.Layers...)
		}
		if errdefs.IsNotFound(err) {
			continue
		}
		if err != nil {
			p.Warn("the step runs, for its cache cannot be used: %v\n", err)
			continue
		}
		r := &record{Layers: found.Layers, Created: found.Created.UTC(), Inputs: inputs}
		return r, r.save(ctx, s.opts.Store, key, v.Slot)
	}
	return nil, nil //nolint:nilnil // none is no error
}

// use notes that the build used a step.
func (x *Exchange) use(key string, layers []digest.Digest, created time.Time) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.used[recordKey(key)] = CacheRecord{Key: recordKey(key), Layers: layers, Created: created}
}

// Used lists the steps that were solved, but those that make contexts and those that leave secrets, in the order of their keys.
func (x *Exchange) Used() []CacheRecord {
	x.mu.Lock()
	defer x.mu.Unlock()
	list := slices.Collect(maps.Values(x.used))
	slices.SortFunc(list, func(a, b CacheRecord) int { return cmp.Compare(a.Key, b.Key) })
	return list
}
