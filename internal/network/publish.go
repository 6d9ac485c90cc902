package network

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/network"
	"golang.org/x/sys/unix"
)

// maxPublished bounds the bindings of a container: each holds two sockets.
const maxPublished = 4096

// wish is one binding that a container wants: a port of the host, of those from first
// to last, on all of ips.
type wish struct {
	port        network.Port
	ips         []netip.Addr
	first, last uint16
}

// publish binds the ports of the host that a container wants. What it binds is its
// own as long as the process lives; what comes there by way of the packet filter goes
// to the container directly, and what does not is passed on by the process. On
// failure it returns what it bound before.
func (n *Networks) publish(ctx context.Context, m Member, nw *network.Network, others []sandbox) (network.PortMap, []service, error) {
	wishes, err := wishesOf(m.Ports, *nw)
	if err != nil {
		return nil, nil, err
	}
	taken := map[string]bool{} // by others, and by ourselves so far
	for _, o := range others {
		for port, bindings := range o.ports {
			for _, b := range bindings {
				taken[string(port.Proto())+b.HostPort] = true
			}
		}
	}
	all, serve := network.PortMap{}, []service(nil)
	for _, w := range wishes {
		number, socks, err := w.bind(append(others, sandbox{ports: all}), taken)
		if err != nil {
			return nil, serve, err
		}
		taken[string(w.port.Proto())+strconv.Itoa(int(number))] = true
		for i, sock := range socks {
			all[w.port] = append(all[w.port], network.PortBinding{HostIP: w.ips[i], HostPort: strconv.Itoa(int(number))})
			serve = append(serve, newProxy(context.WithoutCancel(ctx), sock, n.dialer(m, w.port)))
		}
	}
	return all, serve, nil
}

// wishesOf reads bindings, in the order of the container's ports.
func wishesOf(ports network.PortMap, nw network.Network) (list []wish, err error) {
	sorted := make([]network.Port, 0, len(ports))
	for p := range ports {
		sorted = append(sorted, p)
	}
	slices.SortFunc(sorted, func(a, b network.Port) int {
		return int(a.Num()) - int(b.Num()) + 65536*strings.Compare(string(a.Proto()), string(b.Proto()))
	})
	low, high := ephemeral()
	for _, p := range sorted {
		if p.Proto() != network.TCP && p.Proto() != network.UDP {
			return nil, refuse(errdefs.ErrNotImplemented, "publishing a port of protocol %s is not supported", p.Proto())
		}
		for _, b := range ports[p] {
			w := wish{port: p, first: low, last: high}
			if first, last, ranged := strings.Cut(b.HostPort, "-"); b.HostPort != "" && b.HostPort != "0" {
				if !ranged {
					last = first
				}
				from, fromErr := strconv.ParseUint(first, 10, 16)
				to, toErr := strconv.ParseUint(last, 10, 16)
				if fromErr != nil || toErr != nil || from > to || from == 0 {
					return nil, refuse(errdefs.ErrInvalidArgument, "invalid port specification: %q", b.HostPort)
				}
				w.first, w.last = uint16(from), uint16(to)
			}
			w.ips = hostIPs(b.HostIP, nw)
			list = append(list, w)
		}
	}
	if len(list) > maxPublished {
		return nil, refuse(errdefs.ErrInvalidArgument, "more than %d published ports", maxPublished)
	}
	return list, nil
}

// hostIPs are the addresses of the host that a binding means: where it names none,
// the network's, and where that has none, all.
func hostIPs(want netip.Addr, nw network.Network) []netip.Addr {
	if want.IsValid() {
		return []netip.Addr{want.Unmap()}
	}
	if a, err := netip.ParseAddr(nw.Options[optionHostIP]); err == nil && !a.IsUnspecified() {
		return []netip.Addr{a}
	}
	all := []netip.Addr{netip.IPv4Unspecified()}
	if off, err := isOn("ipv6/conf/all/disable_ipv6"); err == nil && !off {
		all = append(all, netip.IPv6Unspecified())
	}
	return all
}

// ephemeral is the range of ports that the host gives to who wants any.
func ephemeral() (low, high uint16) {
	b, err := os.ReadFile("/proc/sys/net/ipv4/ip_local_port_range")
	if err == nil {
		_, err = fmt.Sscan(string(b), &low, &high)
	}
	if err != nil || low == 0 || high < low {
		return 32768, 60999
	}
	return low, high
}

// bind binds the first free port. Where more than one would do, those that other
// containers have are not tried.
func (w wish) bind(others []sandbox, taken map[string]bool) (number uint16, socks []socket, err error) {
	for p := int(w.first); p <= int(w.last); p++ {
		number = uint16(p)
		if w.first != w.last && p < int(w.last) && taken[string(w.port.Proto())+strconv.Itoa(p)] {
			continue
		}
		if socks, err = w.bindAll(number, others); err == nil || !errors.Is(err, errdefs.ErrPermissionDenied) {
			return number, socks, err
		}
	}
	return 0, nil, err
}

// bindAll binds a port on all addresses, or none.
func (w wish) bindAll(number uint16, others []sandbox) (socks []socket, err error) {
	for _, ip := range w.ips {
		if isTaken(others, w.port.Proto(), ip, number) {
			err = refuse(errdefs.ErrPermissionDenied, "Bind for %s failed: port is already allocated", netip.AddrPortFrom(ip, number))
			break
		}
		sock, listenErr := listen(w.port.Proto(), netip.AddrPortFrom(ip, number))
		if listenErr != nil {
			kind := listenErr
			if errors.Is(listenErr, unix.EADDRINUSE) {
				kind = errdefs.ErrPermissionDenied
			}
			err = refuse(kind, "failed to bind host port %s/%s: %s", netip.AddrPortFrom(ip, number), w.port.Proto(), lastError(listenErr))
			break
		}
		socks = append(socks, sock)
	}
	if err != nil {
		for _, s := range socks {
			err = errors.Join(err, s.Close())
		}
		return nil, err
	}
	return socks, nil
}

// lastError is the system's word for what failed.
func lastError(err error) error {
	if errno, ok := errors.AsType[unix.Errno](err); ok {
		return errno
	}
	return err
}

// isTaken reports whether another container has a port of an address.
func isTaken(others []sandbox, proto network.IPProtocol, ip netip.Addr, number uint16) bool {
	for _, o := range others {
		for port, bindings := range o.ports {
			for _, b := range bindings {
				if port.Proto() == proto && b.HostPort == strconv.Itoa(int(number)) && b.HostIP.Is4() == ip.Is4() &&
					(b.HostIP == ip || b.HostIP.IsUnspecified() || ip.IsUnspecified()) {
					return true
				}
			}
		}
	}
	return false
}

// socket is a *net.TCPListener or a *net.UDPConn.
type socket interface{ io.Closer }

// listen binds one port.
func listen(proto network.IPProtocol, at netip.AddrPort) (socket, error) {
	v := "4"
	if at.Addr().Is6() {
		v = "6"
	}
	if proto == network.UDP {
		return net.ListenUDP("udp"+v, net.UDPAddrFromAddrPort(at))
	}
	return net.ListenTCP("tcp"+v, net.TCPAddrFromAddrPort(at))
}
