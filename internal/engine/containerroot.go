package engine

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/containerd/errdefs"
	containertypes "github.com/moby/moby/api/types/container"
	"golang.org/x/sys/unix"

	"strake/internal/mount"
)

// withBareRoot calls fn with the root directory of a container, without what is mounted in it: what the container runs on, or,
// where it does not run, what it would run on, which nobody starts it on meanwhile.
func withBareRoot(ctx context.Context, env *Env, ref string, fn func(c *Container, root *os.File) error) (err error) {
	table := containers(env)
	c, err := table.Get(ctx, ref)
	if err != nil {
		return err
	}
	if !c.State.Running() {
		return withStoppedRoot(ctx, env, c, fn)
	}
	if c.State.Pid == 0 {
		return messageError{"Container " + c.ID + " is restarting, wait until the container is running", errdefs.ErrConflict}
	}
	root, err := mount.Bare(ctx, c.State.Pid)
	if err != nil {
		return err
	}
	defer closing(&err, root.Close)
	if err := stillRuns(ctx, env, c); err != nil {
		return err
	}
	return fn(c, root)
}

// stillRuns fails where a container does not have the process any more that it had: its number may be another's by now.
func stillRuns(ctx context.Context, env *Env, c *Container) error {
	again, err := containers(env).ByID(ctx, c.ID)
	if err == nil && (again == nil || !again.Alive || !again.State.Running() || again.State.Pid != c.State.Pid) {
		err = notRunning(c)
	}
	return err
}

// withStoppedRoot is withBareRoot for a container that does not run.
func withStoppedRoot(ctx context.Context, env *Env, c *Container, fn func(c *Container, root *os.File) error) (err error) {
	table := containers(env)
	lock, err := table.Lock(ctx, c.ID, startPatience)
	if err != nil {
		return err
	}
	defer closing(&err, lock.Close)
	ns, undo, err := mountContainer(ctx, env, table, c)
	if err != nil {
		return err
	}
	defer closing(&err, undo)
	var root *os.File
	err = ns.Do(func() error {
		fd, err := unix.Open(inDir(table, c, "rootfs"), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			return fmt.Errorf("open the root file system of container %s: %w", c.ID, err)
		}
		root = os.NewFile(uintptr(fd), "/")
		return nil
	})
	if err != nil {
		return err
	}
	defer closing(&err, root.Close)
	return fn(c, root)
}

// quiet calls fn while nobody starts a container that does not run, and, if pause is set, the processes of one that runs are
// paused. One that is paused already stays so.
func quiet(ctx context.Context, env *Env, c *Container, pause bool, fn func() error) (err error) {
	if !c.State.Running() {
		lock, lockErr := containers(env).Lock(ctx, c.ID, startPatience)
		if lockErr != nil {
			return lockErr
		}
		defer closing(&err, lock.Close)
		return fn()
	}
	if !pause || c.State.Status != containertypes.StateRunning {
		return fn()
	}
	if err := PauseContainer(ctx, env, c.ID, true); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, PauseContainer(context.WithoutCancel(ctx), env, c.ID, false)) }()
	return fn()
}
