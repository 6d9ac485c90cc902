package conformance

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"

	"strake/internal/usertest"
)

const realWorld = "testdata/realworld"

// realBases are the folders of bases, with the names that Dockerfiles have in FROM:
// stand-ins for the images of these names elsewhere, made of Debian's packages.
var realBases = map[string]string{
	"debian:bookworm-slim":   "debian",
	"debian:bookworm":        "debian",
	"eclipse-temurin:17-jdk": "java",
	"gcc:12":                 "gcc",
	"golang:1":               "golang",
	"nginx:1":                "nginx",
	"node:18-bookworm-slim":  "node",
	"python:3.11-slim":       "python",
	"python:onbuild":         "python-onbuild",
	"rust:1":                 "rust",
}

// TestRealWorld builds Dockerfiles as people write them and runs what they made.
// make conformance has all of them built, by BuildKit too, and compares; make test
// has those that are quick.
func TestRealWorld(t *testing.T) {
	files, err := filepath.Glob(realWorld + "/*.case")
	ok(t, err)
	w := newRealWorldMachine(t)
	if os.Getenv("STRAKE_BUILDKIT") != "" {
		w.peer = StartBuildKit(t)
	}
	for i, file := range files {
		c := readRealCase(t, file)
		if w.peer == nil && !c.quick {
			continue
		}
		t.Run(c.name, func(t *testing.T) {
			if c.ids {
				usertest.NeedIDs(t)
			}
			w.try(t, c, i%2 == 0)
		})
	}
}

// realCase is a folder with a Dockerfile, and what NAME.case beside it says:
//
//	quick             make test builds it
//	ids               files of several users, which an ordinary user with one id has not
//	generate N        N files in the context, generated/D/I.txt, a thousand in each D
//	varies REGEXP     paths whose contents are not the same in two builds
//	ignore REGEXP     paths that are not the same in two builds
//	build FLAG...     a build; the lines that follow are of it
//	run ARG...        a container of what was built; double quotes hold a word together
//	want REGEXP       is in what the container printed
type realCase struct {
	name     string
	quick    bool
	ids      bool
	generate int
	varies   []*regexp.Regexp
	ignore   []*regexp.Regexp
	builds   []realBuild
}

type realBuild struct {
	flags []string
	runs  []realRun
}

type realRun struct {
	args []string
	want []*regexp.Regexp
}

func readRealCase(t *testing.T, file string) *realCase {
	t.Helper()
	text, err := os.ReadFile(file)
	ok(t, err)
	c := &realCase{name: strings.TrimSuffix(filepath.Base(file), ".case")}
	var build *realBuild
	var run *realRun
	for line := range strings.Lines(string(text)) {
		verb, rest, _ := strings.Cut(strings.TrimSpace(line), " ")
		switch verb {
		case "", "#":
		case "quick":
			c.quick = true
		case "ids":
			c.ids = true
		case "generate":
			c.generate, err = strconv.Atoi(rest)
			ok(t, err)
		case "varies":
			c.varies = append(c.varies, regexp.MustCompile(rest))
		case "ignore":
			c.ignore = append(c.ignore, regexp.MustCompile(rest))
		case "build":
			c.builds = append(c.builds, realBuild{flags: words(rest)})
			build = &c.builds[len(c.builds)-1]
		case "run":
			build.runs = append(build.runs, realRun{args: words(rest)})
			run = &build.runs[len(build.runs)-1]
		case "want":
			run.want = append(run.want, regexp.MustCompile("(?m)"+rest))
		default:
			t.Fatalf("%s: unknown line %q", file, line)
		}
	}
	return c
}

// words splits a line; double quotes hold a word together.
func words(line string) (list []string) {
	for _, w := range regexp.MustCompile(`"[^"]*"|\S+`).FindAllString(line, -1) {
		list = append(list, strings.Trim(w, `"`))
	}
	return list
}

// realWorldMachine has a store with the base images.
type realWorldMachine struct {
	strake  string // the program
	root    string // the store
	dir     string
	machine string          // the context of what the base images have of this machine
	made    map[string]bool // names of base images
	peer    *BuildKit
}

func newRealWorldMachine(t *testing.T) *realWorldMachine {
	t.Helper()
	dir := usertest.TempDir(t)
	w := &realWorldMachine{strake: filepath.Join(dir, "strake"), root: filepath.Join(dir, "store"), dir: dir, made: map[string]bool{}}
	cmd := exec.Command("go", "build", "-o", w.strake, "strake/cmd/strake")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	w.do(t, "", "import", "--change", `CMD ["bash"]`, DebianTar(t), "debian:minbase")
	if os.Getenv("STRAKE_BUILDKIT") == "" { // what is quick installs nothing
		w.do(t, "", "tag", "debian:minbase", "debian:bookworm-slim")
		w.do(t, "", "tag", "debian:minbase", "debian:bookworm")
		w.made["debian:bookworm-slim"], w.made["debian:bookworm"] = true, true
		return w
	}
	trusted := os.Getenv("SSL_CERT_FILE")
	if trusted == "" {
		trusted = "/etc/ssl/certs/ca-certificates.crt"
	}
	data, err := os.ReadFile(trusted)
	ok(t, err)
	w.machine = filepath.Join(dir, "machine")
	writeCaseFile(t, w.machine, "ca-certificates.crt", data)
	return w
}

// do runs strake in a directory and returns what it printed.
func (w *realWorldMachine) do(t *testing.T, dir string, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, w.strake, args...)
	cmd.Env = append(os.Environ(), "STRAKE_ROOT="+w.root, "DOCKER_CONFIG="+w.dir+"/config")
	cmd.Dir = dir
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		text := stdout.String() + stderr.String()
		t.Fatalf("strake %s: %v\n%s", strings.Join(args, " "), err, text[max(0, len(text)-4000):])
	}
	return stdout.String()
}

// makeBases makes the base images that a Dockerfile names. What is this machine's
// own - whom it trusts, which registries and proxies it uses - they have from its
// environment, as where a company has base images of its own.
func (w *realWorldMachine) makeBases(t *testing.T, dir string) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(dir, "Dockerfile"))
	ok(t, err)
	for _, name := range slices.Sorted(maps.Keys(realBases)) {
		from := filepath.Join(realWorld, "bases", realBases[name])
		if w.made[name] || from == dir || !strings.HasPrefix(name, "debian:") && !strings.Contains(string(text), name) {
			continue
		}
		w.made[name] = true
		w.makeBases(t, from)
		args := []string{
			"build", "-q", "--network", "host", "--build-context", "machine=" + w.machine, "-t", name,
		}
		switch realBases[name] {
		case "golang":
			args = append(args, "--build-arg", "GOPROXY="+setting(t, "go", "env", "GOPROXY"))
		case "node":
			args = append(args, "--build-arg", "NPM_REGISTRY="+setting(t, "npm", "config", "get", "registry"))
		}
		for _, name := range proxies() {
			args = append(args, "--build-arg", name+"="+os.Getenv(name))
		}
		w.do(t, "", append(args, from)...)
		if w.peer != nil {
			w.lend(t, name)
		}
	}
}

// lend puts a base image into BuildKit's registry and has BuildKit unpack it.
func (w *realWorldMachine) lend(t *testing.T, name string) {
	t.Helper()
	ref := w.peer.host + "/library/" + name
	w.do(t, "", "tag", name, ref)
	w.do(t, "", "push", "-q", "--compression", "gzip:1", ref)
	if strings.HasSuffix(name, ":onbuild") {
		return // it cannot be built on without what it asks for
	}
	c := &DockerfileCase{Dir: t.TempDir(), Dockerfile: "Dockerfile"}
	writeCaseFile(t, c.Dir, c.Dockerfile, []byte("FROM "+name+"\nRUN true\n"))
	w.solve(t, c)
}

// setting is what a program of this machine answers.
func setting(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(name, args...).Output()
	if err != nil {
		t.Skipf("needs %s: %v", name, err)
	}
	return string(bytes.TrimSpace(out))
}

// proxies are the variables of this machine's environment that name proxies.
func proxies() (set []string) {
	for _, name := range []string{"HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy"} {
		if os.Getenv(name) != "" {
			set = append(set, name)
		}
	}
	return set
}

// solve has BuildKit build, and says how long that took.
func (w *realWorldMachine) solve(t *testing.T, c *DockerfileCase, more ...string) time.Duration {
	t.Helper()
	start := time.Now()
	// With a command line the frontend takes itself for the one of the syntax line, which it would pull.
	args := append(append(c.arguments(), "--opt", "cmdline=builtin"), more...)
	if out, err := w.peer.ctl(args...).CombinedOutput(); err != nil {
		t.Fatalf("BuildKit: %v\n%s", err, out[max(0, len(out)-4000):])
	}
	return time.Since(start)
}

// try builds a case, runs what was built and, where there is BuildKit, compares.
func (w *realWorldMachine) try(t *testing.T, c *realCase, first bool) {
	dir := filepath.Join(realWorld, c.name)
	w.makeBases(t, dir)
	if c.generate > 0 {
		to := filepath.Join(t.TempDir(), c.name)
		ok(t, os.CopyFS(to, os.DirFS(dir)))
		for i := range c.generate {
			name := filepath.Join(to, "generated", strconv.Itoa(i/1000), strconv.Itoa(i)+".txt")
			if i%1000 == 0 {
				ok(t, os.MkdirAll(filepath.Dir(name), 0o755))
			}
			ok(t, os.WriteFile(name, fmt.Appendf(nil, "generated %d\n", i), 0o644))
		}
		dir = to
	}
	var mine, theirs time.Duration
	for i, b := range c.builds {
		image := fmt.Sprintf("%s:%d", c.name, i+1)
		flags := b.flags
		for _, name := range proxies() {
			flags = append(flags, "--build-arg", name+"="+os.Getenv(name))
		}
		build := func() {
			start := time.Now()
			w.do(t, dir, append(append([]string{"build", "--network", "host", "--progress", "plain", "-t", image}, flags...), ".")...)
			mine += time.Since(start)
		}
		if w.peer == nil {
			build()
			w.check(t, image, b.runs)
			continue
		}
		peer := flagCase(t, dir, flags)
		if !first {
			build()
		}
		theirs += w.solve(t, peer)
		if first {
			build()
		}
		w.check(t, image, b.runs)
		w.compare(t, c, image, peer)
	}
	if w.peer != nil {
		t.Logf("Strake %.1f s, BuildKit without an export %.1f s: %.2fx", mine.Seconds(), theirs.Seconds(), theirs.Seconds()/mine.Seconds())
	}
}

// check runs containers of an image.
func (w *realWorldMachine) check(t *testing.T, image string, runs []realRun) {
	t.Helper()
	for _, r := range runs {
		out := w.do(t, "", append([]string{"run", "--rm", "--network", "none", image}, r.args...)...)
		for _, want := range r.want {
			if !want.MatchString(out) {
				t.Errorf("%s %q printed no %s:\n%s", image, r.args, want, out)
			}
		}
	}
}

// flagCase is the build that flags ask for.
func flagCase(t *testing.T, dir string, flags []string) *DockerfileCase {
	t.Helper()
	abs, err := filepath.Abs(dir)
	ok(t, err)
	c := &DockerfileCase{Dir: abs, Dockerfile: "Dockerfile", Args: map[string]string{}, Secrets: map[string]string{}}
	for pair := range slices.Chunk(flags, 2) {
		key, value, _ := strings.Cut(pair[1], "=")
		switch pair[0] {
		case "--build-arg":
			c.Args[key] = value
		case "--target":
			c.Target = pair[1]
		case "--secret": // id=ID,src=FILE
			id, file, _ := strings.Cut(value, ",src=")
			c.Secrets[id] = filepath.Join(abs, file)
		default:
			t.Fatalf("BuildKit is not told of %s", pair[0])
		}
	}
	return c
}

// compare has BuildKit export what it built: it must be what Strake built.
func (w *realWorldMachine) compare(t *testing.T, c *realCase, image string, peer *DockerfileCase) {
	t.Helper()
	out := filepath.Join(t.TempDir(), "out")
	w.solve(t, peer, "--output", "type=oci,tar=false,compression=uncompressed,force-compression=true,dest="+out)
	theirs := layoutImage(t, out)
	id := strings.TrimSpace(w.do(t, "", "image", "inspect", "--format", "{{.Id}}", image))
	mine := storedImage(t, w.root, id)
	want, got := c.describe(t, theirs), c.describe(t, mine)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("%s (-BuildKit +Strake):\n%.6000s", image, diff)
	}
	ok(t, os.RemoveAll(out))
}

// always varies in two builds of Debian's packages: logs, caches that know inodes
// and times, what Python compiled.
var always = regexp.MustCompile(`^var/log/|^var/cache/ldconfig/aux-cache$|^var/cache/debconf/|^var/lib/dpkg/[^/]*-old$|/__pycache__/|^etc/ssl/certs/java/cacerts$|^tmp/hsperfdata`)

// describe lists config and files of an image.
func (c *realCase) describe(t *testing.T, b Built) []string {
	t.Helper()
	var out strings.Builder
	ids, err := describeConfig(&out, b)
	ok(t, err)
	files := map[string]string{}
	for _, id := range ids {
		l, err := parsedLayers.read(id, b.Layer)
		ok(t, err)
		l.apply(files)
	}
	list := strings.Split(out.String(), "\n")
	for _, name := range slices.Sorted(maps.Keys(files)) {
		matches := func(re *regexp.Regexp) bool { return re.MatchString(name) }
		if slices.ContainsFunc(c.ignore, matches) {
			continue
		}
		if line := files[name]; always.MatchString(name) || slices.ContainsFunc(c.varies, matches) {
			list = append(list, strings.Join(strings.Fields(line)[:3], " ")+" /"+name+" varies")
		} else {
			list = append(list, line)
		}
	}
	return list
}

// layoutImage is the one image of an OCI layout.
func layoutImage(t *testing.T, dir string) Built {
	t.Helper()
	blob := func(id digest.Digest) string { return filepath.Join(dir, "blobs", "sha256", id.Encoded()) }
	var err error
	b := Built{Layer: func(id digest.Digest) (io.ReadCloser, error) { return os.Open(blob(id)) }}
	b.Config, err = layoutConfig(func(name string) ([]byte, error) { return os.ReadFile(filepath.Join(dir, name)) })
	ok(t, err)
	return b
}

// storedImage is an image of Strake's store.
func storedImage(t *testing.T, root, id string) Built {
	t.Helper()
	blob := func(id digest.Digest) string { return filepath.Join(root, "blobs", "sha256", id.Encoded()) }
	config, err := os.ReadFile(blob(digest.Digest(id)))
	ok(t, err)
	return Built{Config: config, Layer: func(id digest.Digest) (io.ReadCloser, error) {
		f, err := os.Open(blob(id))
		if err != nil {
			return nil, errors.Join(err, errors.New("a layer that is not in the store"))
		}
		return f, nil
	}}
}
