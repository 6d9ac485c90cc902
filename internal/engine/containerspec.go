package engine

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	containertypes "github.com/moby/moby/api/types/container"

	"strake/internal/container"
	"strake/internal/executor"
)

// containerSpec says how the runtime is to start a container, which others are the namespaces for. Its bundle, root file system and streams are the monitor's to add.
func containerSpec(ctx context.Context, table *container.Table, c *Container, others *joined) (executor.Spec, error) {
	config, host := c.Spec.Config, c.Spec.HostConfig
	spec := executor.Spec{
		ID: c.ID, Args: slices.Concat(config.Entrypoint, config.Cmd), Env: containerEnv(config), Cwd: cmp.Or(config.WorkingDir, "/"),
		User: config.User, Hostname: config.Hostname, ReadOnly: host.ReadonlyRootfs, Terminal: config.Tty,
		CgroupParent: host.CgroupParent,
	}
	return spec, isolate(ctx, table, c, &spec, others)
}

// joined are the namespaces of other containers that one joins, open until it has ended: a process's number may be another's by then.
type joined []*os.File

// open opens a namespace of a container that runs, and returns its path.
func (j *joined) open(ctx context.Context, table *container.Table, c *Container, kind string) (string, error) {
	f, err := os.Open(fmt.Sprintf("/proc/%d/ns/%s", c.State.Pid, kind))
	if errors.Is(err, os.ErrNotExist) {
		return "", notRunning(c)
	}
	if err != nil {
		return "", fmt.Errorf("join the %s namespace of container %s: %w", kind, c.ID, err)
	}
	*j = append(*j, f)
	return fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), f.Fd()), stillRuns(ctx, table, c)
}

func (j *joined) close() error {
	var failed []error
	for _, f := range *j {
		failed = append(failed, f.Close())
	}
	*j = nil
	return errors.Join(failed...)
}

// containerEnv is the environment of a container's process: docker's, with what its configuration sets or, without =, removes.
func containerEnv(config *containertypes.Config) []string {
	env := []string{"HOSTNAME=" + config.Hostname}
	if config.Tty {
		env = append(env, "TERM=xterm")
	}
	return mergeEnv(env, config.Env)
}

// mergeEnv adds variables to a base, in whose place they come. One without = removes it.
func mergeEnv(base, more []string) []string {
	merged := slices.Clone(base)
	for _, e := range more {
		key, _, set := strings.Cut(e, "=")
		at := slices.IndexFunc(merged, func(old string) bool { return strings.HasPrefix(old, key+"=") })
		switch {
		case at >= 0 && set:
			merged[at] = e
		case at >= 0:
			merged = slices.Delete(merged, at, at+1)
		case set:
			merged = append(merged, e)
		}
	}
	return merged
}

// inDir is a path in the directory of a container.
func inDir(table *container.Table, c *Container, name string) string {
	return filepath.Join(table.Path(c.ID), name)
}
