package network

import (
	"crypto/rand"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/network"
)

// pools yields docker's default address pools.
func pools() []netip.Prefix {
	var list []netip.Prefix
	for i := range 15 {
		list = append(list, netip.PrefixFrom(netip.AddrFrom4([4]byte{172, byte(17 + i)}), 16))
	}
	for i := range 16 {
		list = append(list, netip.PrefixFrom(netip.AddrFrom4([4]byte{192, 168, byte(16 * i)}), 20))
	}
	return list
}

// freePool returns the first default pool that overlaps none of taken.
func freePool(taken []netip.Prefix) (netip.Prefix, error) {
	for _, p := range pools() {
		if !slices.ContainsFunc(taken, p.Overlaps) {
			return p, nil
		}
	}
	return netip.Prefix{}, refuse(errdefs.ErrResourceExhausted, "all predefined address pools have been fully subnetted")
}

// uniqueLocal returns a subnet for IPv6 that nobody else has (RFC 4193).
func uniqueLocal() netip.Prefix {
	a := [16]byte{0xfd}
	_, _ = rand.Read(a[1:6]) // never fails
	return netip.PrefixFrom(netip.AddrFrom16(a), 64)
}

// validateIPAM checks the addresses that somebody wants for a network, as docker's
// daemon does.
func validateIPAM(ipam *network.IPAM, ipv6 bool) error {
	var errs []error
	for _, c := range ipam.Config {
		s := c.Subnet
		if !s.IsValid() {
			errs = append(errs, fmt.Errorf("invalid subnet %s: invalid CIDR block notation", s))
			continue
		}
		if s.Addr().Is6() && !ipv6 {
			continue
		}
		if s != s.Masked() {
			errs = append(errs, fmt.Errorf("invalid subnet %s: it should be %s", s, s.Masked()))
		}
		errs = append(errs, validateRange(c.IPRange, s))
		if c.Gateway.IsValid() {
			errs = append(errs, within("gateway "+c.Gateway.String(), c.Gateway, s))
		}
		for _, name := range slices.Sorted(maps.Keys(c.AuxAddress)) {
			errs = append(errs, within("auxiliary address "+name, c.AuxAddress[name], s))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return refuse(errdefs.ErrInvalidArgument, "invalid network config:\n%s", err)
	}
	pools := map[bool]int{} // by whether they are of IPv6
	for _, c := range ipam.Config {
		is6 := c.Subnet.Addr().Is6()
		if pools[is6]++; pools[is6] > 1 && (ipv6 || !is6) {
			return refuse(errdefs.ErrPermissionDenied, "bridge driver doesn't support multiple subnets")
		}
	}
	return nil
}

func validateRange(r, s netip.Prefix) error {
	switch {
	case !r.IsValid():
		return nil
	case r.Addr().Is4() != s.Addr().Is4():
		return fmt.Errorf("invalid ip-range %s: parent subnet is an %s block", r, family(s.Addr()))
	case r != r.Masked():
		return fmt.Errorf("invalid ip-range %s: it should be %s", r, r.Masked())
	case r.Bits() < s.Bits():
		return fmt.Errorf("invalid ip-range %s: CIDR block is bigger than its parent subnet %s", r, s)
	case !s.Overlaps(r):
		return fmt.Errorf("invalid ip-range %s: parent subnet %s doesn't contain ip-range", r, s)
	}
	return nil
}

func within(what string, a netip.Addr, s netip.Prefix) error {
	switch {
	case a.Is4() != s.Addr().Is4():
		return fmt.Errorf("invalid %s: parent subnet is an %s block", what, family(s.Addr()))
	case !s.Contains(a):
		return fmt.Errorf("invalid %s: parent subnet %s doesn't contain this address", what, s)
	}
	return nil
}

func family(a netip.Addr) string {
	if a.Is4() {
		return "IPv4"
	}
	return "IPv6"
}

// choose returns the lowest address of a pool that nobody has.
func choose(pool network.IPAMConfig, used map[netip.Addr]bool) (netip.Addr, bool) {
	within := pool.IPRange
	if !within.IsValid() {
		within = pool.Subnet
	}
	for a := within.Masked().Addr(); within.Contains(a); a = a.Next() {
		if !used[a] && !reserved(pool, a) {
			return a, true
		}
	}
	return netip.Addr{}, false
}

// reserved reports whether no container may have an address of a pool: the subnet's
// own, its broadcast address, the gateway, and what is said to be elsewhere.
func reserved(pool network.IPAMConfig, a netip.Addr) bool {
	if a == pool.Gateway || a == pool.Subnet.Masked().Addr() || a.Is4() && !pool.Subnet.Contains(a.Next()) {
		return true
	}
	for _, aux := range pool.AuxAddress {
		if aux == a {
			return true
		}
	}
	return false
}

// macOf derives the hardware address from the address, as docker long did: who gets
// an address again has the one that neighbours remember.
func macOf(a netip.Addr) network.HardwareAddr {
	b := a.AsSlice()
	return append(network.HardwareAddr{0x02, 0x42}, b[len(b)-4:]...)
}

// parseMAC checks a hardware address that somebody wants.
func parseMAC(mac network.HardwareAddr) error {
	if len(mac) != 0 && (len(mac) != 6 || mac[0]&1 != 0) {
		return refuse(errdefs.ErrInvalidArgument, "invalid MAC address %s", net.HardwareAddr(mac))
	}
	return nil
}
