package engine

import (
	"context"

	"github.com/containerd/errdefs"

	"strake/internal/container"
)

// WaitContainer waits until a container does not run, and returns its exit code.
func WaitContainer(ctx context.Context, env *Env, ref string) (code int, err error) {
	table := containers(env)
	c, err := table.Get(ctx, ref)
	if err != nil {
		return 0, err
	}
	if !c.State.Running() {
		return c.State.ExitCode, nil
	}
	reply, err := table.Call(ctx, c.ID, container.Request{Op: container.OpWait})
	if !errdefs.IsUnavailable(err) {
		return reply.Code, err
	}
	if c, err = table.Get(ctx, c.ID); err != nil {
		return 0, err
	}
	return c.State.ExitCode, nil
}
