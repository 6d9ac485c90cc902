package network

import (
	"context"
	"maps"
	"net/netip"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"
)

// List returns all networks, by name, with what is attached to them.
func (n *Networks) List(ctx context.Context) ([]network.Inspect, error) {
	s, err := n.current(ctx)
	if err != nil {
		return nil, err
	}
	list := make([]network.Inspect, len(s.networks))
	for i, nw := range s.networks {
		list[i] = s.inspect(nw)
	}
	return list, nil
}

// Find returns the network of a name, an ID or the beginning of one, in this order.
func (n *Networks) Find(ctx context.Context, ref string) (network.Inspect, error) {
	s, err := n.current(ctx)
	if err != nil {
		return network.Inspect{}, err
	}
	nw, err := s.find(ref)
	if err != nil {
		return network.Inspect{}, err
	}
	return s.inspect(*nw), nil
}

// current is the state without what is dead, and with the predefined networks.
func (n *Networks) current(ctx context.Context) (s state, err error) {
	if err := n.Reap(ctx); err != nil {
		return s, err
	}
	s, err = n.read(ctx)
	if err != nil || len(s.networks) > 0 {
		return s, err
	}
	err = n.locked(ctx, func(st *state) error { s = *st; return nil })
	return s, err
}

// find returns the network that a user means.
func (s *state) find(ref string) (*network.Network, error) {
	var byPrefix []*network.Network
	var byName *network.Network
	for i := range s.networks {
		nw := &s.networks[i]
		switch {
		case nw.ID == ref:
			return nw, nil
		case nw.Name == ref, ref == network.NetworkDefault && nw.Name == nameBridge:
			byName = nw
		case ref != "" && strings.HasPrefix(nw.ID, ref):
			byPrefix = append(byPrefix, nw)
		}
	}
	switch {
	case byName != nil:
		return byName, nil
	case len(byPrefix) == 1:
		return byPrefix[0], nil
	case len(byPrefix) > 1:
		return nil, refuse(errdefs.ErrInvalidArgument, "network %s is ambiguous (%d matches found based on ID prefix)", ref, len(byPrefix))
	}
	return nil, refuse(errdefs.ErrNotFound, "network %s not found", ref)
}

// inspect adds what is attached to a network.
func (s *state) inspect(nw network.Network) network.Inspect {
	i := network.Inspect{Network: nw, Containers: map[string]network.EndpointResource{}}
	for _, e := range s.endpoints {
		if e.network != nw.ID {
			continue
		}
		i.Containers[e.container] = network.EndpointResource{
			Name: s.nameOf(e.container), EndpointID: e.settings.EndpointID, MacAddress: e.settings.MacAddress,
			IPv4Address: prefix(e.settings.IPAddress, e.settings.IPPrefixLen),
			IPv6Address: prefix(e.settings.GlobalIPv6Address, e.settings.GlobalIPv6PrefixLen),
		}
	}
	return i
}

func prefix(a netip.Addr, bits int) netip.Prefix {
	if !a.IsValid() {
		return netip.Prefix{}
	}
	return netip.PrefixFrom(a, bits)
}

func (s *state) nameOf(container string) string {
	for _, b := range s.sandboxes {
		if b.id == container {
			return b.name
		}
	}
	return ""
}

// Settings returns what running containers have of networks, by their IDs.
func (n *Networks) Settings(ctx context.Context) (map[string]container.NetworkSettings, error) {
	s, err := n.read(ctx)
	if err != nil {
		return nil, err
	}
	all := make(map[string]container.NetworkSettings, len(s.sandboxes))
	for _, b := range s.sandboxes {
		ns := container.NetworkSettings{SandboxID: b.id, Ports: maps.Clone(b.ports), Networks: map[string]*network.EndpointSettings{}}
		for _, e := range s.of(b.id) {
			if nw := s.byID(e.network); nw != nil {
				ns.Networks[nw.Name] = &e.settings
			}
		}
		all[b.id] = ns
	}
	return all, nil
}
