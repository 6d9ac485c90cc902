package main_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"strake/internal/usertest"
)

// A room is a network namespace that is a machine to the programs in it.
type room struct {
	*world
	ns string
}

func (w *world) room() *room {
	w.Helper()
	usertest.NeedRoot(w, "to make network namespaces")
	cmd := exec.Command("/bin/sleep", "1000")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
	if err := cmd.Start(); err != nil {
		w.Fatal(err)
	}
	w.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	r := &room{w, fmt.Sprintf("/proc/%d/ns/net", cmd.Process.Pid)}
	r.in("ip", "link", "set", "lo", "up")
	return r
}

// try runs a program in the room.
func (r *room) try(args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	out, err := exec.CommandContext(ctx, "nsenter", append([]string{"--net=" + r.ns}, args...)...).CombinedOutput()
	return strings.TrimSpace(string(out)), err
}

// in runs a program in the room, which must succeed.
func (r *room) in(args ...string) string {
	r.Helper()
	out, err := r.try(args...)
	if err != nil {
		r.Fatalf("%s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return out
}

// strakeIn runs strake in the room.
func (r *room) strakeIn(args ...string) string {
	r.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute) // of cleaning up, too
	defer cancel()
	cmd := r.command(ctx, "net", args...)
	inside := exec.CommandContext(ctx, "nsenter", append([]string{"--net=" + r.ns, cmd.Path}, cmd.Args[1:]...)...)
	inside.Env, inside.Dir = cmd.Env, cmd.Dir
	return r.output(inside)
}

// TestNetworks: a host between its containers and the world.
func TestNetworks(t *testing.T) {
	w := newWorld(t)
	w.need("ip", "nft", "nsenter", "busybox")
	host, outside := w.room(), w.room()
	host.in("ip", "link", "add", "uplink", "type", "veth", "peer", "name", "downlink", "netns", outside.ns)
	host.in("ip", "addr", "add", "198.51.100.1/24", "dev", "uplink")
	host.in("ip", "link", "set", "uplink", "up")
	outside.in("ip", "addr", "add", "198.51.100.2/24", "dev", "downlink")
	outside.in("ip", "link", "set", "downlink", "up")
	w.write("www/index.html", "the world\n")
	server := exec.Command("nsenter", "--net="+outside.ns, "busybox", "httpd", "-f", "-p", "80", "-h", w.dir+"/www")
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = server.Process.Kill(), server.Wait() })
	w.busybox("net")

	host.strakeIn("network", "create", "mine")
	host.strakeIn("run", "-d", "--name", "web", "--network", "mine", "--network-alias", "www", "-p", "8080:80", "-p", "127.0.0.1::80", "busybox",
		"sh", "-c", "mkdir /w && echo hello > /w/index.html && exec httpd -f -p 80 -h /w")
	t.Cleanup(func() { host.strakeIn("rm", "-f", "web", "other") })
	host.strakeIn("run", "-d", "--name", "other", "busybox", "sleep", "1000")
	get := []string{"wget", "-q", "-O", "-"}
	for _, c := range []struct{ network, at, want string }{
		{"mine", "http://web/", "hello"},
		{"mine", "http://www.mine/", "hello"},
		{"bridge", "http://198.51.100.1:8080/", "hello"},
		{"mine", "http://198.51.100.1:8080/", "hello"},
		{"bridge", "http://198.51.100.2/", "the world"},
		{"container:web", "http://127.0.0.1/", "hello"},
		{"host", "http://127.0.0.1:8080/", "hello"},
	} {
		if got := host.strakeIn(append([]string{"run", "--rm", "--network", c.network, "busybox"}, append(get, c.at)...)...); got != c.want {
			t.Errorf("from network %s, %s says %q", c.network, c.at, got)
		}
	}
	for _, r := range []*room{host, outside} {
		if got := r.in(append(append([]string{"busybox"}, get...), "http://198.51.100.1:8080/")...); got != "hello" {
			t.Errorf("from %s, the published port says %q", r.ns, got)
		}
	}
	if got := host.strakeIn("port", "web", "80"); !strings.Contains(got, "0.0.0.0:8080") || !strings.Contains(got, "127.0.0.1:32768") {
		t.Errorf("port: %s", got)
	}
	host.strakeIn("network", "connect", "--alias", "second", "mine", "other")
	if got := host.strakeIn("run", "--rm", "--network", "container:other", "busybox", "wget", "-q", "-O", "-", "http://web/"); got != "hello" {
		t.Errorf("connected, it hears %q", got)
	}
	host.strakeIn("network", "disconnect", "mine", "other")
	if got := host.strakeIn("inspect", "-f", "{{len .NetworkSettings.Networks}} {{.NetworkSettings.Networks.bridge.Gateway}}", "other"); got != "1 172.17.0.1" {
		t.Errorf("disconnected, it has %s", got)
	}
	host.killMonitors("web", "other")
	if out := host.in("nft", "list", "ruleset"); out != "" {
		t.Errorf("rules stay: %s", out)
	}
	host.strakeIn("network", "rm", "mine")
	if out := host.in("ip", "-o", "link"); strings.Count(out, "\n") != 1 {
		t.Errorf("devices stay: %s", out)
	}
}

// killMonitors kills the monitors of containers, and waits until it is told that they are dead.
func (r *room) killMonitors(names ...string) {
	r.Helper()
	for _, name := range names {
		stat, err := os.ReadFile("/proc/" + r.strakeIn("inspect", "-f", "{{.State.Pid}}", name) + "/stat")
		var state rune
		var parent int
		if err == nil {
			_, err = fmt.Sscanf(string(stat[strings.LastIndexByte(string(stat), ')')+1:]), " %c %d", &state, &parent)
		}
		if err != nil {
			r.Fatal(err)
		}
		if err := syscall.Kill(parent, syscall.SIGKILL); err != nil {
			r.Fatal(err)
		}
	}
	for deadline := time.Now().Add(time.Minute); r.strakeIn("ps", "-q") != ""; time.Sleep(100 * time.Millisecond) {
		if time.Now().After(deadline) {
			r.Fatal("the dead are still said to run")
		}
	}
}
