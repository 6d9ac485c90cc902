package engine

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/containerd/errdefs"
)

// PruneContainersOptions say which containers to remove, of those that do not run.
type PruneContainersOptions struct {
	Filters map[string][]string // until, label, label!
	DryRun  bool
}

// PruneContainersResult says what went, or would go.
type PruneContainersResult struct {
	Containers []string // IDs
	Freed      int64    // bytes that they wrote
}

// PruneContainers removes the containers that do not run.
func PruneContainers(ctx context.Context, env *Env, opts PruneContainersOptions) (result PruneContainersResult, err error) {
	test, err := pruneTest(opts.Filters)
	if err != nil {
		return result, err
	}
	table := containers(env)
	all, err := table.List(ctx)
	if err != nil {
		return result, err
	}
	for _, c := range all {
		if c.State.Running() || c.Alive || !test(c) {
			continue
		}
		size, _, err := containerSize(ctx, env, c)
		if err != nil {
			return result, err
		}
		if !opts.DryRun {
			err = RemoveContainer(ctx, env, RemoveContainerOptions{Ref: c.ID})
		}
		switch {
		case errdefs.IsConflict(err), errdefs.IsNotFound(err), errdefs.IsUnavailable(err):
			continue // somebody was faster
		case err != nil:
			return result, err
		}
		result.Containers, result.Freed = append(result.Containers, c.ID), result.Freed+size
	}
	return result, nil
}

// pruneTest makes one test of docker's filters of prune.
func pruneTest(filters map[string][]string) (func(*Container) bool, error) {
	until := time.Time{}
	for _, name := range slices.Sorted(maps.Keys(filters)) {
		switch values := filters[name]; name {
		case "label", "label!":
		case "until":
			if len(values) > 1 {
				return nil, messageError{"more than one until filter specified", errdefs.ErrInvalidArgument}
			}
			var err error
			if until, err = parseTime(values[0], time.Now()); err != nil {
				return nil, err
			}
		default:
			return nil, messageError{fmt.Sprintf("invalid filter '%s'", name), errdefs.ErrInvalidArgument}
		}
	}
	return func(c *Container) bool {
		labels := c.Spec.Config.Labels
		has := func(v string) bool { return matchLabel(labels, v) }
		lacks := func(v string) bool { return !has(v) }
		return (until.IsZero() || c.Created.Before(until)) && !slices.ContainsFunc(filters["label"], lacks) && !slices.ContainsFunc(filters["label!"], has)
	}, nil
}
