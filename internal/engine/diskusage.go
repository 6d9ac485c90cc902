package engine

import (
	"cmp"
	"context"
	"slices"

	volumetypes "github.com/moby/moby/api/types/volume"

	"strake/internal/store"
)

// Usage is what the store takes on disk.
type Usage struct {
	store.Usage
	PerVolume   []volumetypes.Volume // by name, with the sizes of their files
	FreeVolumes int64                // what those that no container uses take
}

// ImageUsage is what one image takes on disk.
type ImageUsage = store.ImageUsage

// DiskUsage measures the store: every byte under its root is counted once.
func DiskUsage(ctx context.Context, env *Env) (Usage, error) {
	total, err := env.Store.Usage(ctx)
	if err != nil {
		return Usage{}, err
	}
	list, err := Volumes(ctx, env, nil)
	if err != nil {
		return Usage{}, err
	}
	sizes, err := volumes(env).Sizes()
	usage := Usage{Usage: total, PerVolume: list}
	for i := range list {
		size := sizes[list[i].Name]
		if list[i].UsageData.Size = size.Files; list[i].UsageData.RefCount == 0 {
			usage.FreeVolumes += size.Disk
		}
	}
	return usage, err
}

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
