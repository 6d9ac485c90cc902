package engine

import (
	"context"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	containertypes "github.com/moby/moby/api/types/container"

	"strake/internal/container"
)

var errHostLinks = invalidText("conflicting options: host type networking can't be used with links. This would result in undefined behavior")

// checkContainer refuses what a user asked for and cannot have together, with docker's words. What the image says does not count.
func checkContainer(opts CreateOptions) error {
	if err := checkNetworkMode(opts); err != nil {
		return err
	}
	return checkHealthcheck(opts.Config.Healthcheck)
}

// checkNetworkMode refuses what a container is told about a network that is another's.
func checkNetworkMode(opts CreateOptions) error {
	config, host := opts.Config, opts.HostConfig
	mode := host.NetworkMode
	if mode == "container" || mode.IsContainer() && mode.ConnectedContainer() == "" {
		return invalidText("invalid network mode: invalid container format container:<name|id>")
	}
	for _, conflict := range []struct {
		is   bool
		text string
	}{
		{config.Hostname != "", "hostname and the network mode"},
		{len(host.Links) > 0, "container type network can't be used with links. This would result in undefined behavior"},
		{len(host.DNS) > 0, "dns and the network mode"},
		{len(host.ExtraHosts) > 0, "custom host-to-IP mapping and the network mode"},
		{len(host.PortBindings) > 0 || host.PublishAllPorts, "port publishing and the container type network mode"},
		{len(config.ExposedPorts) > 0, "port exposing and the container type network mode"},
		{givesMAC(opts), "mac-address and the network mode"},
	} {
		if mode.IsContainer() && conflict.is {
			return invalidText("conflicting options: %s", conflict.text)
		}
	}
	switch {
	case host.UTSMode.IsHost() && config.Hostname != "":
		return invalidText("conflicting options: hostname and the UTS mode")
	case mode.IsHost() && len(host.Links) > 0:
		return errHostLinks
	}
	return nil
}

func givesMAC(opts CreateOptions) bool {
	for _, e := range opts.Endpoints {
		if e != nil && len(e.MacAddress) > 0 {
			return true
		}
	}
	return false
}

func checkHealthcheck(h *containertypes.HealthConfig) error {
	if h == nil {
		return nil
	}
	for _, d := range []struct {
		name  string
		value time.Duration
	}{{"Interval", h.Interval}, {"Timeout", h.Timeout}, {"StartPeriod", h.StartPeriod}, {"StartInterval", h.StartInterval}} {
		if d.value != 0 && d.value < containertypes.MinimumDuration {
			return invalidText("%s in Healthcheck cannot be less than %s", d.name, containertypes.MinimumDuration)
		}
	}
	if h.Retries < 0 {
		return invalidText("Retries in Healthcheck cannot be negative")
	}
	return nil
}

// maxJoins bounds how many networks that are another container's are followed: there may be a ring of them.
const maxJoins = 100

// checkLinks fails where --link names no container, or one that has the host's network. Networks that users made look names up when
// they are asked.
func checkLinks(ctx context.Context, table *container.Table, host *containertypes.HostConfig) error {
	if host.NetworkMode.IsUserDefined() {
		return nil
	}
	for _, link := range host.Links {
		name, _, _ := strings.Cut(strings.TrimPrefix(link, "/"), ":")
		other, err := table.Get(ctx, name)
		for hops := 0; err == nil && hops < maxJoins && other.Spec.HostConfig.NetworkMode.IsContainer(); hops++ {
			name = other.Spec.HostConfig.NetworkMode.ConnectedContainer()
			other, err = table.Get(ctx, name)
		}
		switch {
		case errdefs.IsNotFound(err):
			return invalidText("could not get container for %s: %v", name, err)
		case err != nil:
			return err
		case other.Spec.HostConfig.NetworkMode.IsHost():
			return errHostLinks
		}
	}
	return nil
}
