package cli

import (
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"

	"github.com/moby/moby/api/types/container"
)

// portRange is ports in a row that are published at ports in a row.
type portRange struct {
	host        string // address; "" is not published
	kind        string
	first, last uint16 // in the container
	public      uint16 // of the first
}

// portsText is docker's text of ports, those in a row as one: 0.0.0.0:80-81->80-81/tcp, 443/tcp.
func portsText(ports []container.PortSummary) string {
	ports = slices.Clone(ports)
	slices.SortStableFunc(ports, func(a, b container.PortSummary) int {
		if a.PrivatePort != b.PrivatePort {
			return int(a.PrivatePort) - int(b.PrivatePort)
		}
		if a.IP != b.IP {
			return a.IP.Compare(b.IP)
		}
		if a.PublicPort != b.PublicPort {
			return int(a.PublicPort) - int(b.PublicPort)
		}
		return strings.Compare(a.Type, b.Type)
	})
	var ranges []portRange
	for _, p := range ports {
		host := ""
		if p.IP.IsValid() {
			host = p.IP.String()
		}
		at := slices.IndexFunc(ranges, func(r portRange) bool {
			return r.host == host && r.kind == p.Type && p.PrivatePort == r.last+1 &&
				(host == "" || p.PublicPort-r.public == p.PrivatePort-r.first)
		})
		if at >= 0 {
			ranges[at].last = p.PrivatePort
			continue
		}
		ranges = append(ranges, portRange{host, p.Type, p.PrivatePort, p.PrivatePort, p.PublicPort})
	}
	var list []string
	for _, r := range ranges {
		list = append(list, r.String())
	}
	return strings.Join(list, ", ")
}

func (r portRange) String() string {
	span := func(first uint16) string {
		if r.first == r.last {
			return strconv.Itoa(int(first))
		}
		return fmt.Sprintf("%d-%d", first, first+r.last-r.first)
	}
	text := span(r.first) + "/" + r.kind
	if r.host == "" {
		return text
	}
	return net.JoinHostPort(r.host, span(r.public)) + "->" + text
}
