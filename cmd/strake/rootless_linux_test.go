package main_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"strake/internal/usertest"
)

// nobody is the ordinary user of these tests.
const nobody = 65534

// A commoner is an ordinary user with a home and a strake in it.
type commoner struct {
	*world
	home string
	// through is what runs the user's commands, before env.
	through []string
}

func newCommoner(t *testing.T, through ...string) *commoner {
	usertest.NeedRoot(t, "to become another user")
	w := newWorld(t)
	home, err := os.MkdirTemp("", "home") //nolint:usetesting // which others than root may not enter
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(home); err != nil {
			t.Error(err)
		}
	})
	w.run("cp", filepath.Join(bin, "strake"), w.busyboxTar(), home)
	w.run("chown", "-R", fmt.Sprint(nobody), home)
	w.run("chmod", "755", home, home+"/strake")
	c := &commoner{world: w, home: home, through: through}
	t.Cleanup(c.removeContainers)
	return c
}

// removeContainers ends what a test that failed left running.
func (c *commoner) removeContainers() {
	ids, err := c.cmdIn(context.Background(), "ps", "-aq").Output() // the test's context is cancelled
	if list := strings.Fields(string(ids)); err == nil && len(list) > 0 {
		_, err = c.cmdIn(context.Background(), append([]string{"rm", "-f"}, list...)...).Output()
	}
	if err != nil {
		c.Errorf("remove the user's containers: %v", err)
	}
}

// cmd is strake, run by the user.
func (c *commoner) cmd(args ...string) *exec.Cmd { return c.cmdIn(c.Context(), args...) }

func (c *commoner) cmdIn(ctx context.Context, args ...string) *exec.Cmd {
	user := []string{
		"setpriv", fmt.Sprintf("--reuid=%d", nobody), fmt.Sprintf("--regid=%d", nobody), "--clear-groups",
		"env", "-i", "-C", c.home, "PATH=" + c.home + "/bin:" + os.Getenv("PATH"), "HOME=" + c.home, c.home + "/strake",
	}
	line := append(append(append([]string{}, c.through...), user...), args...)
	cmd := exec.CommandContext(ctx, line[0], line[1:]...)
	cmd.Dir = c.home
	return cmd
}

func (c *commoner) strake(args ...string) string {
	c.Helper()
	return c.output(c.cmd(args...))
}

func (c *commoner) fails(args ...string) string {
	c.Helper()
	out, err := c.cmd(args...).CombinedOutput()
	if err == nil {
		c.Fatalf("strake %s succeeded:\n%s", strings.Join(args, " "), out)
	}
	return string(out)
}

// owned makes an image with a directory that belongs to user and group 33 and that is closed for others.
func (c *commoner) owned() {
	c.Helper()
	c.strake("import", "busybox.tar", "busybox")
	if err := os.Mkdir(filepath.Join(c.home, "ctx"), 0o755); err != nil {
		c.Fatal(err)
	}
	for name, text := range map[string]string{
		"ctx/Dockerfile": `FROM busybox
COPY --chown=33:33 --chmod=700 data /data/
RUN echo new > /data/new; rm /etc/group; mkdir /data/sub; rm -r /tmp
RUN --network=none mkdir /tmp; echo $(id -u) $(ls /data | sort) > /seen
RUN --mount=type=cache,target=/c,uid=1000 --mount=type=bind,target=/ctx --mount=type=tmpfs,target=/t --mount=type=secret,id=s,uid=1000 \
  cmp /ctx/data /run/secrets/s && mkdir /c/d && chmod 700 /c/d && touch /c/d/f /t/f
RUN --security=insecure ls /dev/null
CMD ["cat", "/seen"]
`,
		"ctx/data": "kept\n",
	} {
		if err := os.WriteFile(filepath.Join(c.home, name), []byte(text), 0o644); err != nil {
			c.Fatal(err)
		}
	}
	c.run("chown", "-R", fmt.Sprint(nobody), c.home+"/ctx")
}

// TestOneID builds, runs and cleans up as a user who has no ids but his own.
func TestOneID(t *testing.T) {
	c := newCommoner(t, "unshare", "-m", "sh", "-c", `mount --bind /dev/null /etc/subuid; exec "$@"`, "sh")
	c.owned()
	c.strake("build", "--secret", "id=s,src=ctx/data", "--allow", "security.insecure", "-t", "app", "ctx")
	if got, want := c.strake("run", "--rm", "app"), "0 data new sub"; got != want {
		t.Errorf("the container wrote %q, want %q", got, want)
	}
	// The directory was there and keeps its owner; what is new in it is root's.
	c.wantOwners(map[string]string{"data": "33 33", "data/data": "33 33", "data/new": "0 0", "data/sub": "0 0", "etc/passwd": "0 0"})
	if out := c.fails("run", "--rm", "-u", "alice", "app"); !strings.Contains(out, "user alice has the ids 1000:1000, and this user's namespace has 1 (strake doctor") {
		t.Errorf("USER that there is not: %s", out)
	}
	if out := c.strake("doctor"); !strings.Contains(out, "ok  containers         RUN and run, in a user namespace") ||
		!strings.Contains(out, "usermod --add-subuids") {
		t.Errorf("doctor: %s", out)
	}
	c.exits()
	c.confined()
	c.cleansUp()
}

// confined runs with what flags say about a container, a volume among it.
func (c *commoner) confined() {
	c.Helper()
	got := c.strake("run", "--rm", "-v", "vol:/data", "-v", "/anonymous", "--tmpfs", "/t", "--cap-drop", "ALL", "--cap-add", "DAC_OVERRIDE", "--ulimit", "nofile=100:200",
		"--device", "/dev/null:/dev/n2", "--network", "none", "--domainname", "dom", "--shm-size", "1m", "--sysctl", "kernel.shm_rmid_forced=1", "app",
		"sh", "-c", "cat /data/data; ulimit -n; cat /proc/sys/kernel/domainname; ls /dev/n2; echo more >> /data/data")
	if want := "kept\n100\ndom\n/dev/n2"; got != want {
		c.Errorf("what a confined container sees: %q, want %q", got, want)
	}
	if got := c.strake("run", "--rm", "--privileged", "--pid", "host", "-v", "vol:/v:ro", "app", "cat", "/v/data"); got != "kept\nmore" {
		c.Errorf("the volume has %q", got)
	}
	if got := c.strake("volume", "ls", "-q"); got != "vol" {
		c.Errorf("volumes %q", got)
	}
	c.strake("volume", "rm", "vol")
}

// TestSubordinateIDs does so as a user whom /etc/subuid gives a range.
func TestSubordinateIDs(t *testing.T) {
	ranges := filepath.Join(t.TempDir(), "ranges")
	if err := os.WriteFile(ranges, []byte("somebody:1:1\nnobody:200000:65536\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	c := newCommoner(t, "unshare", "-m", "sh", "-c",
		fmt.Sprintf(`mount --bind %[1]s /etc/subuid; mount --bind %[1]s /etc/subgid; exec "$@"`, ranges), "sh")
	c.need("newuidmap", "newgidmap")
	c.owned()
	c.strake("build", "--secret", "id=s,src=ctx/data", "--allow", "security.insecure", "-t", "app", "ctx")
	c.wantOwners(map[string]string{"data": "33 33", "data/data": "33 33", "data/new": "0 0"})
	if got, want := c.strake("run", "--rm", "-u", "alice", "app", "id"), "uid=1000(alice) gid=1000 groups=1000"; got != want {
		t.Errorf("alice is %q, want %q", got, want)
	}
	if out := c.strake("doctor"); !strings.Contains(out, "RUN and run have 65537 users and groups") {
		t.Errorf("doctor: %s", out)
	}
	c.exits()
	c.confined()
	c.cleansUp()
}

// TestNoNamespace builds without RUN where nobody gets a user namespace, as in a chroot.
func TestNoNamespace(t *testing.T) {
	c := newCommoner(t, "unshare", "-m", "sh", "-c", `mount --rbind / /mnt; exec chroot /mnt "$@"`, "sh")
	c.owned()
	if out := c.fails("build", "--allow", "security.insecure", "-t", "app", "ctx"); !strings.Contains(out, "needs root or a user namespace") {
		t.Errorf("RUN without a namespace: %s", out)
	}
	if err := os.WriteFile(filepath.Join(c.home, "ctx/plain"), []byte("FROM busybox\nCOPY --chown=33 data /data\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	c.strake("build", "-t", "plain", "-f", "ctx/plain", "ctx")
	if out := c.fails("run", "--rm", "plain", "true"); !strings.Contains(out, "needs root or a user namespace") {
		t.Errorf("run without a namespace: %s", out)
	}
	if out := c.strake("doctor"); !strings.Contains(out, "--  containers") {
		t.Errorf("doctor: %s", out)
	}
}

// TestRefusedIDs says in one line why newuidmap gave no ids.
func TestRefusedIDs(t *testing.T) {
	ranges := filepath.Join(t.TempDir(), "ranges")
	if err := os.WriteFile(ranges, []byte("nobody:200000:65536\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	c := newCommoner(t, "unshare", "-m", "sh", "-c",
		fmt.Sprintf(`mount --bind %[1]s /etc/subuid; mount --bind %[1]s /etc/subgid; exec "$@"`, ranges), "sh")
	if err := os.Mkdir(filepath.Join(c.home, "bin"), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"newuidmap", "newgidmap"} {
		if err := os.WriteFile(filepath.Join(c.home, "bin", name), []byte("#!/bin/sh\necho not today >&2\nexit 1\n"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	out := c.fails("doctor")
	if strings.Count(out, "\n") != 1 || !strings.Contains(out, "newuidmap") || !strings.HasSuffix(out, "exit status 1: not today\n") {
		t.Errorf("newuidmap refuses: %q", out)
	}
}

// wantOwners compares the owners that the image's layers have.
func (c *commoner) wantOwners(want map[string]string) {
	c.Helper()
	out := filepath.Join(c.dir, "saved.tar")
	f, err := os.Create(out)
	if err != nil {
		c.Fatal(err)
	}
	cmd := c.cmd("save", "app")
	cmd.Stdout = f
	if err := cmd.Run(); err != nil {
		c.Fatal(err)
	}
	if err := f.Close(); err != nil {
		c.Fatal(err)
	}
	c.world.strake("checked", "load", "-i", out)
	for name, owner := range want {
		line := c.world.strake("checked", "run", "--rm", "app", "stat", "-c", "%u %g", "/"+name)
		if line != owner {
			c.Errorf("/%s belongs to %q, want %q", name, line, owner)
		}
	}
	if line := c.world.strake("checked", "run", "--rm", "app", "ls", "/etc"); strings.Contains(line, "group") {
		c.Errorf("/etc/group was removed and is there: %s", line)
	}
}

// exits passes exit codes, input and signals through.
func (c *commoner) exits() {
	c.Helper()
	err := c.cmd("run", "--rm", "busybox", "sh", "-c", "exit 7").Run()
	if exit, ok := errors.AsType[*exec.ExitError](err); !ok || exit.ExitCode() != 7 {
		c.Errorf("exit 7 gives %v", err)
	}
	cat := c.cmd("run", "--rm", "-i", "busybox", "cat")
	cat.Stdin = strings.NewReader("through")
	if got := c.output(cat); got != "through" {
		c.Errorf("cat wrote %q", got)
	}
	sleep := c.cmd("run", "--rm", "busybox", "sh", "-c", "trap 'exit 9' TERM; echo ready; while true; do sleep 0.1; done")
	sleep.Cancel = nil
	out, err := sleep.StdoutPipe()
	if err != nil {
		c.Fatal(err)
	}
	if err := sleep.Start(); err != nil {
		c.Fatal(err)
	}
	if _, err := out.Read(make([]byte, 16)); err != nil {
		c.Error(err)
	}
	if err := sleep.Process.Signal(syscall.SIGTERM); err != nil {
		c.Error(err)
	}
	err = sleep.Wait()
	if exit, ok := errors.AsType[*exec.ExitError](err); !ok || exit.ExitCode() != 9 {
		c.Errorf("a container that traps SIGTERM ended with %v", err)
	}
}

// cleansUp prunes everything, which leaves nothing that was unpacked.
func (c *commoner) cleansUp() {
	c.Helper()
	c.strake("rmi", "--now", "app", "busybox")
	c.strake("system", "prune", "-af")
	left, err := filepath.Glob(filepath.Join(c.home, ".local/share/strake/rootfs/unpacked/????????*"))
	caches, cachesErr := filepath.Glob(filepath.Join(c.home, ".local/share/strake/cachemounts/*/*"))
	left, err = append(left, caches...), errors.Join(err, cachesErr)
	if err != nil || len(left) > 0 {
		c.Errorf("left: %v, %v", left, err)
	}
	if out := c.strake("store", "check"); strings.Contains(out, "orphan") {
		c.Errorf("store check: %s", out)
	}
}
