package engine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"syscall"

	"golang.org/x/sys/unix"

	"strake/internal/container"
	"strake/internal/executor"
	"strake/internal/mount"
	"strake/internal/rootfs"
	"strake/internal/store"
)

// MonitorCommand is the command of the command line that is Monitor.
const MonitorCommand = "container-monitor"

// Descriptors of a monitor.
const (
	standardError = 2
	monitorConn   = 3 // its first client
)

// Monitor looks after a container while it runs, in a process of its own that NewMonitor started, as soon as it is told which one. Cancelling
// ctx stops the container.
func Monitor(ctx context.Context, env *Env) (err error) {
	unix.CloseOnExec(monitorConn) // what the container's processes held would seem to be held by this one
	executor.Protect()
	first, err := container.FileConn(os.NewFile(monitorConn, "client"))
	if err != nil {
		return err
	}
	runtime := newWarmRuntime(ctx)
	release := runtime.close
	id, lock, log, err := first.AwaitLaunch()
	if err != nil {
		if errors.Is(err, io.EOF) {
			err = nil
		}
		return errors.Join(err, first.Close(), release())
	}
	refuse := func(err error) error { return errors.Join(err, first.Refuse(err), lock.Close(), release()) }
	if err := errors.Join(unix.Dup3(int(log.Fd()), standardError, 0), log.Close()); err != nil {
		return refuse(err)
	}
	table := containers(env)
	c, err := table.Locked(ctx, id)
	if err != nil {
		return refuse(err)
	}
	runc, err := runtime.of(c, release)
	if err != nil {
		return refuse(err)
	}
	m := &container.Monitor{
		Table: table, Container: c, Lock: lock, Runtime: runc, Release: runc.Close,
		Prepare: func(ctx context.Context, c *Container) (container.Prepared, error) {
			p, err := prepareContainer(ctx, env, table, c)
			<-runtime.ready
			if err == nil && p.Spec.Isolation.Resources != nil {
				if err = runc.Delegate(ctx); err != nil {
					err = errors.Join(err, p.Undo())
				}
			}
			return p, err
		},
	}
	return m.Run(ctx, first)
}

// warmRuntime is the default runtime, which gets ready while the monitor waits to be told what to run.
type warmRuntime struct {
	runc  *executor.Runc // nil: there is none
	ready chan struct{}
}

func newWarmRuntime(ctx context.Context) *warmRuntime {
	w := &warmRuntime{ready: make(chan struct{})}
	runc, err := executor.NewRunc(executor.RuncOptions{})
	if err != nil { // of returns it
		close(w.ready)
		return w
	}
	w.runc = runc
	go func() {
		defer close(w.ready)
		_ = runc.Ready(ctx)             // Start tries again, and says why not
		_ = runc.DelegateWhereKept(ctx) // what it is for (pause, precise figures of use) says why not
	}()
	return w
}

// of is the runtime that a container asks for.
func (w *warmRuntime) of(c *Container, release func() error) (*executor.Runc, error) {
	if c.Spec.HostConfig.Runtime == "" && w.runc != nil {
		return w.runc, nil
	}
	if err := release(); err != nil {
		return nil, err
	}
	return runtimeOf(c)
}

func (w *warmRuntime) close() error {
	<-w.ready
	if w.runc == nil {
		return nil
	}
	return w.runc.Close()
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
	p.Spec.Bundle, p.Spec.Rootfs = inDir(table, c, "bundle"), inDir(table, c, "rootfs")
	var joining joined // networks and mounts have nothing to do with each other
	var leave func() error
	joinedErr := make(chan error, 1)
	networked := executor.Spec{Hostname: p.Spec.Hostname}
	go func() {
		var err error
		leave, err = joinNetworks(ctx, env, table, c, &networked, &joining)
		joinedErr <- err
	}()
	unmount, err := mountRoot(ctx, env, table, c, &p.Spec)
	joinErr := <-joinedErr
	others = append(others, joining...)
	if err := errors.Join(err, joinErr); err != nil {
		return p, errors.Join(err, call(unmount), call(leave))
	}
	p.Spec.Hostname, p.Spec.Network, p.Spec.NetNS = networked.Hostname, networked.Network, networked.NetNS
	p.Spec.Hosts, p.Spec.Resolv = networked.Hosts, networked.Resolv
	p.Undo = func() error {
		left := make(chan error, 1)
		go func() { left <- leave() }()
		return errors.Join(unmount(), <-left, others.close())
	}
	return p, nil
}

// call calls what undoes something, unless that was not done.
func call(undo func() error) error {
	if undo == nil {
		return nil
	}
	return undo()
}

// mountRoot mounts a container's root file system and all that is mounted in it, and adds it to spec.
func mountRoot(ctx context.Context, env *Env, table *container.Table, c *Container, spec *executor.Spec) (undo func() error, err error) {
	ns, closeRoot, err := mountContainer(ctx, env, table, c)
	if err != nil {
		return nil, err
	}
	spec.NS = ns
	unmount, err := mountAll(ctx, env, table, c, spec)
	if err != nil {
		return nil, errors.Join(err, closeRoot())
	}
	return func() error { return errors.Join(unmount(), closeRoot()) }, nil
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
	mounter, err := rootfs.Choose(ctx, mounterOptions(env, ns))
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

// A WaitingMonitor is a monitor that was not told yet which container to look after.
type WaitingMonitor struct{ conn *container.Conn }

// NewMonitor starts a monitor, which gets ready meanwhile. Run takes it, or the caller closes it. root is the store's directory, "" the default
// one; what goes wrong before it is taken it says to errs, unless that is nil.
func NewMonitor(root string, errs io.Writer) (w *WaitingMonitor, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("start a container's monitor: %w", err)
		}
	}()
	if root == "" {
		root = store.DefaultRoot()
	}
	conn, other, err := container.Pair()
	if err != nil {
		return nil, err
	}
	defer closing(&err, other.Close)
	cmd := exec.Command("/proc/self/exe", "--root", root, MonitorCommand) //nolint:noctx // it outlives us
	cmd.Args[0] = os.Args[0]
	if f, ok := errs.(*os.File); ok { // it outlives us, who would have to copy for any other
		cmd.Stderr = f
	}
	cmd.ExtraFiles = []*os.File{other}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := executor.KeepFiles(); err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	if err := cmd.Start(); err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	return &WaitingMonitor{conn}, cmd.Process.Release()
}

// Close ends a monitor that was not taken.
func (w *WaitingMonitor) Close() error {
	if w == nil || w.conn == nil {
		return nil
	}
	return w.conn.Close()
}

// startMonitor makes a monitor, the one that waits if it is not nil, look after a container, whose lock it takes, and sends it the request of
// its first client.
func startMonitor(env *Env, w *WaitingMonitor, c *Container, lock *os.File, req container.Request) (conn *container.Conn, err error) {
	defer closing(&err, lock.Close)
	if w == nil || w.conn == nil {
		if w, err = NewMonitor(env.Store.Root(), nil); err != nil {
			return nil, err
		}
	}
	conn, w.conn = w.conn, nil
	log, err := os.OpenFile(inDir(containers(env), c, "monitor.log"), os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("start the container's monitor: %w", err), conn.Close())
	}
	defer closing(&err, log.Close)
	if err := errors.Join(conn.Launch(c.ID, lock, log), conn.Ask(req)); err != nil {
		return nil, errors.Join(fmt.Errorf("start the container's monitor: %w", err), conn.Close())
	}
	return conn, nil
}
