package engine

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"syscall"

	"golang.org/x/sys/unix"

	"strake/internal/container"
	"strake/internal/executor"
	"strake/internal/mount"
	"strake/internal/rootfs"
)

// MonitorCommand is the command of the command line that is Monitor: MonitorCommand ID.
const MonitorCommand = "container-monitor"

// The descriptors that a monitor gets.
const (
	monitorConn = 3 // its first client
	monitorLock = 4 // the container's lock
)

// MonitorOptions say which container to look after.
type MonitorOptions struct {
	ID string
}

// Monitor looks after a container while it runs, in a process of its own that startMonitor started. Cancelling ctx stops the
// container.
func Monitor(ctx context.Context, env *Env, opts MonitorOptions) (err error) {
	unix.CloseOnExec(monitorConn) // what the container's processes held would seem to be held by this one
	unix.CloseOnExec(monitorLock)
	first, err := container.FileConn(os.NewFile(monitorConn, "client"))
	if err != nil {
		return err
	}
	lock := os.NewFile(monitorLock, "lock")
	table := containers(env)
	c, err := table.Locked(ctx, opts.ID)
	if err != nil {
		return errors.Join(err, first.Refuse(err), lock.Close())
	}
	runc, err := runtimeOf(c)
	if err != nil {
		return errors.Join(err, first.Refuse(err), lock.Close())
	}
	m := &container.Monitor{
		Table: table, Container: c, Lock: lock, Runtime: runc, Release: runc.Close,
		Prepare: func(ctx context.Context, c *Container) (container.Prepared, error) {
			return prepareContainer(ctx, env, table, c)
		},
	}
	return m.Run(ctx, first)
}

// runtimeOf is the runtime that a container asks for.
func runtimeOf(c *Container) (*executor.Runc, error) {
	path, err := runtimePath(c.Spec.HostConfig.Runtime)
	if err != nil {
		return nil, err
	}
	return executor.NewRunc(executor.RuncOptions{Path: path})
}

// prepareContainer mounts a container's root file system and volumes, and says how to start it.
func prepareContainer(ctx context.Context, env *Env, table *container.Table, c *Container) (p container.Prepared, err error) {
	var others joined
	defer func() {
		if err != nil {
			err = errors.Join(err, others.close())
		}
	}()
	if p.Spec, err = containerSpec(ctx, table, c, &others); err != nil {
		return p, err
	}
	ns, closeRoot, err := mountContainer(ctx, env, table, c)
	if err != nil {
		return p, err
	}
	p.Spec.Bundle, p.Spec.Rootfs, p.Spec.NS = inDir(table, c, "bundle"), inDir(table, c, "rootfs"), ns
	unmount, err := mountAll(ctx, env, table, c, &p.Spec)
	if err != nil {
		return p, errors.Join(err, closeRoot())
	}
	leave, err := joinNetworks(ctx, env, table, c, &p.Spec, &others)
	if err != nil {
		return p, errors.Join(err, unmount(), closeRoot())
	}
	p.Undo = func() error { return errors.Join(unmount(), closeRoot(), leave(), others.close()) }
	return p, nil
}

// mountContainer mounts a container's root file system in a mount namespace of its own.
func mountContainer(ctx context.Context, env *Env, table *container.Table, c *Container) (ns *mount.Namespace, undo func() error, err error) {
	files, err := chainFiles(ctx, env, c.Spec.Layers)
	if err != nil {
		return nil, nil, err
	}
	if ns, err = mount.New(ctx); err != nil {
		return nil, nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, ns.Close())
		}
	}()
	mounter, _, err := pickMounter(ctx, env, ns)
	if err != nil {
		return nil, nil, err
	}
	mounted, err := mounter.Mount(ctx, rootfs.MountOptions{
		Layers: files, Target: inDir(table, c, "rootfs"), Upper: inDir(table, c, "upper"), Work: inDir(table, c, "work"),
		Volatile: c.Spec.HostConfig.AutoRemove, Stubs: true,
	})
	if err != nil {
		return nil, nil, err
	}
	return ns, func() error { return errors.Join(mounted.Close(), ns.Close()) }, nil
}

// startMonitor starts the monitor of a container, which takes the lock, and sends it the request of its first client.
func startMonitor(env *Env, c *Container, lock *os.File, req container.Request) (conn *container.Conn, err error) {
	defer closing(&err, lock.Close)
	conn, other, err := container.Pair()
	if err != nil {
		return nil, err
	}
	defer closing(&err, other.Close)
	if err := conn.Ask(req); err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	log, err := os.OpenFile(inDir(containers(env), c, "monitor.log"), os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("start the container's monitor: %w", err), conn.Close())
	}
	defer closing(&err, log.Close)
	cmd := exec.Command("/proc/self/exe", "--root", env.Store.Root(), MonitorCommand, c.ID) //nolint:noctx // it outlives us
	cmd.Args[0] = os.Args[0]
	cmd.Dir, cmd.Stderr = "/", log
	cmd.ExtraFiles = []*os.File{other, lock}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := executor.KeepFiles(); err != nil {
		return nil, errors.Join(fmt.Errorf("start the container's monitor: %w", err), conn.Close())
	}
	if err := cmd.Start(); err != nil {
		return nil, errors.Join(fmt.Errorf("start the container's monitor: %w", err), conn.Close())
	}
	return conn, cmd.Process.Release()
}
