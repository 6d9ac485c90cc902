package main

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"strake/internal/usertest"
)

// clientsEnv is the directory of the clients that make conformance builds: crane,
// oras, regctl and helm.
const clientsEnv = "STRAKE_CLIENTS"

// tool is a client program, with a home of its own.
type tool struct {
	*testing.T
	path string
	args []string // before all others
	dir  string   // where it works, and its home
}

// installed finds a client of the system.
func installed(t *testing.T, name string, args ...string) tool {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		t.Skip("needs " + name)
	}
	return newTool(t, path, args...)
}

func newTool(t *testing.T, path string, args ...string) tool {
	t.Helper()
	c := tool{t, path, args, t.TempDir()}
	c.file("config.json", "{}") // podman wants the one that DOCKER_CONFIG names
	return c
}

// built finds a client that make conformance built.
func built(t *testing.T, name string) tool {
	t.Helper()
	return newTool(t, filepath.Join(os.Getenv(clientsEnv), name))
}

// run runs the client and returns what it printed. It must succeed.
func (c tool) run(args ...string) string {
	c.Helper()
	out, err := c.command(args...).CombinedOutput()
	if err != nil {
		c.Fatalf("%s %q: %v: %s", filepath.Base(c.path), args, err, out)
	}
	return string(out)
}

// fails runs the client, which must fail.
func (c tool) fails(args ...string) {
	c.Helper()
	if out, err := c.command(args...).CombinedOutput(); err == nil {
		c.Errorf("%s %q succeeded: %s", filepath.Base(c.path), args, out)
	}
}

func (c tool) command(args ...string) *exec.Cmd {
	cmd := exec.CommandContext(c.Context(), c.path, append(append([]string{}, c.args...), args...)...)
	cmd.Dir = c.dir
	cmd.Env = append(os.Environ(), "HOME="+c.dir, "DOCKER_CONFIG="+c.dir, "REGISTRY_AUTH_FILE="+filepath.Join(c.dir, "config.json"), "STRAKE_ROOT="+filepath.Join(c.dir, "store"), "XDG_CONFIG_HOME="+c.dir, "XDG_CACHE_HOME="+c.dir, "XDG_DATA_HOME="+c.dir)
	return cmd
}

// finds is what a search prints when it finds anything: the index follows what
// is pushed, by a second and more on a busy machine.
func (c tool) finds(args ...string) string {
	c.Helper()
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(200 * time.Millisecond) {
		out := c.run(append([]string{"search"}, args...)...)
		if strings.Count(out, "\n") > 1 || time.Now().After(deadline) { // more than the head
			return out
		}
	}
}

// shows fails the test unless out has all the texts.
func (c tool) shows(out string, texts ...string) {
	c.Helper()
	for _, text := range texts {
		if !strings.Contains(out, text) {
			c.Errorf("%s: no %q in %s", filepath.Base(c.path), text, out)
		}
	}
}

// file writes a file into the client's directory and returns its name.
func (c tool) file(name, text string) string {
	c.Helper()
	if err := os.WriteFile(filepath.Join(c.dir, name), []byte(text), 0o600); err != nil {
		c.Fatal(err)
	}
	return name
}

// serveHub starts a Hub and returns its address.
func serveHub(t *testing.T) string {
	t.Helper()
	host, stop := start(t, "--data", filepath.Join(t.TempDir(), "data"))
	t.Cleanup(stop)
	return host
}

// installPodman is Debian's podman with a store of its own.
func installPodman(t *testing.T) tool {
	t.Helper()
	usertest.NeedRoot(t, "to run podman on a store of its own")
	root, err := os.MkdirTemp("", "p") //nolint:usetesting // its socket paths have to be short
	if err != nil {
		t.Fatal(err)
	}
	podman := installed(t, "podman", "--root", root+"/root", "--runroot", root+"/run", "--tmpdir", root+"/tmp",
		"--storage-driver", "vfs", "--cgroup-manager", "cgroupfs", "--events-backend", "file")
	t.Cleanup(func() {
		if err := os.RemoveAll(root); err != nil {
			t.Error(err)
		}
	})
	return podman
}

// TestPodman pushes, pulls and lists with Debian's podman.
func TestPodman(t *testing.T) {
	podman := installPodman(t)
	host := serveHub(t)
	writeImage(t, filepath.Join(podman.dir, "in.tar"))
	policy := filepath.Join(podman.dir, podman.file("policy.json", `{"default":[{"type":"insecureAcceptAnything"}]}`))
	podman.run("load", "--signature-policy", policy, "-i", "in.tar")
	ref := host + "/team/app:v1"
	podman.run("tag", "x:y", ref)
	podman.run("push", "--signature-policy", policy, "--tls-verify=false", ref)
	podman.run("push", "--signature-policy", policy, "--tls-verify=false", ref) // nothing new
	podman.run("rmi", "-f", "x:y", ref)
	podman.run("pull", "--signature-policy", policy, "--tls-verify=false", ref)
	podman.shows(podman.run("images"), host+"/team/app", "v1")
	podman.shows(podman.run("search", "--tls-verify=false", "--list-tags", host+"/team/app"), "v1")
	podman.shows(podman.finds("--tls-verify=false", host+"/app"), "team/app")
}

// startDocker is Debian's docker with a daemon of its own.
func startDocker(t *testing.T) tool {
	t.Helper()
	usertest.NeedRoot(t, "to run dockerd")
	dockerd := installed(t, "dockerd")
	docker := installed(t, "docker")
	sock, err := os.MkdirTemp("", "d") //nolint:usetesting // the path of a socket has to be short
	if err != nil {
		t.Fatal(err)
	}
	docker.args = []string{"-H", "unix://" + sock + "/s"}
	var log bytes.Buffer
	daemon := dockerd.command("--data-root", filepath.Join(docker.dir, "data"), "--exec-root", filepath.Join(sock, "x"), "-H", docker.args[1],
		"--pidfile", filepath.Join(sock, "pid"), "--iptables=false", "--ip6tables=false", "--bridge=none")
	daemon.Stdout, daemon.Stderr = &log, &log
	if err := daemon.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = daemon.Process.Signal(syscall.SIGTERM)
		_ = daemon.Wait()
		_ = exec.Command("umount", filepath.Join(sock, "x/netns/default"), filepath.Join(docker.dir, "data")).Run() // what a daemon leaves
		if err := os.RemoveAll(sock); err != nil {
			t.Error(err)
		}
		if t.Failed() {
			t.Logf("dockerd: %s", log.String())
		}
	})
	for deadline := time.Now().Add(time.Minute); docker.command("version").Run() != nil; time.Sleep(100 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("dockerd does not answer")
		}
	}
	return docker
}

// TestDocker pushes, pulls and searches with Debian's docker.
func TestDocker(t *testing.T) {
	docker := startDocker(t)
	host := serveHub(t)
	writeImage(t, filepath.Join(docker.dir, "in.tar"))
	docker.run("load", "-i", "in.tar")
	ref := host + "/team/app:v1"
	docker.run("tag", "x:y", ref)
	docker.shows(docker.run("push", ref), "v1: digest: sha256:")
	docker.run("tag", "x:y", host+"/team/other:v1")
	docker.shows(docker.run("push", host+"/team/other:v1"), "Mounted from team/app")
	docker.run("rmi", "x:y", ref, host+"/team/other:v1")
	docker.shows(docker.run("pull", ref), "Status: Downloaded newer image")
	docker.shows(docker.run("pull", ref), "Status: Image is up to date")
	docker.shows(docker.finds(host+"/app"), "team/app")
	docker.fails("pull", host+"/team/nothing")
}

// TestBuiltClients is of the clients that make conformance builds.
func TestBuiltClients(t *testing.T) {
	if os.Getenv(clientsEnv) == "" {
		return // make conformance has them
	}
	host := serveHub(t)
	t.Run("crane", func(t *testing.T) { useCrane(built(t, "crane"), host) })
	t.Run("oras", func(t *testing.T) { useORAS(built(t, "oras"), host) })
	t.Run("regctl", func(t *testing.T) { useRegctl(built(t, "regctl"), host) })
	t.Run("helm", func(t *testing.T) { useHelm(built(t, "helm"), host) })
}

func useCrane(c tool, host string) {
	writeImage(c.T, filepath.Join(c.dir, "in.tar"))
	ref := host + "/crane/app:v1"
	c.run("push", "in.tar", ref)
	digest := strings.TrimSpace(c.run("digest", ref))
	c.run("tag", ref, "v2")
	c.run("copy", ref, host+"/crane/copy:v1")
	c.shows(c.run("ls", host+"/crane/app"), "v1", "v2")
	c.shows(c.run("catalog", host), "crane/app", "crane/copy")
	c.shows(c.run("config", ref), `"architecture":"amd64"`)
	c.run("index", "append", "-m", ref, "-t", host+"/crane/app:all")
	c.run("pull", ref, "out.tar")
	c.run("validate", "--remote", ref)
	c.run("delete", ref)
	c.fails("digest", ref)
	c.run("delete", host+"/crane/copy@"+digest)
	c.fails("manifest", host+"/crane/copy:v1")
}

func useORAS(c tool, host string) {
	ref := host + "/oras/app:v1"
	c.file("hello.txt", "hello")
	c.file("sbom.json", "{}")
	c.run("push", "--plain-http", "--artifact-type", "text/app", ref+",latest", "hello.txt:text/plain")
	c.run("attach", "--plain-http", "--artifact-type", "text/sbom", ref, "sbom.json:application/json")
	c.run("attach", "--plain-http", "--artifact-type", "text/note", "--annotation", "k=v", ref)
	c.shows(c.run("discover", "--plain-http", ref), "text/sbom", "text/note")
	if out := c.run("discover", "--plain-http", "--artifact-type", "text/sbom", ref); strings.Contains(out, "text/note") {
		c.Errorf("discover of one type: %s", out)
	}
	c.run("copy", "--from-plain-http", "--to-plain-http", "--recursive", ref, host+"/oras/copy:v1")
	c.shows(c.run("discover", "--plain-http", host+"/oras/copy:v1"), "text/sbom", "text/note")
	c.shows(c.run("repo", "ls", "--plain-http", host), "oras/app", "oras/copy")
	c.shows(c.run("repo", "tags", "--plain-http", host+"/oras/app"), "latest", "v1")
	c.run("pull", "--plain-http", "-o", "out", ref)
	if b, err := os.ReadFile(filepath.Join(c.dir, "out/hello.txt")); err != nil || string(b) != "hello" {
		c.Errorf("pulled %q, %v", b, err)
	}
	c.run("tag", "--plain-http", ref, "v2", "v3")
	c.run("blob", "push", "--plain-http", host+"/oras/app", "hello.txt")
	c.run("manifest", "delete", "--plain-http", "-f", host+"/oras/copy:v1")
	c.fails("manifest", "fetch", "--plain-http", host+"/oras/copy:v1")
}

func useRegctl(c tool, host string) {
	writeImage(c.T, filepath.Join(c.dir, "in.tar"))
	c.run("registry", "set", host, "--tls", "disabled")
	ref := host + "/regctl/app:v1"
	c.run("image", "import", ref, "in.tar")
	c.run("image", "copy", ref, host+"/regctl/copy:v1")
	c.run("image", "copy", "--digest-tags", "--referrers", ref, "ocidir://out:v1")
	c.shows(c.run("tag", "ls", host+"/regctl/app"), "v1")
	c.shows(c.run("repo", "ls", host), "regctl/app", "regctl/copy")
	put := c.command("artifact", "put", "--artifact-type", "text/note", "--subject", ref)
	put.Stdin = strings.NewReader("a note")
	if out, err := put.CombinedOutput(); err != nil {
		c.Fatalf("artifact put: %v: %s", err, out)
	}
	c.shows(c.run("artifact", "list", ref), "text/note")
	digest := strings.TrimSpace(c.run("manifest", "head", ref))
	c.run("image", "mod", ref, "--create", host+"/regctl/app:labeled", "--label", "a=b")
	c.run("tag", "rm", ref)
	c.run("manifest", "get", host+"/regctl/app@"+digest)
	c.fails("manifest", "head", ref)
	c.run("manifest", "rm", host+"/regctl/app@"+digest)
	c.fails("manifest", "get", host+"/regctl/app@"+digest)
}

func useHelm(c tool, host string) {
	c.run("create", "chart")
	c.run("package", "chart")
	c.shows(c.run("push", "--plain-http", "chart-0.1.0.tgz", "oci://"+host+"/charts"), "Pushed:")
	if err := errors.Join(os.Remove(filepath.Join(c.dir, "chart-0.1.0.tgz")), os.RemoveAll(filepath.Join(c.dir, "chart"))); err != nil {
		c.Fatal(err)
	}
	c.run("pull", "--plain-http", "oci://"+host+"/charts/chart", "--version", "0.1.0")
	c.shows(c.run("show", "chart", "--plain-http", "oci://"+host+"/charts/chart"), "version: 0.1.0")
}
