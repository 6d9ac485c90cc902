package network

import (
	"errors"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/moby/moby/api/types/network"
	"golang.org/x/sys/unix"

	"strake/internal/flock"
)

// userVariable says which program TestAsUser is to use, in the namespace of a user.
const userVariable = "STRAKE_TEST_USER"

// TestOrdinaryUser runs TestAsUser as a user who has nothing but his namespaces, with
// each of the programs.
func TestOrdinaryUser(t *testing.T) {
	newHost(t)
	world := newWorld(t)
	world.says("world", 80)
	world.run("ip", "route", "add", "default", "via", "198.51.100.1")
	if out, err := exec.Command("ip", "route", "add", "default", "via", "198.51.100.2").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	dir := t.TempDir()
	tun := filepath.Join(dir, "tun") // as distributions have it; here root alone may open it
	if err := unix.Mknod(tun, unix.S_IFCHR, int(unix.Mkdev(10, 200))); errors.Is(err, unix.EPERM) {
		t.Skip("needs root of the machine to become another user")
	} else if err != nil {
		t.Fatal(err)
	}
	for path, mode := range map[string]os.FileMode{tun: 0o666, dir: 0o755, filepath.Dir(dir): 0o755} {
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
	}
	serveOutside(t)
	for _, args := range userPrograms() {
		t.Run(args[0], func(t *testing.T) {
			path, err := exec.LookPath(args[0])
			if err != nil {
				t.Skipf("needs %s", args[0])
			}
			bin := t.TempDir()
			for _, d := range []string{bin, filepath.Dir(bin)} {
				if err := os.Chmod(d, 0o755); err != nil {
					t.Fatal(err)
				}
			}
			if err := os.Symlink(path, filepath.Join(bin, args[0])); err != nil {
				t.Fatal(err)
			}
			cmd := exec.Command("/proc/self/exe", "-test.run=^TestAsUser$", "-test.v")
			cmd.Env = append(os.Environ(), userVariable+"="+tun, "STRAKE_USERNS=1:65534", "PATH="+bin)
			cmd.SysProcAttr = &syscall.SysProcAttr{
				Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNS,
				UidMappings: []syscall.SysProcIDMap{{HostID: 65534, Size: 1}}, GidMappings: []syscall.SysProcIDMap{{HostID: 65534, Size: 1}},
				Credential: &syscall.Credential{NoSetGroups: true}, Pdeathsig: syscall.SIGKILL,
			}
			out, err := cmd.CombinedOutput()
			if err != nil || !strings.Contains(string(out), "--- PASS: TestAsUser") {
				t.Errorf("%v\n%s", err, out)
			}
		})
	}
}

// TestSlowProgram: on a machine that is busy a program may take long to be ready.
func TestSlowProgram(t *testing.T) {
	t.Parallel()
	ns, err := os.Open(newBox(t).path)
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	const late = `sleep 11; nsenter --net=/proc/self/fd/3 sh -ec 'ip link add eth0 type veth peer name other
		ip address add 10.0.2.100/24 dev eth0; ip link set eth0 up; ip route add default via 10.0.2.2'; exec sleep 1000`
	p, err := startProgram("/bin/sh", []string{"sh", "-c", late}, ns)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(p.await(t.Context(), ns), p.Close()); err != nil {
		t.Error(err)
	}
}

// address is that of a sandbox in a network.
func (s *Sandbox) address(h *host, network string) string {
	h.t.Helper()
	all, err := h.Settings(h.t.Context())
	if err != nil {
		h.t.Fatal(err)
	}
	return all[s.id].Networks[network].IPAddress.String()
}

func TestAsUser(t *testing.T) {
	tun := os.Getenv(userVariable)
	if tun == "" {
		t.Skip("a helper of TestOrdinaryUser")
	}
	if err := unix.Mount(tun, "/dev/net/tun", "", unix.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	h := &host{t: t, dead: map[string]bool{}}
	h.Networks = h.open(t.TempDir())
	a, b := newBox(t), newBox(t)
	ma, mb := h.member(a, "a", "bridge"), h.member(b, "b", "bridge")
	ma.DNS = []netip.Addr{netip.MustParseAddr("127.0.0.53")}
	ma.Ports = ports(t, "/8080=80/tcp", "/8080=80/udp")
	sa := h.join(ma)
	sb := h.join(mb)
	a.says("a", 80)
	if got := a.hear("tcp", "198.51.100.2:80"); got != "world to 198.51.100.1" {
		t.Errorf("a hears %q of the world", got)
	}
	for _, proto := range []string{"tcp", "udp"} {
		if got := here(t).hear(proto, "127.0.0.1:8080"); got != "a to "+sa.address(h, "bridge") {
			t.Errorf("the host hears %q by %s", got, proto)
		}
	}
	if got := lookup(a, "outside.example", "A"); got != "192.0.2.7" {
		t.Errorf("a finds %q", got)
	}
	if s := string(sa.Resolv); !strings.Contains(s, "nameserver 127.0.0.11\n") {
		t.Errorf("resolv.conf: %s", s)
	}
	h.create(network.CreateRequest{Name: "mine"})
	h.create(network.CreateRequest{Name: "inner", Internal: true})
	c, d, e := newBox(t), newBox(t), newBox(t)
	sc, sd, se := h.join(h.member(c, "c", "mine")), h.join(h.member(d, "d", "mine")), h.join(h.member(e, "e", "inner"))
	d.says("d", 80)
	if got := lookup(c, "d", "A"); got != sd.address(h, "mine") {
		t.Errorf("c finds d at %q, it is at %q", got, sd.address(h, "mine"))
	}
	if got := c.hear("tcp", sd.address(h, "mine")+":80"); got != "d to "+sc.address(h, "mine") {
		t.Errorf("c hears %q of d", got)
	}
	if got := c.hear("tcp", sa.address(h, "bridge")+":80"); got != "" {
		t.Errorf("c hears %q of a network that it is not in", got)
	}
	if got := c.hear("tcp", "198.51.100.2:80"); got != "world to 198.51.100.1" {
		t.Errorf("c hears %q of the world", got)
	}
	if got := e.hear("tcp", "198.51.100.2:80"); got != "" {
		t.Errorf("e, whose network is internal, hears %q of the world", got)
	}
	sf := loseKeeper(t, h)
	for _, s := range []*Sandbox{sa, sb, sc, sd, se, sf} {
		if err := s.Close(t.Context()); err != nil {
			t.Error(err)
		}
	}
	// The keeper goes with the last of them.
	gone, err := flock.Open(t.Context(), filepath.Join(h.root, keeperFile), flock.Exclusive)
	if err != nil || gone == nil {
		t.Fatal(err)
	}
	if err := gone.Close(); err != nil {
		t.Error(err)
	}
}

// loseKeeper kills the keeper: who comes next, whom it returns, has another room, and nobody of the first has an address that a name
// leads to.
func loseKeeper(t *testing.T, h *host) *Sandbox {
	t.Helper()
	keeper, err := os.ReadFile(filepath.Join(h.root, keeperFile))
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(string(keeper))
	if err := errors.Join(err, unix.Kill(pid, unix.SIGKILL)); err != nil {
		t.Fatal(err)
	}
	dead, err := flock.Open(t.Context(), filepath.Join(h.root, keeperFile), flock.Exclusive)
	if err != nil || dead == nil {
		t.Fatal(err)
	}
	if err := dead.Close(); err != nil {
		t.Error(err)
	}
	f := newBox(t)
	sf := h.join(h.member(f, "f", "mine"))
	if got := f.hear("tcp", "198.51.100.2:80"); got != "world to 198.51.100.1" {
		t.Errorf("f hears %q of the world", got)
	}
	if all, err := h.Settings(t.Context()); err != nil || len(all) != 1 {
		t.Errorf("containers with networks: %v, %v", all, err)
	}
	return sf
}
