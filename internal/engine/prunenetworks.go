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

// PruneNetworks removes the networks that nothing running is attached to and docker's
// filters until, label and label! let pass, and returns their names.
func PruneNetworks(ctx context.Context, env *Env, filters map[string][]string) (names []string, err error) {
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
	removed, err := networks(env).Prune(ctx, func(n networktypes.Network) bool {
		without := slices.ContainsFunc(filters["label!"], func(v string) bool { return matchLabel(n.Labels, v) })
		return (before.IsZero() || n.Created.Before(before)) && allLabels(n.Labels, filters["label"]) && !without
	})
	for _, n := range removed {
		names = append(names, n.Name)
	}
	return names, err
}
