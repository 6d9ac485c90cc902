package main_test

import (
	"bytes"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"strake/internal/usertest"
)

// TestUsersContainers does what is done with containers that run, as a user who has ids and as one who has not.
func TestUsersContainers(t *testing.T) {
	for name, ranges := range map[string]string{"many": "nobody:200000:65536\n", "one": ""} {
		t.Run(name, func(t *testing.T) {
			c := newCommoner(t, withRanges(t, ranges)...)
			c.need("nsenter")
			c.strake("import", "busybox.tar", "busybox")
			c.live()
			c.strake("rm", "-f", "one", "two", "again")
			c.meet()
			if left, err := filepath.Glob(filepath.Join(c.home, ".local/share/strake/userns/*")); err != nil || len(left) > 0 {
				c.Errorf("left of the namespace: %v, %v", left, err)
			}
		})
	}
}

// withRanges is a command that runs another with these lines in /etc/subuid and /etc/subgid, and with a /dev/net/tun for all, as
// distributions have it.
func withRanges(t *testing.T, ranges string) []string {
	t.Helper()
	usertest.NeedRoot(t, "to become another user")
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "ranges"), []byte(ranges), 0o644); err != nil {
		t.Fatal(err)
	}
	tun := filepath.Join(dir, "tun")
	if err := errors.Join(unix.Mknod(tun, unix.S_IFCHR, int(unix.Mkdev(10, 200))), os.Chmod(tun, 0o666)); err != nil {
		t.Fatal(err)
	}
	const mounts = `mount --bind "$0/ranges" /etc/subuid; mount --bind "$0/ranges" /etc/subgid; mount --bind "$0/tun" /dev/net/tun; exec "$@"`
	return []string{"unshare", "-m", "sh", "-c", mounts, dir}
}

// live starts containers, which share the user's namespace, and works on them from outside.
func (c *commoner) live() {
	c.Helper()
	c.strake("run", "-d", "--name", "one", "--network", "none", "--health-cmd", "test -e /ready", "--health-interval", "200ms", "-v", "kept:/etc", "busybox",
		"sh", "-c", "echo hello; touch /ready; while ! test -e /go; do sleep 0.05; done; echo bye; sleep 100")
	c.strake("run", "-d", "--name", "two", "--network", "none", "busybox", "sleep", "100")
	c.strake("run", "-d", "--name", "again", "--network", "none", "--restart", "on-failure:2", "busybox", "sh", "-c", "echo once more; exit 3")
	if one, two := c.userNamespace("one"), c.userNamespace("two"); one != two {
		c.Errorf("two containers are in the user namespaces %s and %s", one, two)
	}
	if out := c.strake("top", "one"); !strings.Contains(out, "sh -c echo hello") {
		c.Errorf("top: %s", out)
	}
	if err := os.WriteFile(filepath.Join(c.home, "go"), nil, 0o644); err != nil {
		c.Fatal(err)
	}
	c.strake("cp", "go", "one:/go")
	c.strake("cp", "one:/ready", ".")
	if _, err := os.Stat(filepath.Join(c.home, "ready")); err != nil {
		c.Error(err)
	}
	c.strake("wait", "again")
	for _, check := range []struct{ line, want string }{
		{"exec one cat /etc/passwd", "alice"}, // copied up into the volume
		{"logs one", "hello"},
		{"logs again", "once more\nonce more\nonce more"},
		{"inspect -f {{.RestartCount}}-{{.State.ExitCode}} again", "2-3"},
		{"diff one", "A /ready"},
		{"stop -t 0 two", "two"},
		{"start two", "two"},
		{"restart -t 0 two", "two"},
		{"exec two id -u", "0"},
		{"stats --no-stream --format {{.PIDs}}-{{.NetIO}} two", "1-0B"},
		{"doctor", "ok  networks           bridges in a network namespace of the user"},
		{"doctor", "--  limits             none, and no pause"},
	} {
		if got := c.strake(strings.Fields(check.line)...); !strings.Contains(got, check.want) {
			c.Errorf("%s: %q, want %q", check.line, got, check.want)
		}
	}
	c.waitFor("healthy", func() bool {
		return strings.Contains(c.strake("inspect", "-f", "{{.State.Health.Status}}", "one"), "healthy")
	})
	c.waitFor("bye", func() bool { return strings.Contains(c.strake("logs", "one"), "bye") })
	if out := c.fails("pause", "one"); !strings.Contains(out, "needs a cgroup, and this user may make none") {
		c.Errorf("pause: %s", out)
	}
	c.follow()
	c.strake("export", "-o", "one.tar", "one")
	c.run("tar", "tf", filepath.Join(c.home, "one.tar"), "ready")
	c.strake("commit", "one", "committed")
	if got := c.strake("run", "--rm", "--network", "none", "committed", "ls", "/ready"); got != "/ready" {
		c.Errorf("what was committed has %q", got)
	}
}

// follow reads a container while it runs, by logs -f and by attach, to its end.
func (c *commoner) follow() {
	c.Helper()
	c.strake("run", "-d", "-i", "--name", "talks", "--network", "none", "busybox", "sh", "-c", "echo first; read line; echo said $line; exit 4")
	var followed, attached bytes.Buffer
	logs, attach := c.cmd("logs", "-f", "talks"), c.cmd("attach", "talks")
	logs.Stdout, attach.Stdout, attach.Stdin = &followed, &attached, strings.NewReader("hello\n")
	if err := errors.Join(logs.Start(), attach.Start()); err != nil {
		c.Fatal(err)
	}
	_ = attach.Wait() // its exit code is the container's
	if err := logs.Wait(); err != nil || followed.String() != "first\nsaid hello\n" {
		c.Errorf("logs -f: %q, %v", followed.String(), err)
	}
	if got := attached.String(); !strings.HasSuffix(got, "said hello\n") || attach.ProcessState.ExitCode() != 4 {
		c.Errorf("attach: %q, exit code %d", got, attach.ProcessState.ExitCode())
	}
	c.strake("rm", "talks")
}

// meet lets containers find each other on a network that the user made, and the host find one of them by a published port.
func (c *commoner) meet() {
	c.Helper()
	c.need("pasta")
	_, port, err := net.SplitHostPort(c.freeAddr())
	if err != nil {
		c.Fatal(err)
	}
	c.strake("network", "create", "shop")
	c.strake("run", "-d", "--name", "web", "--network", "shop", "--network-alias", "www", "-p", "127.0.0.1:"+port+":80", "busybox", "httpd", "-f", "-h", "/etc")
	get := []string{"wget", "-q", "-O", "-", "http://www/passwd"}
	c.waitFor("web", func() bool {
		out, err := c.cmd(append([]string{"exec", "web"}, get...)...).CombinedOutput()
		return err == nil && strings.Contains(string(out), "alice")
	})
	if got := c.strake(append([]string{"run", "--rm", "--network", "shop", "busybox"}, get...)...); !strings.Contains(got, "alice") {
		c.Errorf("a container of the same network sees %q", got)
	}
	c.waitForPage("http://127.0.0.1:"+port+"/group", "root:x:0:\nalice:x:1000:\nwheel:x:10:alice\n")
	c.strake("run", "-d", "--name", "late", "busybox", "sleep", "100")
	c.strake("network", "connect", "shop", "late")
	if got := c.strake(append([]string{"exec", "late"}, get...)...); !strings.Contains(got, "alice") {
		c.Errorf("a container that was connected sees %q", got)
	}
	if out := c.fails("network", "rm", "shop"); !strings.Contains(out, "has active endpoints") {
		c.Errorf("network rm: %s", out)
	}
	// What a monitor that is killed had, the next command takes away.
	monitor, err := filepath.Glob(filepath.Join(c.home, ".local/share/strake/userns/*"))
	if err != nil || len(monitor) != 2 {
		c.Fatalf("monitors: %v, %v", monitor, err)
	}
	for _, m := range monitor {
		c.run("kill", "-9", filepath.Base(m))
	}
	c.waitFor("the dead", func() bool { return c.strake("ps", "-q") == "" })
	c.strake("network", "rm", "shop")
	c.strake("rm", "-f", "web", "late")
}

// userNamespace names the user namespace of a container.
func (c *commoner) userNamespace(name string) string {
	c.Helper()
	ns, err := os.Readlink("/proc/" + c.strake("inspect", "-f", "{{.State.Pid}}", name) + "/ns/user")
	if err != nil {
		c.Fatal(err)
	}
	return ns
}
