package engine

import (
	"context"
	"fmt"
	"syscall"

	"github.com/containerd/errdefs"
	containertypes "github.com/moby/moby/api/types/container"
)

// RemoveContainerOptions say which container to remove.
type RemoveContainerOptions struct {
	Ref     string
	Force   bool // also one that runs
	Volumes bool // and its anonymous volumes
}

// RemoveContainer removes a container. It fails with errdefs.ErrConflict where it runs and Force is not set.
func RemoveContainer(ctx context.Context, env *Env, opts RemoveContainerOptions) (err error) {
	table := containers(env)
	c, lock, err := table.Acquire(ctx, opts.Ref)
	if err == nil && lock != nil {
		err = networks(env).Reap(ctx)
	}
	for err == nil && lock == nil {
		if !opts.Force {
			return runningError(opts.Ref, c)
		}
		if err := stop(ctx, table, c, syscall.SIGKILL, 0, true); err != nil {
			return err
		}
		if c, lock, err = table.Acquire(ctx, c.ID); errdefs.IsNotFound(err) {
			return nil // it was to be removed when it ended
		}
	}
	if lock != nil {
		defer closing(&err, lock.Close)
	}
	if err != nil {
		return err
	}
	if err := table.Remove(ctx, c); err != nil || !opts.Volumes {
		return err
	}
	return removeAnonymous(ctx, env, c)
}

// runningError is docker's error for a container that is not to be removed because it runs.
func runningError(ref string, c *Container) error {
	hint := "stop the container before removing or force remove"
	status := "running"
	if c.State.Status == containertypes.StatePaused {
		status, hint = "paused", "unpause and then "+hint
	}
	if c.State.Status == containertypes.StateRestarting {
		status = "restarting"
	}
	return messageError{fmt.Sprintf("cannot remove container %q: container is %s: %s", ref, status, hint), errdefs.ErrConflict}
}
