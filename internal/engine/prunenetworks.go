package engine

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/containerd/errdefs"
	networktypes "github.com/moby/moby/api/types/network"
)

// PruneNetworksOptions say which networks to remove, of those that nothing running is attached to.
type PruneNetworksOptions struct {
	Filters map[string][]string // until, label, label!
	DryRun  bool
}

// PruneNetworks removes networks that nothing running is attached to, and returns their names; a dry run returns them only.
func PruneNetworks(ctx context.Context, env *Env, opts PruneNetworksOptions) (names []string, err error) {
	filters := opts.Filters
	var before time.Time
	for _, name := range slices.Sorted(maps.Keys(filters)) {
		switch {
		case name == "label" || name == "label!":
		case name != "until":
			return nil, messageError{fmt.Sprintf("invalid filter '%s'", name), errdefs.ErrInvalidArgument}
		case len(filters[name]) > 1:
			return nil, messageError{"more than one until filter specified", errdefs.ErrInvalidArgument}
		default:
			if before, err = parseTime(filters[name][0], time.Now()); err != nil {
				return nil, err
			}
		}
	}
	_, err = networks(env).Prune(ctx, func(n networktypes.Network) bool {
		without := slices.ContainsFunc(filters["label!"], func(v string) bool { return matchLabel(n.Labels, v) })
		if without || !before.IsZero() && !n.Created.Before(before) || !allLabels(n.Labels, filters["label"]) {
			return false
		}
		names = append(names, n.Name)
		return !opts.DryRun
	})
	return names, err
}
