package engine

import (
	"cmp"
	"context"
	"slices"

	"strake/internal/store"
)

// Usage is what the store takes on disk.
type Usage = store.Usage

// ImageUsage is what one image takes on disk.
type ImageUsage = store.ImageUsage

// DiskUsage measures the store: every byte under its root is counted once.
func DiskUsage(ctx context.Context, env *Env) (Usage, error) { return env.Store.Usage(ctx) }

// CacheRecords lists the build cache that filters, which are PruneCache's,
// choose: the smallest first, as BuildKit does.
func CacheRecords(ctx context.Context, env *Env, filters map[string][]string) ([]CacheRecord, error) {
	keep, err := cacheFilter(filters)
	if err != nil {
		return nil, err
	}
	usage, err := env.Store.Usage(ctx)
	if err != nil {
		return nil, err
	}
	list := slices.DeleteFunc(usage.Records, func(r CacheRecord) bool { return !keep(&r) })
	slices.SortFunc(list, func(a, b CacheRecord) int { return cmp.Or(cmp.Compare(a.Size, b.Size), cmp.Compare(a.ID, b.ID)) })
	return list, nil
}
