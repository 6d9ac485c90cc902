package engine

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	containertypes "github.com/moby/moby/api/types/container"

	"strake/internal/container"
	"strake/internal/executor"
)

// usesHostNetwork reports whether a container is in the network of the host.
func usesHostNetwork(host *containertypes.HostConfig) bool {
	return host.NetworkMode.IsHost() || host.NetworkMode.IsDefault() || host.NetworkMode == "bridge"
}

// containerSpec says how the runtime is to start a container. Its bundle, root file system and streams are the monitor's to add.
func containerSpec(ctx context.Context, table *container.Table, c *Container) (executor.Spec, error) {
	config, host := c.Spec.Config, c.Spec.HostConfig
	spec := executor.Spec{
		ID: c.ID, Args: slices.Concat(config.Entrypoint, config.Cmd), Env: containerEnv(config), Cwd: first(config.WorkingDir, "/"),
		User: config.User, Hostname: config.Hostname, ReadOnly: host.ReadonlyRootfs, Terminal: config.Tty,
		CgroupParent: host.CgroupParent,
	}
	if err := setNetwork(ctx, table, &spec, host); err != nil {
		return spec, err
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

// setNetwork chooses the network namespace.
func setNetwork(ctx context.Context, table *container.Table, spec *executor.Spec, host *containertypes.HostConfig) error {
	mode := host.NetworkMode
	switch {
	case usesHostNetwork(host):
		spec.Network = executor.NetworkHost
	case mode.IsNone():
		spec.Network = executor.NetworkNone
	case mode.IsContainer():
		other, err := table.Get(ctx, mode.ConnectedContainer())
		if err != nil {
			return err
		}
		if !other.State.Running() || other.State.Pid == 0 {
			return messageError{fmt.Sprintf("cannot join network of a non running container: %s", other.ID), errdefs.ErrConflict}
		}
		spec.Network, spec.NetNS = executor.NetworkNone, fmt.Sprintf("/proc/%d/ns/net", other.State.Pid)
	default:
		return messageError{fmt.Sprintf("network %s not found", mode), errdefs.ErrNotFound}
	}
	return nil
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
