package network

import (
	"bufio"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
)

// box is a network namespace with a process in it.
type box struct {
	t    testing.TB
	path string
	kill func()
}

func newBox(t testing.TB) *box {
	t.Helper()
	cmd := exec.Command("/bin/sleep", "1000")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	kill := sync.OnceFunc(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	t.Cleanup(kill)
	return &box{t, fmt.Sprintf("/proc/%d/ns/net", cmd.Process.Pid), kill}
}

// do calls fn in the box.
func (b *box) do(fn func() error) error {
	ns, err := os.Open(b.path)
	if err != nil {
		return err
	}
	defer ns.Close()
	return inside(ns, fn)
}

// run runs a program in the box.
func (b *box) run(args ...string) string {
	b.t.Helper()
	out, err := exec.Command("nsenter", append([]string{"--net=" + b.path}, args...)...).CombinedOutput()
	if err != nil {
		b.t.Fatalf("%s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

// says serves TCP and UDP on a port of the box: who asks hears name and his own address.
func (b *box) says(name string, port int) {
	b.t.Helper()
	var l net.Listener
	var p net.PacketConn
	err := b.do(func() (err error) {
		if l, err = net.Listen("tcp", fmt.Sprintf(":%d", port)); err != nil {
			return err
		}
		p, err = net.ListenPacket("udp", fmt.Sprintf(":%d", port))
		return err
	})
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() { _, _ = l.Close(), p.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = fmt.Fprintf(c, "%s to %s\n", name, c.RemoteAddr().(*net.TCPAddr).IP)
			_ = c.Close()
		}
	}()
	go func() {
		buf := make([]byte, 100)
		for {
			_, from, err := p.ReadFrom(buf)
			if err != nil {
				return
			}
			_, _ = p.WriteTo(fmt.Appendf(nil, "%s to %s\n", name, from.(*net.UDPAddr).IP), from)
		}
	}()
}

// hear asks such a server; "" is no answer.
func (b *box) hear(proto, at string) string {
	b.t.Helper()
	var c net.Conn
	dial := func() (err error) {
		c, err = net.DialTimeout(proto, at, 2*time.Second)
		return err
	}
	var err error
	if b.path == "" {
		err = dial()
	} else {
		err = b.do(dial)
	}
	if err != nil {
		return ""
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(2 * time.Second))
	if proto == "udp" {
		_, _ = c.Write([]byte("?"))
	}
	line, _ := bufio.NewReader(c).ReadString('\n')
	return strings.TrimSpace(line)
}

// newWorld makes a namespace that the host has a line to: 198.51.100.1 is the host, .2 the
// world, which knows of no container.
func newWorld(t testing.TB) *box {
	t.Helper()
	w := newBox(t)
	ns, err := os.Open(w.path)
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	attrs := netlink.NewLinkAttrs()
	attrs.Name = "uplink"
	pair := &netlink.Veth{LinkAttrs: attrs, PeerName: "downlink", PeerNamespace: netlink.NsFd(ns.Fd())}
	if err := netlink.LinkAdd(pair); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = removeLink("uplink") })
	up := func(name, a string) error {
		link, err := netlink.LinkByName(name)
		if err != nil {
			return err
		}
		return errors.Join(netlink.AddrAdd(link, addr(netip.MustParseAddr(a), 24)), netlink.LinkSetUp(link))
	}
	if err := errors.Join(up("uplink", "198.51.100.1"), w.do(func() error { return errors.Join(raiseLoopback(), up("downlink", "198.51.100.2")) })); err != nil {
		t.Fatal(err)
	}
	return w
}
