package engine

import (
	"context"
	"errors"
	"os"

	"github.com/containerd/errdefs"
	containertypes "github.com/moby/moby/api/types/container"

	"strake/internal/container"
	"strake/internal/executor"
)

// Streams are what is attached to a container.
type Streams = container.Streams

// Size is that of a terminal.
type Size = executor.Size

// ErrDetached says that the user went away from what was attached.
var ErrDetached = container.ErrDetached

// StartError tells that a process could not be started, and docker's exit code for that.
type StartError = executor.StartError

// StartOptions say which container to start.
type StartOptions struct {
	Ref    string
	Attach *Streams // attached before the process begins, until it ends; nil: none
	Size   *Size    // of the terminal that is attached

	monitor  *WaitingMonitor // nil: one is started
	launched func()
}

// StartResult says how the process ended, where it was waited for.
type StartResult struct {
	ExitCode int // 128 and the signal's number when a signal ended it
}

// StartContainer starts a container, or does nothing where it runs. With Attach it waits for the end of the process.
func StartContainer(ctx context.Context, env *Env, opts StartOptions) (StartResult, error) {
	table := containers(env)
	c, lock, err := table.Acquire(ctx, opts.Ref)
	if err != nil {
		return StartResult{}, err
	}
	if c.State.Status == containertypes.StatePaused {
		return StartResult{}, messageError{"cannot start a paused container, try unpause instead", errdefs.ErrConflict}
	}
	if lock == nil {
		if opts.Attach == nil {
			return StartResult{}, nil
		}
		return attachContainer(ctx, env, c, opts)
	}
	c.State.Stopped, c.State.RestartCount = false, 0
	if err := table.SetState(ctx, c, "", nil); err != nil {
		return StartResult{}, errors.Join(err, lock.Close())
	}
	return runMonitored(ctx, env, c, lock, opts)
}

// runMonitored starts a container whose lock is held, and waits until it has started, or, where something is attached, ended.
func runMonitored(ctx context.Context, env *Env, c *Container, lock *os.File, opts StartOptions) (StartResult, error) {
	req := container.Request{Op: container.OpAttach, Size: opts.Size}
	if opts.Attach != nil {
		req.Output, req.Stdin = true, opts.Attach.Stdin != nil
	}
	conn, err := startMonitor(env, opts.monitor, c, lock, req)
	if err != nil {
		return StartResult{}, err
	}
	defer func() { _ = conn.Close() }() // all is said
	if opts.Attach == nil {
		return StartResult{}, startError(conn.AwaitStart(ctx))
	}
	streams := signalling(ctx, env, c, *opts.Attach)
	if opts.launched != nil {
		streams.Started = opts.launched
	}
	code, err := conn.Attach(ctx, streams)
	return StartResult{ExitCode: code}, startError(err)
}

// attachContainer attaches to a container that runs.
func attachContainer(ctx context.Context, env *Env, c *Container, opts StartOptions) (StartResult, error) {
	conn, err := containers(env).Dial(ctx, c.ID)
	if err != nil {
		return StartResult{}, err
	}
	defer func() { _ = conn.Close() }() // all is said
	req := container.Request{Op: container.OpAttach, Output: true, Stdin: opts.Attach.Stdin != nil, Size: opts.Size}
	if err := conn.Ask(req); err != nil {
		return StartResult{}, err
	}
	code, err := conn.Attach(ctx, signalling(ctx, env, c, *opts.Attach))
	return StartResult{ExitCode: code}, startError(err)
}

// startError gives a failure to start docker's text.
func startError(err error) error {
	failed, ok := errors.AsType[*executor.StartError](err)
	if !ok {
		return err
	}
	return messageError{runtimeMessage(failed.Message), failed.Err}
}
