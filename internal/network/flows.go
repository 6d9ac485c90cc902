package network

import (
	"github.com/moby/moby/api/types/network"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// forgetFlows makes the host forget the flows of UDP that it translated for a
// container: a client that goes on sending would otherwise never reach the next one
// that has the port. Without the kernel's help they end by themselves.
func (h machine) forgetFlows(st *state, id string) {
	for _, b := range st.sandboxes {
		if b.id != id {
			continue
		}
		udp := false
		for port := range b.ports {
			udp = udp || port.Proto() == network.UDP
		}
		if !udp {
			return
		}
	}
	for _, e := range st.of(id) {
		if !e.settings.IPAddress.IsValid() {
			continue
		}
		var filter netlink.ConntrackFilter
		if filter.AddProtocol(unix.IPPROTO_UDP) != nil || filter.AddIP(netlink.ConntrackReplySrcIP, e.settings.IPAddress.AsSlice()) != nil {
			return
		}
		_ = h.host(func() error {
			_, err := netlink.ConntrackDeleteFilters(netlink.ConntrackTable, unix.AF_INET, &filter)
			return err
		})
	}
}
