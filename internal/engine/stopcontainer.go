package engine

import (
	"context"
	"fmt"
	"syscall"
	"time"

	"github.com/containerd/errdefs"

	"strake/internal/container"
)

// StopOptions say which container to stop, and how.
type StopOptions struct {
	Ref     string
	Signal  string         // "" is the container's
	Timeout *time.Duration // until SIGKILL; nil is the container's, negative is for ever
}

// StopContainer stops a container and waits for its end. One that does not run is left as it is.
func StopContainer(ctx context.Context, env *Env, opts StopOptions) error {
	table := containers(env)
	c, err := table.Get(ctx, opts.Ref)
	if err != nil {
		return err
	}
	if !c.State.Running() {
		return nil
	}
	signal, timeout := container.StopSignal(c), container.StopTimeout(c)
	if opts.Signal != "" {
		if signal, err = container.ParseSignal(opts.Signal); err != nil {
			return err
		}
	}
	if opts.Timeout != nil {
		timeout = *opts.Timeout
	}
	return stop(ctx, table, c, signal, timeout, false)
}

// stop asks a monitor to stop its container. A monitor that dies meanwhile has stopped it too.
func stop(ctx context.Context, table *container.Table, c *Container, signal syscall.Signal, timeout time.Duration, remove bool) error {
	_, err := table.Call(ctx, c.ID, container.Request{Op: container.OpStop, Signal: int(signal), Timeout: timeout, Remove: remove})
	if errdefs.IsUnavailable(err) {
		_, err = table.ByID(ctx, c.ID)
	}
	if err != nil {
		return fmt.Errorf("cannot stop container: %s: %w", c.Name, err)
	}
	return nil
}
