package engine

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"time"

	containertypes "github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"
	"github.com/moby/moby/api/types/storage"

	"strake/internal/executor"
)

// InspectContainer describes a container as docker does, with its sizes if size is set.
func InspectContainer(ctx context.Context, env *Env, ref string, size bool) (containertypes.InspectResponse, error) {
	table := containers(env)
	c, err := table.Get(ctx, ref)
	if err != nil {
		return containertypes.InspectResponse{}, err
	}
	if err := showNetworks(ctx, env, c); err != nil {
		return containertypes.InspectResponse{}, err
	}
	dir := table.Path(c.ID)
	resp := containertypes.InspectResponse{
		ID: c.ID, Created: c.Created.Format(time.RFC3339Nano), Path: c.Spec.Path(), Args: c.Spec.Args(), State: inspectState(c),
		Image: c.ImageID.String(), Name: "/" + c.Name, RestartCount: c.State.RestartCount, Driver: "overlayfs", Platform: c.Spec.Platform,
		HostConfig: c.Spec.HostConfig, Config: c.Spec.Config, Mounts: c.Spec.Mounts,
		ResolvConfPath: filepath.Join(dir, "bundle", "resolv.conf"), HostnamePath: filepath.Join(dir, "bundle", "hostname"),
		HostsPath: filepath.Join(dir, "bundle", "hosts"), NetworkSettings: inspectNetwork(c),
		GraphDriver: &storage.DriverData{Name: "overlay2", Data: map[string]string{
			"MergedDir": filepath.Join(dir, "rootfs"), "UpperDir": filepath.Join(dir, "upper"), "WorkDir": filepath.Join(dir, "work"),
		}},
	}
	host := *c.Spec.HostConfig
	if host.Runtime == "" {
		host.Runtime = defaultRuntime()
	}
	host.Links = shownLinks(c)
	resp.HostConfig = &host
	if resp.Mounts == nil {
		resp.Mounts = []containertypes.MountPoint{}
	}
	if c.Spec.HostConfig.LogConfig.Type == "json-file" {
		resp.LogPath = table.LogPath(c.ID)
	}
	if size {
		rw, all, err := containerSize(ctx, env, c)
		if err != nil {
			return resp, err
		}
		resp.SizeRw, resp.SizeRootFs = &rw, &all
	}
	return resp, nil
}

// shownLinks are docker's texts of links on the default network; those on others are shown with these.
func shownLinks(c *Container) (links []string) {
	if c.Spec.HostConfig.NetworkMode.IsUserDefined() {
		return nil
	}
	for _, l := range c.Spec.HostConfig.Links {
		name, alias, ok := strings.Cut(l, ":")
		if !ok {
			alias = name
		}
		links = append(links, fmt.Sprintf("/%s:/%s/%s", strings.TrimPrefix(name, "/"), c.Name, alias[strings.LastIndexByte(alias, '/')+1:]))
	}
	slices.Sort(links)
	return links
}

// defaultRuntime is the name of the runtime of containers that name none; "" where there is none.
func defaultRuntime() string {
	path, err := executor.FindRuntime()
	if err != nil {
		return ""
	}
	return filepath.Base(path)
}

// inspectState is docker's description of a state.
func inspectState(c *Container) *containertypes.State {
	s := &c.State
	state := &containertypes.State{
		Status: s.Status, Running: s.Running(), Paused: s.Status == containertypes.StatePaused,
		Restarting: s.Status == containertypes.StateRestarting, OOMKilled: s.OOMKilled, Pid: s.Pid, ExitCode: s.ExitCode, Error: s.Error,
		StartedAt: inspectTime(s.Started), FinishedAt: inspectTime(s.Finished), Health: s.Health,
	}
	return state
}

func inspectTime(t time.Time) string { return t.UTC().Format(time.RFC3339Nano) }

// inspectNetwork is docker's description of a container's networks.
func inspectNetwork(c *Container) *containertypes.NetworkSettings {
	if c.State.Network != nil {
		return c.State.Network
	}
	settings := &containertypes.NetworkSettings{Ports: network.PortMap{}, Networks: map[string]*network.EndpointSettings{}}
	for name, endpoint := range wantedNetworks(&c.Spec) {
		settings.Networks[name] = endpoint
	}
	return settings
}
