package conformance

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// BuildKit is a running buildkitd, which finds the images of Docker's library in
// a registry of its own.
type BuildKit struct {
	t    *testing.T
	bin  string
	dir  string
	host string // the registry
	mu   sync.Mutex
}

// StartBuildKit starts the buildkitd that make conformance has built, and a
// registry, which has nothing yet; the test's end stops them.
func StartBuildKit(t *testing.T) *BuildKit {
	bin := os.Getenv("STRAKE_BUILDKIT")
	if bin == "" {
		t.Skip("make conformance builds BuildKit and names its directory in STRAKE_BUILDKIT")
	}
	k := &BuildKit{t: t, bin: bin, dir: t.TempDir()}
	k.registry()
	k.daemon()
	return k
}

// start starts a server that ready waits for, and has the test's end stop it.
func (k *BuildKit) start(ready func() bool, name string, args ...string) {
	k.t.Helper()
	var log bytes.Buffer
	cmd := exec.Command(name, args...)
	cmd.Stdout, cmd.Stderr = &log, &log
	if err := cmd.Start(); err != nil {
		k.t.Skipf("needs %s: %v", name, err)
	}
	k.t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		_ = cmd.Wait()
		if k.t.Failed() {
			k.t.Logf("%s:\n%.5000s", name, log.String())
		}
	})
	for range 300 {
		if ready() {
			return
		}
		time.Sleep(100 * time.Millisecond)
	}
	k.t.Fatalf("%s does not answer:\n%s", name, log.String())
}

// registry starts the registry.
func (k *BuildKit) registry() {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		k.t.Fatal(err)
	}
	k.host = l.Addr().String()
	l.Close()
	config := k.write("registry.yml", fmt.Sprintf("version: 0.1\nstorage: {filesystem: {rootdirectory: %s/registry}}\nhttp: {addr: '%s'}\n", k.dir, k.host))
	k.start(func() bool {
		conn, err := net.Dial("tcp", k.host)
		if err == nil {
			conn.Close()
		}
		return err == nil
	}, "docker-registry", "serve", config)
}

// Load puts the base images of the cases into the registry.
func (k *BuildKit) Load() {
	archive := filepath.Join(k.dir, "bases.tar")
	WriteBaseImages(k.t, archive)
	for name := range BaseImages() {
		k.run("skopeo", "--insecure-policy", "copy", "-q", "--all", "--preserve-digests", "--dest-tls-verify=false",
			"oci-archive:"+archive+":"+name, "docker://"+k.host+"/library/"+name+":latest")
	}
}

// daemon starts buildkitd.
func (k *BuildKit) daemon() {
	config := k.write("buildkitd.toml", fmt.Sprintf(`root = "%[1]s/buildkit"
[grpc]
address = ["unix://%[1]s/sock"]
[worker.oci]
networkMode = "host"
[worker.containerd]
enabled = false
[registry."docker.io"]
mirrors = ["%[2]s"]
[registry."%[2]s"]
http = true
`, k.dir, k.host))
	k.start(func() bool { return k.ctl("debug", "workers").Run() == nil }, k.bin+"/buildkitd", "--config", config)
}

func (k *BuildKit) write(name, text string) string {
	name = filepath.Join(k.dir, name)
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		k.t.Fatal(err)
	}
	return name
}

func (k *BuildKit) run(name string, args ...string) {
	k.t.Helper()
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		k.t.Fatalf("%s %q: %v\n%s", name, args, err, out)
	}
}

func (k *BuildKit) ctl(args ...string) *exec.Cmd {
	return exec.Command(k.bin+"/buildctl", append([]string{"--addr", "unix://" + k.dir + "/sock"}, args...)...)
}

// arguments are what buildctl is told of a case; the output is missing.
func (c *DockerfileCase) arguments() []string {
	args := []string{
		"build", "--frontend", "dockerfile.v0", "--progress", "rawjson",
		"--local", "context=" + c.Dir, "--local", "dockerfile=" + filepath.Dir(filepath.Join(c.Dir, c.Dockerfile)),
		"--opt", "filename=" + path.Base(c.Dockerfile),
	}
	opt := func(format string, values ...any) { args = append(args, "--opt", fmt.Sprintf(format, values...)) }
	for key, value := range c.Args {
		opt("build-arg:%s=%s", key, value)
	}
	for key, value := range c.Labels {
		opt("label:%s=%s", key, value)
	}
	for name, dir := range c.Contexts {
		opt("context:%s=local:%s", name, name)
		args = append(args, "--local", name+"="+dir)
	}
	for id, file := range c.Secrets {
		args = append(args, "--secret", "id="+id+",src="+file)
	}
	if c.Target != "" {
		opt("target=%s", c.Target)
	}
	if c.Platform != "" {
		opt("platform=%s", c.Platform)
	}
	if c.Call != "" {
		opt("requestid=frontend.%s", map[string]string{"check": "lint", "outline": "outline", "targets": "targets"}[c.Call])
	}
	return args
}

// Build builds a case, with the cache mounts of those before it and nothing else.
func (k *BuildKit) Build(t *testing.T, c *DockerfileCase) (built Built) {
	out := filepath.Join(t.TempDir(), "out.tar")
	// buildkitd keeps the last context, and changes it into the next: what a
	// case finds must not come from another one.
	k.mu.Lock()
	defer k.mu.Unlock()
	if err := k.ctl("prune", "--all", "--filter", "type==source.local").Run(); err != nil {
		t.Fatal(err)
	}
	var stdout, stderr bytes.Buffer
	args := append(c.arguments(), "--no-cache")
	if c.Call == "" {
		args = append(args, "--output", "type=oci,compression=uncompressed,dest="+out)
	}
	cmd := k.ctl(args...)
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	if c.Call == "" {
		built.Warnings = warningsOf(stderr.String())
	}
	if err != nil {
		_, text, ok := strings.Cut(stderr.String(), "error: failed to solve: ")
		if !ok {
			t.Fatalf("%v\n%s", err, stderr.String())
		}
		built.Err = strings.Join(excerpts.FindAllString(stderr.String(), -1), "") + text
		return built
	}
	built.Shown = stdout.String()
	if c.Call == "" {
		built.Config, built.Layer = readLayout(t, out)
	}
	return built
}

// Said builds a case with options of its frontend and returns the predicates of the statements about it, in the order of their blobs.
func (k *BuildKit) Said(t *testing.T, c *DockerfileCase, opts ...string) []json.RawMessage {
	out := filepath.Join(t.TempDir(), "out")
	args := c.arguments()
	for _, opt := range opts {
		args = append(args, "--opt", opt)
	}
	args = append(args, "--output", "type=oci,tar=false,dest="+out)
	if text, err := k.ctl(args...).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	return Predicates(t, out)
}

// Cached builds a case with more arguments of buildctl, about caches, and returns what it says.
func (k *BuildKit) Cached(t *testing.T, c *DockerfileCase, args ...string) string {
	text, err := k.ctl(append(c.arguments(), args...)...).CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	return string(text)
}

// Predicates are those of the statements in an OCI layout, in the order of their blobs.
func Predicates(t *testing.T, layout string) (list []json.RawMessage) {
	blobs, err := filepath.Glob(filepath.Join(layout, "blobs", "sha256", "*"))
	ok(t, err)
	for _, name := range blobs {
		b, err := os.ReadFile(name)
		ok(t, err)
		var said struct{ Predicate json.RawMessage }
		if json.Unmarshal(b, &said) == nil && said.Predicate != nil {
			list = append(list, said.Predicate)
		}
	}
	return list
}

// Put puts the image of an OCI archive into the registry, as one of Docker's library.
func (k *BuildKit) Put(archive, name string) {
	k.t.Helper()
	k.run("skopeo", "--insecure-policy", "copy", "-q", "--dest-tls-verify=false", "oci-archive:"+archive, "docker://"+k.host+"/library/"+name+":latest")
}

// warningsOf are the warnings in what buildctl told of its progress.
func warningsOf(progress string) (list []string) {
	for line := range strings.Lines(progress) {
		var status struct {
			Warnings []struct{ Short []byte }
		}
		if json.Unmarshal([]byte(line), &status) != nil {
			continue
		}
		for _, w := range status.Warnings {
			list = append(list, string(w.Short))
		}
	}
	return list
}

var excerpts = regexp.MustCompile(`(?m)^\S+:\d+\n-{20}\n(?: +\d+ \| .*\n)+-{20}\n`)

// readLayout reads the config and layers of the one image of an archive.
func readLayout(t *testing.T, name string) (config []byte, layer func(digest.Digest) (io.ReadCloser, error)) {
	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	files := map[string][]byte{}
	for r := tar.NewReader(f); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err == nil {
			files[h.Name], err = io.ReadAll(r)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	read := func(name string) ([]byte, error) {
		if files[name] == nil {
			return nil, fmt.Errorf("%s is not in the archive", name)
		}
		return files[name], nil
	}
	config, err = layoutConfig(read)
	ok(t, err)
	return config, func(id digest.Digest) (io.ReadCloser, error) {
		b, err := read(blobName(id))
		return io.NopCloser(bytes.NewReader(b)), err
	}
}

func blobName(id digest.Digest) string { return "blobs/sha256/" + id.Encoded() }

// layoutConfig reads the config of the one image of an OCI layout.
func layoutConfig(read func(name string) ([]byte, error)) ([]byte, error) {
	var index ocispec.Index
	var manifest ocispec.Manifest
	b, err := read("index.json")
	if err == nil {
		err = json.Unmarshal(b, &index)
	}
	if err == nil {
		b, err = read(blobName(index.Manifests[0].Digest))
	}
	if err == nil {
		err = json.Unmarshal(b, &manifest)
	}
	if err != nil {
		return nil, err
	}
	return read(blobName(manifest.Config.Digest))
}
