package network

import (
	"context"
	"crypto/rand"
	"database/sql"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/network"
)

// Member is a container that is to have networks.
type Member struct {
	ID, Name             string
	Hostname, Domainname string
	Namespace            string // path of its network namespace; "" is the host's
	// Networks are its networks, by names or IDs, as the user wants them.
	Networks map[string]*network.EndpointSettings
	// Ports are what is published: by port of the container, where on the host. A
	// binding without a port, and one of several, takes a free one.
	Ports network.PortMap
	Links []string // of the default network: NAME or NAME:ALIAS

	DNS        []netip.Addr // servers, in place of the host's
	DNSSearch  []string
	DNSOptions []string
	ExtraHosts []string // NAME:ADDRESS
}

// Sandbox is the networking of a running container, as far as it is the process's.
type Sandbox struct {
	networks *Networks
	id       string
	member   Member
	serve    []service
	Names
}

// service is something that a sandbox runs until it is closed.
type service interface{ Close() error }

// Join gives a container its networks: devices, addresses, routes, published ports and
// names. All or nothing is done. Until the sandbox is closed it serves the published
// ports and resolves names. The namespace is the caller's, who is alive for
// Options.Alive.
func (n *Networks) Join(ctx context.Context, m Member) (_ *Sandbox, err error) {
	s := &Sandbox{networks: n, id: m.ID, member: m}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.stop())
		}
	}()
	var ns *os.File
	if m.Namespace != "" {
		if ns, err = os.Open(m.Namespace); err != nil {
			return nil, fmt.Errorf("join networks: %w", err)
		}
		defer func() { err = errors.Join(err, ns.Close()) }()
	}
	err = n.locked(ctx, func(st *state) error {
		if st.has(m.ID) { // of an earlier life of the same container, which counts for nothing
			st.drop([]string{m.ID})
			if err := n.forget(ctx, []string{m.ID}); err != nil {
				return err
			}
		}
		if err := n.join(ctx, s, st, ns); err != nil {
			return errors.Join(err, n.forget(context.WithoutCancel(ctx), []string{m.ID}), n.enforce(context.WithoutCancel(ctx)))
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return s, nil
}

// join does Join's work, under the lock.
func (n *Networks) join(ctx context.Context, s *Sandbox, st *state, ns *os.File) error {
	if err := n.moveDefault(ctx, st); err != nil {
		return err
	}
	list, err := newEndpoints(st, s.member)
	if err != nil {
		return err
	}
	row := sandbox{id: s.id, name: s.member.Name, ports: network.PortMap{}}
	if slices.ContainsFunc(list, func(e endpoint) bool { return e.iface != "" }) {
		names, err := n.newResolver(ns, s.member)
		if err != nil {
			return err
		}
		s.serve = append(s.serve, names)
		if err := s.enterRoom(ctx, st, list); err != nil {
			return err
		}
		row.dnsUDP, row.dnsTCP = names.udp, names.tcp
	}
	via, out := gateway(list, st)
	if out {
		var served []service
		row.ports, served, err = n.publish(ctx, s.member, st.byID(via.network), st.sandboxes)
		s.serve = append(s.serve, served...)
		if err != nil {
			return fmt.Errorf("driver failed programming external connectivity on endpoint %s (%s): %w",
				s.member.Name, via.settings.EndpointID, err)
		}
	}
	err = n.note(ctx, func(tx *sql.Tx) error {
		errs := []error{insertSandbox(ctx, tx, row)}
		for _, e := range list {
			errs = append(errs, insertEndpoint(ctx, tx, e), n.opts.Event(ctx, tx, "connect", *st.byID(e.network), s.id))
		}
		return errors.Join(errs...)
	})
	if err != nil {
		return err
	}
	st.sandboxes, st.endpoints = append(st.sandboxes, row), append(st.endpoints, list...)
	if ns != nil {
		if err := n.wire(st, list, ns, row); err != nil {
			return err
		}
	}
	s.Names, err = namesOf(s.member, list, st)
	return err
}

// wire makes the devices, routes and rules of a container.
func (n *Networks) wire(st *state, list []endpoint, ns *os.File, row sandbox) error {
	if err := inside(ns, raiseLoopback); err != nil {
		return err
	}
	bridged := false
	for _, e := range list {
		nw := st.byID(e.network)
		if nw.Driver != driverBridge {
			continue
		}
		bridged = true
		if err := n.host(func() error { return n.plug(*nw, e, ns) }); err != nil {
			return err
		}
	}
	if !bridged {
		return nil
	}
	if _, out := gateway(list, st); out {
		if err := route(ns, list, st); err != nil {
			return err
		}
	}
	if needsNames(list, st) {
		if err := redirectNames(ns, row); err != nil {
			return err
		}
	}
	return n.enforceState(*st)
}

// newEndpoints chooses what a container gets of its networks: the network that it is
// named with is eth0, in the order of names.
func newEndpoints(st *state, m Member) (list []endpoint, err error) {
	wanted := map[string]*network.EndpointSettings{} // by ID
	var found []*network.Network
	for _, ref := range slices.Sorted(maps.Keys(m.Networks)) {
		nw, err := st.find(ref)
		if err != nil {
			return nil, err
		}
		if _, twice := wanted[nw.ID]; !twice {
			found = append(found, nw)
		}
		wanted[nw.ID] = m.Networks[ref]
	}
	slices.SortFunc(found, func(a, b *network.Network) int { return strings.Compare(a.Name, b.Name) })
	for _, nw := range found {
		if len(found) > 1 && nw.Driver != driverBridge {
			return nil, refuse(errdefs.ErrInvalidArgument, "container cannot be connected to multiple networks with one of the networks in private (none) mode")
		}
		e, err := newEndpoint(st, *nw, m, wanted[nw.ID], list)
		if err != nil {
			return nil, err
		}
		list = append(list, e)
	}
	return list, nil
}

// newEndpoint chooses the addresses of an endpoint; others are the container's.
func newEndpoint(st *state, nw network.Network, m Member, want *network.EndpointSettings, others []endpoint) (e endpoint, err error) {
	if want == nil {
		want = &network.EndpointSettings{}
	}
	if err := validateEndpoint(nw, want); err != nil {
		return e, err
	}
	e = endpoint{network: nw.ID, container: m.ID, settings: *want.Copy()}
	es := &e.settings
	es.NetworkID, es.EndpointID = nw.ID, newID()
	if nw.Driver != driverBridge {
		return e, nil
	}
	e.link, e.iface = newLink(), freeInterface(others)
	if !predefined(nw) {
		es.DNSNames = dnsNames(m, want.Aliases)
	}
	used := map[netip.Addr]bool{}
	for _, o := range st.endpoints {
		if o.network == nw.ID {
			used[o.settings.IPAddress], used[o.settings.GlobalIPv6Address] = true, true
		}
	}
	var ipam network.EndpointIPAMConfig
	if want.IPAMConfig != nil {
		ipam = *want.IPAMConfig
	}
	if nw.EnableIPv4 {
		a, pool, err := take(nw, ipam.IPv4Address, used, true)
		if err != nil {
			return e, err
		}
		es.IPAddress, es.IPPrefixLen = a, pool.Subnet.Bits()
		if !nw.Internal {
			es.Gateway = pool.Gateway
		}
	}
	if nw.EnableIPv6 {
		a, pool, err := take(nw, ipam.IPv6Address, used, false)
		if err != nil {
			return e, err
		}
		es.GlobalIPv6Address, es.GlobalIPv6PrefixLen = a, pool.Subnet.Bits()
		if !nw.Internal {
			es.IPv6Gateway = pool.Gateway
		}
	}
	if len(es.MacAddress) == 0 && es.IPAddress.IsValid() {
		es.MacAddress = macOf(es.IPAddress)
	} else if len(es.MacAddress) == 0 {
		es.MacAddress = macOf(es.GlobalIPv6Address)
	}
	return e, nil
}

// take takes the address that is wanted, or a free one.
func take(nw network.Network, want netip.Addr, used map[netip.Addr]bool, is4 bool) (netip.Addr, network.IPAMConfig, error) {
	for _, pool := range nw.IPAM.Config {
		if pool.Subnet.Addr().Is4() != is4 {
			continue
		}
		if want.IsValid() {
			if !pool.Subnet.Contains(want) {
				continue
			}
			if used[want] || reserved(pool, want) {
				return want, pool, refuse(errdefs.ErrPermissionDenied, "Address already in use")
			}
			return want, pool, nil
		}
		if a, ok := choose(pool, used); ok {
			return a, pool, nil
		}
	}
	fam := "IPv6"
	if is4 {
		fam = "IPv4"
	}
	return want, network.IPAMConfig{}, refuse(errdefs.ErrResourceExhausted, "no available %s addresses on this network's address pools: %s (%s)", fam, nw.Name, nw.ID)
}

// validateEndpoint checks what a user wants of a network, as docker's daemon does.
func validateEndpoint(nw network.Network, want *network.EndpointSettings) error {
	var errs []error
	var ipam network.EndpointIPAMConfig
	if want.IPAMConfig != nil {
		ipam = *want.IPAMConfig
	}
	if predefined(nw) {
		if ipam.IPv4Address.IsValid() || ipam.IPv6Address.IsValid() {
			errs = append(errs, errors.New("user specified IP address is supported on user defined networks only"))
		}
		if len(want.Aliases) > 0 {
			errs = append(errs, errors.New("network-scoped alias is supported only for containers in user defined networks"))
		}
	} else {
		for _, a := range []netip.Addr{ipam.IPv4Address, ipam.IPv6Address} {
			if a.IsValid() && !slices.ContainsFunc(nw.IPAM.Config, func(c network.IPAMConfig) bool { return c.Subnet.Contains(a) }) {
				errs = append(errs, fmt.Errorf("no configured subnet or ip-range contain the IP address %s", a))
			}
		}
	}
	if err := errors.Join(errs...); err != nil {
		return refuse(errdefs.ErrInvalidArgument, "invalid endpoint settings:\n%s", err)
	}
	return parseMAC(want.MacAddress)
}

// dnsNames are the names by which others of a network find a container, the one that
// its address has first.
func dnsNames(m Member, aliases []string) []string {
	names := slices.Concat([]string{m.Name}, aliases, []string{short(m.ID), m.Hostname})
	var list []string
	for _, name := range names {
		if name != "" && !slices.Contains(list, name) {
			list = append(list, name)
		}
	}
	return list
}

// newLink makes up the name of the host's end of an endpoint.
func newLink() string {
	var b [4]byte
	_, _ = rand.Read(b[:]) // never fails
	return "veth" + hex.EncodeToString(b[:])
}

// freeInterface is the first name that none of a container's interfaces has.
func freeInterface(have []endpoint) string {
	for i := 0; ; i++ {
		name := fmt.Sprintf("eth%d", i)
		if !slices.ContainsFunc(have, func(e endpoint) bool { return e.iface == name }) {
			return name
		}
	}
}

// Close ends what the sandbox serves, and drops its rows and rules. The devices go
// with the namespace.
func (s *Sandbox) Close(ctx context.Context) error {
	err := s.stop()
	return errors.Join(err, s.networks.locked(ctx, func(st *state) error {
		s.networks.forgetFlows(st, s.id)
		err := s.networks.note(ctx, func(tx *sql.Tx) error {
			errs := []error{forgetOne(ctx, tx, s.id)}
			for _, e := range st.of(s.id) {
				if nw := st.byID(e.network); nw != nil {
					errs = append(errs, s.networks.opts.Event(ctx, tx, "disconnect", *nw, s.id))
				}
			}
			return errors.Join(errs...)
		})
		if err != nil {
			return err
		}
		st.drop([]string{s.id})
		return s.networks.enforceState(*st)
	}))
}

// stop ends what the sandbox serves.
func (s *Sandbox) stop() error {
	var errs []error
	for _, c := range s.serve {
		errs = append(errs, c.Close())
	}
	s.serve = nil
	return errors.Join(errs...)
}
