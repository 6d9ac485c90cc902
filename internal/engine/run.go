package engine

import (
	"context"
	"errors"
	"strings"
	"syscall"

	"strake/internal/container"
)

// RunOptions say what to run, and how it is attached.
type RunOptions struct {
	CreateOptions
	Detach bool    // do not wait for its end
	Attach Streams // unless Detach
	Size   *Size   // of the terminal that is attached

	// Monitor, when not nil, was started ahead.
	Monitor *WaitingMonitor

	// Created, when not nil, is told the ID before the process starts.
	Created func(id string) error
	// Launched, when not nil, is called when what is attached has started and nothing of Env is needed any more. The monitor has the
	// database open then: who closes it last writes it back, and waits for the disk.
	Launched func()
}

// RunResult says how the process ended.
type RunResult struct {
	ExitCode int // 128 and the signal's number when a signal ended it
}

// Run makes a container of an image, starts it and, unless Detach, waits for its end. A process that could not be started fails
// with errdefs.ErrNotFound where the command does not exist, with errdefs.ErrPermissionDenied where it cannot be executed.
// Cancelling ctx leaves the container alone.
func Run(ctx context.Context, env *Env, opts RunOptions) (RunResult, error) {
	c, lock, err := createContainer(ctx, env, opts.CreateOptions, true)
	if err != nil {
		return RunResult{}, err
	}
	if opts.Created != nil {
		if err := opts.Created(c.ID); err != nil {
			return RunResult{}, errors.Join(err, lock.Close())
		}
	}
	start := StartOptions{Size: opts.Size, monitor: opts.Monitor, launched: opts.Launched}
	if !opts.Detach {
		start.Attach = &opts.Attach
	}
	res, err := runMonitored(ctx, env, c, lock, start)
	return RunResult(res), err
}

// runtimeMessage is what the runtime says, in docker's words.
func runtimeMessage(message string) string {
	if strings.HasPrefix(message, "runc ") || strings.HasPrefix(message, "crun") {
		return "failed to create task for container: failed to create shim task: OCI runtime create failed: " + message
	}
	return message
}

// signalling makes signals of a client reach the container.
func signalling(ctx context.Context, env *Env, c *Container, s Streams) Streams {
	s.Signal = func(sig syscall.Signal) error {
		_, err := containers(env).Call(context.WithoutCancel(ctx), c.ID, container.Request{Op: container.OpSignal, Signal: int(sig)})
		return err
	}
	return s
}
