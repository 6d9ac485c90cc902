package network

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"runtime"
	"strconv"
	"time"

	"github.com/moby/moby/api/types/network"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// ours is the alias of the devices that we made and may remove.
const ours = "strake"

// aside calls fn on a thread that is not the process's first, whose namespace is the
// process's to others. A thread that is not back in its namespace then ends.
func aside(fn func() (back bool, err error)) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		if unix.Gettid() == os.Getpid() {
			defer runtime.UnlockOSThread()
			done <- aside(fn) // on another: this one is taken
			return
		}
		back, err := fn()
		if back {
			runtime.UnlockOSThread()
		}
		done <- err
	}()
	return <-done
}

// inside calls fn in a network namespace, on a thread that is there meanwhile. An
// ordinary user's thread does not come back to the host's.
func inside(ns *os.File, fn func() error) error {
	return aside(func() (back bool, err error) {
		home, err := os.Open("/proc/thread-self/ns/net")
		if err != nil {
			return true, err
		}
		defer func() { _ = home.Close() }() // only entered
		if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
			return true, fmt.Errorf("enter network namespace: %w", err)
		}
		err = fn()
		return unix.Setns(int(home.Fd()), unix.CLONE_NEWNET) == nil, err
	})
}

// NewNamespace makes a network namespace, which has nothing but a loopback interface
// that is down. It is gone when the file is closed and nobody is in it.
func NewNamespace() (ns *os.File, err error) {
	err = aside(func() (back bool, err error) {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return true, err
		}
		ns, err = os.Open("/proc/thread-self/ns/net")
		return false, err
	})
	if err != nil {
		return nil, fmt.Errorf("make network namespace: %w", err)
	}
	return ns, nil
}

// sysctl sets a setting of the namespace of the thread. Where the kernel has none of
// that name, or lets nobody write to it, required decides.
func sysctl(name, value string, required bool) error {
	path := "/proc/sys/net/" + name
	if b, err := os.ReadFile(path); err == nil && string(b) == value+"\n" {
		return nil
	}
	err := os.WriteFile(path, []byte(value), 0)
	if !required && (errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.EROFS) || errors.Is(err, fs.ErrPermission)) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("set net.%s to %s: %w", name, value, err)
	}
	return nil
}

// isOn reports whether a setting is not 0.
func isOn(name string) (bool, error) {
	b, err := os.ReadFile("/proc/sys/net/" + name)
	return err == nil && string(b) != "0\n", err
}

// hostRoutes lists the networks that the host reaches by its devices: a pool that
// overlaps one would cut it off. The default route is no network.
func hostRoutes() ([]netip.Prefix, error) {
	routes, err := netlink.RouteList(nil, netlink.FAMILY_V4)
	if err != nil {
		return nil, fmt.Errorf("list routes: %w", err)
	}
	var list []netip.Prefix
	for _, r := range routes {
		if r.Dst == nil {
			continue
		}
		if a, ok := netip.AddrFromSlice(r.Dst.IP); ok {
			if ones, _ := r.Dst.Mask.Size(); ones > 0 {
				list = append(list, netip.PrefixFrom(a.Unmap(), ones))
			}
		}
	}
	return list, nil
}

// mtuOf is the MTU of a network's devices; 0 is the kernel's.
func mtuOf(nw network.Network) int {
	mtu, err := strconv.Atoi(nw.Options[optionMTU])
	if err != nil {
		return 0
	}
	return mtu
}

// ensureBridge returns a network's bridge, and makes or completes it.
func (h machine) ensureBridge(nw network.Network) (netlink.Link, error) {
	name := h.bridgeOf(nw)
	fail := func(err error) (netlink.Link, error) {
		return nil, fmt.Errorf("make bridge %s of network %s: %w", name, nw.Name, err)
	}
	link, err := netlink.LinkByName(name)
	if _, ok := errors.AsType[netlink.LinkNotFoundError](err); ok {
		link, err = makeBridge(name, nw)
	}
	if err != nil {
		return fail(err)
	}
	if link.Type() != "bridge" {
		return fail(fmt.Errorf("there is a device of that name that is no bridge"))
	}
	// One that was there, or whose maker died, may lack something.
	have, err := netlink.AddrList(link, netlink.FAMILY_ALL)
	if err != nil {
		return fail(err)
	}
	for _, c := range nw.IPAM.Config {
		want := addr(c.Gateway, c.Subnet.Bits())
		found := false
		for _, a := range have {
			found = found || a.IPNet.String() == want.IPNet.String()
		}
		if found {
			continue
		}
		if err := netlink.AddrReplace(link, want); err != nil {
			return fail(err)
		}
	}
	if link.Attrs().Flags&net.FlagUp == 0 {
		if err := netlink.LinkSetUp(link); err != nil {
			return fail(err)
		}
	}
	return link, nil
}

// makeBridge makes a bridge that has nothing yet.
func makeBridge(name string, nw network.Network) (netlink.Link, error) {
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU, attrs.Alias = name, mtuOf(nw), ours
	// Without one of its own it would have that of one of its ports, by turns.
	attrs.HardwareAddr = net.HardwareAddr(macOf(nw.IPAM.Config[0].Gateway))
	if err := netlink.LinkAdd(&netlink.Bridge{LinkAttrs: attrs}); err != nil && !errors.Is(err, unix.EEXIST) {
		return nil, err
	}
	link, err := netlink.LinkByName(name)
	if err != nil {
		return nil, err
	}
	if err := netlink.LinkSetAlias(link, ours); err != nil {
		return nil, err
	}
	v6 := "1"
	if nw.EnableIPv6 {
		v6 = "0"
	}
	return link, sysctl("ipv6/conf/"+name+"/disable_ipv6", v6, false)
}

// isThere reports whether the host has a device of a name.
func isThere(name string) (bool, error) {
	_, err := netlink.LinkByName(name)
	if _, ok := errors.AsType[netlink.LinkNotFoundError](err); ok {
		return false, nil
	}
	return err == nil, err
}

// removeBridge removes a bridge that we made.
func removeBridge(name string) error {
	link, err := netlink.LinkByName(name)
	if _, ok := errors.AsType[netlink.LinkNotFoundError](err); ok {
		return nil
	}
	if err != nil {
		return err
	}
	if link.Attrs().Alias != ours || link.Type() != "bridge" {
		return nil
	}
	return removeLink(name)
}

// removeLink removes a device, if it is there.
func removeLink(name string) error {
	attrs := netlink.NewLinkAttrs()
	attrs.Name = name
	err := netlink.LinkDel(&netlink.GenericLink{LinkAttrs: attrs})
	if errors.Is(err, unix.ENODEV) {
		return nil
	}
	return err
}

func addr(a netip.Addr, bits int) *netlink.Addr {
	ipnet := &net.IPNet{IP: a.AsSlice(), Mask: net.CIDRMask(bits, a.BitLen())}
	flags := 0
	if a.Is6() {
		flags = unix.IFA_F_NODAD // it is ours alone, and to be used at once
	}
	return &netlink.Addr{IPNet: ipnet, Flags: flags}
}

// plug makes the two devices of an endpoint: one in the bridge, one in ns.
func (h machine) plug(nw network.Network, e endpoint, ns *os.File) error {
	bridge, err := h.ensureBridge(nw)
	if err != nil {
		return err
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU = e.link, mtuOf(nw)
	pair := &netlink.Veth{
		LinkAttrs: attrs, PeerName: e.iface, PeerHardwareAddr: net.HardwareAddr(e.settings.MacAddress), PeerMTU: uint32(attrs.MTU),
		PeerNamespace: netlink.NsFd(ns.Fd()),
	}
	if err := netlink.LinkAdd(pair); err != nil {
		return fmt.Errorf("make interface %s: %w", e.iface, err)
	}
	err = func() error {
		if !nw.EnableIPv6 {
			if err := sysctl("ipv6/conf/"+e.link+"/disable_ipv6", "1", false); err != nil {
				return err
			}
		}
		if err := inside(ns, func() error { return raise(nw, e) }); err != nil {
			return err
		}
		if err := netlink.LinkSetMaster(pair, bridge); err != nil {
			return err
		}
		if err := netlink.LinkSetUp(pair); err != nil {
			return err
		}
		return awaitCarrier(pair)
	}()
	if err != nil {
		return errors.Join(fmt.Errorf("make interface %s: %w", e.iface, err), removeLink(e.link))
	}
	return nil
}

// unplug removes the devices of an endpoint.
func (h machine) unplug(e endpoint) error {
	return h.host(func() error { return removeLink(e.link) })
}

// awaitCarrier waits until the kernel has noticed that a device has a line, for only
// then the bridge forwards what comes from it: a question that is lost in between is
// asked again a second later.
func awaitCarrier(pair netlink.Link) error {
	const step, most = 200 * time.Microsecond, time.Second
	for begin := time.Now(); time.Since(begin) < most; time.Sleep(step) {
		link, err := netlink.LinkByIndex(pair.Attrs().Index)
		if err != nil {
			return err
		}
		if link.Attrs().OperState == netlink.OperUp {
			return nil
		}
	}
	return nil // it will be noticed
}

// raise gives the container's interface its addresses, in its namespace.
func raise(nw network.Network, e endpoint) error {
	if err := raiseLoopback(); err != nil {
		return err
	}
	link, err := netlink.LinkByName(e.iface)
	if err != nil {
		return err
	}
	v6 := "1"
	if nw.EnableIPv6 {
		v6 = "0"
	}
	if err := sysctl("ipv6/conf/"+e.iface+"/disable_ipv6", v6, false); err != nil {
		return err
	}
	if a := e.settings.IPAddress; a.IsValid() {
		if err := netlink.AddrAdd(link, addr(a, e.settings.IPPrefixLen)); err != nil {
			return err
		}
	}
	if a := e.settings.GlobalIPv6Address; a.IsValid() {
		if err := netlink.AddrAdd(link, addr(a, e.settings.GlobalIPv6PrefixLen)); err != nil {
			return err
		}
	}
	return netlink.LinkSetUp(link)
}

// raiseLoopback brings the loopback interface of the thread's namespace up.
func raiseLoopback() error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return err
	}
	if lo.Attrs().Flags&net.FlagUp != 0 {
		return nil
	}
	return netlink.LinkSetUp(lo)
}

// route makes the default routes of a container: by the endpoint that is chosen, or
// by none.
func route(ns *os.File, list []endpoint, s *state) error {
	via, ok := gateway(list, s)
	return inside(ns, func() error {
		for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
			to := via.settings.Gateway
			if family == netlink.FAMILY_V6 {
				to = via.settings.IPv6Gateway
			}
			if ok && to.IsValid() {
				link, err := netlink.LinkByName(via.iface)
				if err != nil {
					return fmt.Errorf("set default route: %w", err)
				}
				if err := netlink.RouteReplace(&netlink.Route{LinkIndex: link.Attrs().Index, Gw: to.AsSlice()}); err != nil {
					return fmt.Errorf("set default route: %w", err)
				}
				continue
			}
			if err := dropDefault(family); err != nil {
				return fmt.Errorf("drop default route: %w", err)
			}
		}
		return nil
	})
}

// dropDefault removes the default routes of the thread's namespace.
func dropDefault(family int) error {
	routes, err := netlink.RouteListFiltered(family, &netlink.Route{Dst: nil}, netlink.RT_FILTER_DST)
	if errors.Is(err, unix.EAFNOSUPPORT) || errors.Is(err, unix.EOPNOTSUPP) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, r := range routes {
		if err := netlink.RouteDel(&r); err != nil && !errors.Is(err, unix.ESRCH) {
			return err
		}
	}
	return nil
}

// gateway chooses the endpoint whose gateway a container goes by: of the highest
// priority, of those the network first by name. An internal network has none.
func gateway(list []endpoint, s *state) (best endpoint, ok bool) {
	var bestName string
	for _, e := range list {
		nw := s.byID(e.network)
		if nw == nil || nw.Internal || nw.Driver != driverBridge {
			continue
		}
		p, q := e.settings.GwPriority, best.settings.GwPriority
		if !ok || p > q || p == q && nw.Name < bestName {
			best, bestName, ok = e, nw.Name, true
		}
	}
	return best, ok
}
