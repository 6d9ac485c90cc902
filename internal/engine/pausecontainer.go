package engine

import (
	"context"

	"github.com/containerd/errdefs"

	"strake/internal/container"
)

// PauseContainer stops all processes of a container where they are, or lets them go on. It fails with errdefs.ErrConflict where
// that is so already, or the container does not run.
func PauseContainer(ctx context.Context, env *Env, ref string, pause bool) error {
	table := containers(env)
	c, err := table.Get(ctx, ref)
	if err != nil {
		return err
	}
	op := container.OpResume
	if pause {
		op = container.OpPause
	}
	if c.State.Running() {
		_, err = table.Call(ctx, c.ID, container.Request{Op: op})
	} else {
		err = notRunning(c)
	}
	if errdefs.IsUnavailable(err) {
		err = notRunning(c)
	}
	return startError(err)
}
