package engine

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"

	"github.com/containerd/errdefs"
	containertypes "github.com/moby/moby/api/types/container"
	networktypes "github.com/moby/moby/api/types/network"

	"strake/internal/container"
	"strake/internal/executor"
	"strake/internal/network"
)

// The files that say what a container's network is called, in its bundle.
const (
	hostsFile  = "hosts"
	resolvFile = "resolv.conf"
)

// KeeperCommand is the command of the command line that is KeepNetworks.
const KeeperCommand = network.KeepCommand

// KeepNetworks keeps the networks of an ordinary user's store, root, in a process of its own that a monitor started.
func KeepNetworks(ctx context.Context, root string) error { return network.Keep(ctx, root) }

// joinNetworks gives a container its networks, in the process of its monitor, and says so in spec. What it returns takes them away.
func joinNetworks(ctx context.Context, env *Env, table *container.Table, c *Container, spec *executor.Spec, others *joined) (leave func() error, err error) {
	mode := c.Spec.HostConfig.NetworkMode
	if mode.IsContainer() {
		return func() error { return nil }, joinContainer(ctx, table, spec, mode.ConnectedContainer(), others)
	}
	if !mode.IsHost() {
		// It may have been connected to others since the monitor was started.
		now, err := table.Locked(ctx, c.ID)
		if err != nil {
			return nil, err
		}
		c.Spec.Endpoints = now.Spec.Endpoints
	}
	m := memberOf(c)
	closeNS := func() error { return nil }
	if mode.IsHost() {
		spec.Network = executor.NetworkHost
	} else {
		ns, err := network.NewNamespace()
		if err != nil {
			return nil, err
		}
		closeNS = ns.Close
		m.Namespace = fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), ns.Fd())
		spec.Network, spec.NetNS = executor.NetworkNone, m.Namespace
	}
	sandbox, err := networks(env).Join(ctx, m)
	if err != nil {
		err = messageError{"failed to set up container networking: " + err.Error(), err}
		return nil, errors.Join(err, closeNS())
	}
	spec.Hosts, spec.Resolv = sandbox.Hosts, sandbox.Resolv
	return func() error { return errors.Join(sandbox.Close(context.WithoutCancel(ctx)), closeNS()) }, nil
}

// joinContainer makes spec share the network of another container.
func joinContainer(ctx context.Context, table *container.Table, spec *executor.Spec, ref string, others *joined) error {
	other, err := table.Get(ctx, ref)
	if err != nil {
		return messageError{"joining network namespace of container: " + err.Error(), err}
	}
	if !other.State.Running() || other.State.Pid == 0 {
		return messageError{fmt.Sprintf("cannot join network namespace of a non running container: container %s is %s", other.Name, other.State.Status), errdefs.ErrConflict}
	}
	spec.Network = executor.NetworkNone
	if spec.NetNS, err = others.open(ctx, table, other, "net"); err != nil {
		return err
	}
	spec.Hostname = other.Spec.Config.Hostname
	for _, f := range []struct {
		name string
		to   *[]byte
	}{{hostsFile, &spec.Hosts}, {resolvFile, &spec.Resolv}} {
		if *f.to, err = os.ReadFile(inDir(table, other, "bundle/"+f.name)); err != nil {
			return fmt.Errorf("joining network namespace of container: %w", err)
		}
	}
	return nil
}

// namespaceOf is the network namespace of a running container.
func namespaceOf(c *Container) string { return fmt.Sprintf("/proc/%d/ns/net", c.State.Pid) }

// memberOf is what networks are to know of a container.
func memberOf(c *Container) network.Member {
	config, host := c.Spec.Config, c.Spec.HostConfig
	m := network.Member{
		ID: c.ID, Name: c.Name, Hostname: config.Hostname, Domainname: config.Domainname, Networks: wantedNetworks(&c.Spec),
		Ports: maps.Clone(host.PortBindings), Links: host.Links,
		DNS: host.DNS, DNSSearch: host.DNSSearch, DNSOptions: host.DNSOptions, ExtraHosts: host.ExtraHosts,
	}
	if host.PublishAllPorts {
		if m.Ports == nil {
			m.Ports = networktypes.PortMap{}
		}
		for port := range config.ExposedPorts {
			if len(m.Ports[port]) == 0 {
				m.Ports[port] = []networktypes.PortBinding{{}}
			}
		}
	}
	return m
}

// wantedNetworks are the networks of a container: that of its mode, and those that were asked for besides.
func wantedNetworks(spec *container.Spec) map[string]*networktypes.EndpointSettings {
	name := spec.HostConfig.NetworkMode.NetworkName()
	if spec.HostConfig.NetworkMode.IsDefault() {
		name = networktypes.NetworkBridge
	}
	all := map[string]*networktypes.EndpointSettings{}
	for ref, e := range spec.Endpoints {
		if ref == networktypes.NetworkDefault {
			ref = name
		}
		all[ref] = e
	}
	if _, ok := all[name]; !ok && !spec.Detached && !spec.HostConfig.NetworkMode.IsContainer() {
		all[name] = &networktypes.EndpointSettings{}
	}
	return all
}

// showNetworks gives the records of running containers the networks that they have, and takes from the host what dead ones had.
func showNetworks(ctx context.Context, env *Env, list ...*Container) error {
	if err := networks(env).Reap(ctx); err != nil {
		return err
	}
	all, err := networks(env).Settings(ctx)
	if err != nil {
		return err
	}
	for _, c := range list {
		has, ok := all[c.ID]
		if !ok || !c.State.Running() {
			continue
		}
		for port := range c.Spec.Config.ExposedPorts {
			if _, published := has.Ports[port]; !published {
				has.Ports[port] = nil
			}
		}
		has.SandboxKey = namespaceOf(c)
		c.State.Network = &has
	}
	return nil
}

// rewriteNames changes the files of names of a running container after its networks changed, unless it changed them itself.
func rewriteNames(table *container.Table, c *Container, before, after network.Names) error {
	for _, f := range []struct {
		name     string
		from, to []byte
	}{{hostsFile, before.Hosts, after.Hosts}, {resolvFile, before.Resolv, after.Resolv}} {
		path := inDir(table, c, "bundle/"+f.name)
		have, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		if !bytes.Equal(have, f.from) || bytes.Equal(f.from, f.to) {
			continue
		}
		if err := os.WriteFile(path, f.to, 0o644); err != nil { // in place: it is mounted
			return err
		}
	}
	return nil
}

// chooseNetwork says which network the default one is.
func chooseNetwork(host *containertypes.HostConfig, warn func(string)) {
	if warn == nil {
		warn = func(string) {}
	}
	mode := host.NetworkMode
	if mode == "" || mode.IsDefault() {
		host.NetworkMode = networktypes.NetworkBridge
		if err := network.Usable(); err != nil {
			host.NetworkMode = networktypes.NetworkHost
			warn(fmt.Sprintf("The container shares the host's network: %v", err))
		}
	}
	if host.NetworkMode.IsHost() && (len(host.PortBindings) > 0 || host.PublishAllPorts) {
		warn("Published ports are discarded when using host network mode")
	}
}
