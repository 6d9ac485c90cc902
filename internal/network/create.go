package network

import (
	"context"
	"database/sql"
	"errors"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/network"
)

// What a network may be told.
const (
	maxName   = 253
	maxConfig = 64 << 10 // bytes of labels and options
)

// Create makes a network and returns its ID. Its bridge is made when a container
// needs it.
func (n *Networks) Create(ctx context.Context, req network.CreateRequest) (id string, err error) {
	nw, err := newNetwork(req)
	if err != nil {
		return "", err
	}
	err = n.locked(ctx, func(s *state) error {
		if slices.ContainsFunc(s.networks, func(o network.Network) bool { return o.Name == nw.Name }) {
			return refuse(errdefs.ErrAlreadyExists, "network with name %s already exists", nw.Name)
		}
		bridge := nw.Options[optionBridge]
		for _, o := range s.networks {
			if bridge != "" && n.bridgeOf(o) == bridge {
				return refuse(errdefs.ErrPermissionDenied, "cannot create network %s (%s): conflicts with network %s (%s): networks have same bridge name",
					nw.ID, bridge, o.ID, bridge)
			}
		}
		if err := assign(&nw, req.IPAM, s.networks); err != nil {
			return err
		}
		return writing(n.opts.DB.Update(ctx, func(tx *sql.Tx) error {
			return errors.Join(insertNetwork(ctx, tx, nw), n.opts.Event(ctx, tx, "create", nw, ""))
		}))
	})
	return nw.ID, err
}

// newNetwork is what a request asks for, without addresses.
func newNetwork(req network.CreateRequest) (nw network.Network, err error) {
	invalid := errdefs.ErrInvalidArgument
	switch {
	case slices.Contains([]string{nameBridge, nameHost, nameNone, network.NetworkDefault}, req.Name):
		return nw, refuse(errdefs.ErrPermissionDenied, "operation is not permitted on predefined %s network", req.Name)
	case strings.TrimSpace(req.Name) == "":
		return nw, refuse(invalid, "network name cannot be empty")
	case strings.HasPrefix(req.Name, "container:") || len(req.Name) > maxName || strings.ContainsFunc(req.Name, func(r rune) bool { return r < ' ' || r == 0x7f }):
		return nw, refuse(invalid, "invalid network name %q", req.Name)
	case req.Ingress || req.Scope == "swarm" || req.Driver == "overlay":
		return nw, refuse(errdefs.ErrPermissionDenied, "This node is not a swarm manager. Use \"docker swarm init\" or \"docker swarm join\" to connect this node to swarm and try again.")
	case req.Scope != "" && req.Scope != "local":
		return nw, refuse(invalid, "invalid value for scope: %s", req.Scope)
	case req.ConfigOnly || req.ConfigFrom != nil && req.ConfigFrom.Network != "":
		return nw, refuse(errdefs.ErrNotImplemented, "networks of configuration alone are not supported")
	case req.Driver == driverHost || req.Driver == driverNull:
		return nw, refuse(errdefs.ErrPermissionDenied, "only one instance of \"%s\" network is allowed", req.Driver)
	case req.Driver != "" && req.Driver != driverBridge:
		return nw, refuse(errdefs.ErrNotFound, "could not find plugin %s in v1 plugin registry: plugin not found", req.Driver)
	case req.IPAM != nil && req.IPAM.Driver != "" && req.IPAM.Driver != "default":
		return nw, refuse(invalid, "invalid ipam driver: \"%s\"", req.IPAM.Driver)
	}
	nw = network.Network{
		Name: req.Name, ID: newID(), Created: time.Now().UTC(), Scope: "local", Driver: driverBridge, EnableIPv4: true,
		Internal: req.Internal, Attachable: req.Attachable, Options: maps.Clone(req.Options), Labels: maps.Clone(req.Labels),
		IPAM: network.IPAM{Driver: "default", Options: map[string]string{}},
	}
	if req.IPAM != nil && req.IPAM.Options != nil {
		nw.IPAM.Options = req.IPAM.Options
	}
	if req.EnableIPv4 != nil {
		nw.EnableIPv4 = *req.EnableIPv4
	}
	nw.EnableIPv6 = req.EnableIPv6 != nil && *req.EnableIPv6
	if !nw.EnableIPv4 && !nw.EnableIPv6 {
		return nw, refuse(invalid, "IPv4 or IPv6 must be enabled")
	}
	if nw.Options == nil {
		nw.Options = map[string]string{}
	}
	if nw.Labels == nil {
		nw.Labels = map[string]string{}
	}
	return nw, checkOptions(nw)
}

// checkOptions refuses options that mean nothing, and too many of them.
func checkOptions(nw network.Network) error {
	size := 0
	for _, m := range []map[string]string{nw.Options, nw.Labels} {
		for k, v := range m {
			size += len(k) + len(v)
		}
	}
	if size > maxConfig {
		return refuse(errdefs.ErrInvalidArgument, "labels and options of a network: more than %d bytes", maxConfig)
	}
	for _, key := range []string{optionICC, optionMasquerade} {
		if v, ok := nw.Options[key]; ok {
			if _, err := strconv.ParseBool(v); err != nil {
				return refuse(errdefs.ErrInvalidArgument, "failed to parse %s value: %s (%v)", key, v, err)
			}
		}
	}
	if v, ok := nw.Options[optionMTU]; ok {
		mtu, err := strconv.Atoi(v)
		if err == nil && (mtu < 0 || mtu > 65535) {
			err = errors.New("not an MTU")
		}
		if err != nil {
			return refuse(errdefs.ErrInvalidArgument, "failed to parse %s value: %s (%v)", optionMTU, v, err)
		}
	}
	if v, ok := nw.Options[optionHostIP]; ok {
		if a, err := netip.ParseAddr(v); err != nil || !a.Is4() {
			return refuse(errdefs.ErrInvalidArgument, "failed to parse %s value: %s: not an IPv4 address", optionHostIP, v)
		}
	}
	// Where it is shorter than a device's name may be, the kernel takes it.
	if v := nw.Options[optionBridge]; len(v) > 15 || strings.ContainsAny(v, "/: \t\n") || v == "." || v == ".." {
		return refuse(errdefs.ErrInvalidArgument, "invalid bridge name: %q", v)
	}
	return nil
}

// flag reads an option of a network that is a boolean, and on unless said otherwise.
func flag(nw network.Network, key string) bool {
	on, err := strconv.ParseBool(nw.Options[key])
	return on || err != nil
}

// assign gives a network the addresses that were asked for, or free ones.
func assign(nw *network.Network, want *network.IPAM, others []network.Network) error {
	var taken []netip.Prefix
	for _, o := range others {
		for _, c := range o.IPAM.Config {
			taken = append(taken, c.Subnet)
		}
	}
	var config []network.IPAMConfig
	if want != nil {
		if err := validateIPAM(want, nw.EnableIPv6); err != nil {
			return err
		}
		config = slices.Clone(want.Config)
	}
	has := map[bool]bool{} // by whether it is IPv4
	for _, c := range config {
		if slices.ContainsFunc(taken, c.Subnet.Overlaps) {
			return refuse(errdefs.ErrPermissionDenied, "invalid pool request: Pool overlaps with other one on this address space")
		}
		taken = append(taken, c.Subnet)
		has[c.Subnet.Addr().Is4()] = true
	}
	if nw.EnableIPv4 && !has[true] {
		routed, err := hostRoutes()
		if err != nil {
			return err
		}
		pool, err := freePool(append(taken, routed...))
		if err != nil {
			return err
		}
		config = append(config, network.IPAMConfig{Subnet: pool})
	}
	if nw.EnableIPv6 && !has[false] {
		config = append(config, network.IPAMConfig{Subnet: uniqueLocal()})
	}
	for _, c := range config {
		if is4 := c.Subnet.Addr().Is4(); is4 && !nw.EnableIPv4 || !is4 && !nw.EnableIPv6 {
			continue
		}
		if !c.Gateway.IsValid() {
			gateway, ok := choose(c, nil)
			if !ok {
				return refuse(errdefs.ErrInvalidArgument, "failed to allocate gateway (): no available addresses in %s", c.Subnet)
			}
			c.Gateway = gateway
		}
		nw.IPAM.Config = append(nw.IPAM.Config, c)
	}
	return nil
}

// predefine makes the predefined networks where they lack, under the lock.
func (n *Networks) predefine(ctx context.Context, s *state) error {
	if len(s.networks) > 0 {
		return nil
	}
	bridge := network.Network{Name: nameBridge, Driver: driverBridge, Options: map[string]string{
		"com.docker.network.bridge.default_bridge": "true", optionICC: "true", optionMasquerade: "true", optionHostIP: "0.0.0.0",
		optionBridge: n.first, optionMTU: "1500",
	}}
	for _, nw := range []network.Network{bridge, {Name: nameHost, Driver: driverHost}, {Name: nameNone, Driver: driverNull}} {
		nw.ID, nw.Created, nw.Scope, nw.EnableIPv4 = newID(), time.Now().UTC(), "local", true
		nw.IPAM.Driver, nw.Labels = "default", map[string]string{}
		if nw.Options == nil {
			nw.Options = map[string]string{}
		}
		if nw.Driver == driverBridge {
			if err := assign(&nw, nil, nil); err != nil {
				return err
			}
		}
		s.networks = append(s.networks, nw)
	}
	return writing(n.opts.DB.Update(ctx, func(tx *sql.Tx) error {
		var errs []error
		for _, nw := range s.networks {
			errs = append(errs, insertNetwork(ctx, tx, nw))
		}
		return errors.Join(errs...)
	}))
}

// moveDefault gives the default network other addresses where, since it got its own and
// while nothing is attached to it, somebody else has made a network of the host of them:
// docker, or another store.
func (n *Networks) moveDefault(ctx context.Context, st *state) error {
	nw, err := st.find(nameBridge)
	if err != nil || slices.ContainsFunc(st.endpoints, func(e endpoint) bool { return e.network == nw.ID }) {
		return err
	}
	there := false
	err = n.host(func() (err error) {
		there, err = isThere(n.bridgeOf(*nw))
		return err
	})
	if err != nil || there {
		return err
	}
	routed, err := hostRoutes()
	if err != nil {
		return err
	}
	mine := func(p netip.Prefix) bool {
		return slices.ContainsFunc(nw.IPAM.Config, func(c network.IPAMConfig) bool { return c.Subnet.Overlaps(p) })
	}
	if !slices.ContainsFunc(routed, mine) {
		return nil
	}
	others := slices.DeleteFunc(slices.Clone(st.networks), func(o network.Network) bool { return o.ID == nw.ID })
	nw.IPAM.Config = nil
	if err := assign(nw, nil, others); err != nil {
		return err
	}
	return n.note(ctx, func(tx *sql.Tx) error {
		if _, err := tx.ExecContext(ctx, "DELETE FROM networks WHERE id = $1", nw.ID); err != nil {
			return err
		}
		return insertNetwork(ctx, tx, *nw)
	})
}

// bridgeOf is the name of a network's device; "" if it has none.
func (h machine) bridgeOf(nw network.Network) string {
	switch {
	case nw.Driver != driverBridge:
		return ""
	case nw.Options[optionBridge] != "":
		return nw.Options[optionBridge]
	}
	return "br-" + short(nw.ID)
}
