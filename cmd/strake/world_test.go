package main_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"strake/internal/usertest"
)

// bin holds the two programs, built once.
var bin string

func TestMain(m *testing.M) {
	if os.Getenv(injectEnv) != "" {
		os.Unsetenv(injectEnv)
		fmt.Fprintln(os.Stderr, injectWrapper(os.Args[1:]))
		os.Exit(1)
	}
	os.Exit(func() int {
		dir, err := os.MkdirTemp("", "strake-e2e-")
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer os.RemoveAll(dir)
		cmd := exec.Command("go", "build", "-o", dir, "strake/cmd/strake", "strake/cmd/strake-hub")
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			fmt.Fprintf(os.Stderr, "%s%v\n", out, err)
			return 1
		}
		bin = dir
		return m.Run()
	}())
}

// world is one test's machine: a directory, stores in it, servers.
type world struct {
	*testing.T
	dir string
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{T: t, dir: usertest.TempDir(t)}
	t.Cleanup(w.leaveNetworks)
	return w
}

// leaveNetworks removes the containers of all stores, and checks that no bridge and no rule of them is left on the machine.
func (w *world) leaveNetworks() {
	dirs, err := filepath.Glob(filepath.Join(w.dir, "*", "containers"))
	if err != nil {
		w.Error(err)
	}
	for _, dir := range dirs {
		root := filepath.Dir(dir)
		run := func(args ...string) string {
			out, err := w.command(context.Background(), filepath.Base(root), args...).CombinedOutput() // the test's context is cancelled
			if err != nil {
				w.Errorf("strake %q: %v\n%s", args, err, out)
			}
			return string(out)
		}
		if ids := strings.Fields(run("ps", "-aq")); len(ids) > 0 {
			run(append([]string{"rm", "-f"}, ids...)...)
		}
		sum := sha256.Sum256([]byte(root))
		name := "strake-" + hex.EncodeToString(sum[:4])
		w.waitFor("the end of the network "+name, func() bool {
			_, err := net.InterfaceByName(name)
			tables, _ := exec.Command("nft", "list", "tables").Output() // where it is not installed
			return err != nil && !strings.Contains(string(tables), name)
		})
	}
}

// need skips the test where a program of Debian's is not installed; make test
// installs them all and counts the skip as a failure.
func (w *world) need(programs ...string) {
	w.Helper()
	for _, p := range programs {
		if _, err := exec.LookPath(p); err != nil {
			w.Skipf("needs %s", p)
		}
	}
}

// path makes the directory of a path below the world's, and returns the path.
func (w *world) path(elem ...string) string {
	w.Helper()
	p := filepath.Join(append([]string{w.dir}, elem...)...)
	if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
		w.Fatal(err)
	}
	return p
}

// write writes a file below the world's directory and returns its path.
func (w *world) write(name, text string) string {
	w.Helper()
	p := w.path(name)
	mode := fs.FileMode(0o644)
	if strings.HasPrefix(text, "#!") {
		mode = 0o755
	}
	if err := os.WriteFile(p, []byte(text), mode); err != nil {
		w.Fatal(err)
	}
	return p
}

// command is strake on the named store.
func (w *world) command(ctx context.Context, store string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, filepath.Join(bin, "strake"), args...)
	cmd.Env = append(os.Environ(), "STRAKE_ROOT="+w.path(store), "DOCKER_CONFIG="+w.path("docker-config"), "TZ=UTC")
	cmd.Dir = w.dir
	return cmd
}

// try runs strake and returns its output, both streams, and error.
func (w *world) try(store string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(w.Context(), 5*time.Minute)
	defer cancel()
	var stdout, stderr bytes.Buffer
	cmd := w.command(ctx, store, args...)
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	if err != nil {
		err = fmt.Errorf("strake %s: %w\n%s%s", strings.Join(args, " "), err, stdout.String(), stderr.String())
	}
	return stdout.String() + stderr.String(), err
}

// strake runs strake, which must succeed, and returns its standard output
// without the last newline.
func (w *world) strake(store string, args ...string) string {
	w.Helper()
	ctx, cancel := context.WithTimeout(w.Context(), 5*time.Minute)
	defer cancel()
	return w.output(w.command(ctx, store, args...))
}

// run runs another program, which must succeed.
func (w *world) run(name string, args ...string) string {
	w.Helper()
	ctx, cancel := context.WithTimeout(w.Context(), 5*time.Minute)
	defer cancel()
	return w.output(exec.CommandContext(ctx, name, args...))
}

func (w *world) output(cmd *exec.Cmd) string {
	w.Helper()
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		w.Fatalf("%s: %v\n%s%s", strings.Join(cmd.Args, " "), err, tail(stdout.String()), tail(stderr.String()))
	}
	return strings.TrimSuffix(stdout.String(), "\n")
}

// tail is the end of a long output.
func tail(s string) string {
	if len(s) > 2000 {
		s = "...\n" + s[len(s)-2000:]
	}
	return s
}

// serve starts a server and waits until addr answers HTTP; the test's end stops it.
func (w *world) serve(addr string, cmd *exec.Cmd) {
	w.Helper()
	var log bytes.Buffer
	cmd.Stdout, cmd.Stderr = &log, &log
	if err := cmd.Start(); err != nil {
		w.Fatal(err)
	}
	w.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM) // it may have stopped by itself
		_ = cmd.Wait()
		if w.Failed() {
			w.Logf("%s:\n%s", cmd.Path, tail(log.String()))
		}
	})
	w.waitFor(addr, func() bool {
		resp, err := http.Get("http://" + addr + "/v2/")
		if err != nil {
			return false
		}
		resp.Body.Close()
		return true
	})
}

func (w *world) waitFor(what string, ok func() bool) {
	w.Helper()
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		if ok() {
			return
		}
	}
	w.Fatalf("%s does not answer", what)
}

// freeAddr is a loopback address that nobody listens on.
func (w *world) freeAddr() string {
	w.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		w.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// hub starts a Hub and returns its address.
func (w *world) hub() string {
	w.Helper()
	addr := w.freeAddr()
	w.serve(addr, exec.Command(filepath.Join(bin, "strake-hub"), "serve", "--addr", addr, "--data", w.path("hub")))
	return addr
}

// dockerRegistry starts Debian's docker-registry and returns its address.
func (w *world) dockerRegistry() string {
	w.Helper()
	w.need("docker-registry")
	addr := w.freeAddr()
	config := w.write("registry.yml", fmt.Sprintf(
		"version: 0.1\nlog: {level: error}\nstorage: {filesystem: {rootdirectory: %s}}\nhttp: {addr: %s}\n", w.path("registry"), addr))
	w.serve(addr, exec.Command("docker-registry", "serve", config))
	return addr
}

// dockerd starts a docker daemon of Debian's and returns a docker command for it.
func (w *world) dockerd() func(args ...string) string {
	w.Helper()
	host := w.startDockerd()
	return func(args ...string) string {
		w.Helper()
		return w.run("docker", append([]string{"-H", host}, args...)...)
	}
}

// startDockerd starts a docker daemon of Debian's and returns its address.
func (w *world) startDockerd() string {
	w.Helper()
	w.need("dockerd", "docker")
	usertest.NeedRoot(w, "to run dockerd")
	dir := w.path("dockerd") // a socket's path has to be short
	sock, err := os.MkdirTemp("", "d")
	if err != nil {
		w.Fatal(err)
	}
	w.Cleanup(func() { os.RemoveAll(sock) })
	host := "unix://" + sock + "/s"
	var log bytes.Buffer
	cmd := exec.Command("dockerd", "--data-root", dir, "--exec-root", filepath.Join(sock, "x"), "-H", host,
		"--pidfile", filepath.Join(sock, "pid"), "--iptables=false", "--ip6tables=false", "--bridge=none")
	cmd.Stdout, cmd.Stderr = &log, &log
	if err := cmd.Start(); err != nil {
		w.Fatal(err)
	}
	w.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		_ = cmd.Wait()
		_ = exec.Command("umount", filepath.Join(sock, "x/netns/default")).Run() // what a daemon leaves
		if w.Failed() {
			w.Logf("dockerd:\n%s", tail(log.String()))
		}
	})
	w.waitFor("dockerd", func() bool { return exec.Command("docker", "-H", host, "version").Run() == nil })
	return host
}

// podman returns a podman command with a store of its own.
func (w *world) podman() func(args ...string) string {
	w.Helper()
	w.need("podman", "runc")
	root, err := os.MkdirTemp("", "p") // its socket paths have to be short
	if err != nil {
		w.Fatal(err)
	}
	policy := w.write("policy.json", `{"default":[{"type":"insecureAcceptAnything"}]}`)
	base := []string{
		"--root", root + "/root", "--runroot", root + "/run", "--tmpdir", root + "/tmp", "--storage-driver", "overlay",
		"--runtime", "runc", "--cgroup-manager", "cgroupfs", "--events-backend", "file",
	}
	w.Cleanup(func() {
		_ = exec.Command("podman", append(base, "system", "reset", "-f")...).Run()
		_ = exec.Command("umount", root+"/root/overlay").Run()
		os.RemoveAll(root)
	})
	return func(args ...string) string {
		w.Helper()
		switch args[0] {
		case "pull":
			args = append([]string{"pull", "--signature-policy", policy}, args[1:]...)
		case "run": // its own limits may be above what this machine allows
			args = append([]string{"run", "--ulimit", "nofile=1024:1024", "--ulimit", "nproc=4096:4096"}, args[1:]...)
		}
		return w.run("podman", append(append([]string{}, base...), args...)...)
	}
}

// busybox imports a base image of that name: busybox with all its applets.
func (w *world) busybox(store string) {
	w.Helper()
	w.strake(store, "import", "--change", `CMD ["sh"]`, w.busyboxTar(), "busybox")
}

func (w *world) busyboxTar() string {
	w.Helper()
	w.need("busybox")
	out := w.path("busybox.tar")
	if _, err := os.Stat(out); err == nil {
		return out
	}
	path, err := exec.LookPath("busybox")
	if err != nil {
		w.Fatal(err)
	}
	root := w.path("busybox-root")
	for _, dir := range []string{"bin", "etc", "tmp", "root"} {
		w.path("busybox-root", dir, "x")
	}
	w.run("cp", path, root+"/bin/busybox")
	for _, name := range strings.Fields(w.run(path, "--list")) {
		if name == "busybox" {
			continue
		}
		if err := os.Symlink("/bin/busybox", filepath.Join(root, "bin", name)); err != nil {
			w.Fatal(err)
		}
	}
	w.write("busybox-root/etc/passwd", "root:x:0:0:root:/root:/bin/sh\nalice:x:1000:1000::/home/alice:/bin/sh\n")
	w.write("busybox-root/etc/group", "root:x:0:\nalice:x:1000:\nwheel:x:10:alice\n")
	w.run("tar", "-C", root, "--owner=0", "--group=0", "-cf", out, ".")
	return out
}

// debianTar is a Debian minbase root file system. It is made once a machine
// and day, as it takes a while.
func (w *world) debianTar() string {
	w.Helper()
	w.need("mmdebstrap")
	cache, err := os.UserCacheDir()
	if err != nil {
		w.Fatal(err)
	}
	out := filepath.Join(cache, "strake-tests", "bookworm-minbase.tar")
	if info, err := os.Stat(out); err == nil && time.Since(info.ModTime()) < 24*time.Hour {
		return out
	}
	if err := os.MkdirAll(filepath.Dir(out), 0o755); err != nil {
		w.Fatal(err)
	}
	part := w.path("debian.tar")
	w.run("mmdebstrap", "--variant=minbase", "bookworm", part)
	w.run("cp", part, out+".e2e")
	if err := os.Rename(out+".e2e", out); err != nil {
		w.Fatal(err)
	}
	return out
}

// layers are the diffIDs of an image.
func (w *world) layers(store, image string) string {
	w.Helper()
	return w.strake(store, "image", "inspect", "--format", "{{json .RootFS.Layers}}", image)
}

// id is the ID of an image.
func (w *world) id(store, image string) string {
	w.Helper()
	return w.strake(store, "image", "inspect", "--format", "{{.Id}}", image)
}

// clean fails the test if the store holds something that no finished process
// may leave: a lease, scratch, a mount.
func (w *world) clean(store string) {
	w.Helper()
	for _, sub := range []string{"leases", "work"} {
		entries, err := os.ReadDir(w.path(store, sub))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			w.Fatal(err)
		}
		for _, e := range entries {
			w.Errorf("left behind: %s/%s", sub, e.Name())
		}
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		w.Fatal(err)
	}
	for line := range strings.Lines(string(mounts)) {
		if strings.Contains(line, w.path(store)) {
			w.Errorf("left behind: a mount: %s", line)
		}
	}
}
