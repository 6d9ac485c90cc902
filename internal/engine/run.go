package engine

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/containerd/errdefs"

	"strake/internal/container"
	"strake/internal/executor"
)

// RunOptions say what to run, and how it is attached.
type RunOptions struct {
	CreateOptions
	Detach bool    // do not wait for its end
	Attach Streams // unless Detach
	Size   *Size   // of the terminal that is attached

	// Created, when not nil, is told the ID before the process starts.
	Created func(id string) error
}

// RunResult says what was run, and how the process ended.
type RunResult struct {
	ID       string
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
	start := StartOptions{Size: opts.Size}
	if !opts.Detach {
		start.Attach = &opts.Attach
	}
	res, err := runMonitored(ctx, env, c, lock, start)
	return RunResult{ID: c.ID, ExitCode: res.ExitCode}, err
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

// parseVolume reads -v. A source directory that is missing is made, as docker
// does.
func parseVolume(v string) (executor.Mount, error) {
	invalid := func(why string) error {
		return messageError{fmt.Sprintf("invalid volume specification: '%s'%s", v, why), errdefs.ErrInvalidArgument}
	}
	parts := strings.Split(v, ":")
	if len(parts) < 2 || len(parts) > 3 || parts[0] == "" {
		if len(parts) == 1 {
			return executor.Mount{}, messageError{"anonymous volumes are not yet supported: " + v, errdefs.ErrNotImplemented}
		}
		return executor.Mount{}, invalid("")
	}
	source, target := parts[0], parts[1]
	if !filepath.IsAbs(target) {
		return executor.Mount{}, invalid(fmt.Sprintf(": invalid mount config for type \"bind\": invalid mount path: '%s' mount path must be absolute", target))
	}
	if target = filepath.Clean(target); target == "/" {
		return executor.Mount{}, invalid(": invalid specification: destination can't be '/'")
	}
	if !filepath.IsAbs(source) {
		return executor.Mount{}, messageError{fmt.Sprintf("named volumes are not yet supported: %q is no path", source), errdefs.ErrNotImplemented}
	}
	options := []string{"rbind", "rprivate"}
	if len(parts) == 3 {
		for _, o := range strings.Split(parts[2], ",") {
			switch o {
			case "ro", "rw", "private", "rprivate", "shared", "rshared", "slave", "rslave":
				options = append(options, o)
			case "z", "Z", "nocopy", "cached", "delegated", "consistent":
			default:
				return executor.Mount{}, messageError{fmt.Sprintf("invalid mode: %s", parts[2]), errdefs.ErrInvalidArgument}
			}
		}
	}
	if err := os.MkdirAll(source, 0o755); err != nil && !isFile(source) { //nolint:gosec // as docker makes it
		return executor.Mount{}, fmt.Errorf("error while creating mount source path '%s': %w", source, err)
	}
	return executor.Mount{Type: "bind", Source: filepath.Clean(source), Target: target, Options: options}, nil
}

func isFile(path string) bool {
	info, err := os.Stat(path)
	return err == nil && !info.IsDir()
}
