package network

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/moby/moby/api/types/network"
	"github.com/vishvananda/netlink"

	"strake/internal/sqldb"
)

// hostVariable says that the tests run in a network namespace of their own: to them
// it is the host, and the machine's own devices and rules are out of their reach.
const hostVariable = "STRAKE_TEST_HOST"

func TestMain(m *testing.M) {
	if len(os.Args) == 4 && os.Args[3] == KeepCommand {
		if err := Keep(context.Background(), os.Args[2]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	if os.Getenv(hostVariable) != "" {
		os.Exit(m.Run())
	}
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Env = append(os.Environ(), hostVariable+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	if os.Geteuid() != 0 { // to the tests of root's networks an ordinary user is root of the namespace
		cmd.SysProcAttr.Cloneflags |= syscall.CLONE_NEWUSER
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{HostID: os.Getuid(), Size: 1}}
		cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{HostID: os.Getgid(), Size: 1}}
	}
	err := cmd.Run()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		os.Exit(exit.ExitCode())
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// host is a store's networks, whose containers die when the test says so.
type host struct {
	*Networks
	t    testing.TB
	mu   sync.Mutex
	dead map[string]bool
}

func newHost(t testing.TB) *host {
	t.Helper()
	if err := raiseLoopback(); err != nil {
		t.Fatal(err)
	}
	h := &host{t: t, dead: map[string]bool{}}
	h.Networks = h.open(t.TempDir())
	t.Cleanup(func() {
		list, err := h.List(context.Background())
		if err != nil {
			t.Error(err)
		}
		for _, nw := range list {
			if err := removeBridge(h.bridgeOf(nw.Network)); err != nil {
				t.Error(err)
			}
		}
		_ = exec.Command("nft", "delete", "table", "inet", h.table).Run()
	})
	return h
}

func (h *host) open(root string) *Networks {
	h.t.Helper()
	db, err := sqldb.Open(h.t.Context(), sqldb.Options{Path: filepath.Join(root, "strake.db")})
	if err != nil {
		h.t.Fatal(err)
	}
	if err := db.Migrate(h.t.Context(), os.DirFS("../store/migrations")); err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() {
		if err := db.Close(); err != nil {
			h.t.Error(err)
		}
	})
	alive := func(_ context.Context, id string) bool {
		h.mu.Lock()
		defer h.mu.Unlock()
		return !h.dead[id]
	}
	return New(Options{DB: db, Root: root, Alive: alive, Log: func(text string) { h.t.Log(text) }})
}

func (h *host) create(req network.CreateRequest) string {
	h.t.Helper()
	id, err := h.Create(h.t.Context(), req)
	if err != nil {
		h.t.Fatal(err)
	}
	return id
}

// here is the host itself.
func here(t testing.TB) *box { return &box{t: t} }

func (h *host) member(b *box, name string, networks ...string) Member {
	m := Member{ID: fmt.Sprintf("%s%064d", name, 0)[:64], Name: name, Hostname: name, Namespace: b.path, Networks: map[string]*network.EndpointSettings{}}
	for _, nw := range networks {
		m.Networks[nw] = nil
	}
	return m
}

func (h *host) join(m Member) *Sandbox {
	h.t.Helper()
	s, err := h.Join(h.t.Context(), m)
	if err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() {
		if err := s.Close(context.Background()); err != nil {
			h.t.Error(err)
		}
	})
	return s
}

func (h *host) settings(m Member, nw string) network.EndpointSettings {
	h.t.Helper()
	all, err := h.Settings(h.t.Context())
	if err != nil {
		h.t.Fatal(err)
	}
	es := all[m.ID].Networks[nw]
	if es == nil {
		h.t.Fatalf("%s has nothing of %s: %+v", m.Name, nw, all[m.ID])
	}
	return *es
}

func ports(t testing.TB, specs ...string) network.PortMap {
	t.Helper()
	m := network.PortMap{}
	for _, s := range specs { // HOST-IP/HOST-PORT=PORT/PROTO
		at, port, _ := strings.Cut(s, "=")
		ip, number, _ := strings.Cut(at, "/")
		var b network.PortBinding
		if ip != "" {
			b.HostIP = netip.MustParseAddr(ip)
		}
		b.HostPort = number
		p := network.MustParsePort(port)
		m[p] = append(m[p], b)
	}
	return m
}

func TestDefaultNetwork(t *testing.T) {
	h, world := newHost(t), newWorld(t)
	a, b := newBox(t), newBox(t)
	ma, mb := h.member(a, "a", "bridge"), h.member(b, "b", "default")
	sa := h.join(ma)
	h.join(mb)
	if got := h.settings(ma, "bridge"); got.IPAddress != netip.MustParseAddr("172.17.0.2") || got.Gateway != netip.MustParseAddr("172.17.0.1") ||
		got.IPPrefixLen != 16 || got.MacAddress.String() != "02:42:ac:11:00:02" {
		t.Errorf("a has %+v", got)
	}
	b.says("b", 80)
	world.says("world", 80)
	if got := a.hear("tcp", "172.17.0.3:80"); got != "b to 172.17.0.2" {
		t.Errorf("a hears %q of b", got)
	}
	if got := a.hear("tcp", "198.51.100.2:80"); got != "world to 198.51.100.1" {
		t.Errorf("a hears %q of the world", got)
	}
	if got := here(t).hear("tcp", "172.17.0.3:80"); got != "b to 172.17.0.1" {
		t.Errorf("the host hears %q of b", got)
	}
	world.run("ip", "route", "add", "172.17.0.0/16", "via", "198.51.100.1")
	if got := world.hear("tcp", "172.17.0.3:80"); got != "" {
		t.Errorf("the world hears %q of b, who publishes nothing", got)
	}
	if !strings.Contains(string(sa.Hosts), "172.17.0.2\ta\n") {
		t.Errorf("hosts: %s", sa.Hosts)
	}
	if strings.Contains(string(sa.Resolv), "127.0.0") {
		t.Errorf("resolv.conf: %s", sa.Resolv)
	}
}

func TestPublished(t *testing.T) {
	h, world := newHost(t), newWorld(t)
	h.create(network.CreateRequest{Name: "other"})
	h.create(network.CreateRequest{Name: "inner", Internal: true})
	a, b, c, d := newBox(t), newBox(t), newBox(t), newBox(t)
	ma := h.member(a, "a", "bridge")
	ma.Ports = ports(t, "/8080=80/tcp", "/8080=80/udp", "127.0.0.1/8081=80/tcp", "198.51.100.1/8082=80/tcp", "/=80/tcp", "/9000-9001=80/tcp")
	sa := h.join(ma)
	h.join(h.member(b, "b", "bridge"))
	h.join(h.member(c, "c", "other"))
	h.join(h.member(d, "d", "inner"))
	a.says("a", 80)
	all, err := h.Settings(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var bound []string
	for port, list := range all[ma.ID].Ports {
		for _, p := range list {
			bound = append(bound, fmt.Sprintf("%s %s", port, net.JoinHostPort(p.HostIP.String(), p.HostPort)))
		}
	}
	for _, want := range []string{"80/tcp 0.0.0.0:8080", "80/tcp [::]:8080", "80/udp 0.0.0.0:8080", "80/tcp 127.0.0.1:8081", "80/tcp 0.0.0.0:32768", "80/tcp 0.0.0.0:9000"} {
		if !strings.Contains(strings.Join(bound, "\n"), want) {
			t.Errorf("%s is not published: %q", want, bound)
		}
	}
	for _, q := range []struct {
		from      *box
		proto, at string
		want      string
	}{
		{here(t), "tcp", "127.0.0.1:8080", "a to 172.17.0.1"},
		{here(t), "tcp", "[::1]:8080", "a to 172.17.0.1"},
		{here(t), "tcp", "198.51.100.1:8080", "a to 198.51.100.1"},
		{here(t), "udp", "127.0.0.1:8080", "a to 172.17.0.1"},
		{here(t), "tcp", "127.0.0.1:8081", "a to 172.17.0.1"},
		{here(t), "tcp", "127.0.0.1:32768", "a to 172.17.0.1"},
		{world, "tcp", "198.51.100.1:8080", "a to 198.51.100.2"},
		{world, "udp", "198.51.100.1:8080", "a to 198.51.100.2"},
		{world, "tcp", "198.51.100.1:8081", ""},
		{world, "tcp", "198.51.100.1:8082", "a to 198.51.100.2"},
		{world, "tcp", "198.51.100.1:9000", "a to 198.51.100.2"},
		{b, "tcp", "198.51.100.1:8080", "a to 172.17.0.1"},
		{b, "tcp", "172.17.0.1:8080", "a to 172.17.0.1"},
		{b, "udp", "172.17.0.1:8080", "a to 172.17.0.1"},
		{a, "tcp", "172.17.0.1:8080", "a to 172.17.0.1"},
		{c, "tcp", "198.51.100.1:8080", "a to 172.17.0.1"},
		{c, "tcp", "172.17.0.2:80", ""},
		{d, "tcp", "172.19.0.1:8080", ""},
	} {
		if got := q.from.hear(q.proto, q.at); got != q.want {
			t.Errorf("%s hears %q at %s %s, not %q", q.from.path, got, q.proto, q.at, q.want)
		}
	}
	mb := h.member(b, "e", "bridge")
	mb.Ports = ports(t, "/8080=1/tcp")
	_, err = h.Join(t.Context(), mb)
	if err == nil || !strings.Contains(err.Error(), "Bind for 0.0.0.0:8080 failed: port is already allocated") {
		t.Errorf("bound twice: %v", err)
	}
	l, err := net.Listen("tcp4", ":8099")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	mb.Ports = ports(t, "/8099=1/tcp")
	if _, err = h.Join(t.Context(), mb); err == nil || !strings.Contains(err.Error(), "failed to bind host port 0.0.0.0:8099/tcp: address already in use") {
		t.Errorf("bound beside another process: %v", err)
	}
	if err := sa.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := world.hear("tcp", "198.51.100.1:8080"); got != "" {
		t.Errorf("still published: %q", got)
	}
	if out, err := exec.Command("nft", "list", "chain", "inet", h.table, chainPorts).CombinedOutput(); err != nil || strings.Contains(string(out), "dnat") {
		t.Errorf("rules stay: %s %v", out, err)
	}
}

func TestIsolation(t *testing.T) {
	h, world := newHost(t), newWorld(t)
	world.says("world", 80)
	h.create(network.CreateRequest{Name: "one"})
	h.create(network.CreateRequest{Name: "two"})
	h.create(network.CreateRequest{Name: "inner", Internal: true})
	h.create(network.CreateRequest{Name: "apart", Options: map[string]string{optionICC: "false", optionMTU: "1400"}})
	boxes := map[string]*box{}
	members := map[string]Member{}
	for _, name := range []string{"one1", "one2", "two1", "inner1", "inner2", "apart1", "apart2"} {
		boxes[name] = newBox(t)
		members[name] = h.member(boxes[name], name, name[:len(name)-1])
		h.join(members[name])
		boxes[name].says(name, 80)
	}
	for _, q := range []struct {
		from, to string
		want     bool
	}{
		{"one1", "one2", true},
		{"one1", "two1", false},
		{"two1", "one1", false},
		{"inner1", "inner2", true},
		{"inner1", "one1", false},
		{"one1", "inner1", false},
		{"apart1", "apart2", false},
		{"apart1", "one1", false},
	} {
		to := h.settings(members[q.to], q.to[:len(q.to)-1]).IPAddress.String()
		if got := boxes[q.from].hear("tcp", to+":80"); (got != "") != q.want {
			t.Errorf("%s hears %q of %s", q.from, got, q.to)
		}
	}
	for name, want := range map[string]bool{"one1": true, "apart1": true, "inner1": false} {
		if got := boxes[name].hear("tcp", "198.51.100.2:80"); (got != "") != want {
			t.Errorf("%s hears %q of the world", name, got)
		}
	}
	if out := boxes["inner1"].run("ip", "route"); strings.Contains(out, "default") {
		t.Errorf("routes of an internal network: %s", out)
	}
	if out := boxes["apart1"].run("ip", "link", "show", "eth0"); !strings.Contains(out, "mtu 1400") {
		t.Errorf("MTU: %s", out)
	}
}

// TestPolicyDrop: docker, or ufw, has told iptables to forward nothing by itself.
func TestPolicyDrop(t *testing.T) {
	h, world := newHost(t), newWorld(t)
	world.says("world", 80)
	iptables := func(args ...string) string {
		t.Helper()
		out, err := exec.Command("iptables", args...).CombinedOutput()
		if err != nil {
			t.Fatalf("iptables %s: %v: %s", strings.Join(args, " "), err, out)
		}
		return string(out)
	}
	iptables("-P", "FORWARD", "DROP")
	t.Cleanup(func() { iptables("-P", "FORWARD", "ACCEPT"); iptables("-F", "FORWARD") })
	a := newBox(t)
	m := h.member(a, "a", "bridge")
	m.Ports = ports(t, "/8080=80/tcp")
	h.join(m)
	a.says("a", 80)
	if got := a.hear("tcp", "198.51.100.2:80"); got != "world to 198.51.100.1" {
		t.Errorf("a hears %q of the world", got)
	}
	if got := world.hear("tcp", "198.51.100.1:8080"); got != "a to 198.51.100.2" {
		t.Errorf("the world hears %q", got)
	}
	h.create(network.CreateRequest{Name: "one"})
	h.join(h.member(newBox(t), "b", "one"))
	rules := iptables("-S", "FORWARD")
	for _, want := range []string{"-A FORWARD -i " + h.first + " ! -o docker0 ", "-A FORWARD -o " + h.first + " "} {
		if strings.Count(rules, want) != 1 {
			t.Errorf("not once %q in %s", want, rules)
		}
	}
	if strings.Count(rules, "ACCEPT") != 4 {
		t.Errorf("rules: %s", rules)
	}
}

// TestTaken: somebody else has taken the default network's addresses.
func TestTaken(t *testing.T) {
	h := newHost(t)
	m := h.member(newBox(t), "a", "bridge")
	if err := h.join(m).Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name = "docker0"
	other := &netlink.Bridge{LinkAttrs: attrs}
	if err := errors.Join(netlink.LinkAdd(other), netlink.AddrAdd(other, addr(netip.MustParseAddr("172.17.0.1"), 16)), netlink.LinkSetUp(other)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = netlink.LinkDel(other) })
	m.Namespace = newBox(t).path
	h.join(m)
	if got := h.settings(m, "bridge").IPAddress.String(); got != "172.18.0.2" {
		t.Errorf("a has %s", got)
	}
}

func TestReap(t *testing.T) {
	h := newHost(t)
	h.create(network.CreateRequest{Name: "mine"})
	a := newBox(t)
	m := h.member(a, "a", "mine")
	m.Ports = ports(t, "/8080=80/tcp")
	s, err := h.Join(t.Context(), m)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := h.Remove(t.Context(), "mine"); err == nil || !strings.Contains(err.Error(), `network mine has active endpoints (name:"a" id:"`) {
		t.Errorf("removed: %v", err)
	}
	// The monitor is killed: its sockets close, and nobody cleans up.
	if err := s.stop(); err != nil {
		t.Fatal(err)
	}
	a.kill()
	h.mu.Lock()
	h.dead[m.ID] = true
	h.mu.Unlock()
	nw, err := h.Find(t.Context(), "mine")
	if err != nil || len(nw.Containers) > 0 {
		t.Errorf("%+v, %v", nw, err)
	}
	if out, err := exec.Command("nft", "list", "ruleset").CombinedOutput(); err != nil || strings.Contains(string(out), h.table) {
		t.Errorf("rules stay: %s %v", out, err)
	}
	for i := 0; ; i++ { // the kernel takes its time
		links, err := netlink.LinkList()
		if err != nil {
			t.Fatal(err)
		}
		left := ""
		for _, l := range links {
			if l.Type() == "veth" {
				left = l.Attrs().Name
			}
		}
		if left == "" {
			break
		}
		if i == 100 {
			t.Fatalf("%s stays", left)
		}
		time.Sleep(50 * time.Millisecond)
	}
	if _, err := h.Remove(t.Context(), "mine"); err != nil {
		t.Error(err)
	}
	if _, err := netlink.LinkByName(h.bridgeOf(nw.Network)); err == nil {
		t.Error("the bridge stays")
	}
}

func TestConcurrentJoin(t *testing.T) {
	h := newHost(t)
	root := h.opts.Root
	seen := map[netip.Addr]string{}
	var mu sync.Mutex
	var all sync.WaitGroup
	for i := range 20 {
		all.Go(func() {
			n := h.open(root) // as another process would
			b := newBox(t)
			m := h.member(b, fmt.Sprintf("c%d-", i), "bridge")
			m.Ports = ports(t, "/=80/tcp")
			s, err := n.Join(t.Context(), m)
			if err != nil {
				t.Error(err)
				return
			}
			st, err := n.Settings(t.Context())
			if err != nil {
				t.Error(err)
				return
			}
			a := st[m.ID].Networks["bridge"].IPAddress
			mu.Lock()
			if other, ok := seen[a]; ok {
				t.Errorf("%s has the address of %s", m.Name, other)
			}
			seen[a] = m.Name
			mu.Unlock()
			t.Cleanup(func() {
				if err := s.Close(context.Background()); err != nil {
					t.Error(err)
				}
			})
		})
	}
	all.Wait()
	if len(seen) != 20 {
		t.Errorf("%d addresses", len(seen))
	}
}

func TestConnect(t *testing.T) {
	h := newHost(t)
	h.create(network.CreateRequest{Name: "one"})
	h.create(network.CreateRequest{Name: "two", Internal: true})
	a, b := newBox(t), newBox(t)
	ma, mb := h.member(a, "a", "bridge"), h.member(b, "b", "one")
	ma.Ports = ports(t, "/8080=80/tcp")
	h.join(ma)
	h.join(mb)
	b.says("b", 80)
	a.says("a", 80)
	toB := h.settings(mb, "one").IPAddress.String() + ":80"
	if got := a.hear("tcp", toB); got != "" {
		t.Errorf("a hears %q before it is connected", got)
	}
	if _, _, err := h.Connect(t.Context(), ma, "one", &network.EndpointSettings{Aliases: []string{"web"}}); err != nil {
		t.Fatal(err)
	}
	if _, _, err := h.Connect(t.Context(), ma, "two", nil); err != nil {
		t.Fatal(err)
	}
	if _, _, err := h.Connect(t.Context(), ma, "one", nil); err == nil || !strings.Contains(err.Error(), "already exists in network one") {
		t.Errorf("connected twice: %v", err)
	}
	if got := a.hear("tcp", toB); !strings.HasPrefix(got, "b to ") {
		t.Errorf("a hears %q of b", got)
	}
	if got := lookup(b, "web", "A"); got != h.settings(ma, "one").IPAddress.String() {
		t.Errorf("web is %q", got)
	}
	if got := lookup(a, "b", "A"); got != h.settings(mb, "one").IPAddress.String() {
		t.Errorf("b is %q for a", got)
	}
	if _, _, err := h.Disconnect(t.Context(), ma, "bridge"); err != nil {
		t.Fatal(err)
	}
	if out := a.run("ip", "route"); !strings.Contains(out, "default via 172.18.0.1 dev eth1") {
		t.Errorf("routes: %s", out)
	}
	if got := here(t).hear("tcp", "127.0.0.1:8080"); got != "a to 172.18.0.1" {
		t.Errorf("the host hears %q", got)
	}
	if _, _, err := h.Disconnect(t.Context(), ma, "bridge"); err == nil || !strings.Contains(err.Error(), "is not connected to network bridge") {
		t.Errorf("disconnected twice: %v", err)
	}
	for _, nw := range []string{"one", "two"} {
		if _, _, err := h.Disconnect(t.Context(), ma, nw); err != nil {
			t.Error(err)
		}
	}
	if out := a.run("ip", "-o", "link"); strings.Contains(out, "eth") {
		t.Errorf("interfaces stay: %s", out)
	}
}

func BenchmarkJoin(b *testing.B) {
	h := newHost(b)
	box := newBox(b)
	for _, name := range []string{"bridge", "user", "port"} {
		b.Run(name, func(b *testing.B) {
			m := h.member(box, name, "bridge")
			switch name {
			case "user":
				if _, err := h.Create(b.Context(), network.CreateRequest{Name: "user"}); err != nil {
					b.Fatal(err)
				}
				m.Networks = map[string]*network.EndpointSettings{"user": nil}
			case "port":
				m.Ports = ports(b, "/8080=80/tcp")
			}
			var joined, closed time.Duration
			for b.Loop() {
				start := time.Now()
				s, err := h.Join(b.Context(), m)
				if err != nil {
					b.Fatal(err)
				}
				joined += time.Since(start)
				st, err := h.read(b.Context())
				if err != nil {
					b.Fatal(err)
				}
				start = time.Now()
				if err := s.Close(b.Context()); err != nil {
					b.Fatal(err)
				}
				closed += time.Since(start)
				for _, e := range st.of(m.ID) {
					if err := removeLink(e.link); err != nil {
						b.Fatal(err)
					}
				}
			}
			b.ReportMetric(float64(joined.Microseconds())/float64(b.N)/1000, "ms/join")
			b.ReportMetric(float64(closed.Microseconds())/float64(b.N)/1000, "ms/close")
		})
	}
}
