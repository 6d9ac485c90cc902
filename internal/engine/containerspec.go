package engine

import (
	"context"
	"path/filepath"
	"slices"
	"strings"

	containertypes "github.com/moby/moby/api/types/container"

	"strake/internal/container"
	"strake/internal/executor"
)

// containerSpec says how the runtime is to start a container. Its bundle, root file system and streams are the monitor's to add.
func containerSpec(ctx context.Context, table *container.Table, c *Container) (executor.Spec, error) {
	config, host := c.Spec.Config, c.Spec.HostConfig
	spec := executor.Spec{
		ID: c.ID, Args: slices.Concat(config.Entrypoint, config.Cmd), Env: containerEnv(config), Cwd: first(config.WorkingDir, "/"),
		User: config.User, Hostname: config.Hostname, ReadOnly: host.ReadonlyRootfs, Terminal: config.Tty,
		CgroupParent: host.CgroupParent,
	}
	return spec, isolate(ctx, table, c, &spec)
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

func first(values ...string) string {
	for _, v := range values {
		if v != "" {
			return v
		}
	}
	return ""
}

// inDir is a path in the directory of a container.
func inDir(table *container.Table, c *Container, name string) string {
	return filepath.Join(table.Path(c.ID), name)
}
