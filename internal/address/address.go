// Package address tells which network addresses a file or a server may send
// Strake to. A link-local address is the machine's own network segment, where
// clouds serve the credentials of their machines: nothing is fetched from there.
// A private address is of an internal network: what comes from the internet may
// not lead there.
package address

import "net/netip"

// LinkLocal reports whether nothing may be fetched from ip: link-local,
// multicast and unspecified addresses.
func LinkLocal(ip netip.Addr) bool {
	ip = ip.Unmap()
	return ip.IsLinkLocalUnicast() || ip.IsMulticast() || ip.IsUnspecified()
}

// Private reports whether ip is not of the public internet.
func Private(ip netip.Addr) bool {
	ip = ip.Unmap()
	return ip.IsPrivate() || ip.IsLoopback() || ip.IsLinkLocalUnicast() ||
		netip.MustParsePrefix("100.64.0.0/10").Contains(ip) || netip.MustParsePrefix("64:ff9b::/96").Contains(ip)
}
