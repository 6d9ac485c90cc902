package engine

import (
	"context"
	"fmt"
	"maps"

	"github.com/containerd/errdefs"

	"strake/internal/volume"
)

// PruneVolumesOptions say which volumes to remove, of those that no container uses.
type PruneVolumesOptions struct {
	All     bool                // not only anonymous ones
	Filters map[string][]string // label, label!, all
	DryRun  bool
}

// PruneVolumesResult says what went, or would go.
type PruneVolumesResult struct {
	Volumes []string
	Freed   int64 // bytes on disk
}

// PruneVolumes removes the volumes that no container uses. A container that begins to use one meanwhile keeps it.
func PruneVolumes(ctx context.Context, env *Env, opts PruneVolumesOptions) (result PruneVolumesResult, err error) {
	filters := maps.Clone(opts.Filters)
	if values, ok := filters["all"]; ok {
		if len(values) > 1 {
			return result, messageError{fmt.Sprintf("invalid filter 'all=%s': only one value is expected", values), errdefs.ErrInvalidArgument}
		}
		if opts.All, err = parseFlag(values[0]); err != nil {
			return result, messageError{fmt.Sprintf("invalid filter 'all=%s'", values), errdefs.ErrInvalidArgument}
		}
		delete(filters, "all")
	}
	test, err := volumeFilter(filters, "label", "label!")
	if err != nil {
		return result, err
	}
	table := volumes(env)
	if !opts.DryRun {
		if err := table.Sweep(); err != nil {
			return result, err
		}
	}
	list, err := table.List(ctx)
	if err != nil {
		return result, err
	}
	sizes, err := table.Sizes()
	if err != nil {
		return result, err
	}
	for _, v := range list {
		if len(v.Users) > 0 || !opts.All && !v.IsAnonymous() || !test(&v) {
			continue
		}
		if err := removeUnused(ctx, table, v.Name, opts.DryRun); err != nil {
			if errdefs.IsConflict(err) || errdefs.IsNotFound(err) {
				continue // somebody was faster
			}
			return result, err
		}
		result.Volumes = append(result.Volumes, v.Name)
		result.Freed += sizes[v.Name].Disk
	}
	return result, nil
}

func removeUnused(ctx context.Context, table *volume.Table, name string, dryRun bool) error {
	if dryRun {
		return nil
	}
	return table.Remove(ctx, name)
}
