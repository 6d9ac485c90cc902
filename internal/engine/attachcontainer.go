package engine

import (
	"context"

	"github.com/containerd/errdefs"
	containertypes "github.com/moby/moby/api/types/container"
)

// AttachContainer joins streams to a container that runs, until its process ends, and returns the exit code. It fails with
// errdefs.ErrConflict where the container does not run.
func AttachContainer(ctx context.Context, env *Env, opts StartOptions) (StartResult, error) {
	c, err := containers(env).Get(ctx, opts.Ref)
	if err != nil {
		return StartResult{}, err
	}
	conflict := func(text string) (StartResult, error) { return StartResult{}, messageError{text, errdefs.ErrConflict} }
	switch c.State.Status {
	case containertypes.StateRunning:
		return attachContainer(ctx, env, c, opts)
	case containertypes.StatePaused:
		return conflict("cannot attach to a paused container, unpause it first")
	case containertypes.StateRestarting:
		return conflict("cannot attach to a restarting container, wait until it is running")
	}
	return conflict("cannot attach to a stopped container, start it first")
}
