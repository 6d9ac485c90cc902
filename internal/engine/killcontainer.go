package engine

import (
	"context"
	"syscall"

	"github.com/containerd/errdefs"

	"strake/internal/container"
)

// KillContainer sends a signal to a container's process: SIGKILL where signal is "". It fails with errdefs.ErrConflict where the
// container does not run.
func KillContainer(ctx context.Context, env *Env, ref, signal string) error {
	number := syscall.SIGKILL
	if signal != "" {
		var err error
		if number, err = container.ParseSignal(signal); err != nil {
			return err
		}
	}
	table := containers(env)
	c, err := table.Get(ctx, ref)
	if err != nil {
		return err
	}
	if c.State.Running() {
		_, err = table.Call(ctx, c.ID, container.Request{Op: container.OpSignal, Signal: int(number)})
	} else {
		err = notRunning(c)
	}
	if errdefs.IsUnavailable(err) {
		err = notRunning(c)
	}
	if err != nil {
		return messageError{"cannot kill container: " + ref + ": " + err.Error(), errdefs.ErrConflict}
	}
	if number == syscall.SIGKILL {
		_, _ = table.Call(ctx, c.ID, container.Request{Op: container.OpWait}) // as docker waits for its end
	}
	return nil
}
