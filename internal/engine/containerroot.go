package engine

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"

	"github.com/containerd/errdefs"
	containertypes "github.com/moby/moby/api/types/container"
	"golang.org/x/sys/unix"

	"strake/internal/container"
	"strake/internal/executor"
	"strake/internal/mount"
)

// withBareRoot calls fn with the root directory of a container, without what is mounted in it: what the container runs on, or,
// where it does not run, what it would run on, which nobody starts it on meanwhile.
func withBareRoot(ctx context.Context, env *Env, ref string, fn func(c *Container, root *os.File) error) (err error) {
	c, lock, err := containers(env).Acquire(ctx, ref)
	if err != nil {
		return err
	}
	if lock != nil {
		defer closing(&err, lock.Close)
		return withStoppedRoot(ctx, env, c, false, fn)
	}
	return withRunningRoot(ctx, env, c, mount.Bare, fn)
}

// withRoot is withBareRoot with what is mounted in it: all that the container sees, or, where it does not run, its volumes and
// the like.
func withRoot(ctx context.Context, env *Env, ref string, fn func(c *Container, root *os.File) error) (err error) {
	c, lock, err := containers(env).Acquire(ctx, ref)
	if err != nil {
		return err
	}
	if lock != nil {
		defer closing(&err, lock.Close)
		return withStoppedRoot(ctx, env, c, true, fn)
	}
	return withRunningRoot(ctx, env, c, func(_ context.Context, pid int) (*os.File, error) {
		return os.OpenFile(fmt.Sprintf("/proc/%d/root", pid), unix.O_PATH|unix.O_DIRECTORY, 0)
	}, fn)
}

func withRunningRoot(ctx context.Context, env *Env, c *Container, open func(ctx context.Context, pid int) (*os.File, error), fn func(c *Container, root *os.File) error) (err error) {
	if c.State.Pid == 0 {
		return messageError{"Container " + c.ID + " is restarting, wait until the container is running", errdefs.ErrConflict}
	}
	root, err := open(ctx, c.State.Pid)
	if err != nil {
		return err
	}
	defer closing(&err, root.Close)
	if err = stillRuns(ctx, containers(env), c); err == nil {
		err = fn(c, root)
	}
	return err
}

// stillRuns fails where a container does not have the process any more that it had: its number may be another's by now.
func stillRuns(ctx context.Context, table *container.Table, c *Container) error {
	again, err := table.ByID(ctx, c.ID)
	if err == nil && (again == nil || !again.Alive || !again.State.Running() || again.State.Pid != c.State.Pid) {
		err = notRunning(c)
	}
	return err
}

// withStoppedRoot is withBareRoot, or withRoot if mounts is set, for a container whose lock is held.
func withStoppedRoot(ctx context.Context, env *Env, c *Container, mounts bool, fn func(c *Container, root *os.File) error) (err error) {
	table := containers(env)
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
	if mounts {
		unmount, err := mountInto(ctx, env, c, ns, root)
		if err != nil {
			return err
		}
		return errors.Join(fn(c, root), unmount())
	}
	return fn(c, root)
}

// mountInto mounts the volumes, binds and images of a container in its root, which is mounted in ns. What it returns undoes what
// the end of ns does not.
func mountInto(ctx context.Context, env *Env, c *Container, ns *mount.Namespace, root *os.File) (undo func() error, err error) {
	table := containers(env)
	alone := *c
	host := *c.Spec.HostConfig
	host.IpcMode, host.Tmpfs, alone.Spec.HostConfig = "", nil, &host
	spec := executor.Spec{NS: ns, Rootfs: inDir(table, c, "rootfs")}
	if undo, err = mountAll(ctx, env, table, &alone, &spec); err != nil {
		return nil, err
	}
	err = ns.Do(func() error {
		for _, m := range spec.Mounts {
			if m.Type != "bind" {
				continue
			}
			if err := mount.Into(m.Source, root, m.Target, slices.Contains(m.Options, "ro")); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return nil, errors.Join(err, undo())
	}
	return undo, nil
}

// quiet calls fn while nobody starts a container that does not run, and, if pause is set, the processes of one that runs are
// paused. One that is paused already stays so, and that of an ordinary user who has no cgroups goes on.
func quiet(ctx context.Context, env *Env, c *Container, pause bool, fn func() error) (err error) {
	c, lock, err := containers(env).Acquire(ctx, c.ID)
	if err != nil {
		return err
	}
	if lock != nil {
		defer closing(&err, lock.Close)
		return fn()
	}
	if !pause || c.State.Status != containertypes.StateRunning {
		return fn()
	}
	err = PauseContainer(ctx, env, c.ID, true)
	if errdefs.IsFailedPrecondition(err) {
		return fn()
	}
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, PauseContainer(context.WithoutCancel(ctx), env, c.ID, false)) }()
	return fn()
}
