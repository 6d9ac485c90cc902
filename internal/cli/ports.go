package cli

import (
	"cmp"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"

	"github.com/moby/moby/api/types/container"
)

// portRange is ports in a row, which are published under their own numbers or not at all.
type portRange struct {
	host        string // address; "" is not published
	kind        string
	first, last uint16
}

// portsText is docker's text of ports, in its order: those in a row as one, and last those that are published under other numbers, as in
// 443/tcp, 0.0.0.0:80-81->80-81/tcp, 0.0.0.0:8080->90/tcp.
func portsText(ports []container.PortSummary) string {
	ports = slices.Clone(ports)
	slices.SortStableFunc(ports, func(a, b container.PortSummary) int {
		return cmp.Or(cmp.Compare(a.PrivatePort, b.PrivatePort), a.IP.Compare(b.IP), cmp.Compare(a.PublicPort, b.PublicPort), cmp.Compare(a.Type, b.Type))
	})
	var ended, moved []string
	var open []portRange // one for each address and kind
	for _, p := range ports {
		r := portRange{kind: p.Type, first: p.PrivatePort, last: p.PrivatePort}
		if p.IP.IsValid() {
			r.host = p.IP.String()
		}
		if r.host != "" && p.PublicPort != p.PrivatePort {
			moved = append(moved, fmt.Sprintf("%s->%d/%s", net.JoinHostPort(r.host, strconv.Itoa(int(p.PublicPort))), p.PrivatePort, p.Type))
			continue
		}
		switch i := slices.IndexFunc(open, func(o portRange) bool { return o.host == r.host && o.kind == r.kind }); {
		case i < 0:
			open = append(open, r)
		case open[i].last+1 == r.first:
			open[i].last = r.last
		default:
			ended = append(ended, open[i].String())
			open[i] = r
		}
	}
	for _, r := range open {
		ended = append(ended, r.String())
	}
	return strings.Join(append(ended, moved...), ", ")
}

func (r portRange) String() string {
	span := strconv.Itoa(int(r.first))
	if r.first != r.last {
		span = fmt.Sprintf("%d-%d", r.first, r.last)
	}
	if r.host != "" {
		return fmt.Sprintf("%s->%s/%s", net.JoinHostPort(r.host, span), span, r.kind)
	}
	return span + "/" + r.kind
}
