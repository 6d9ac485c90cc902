package main_test

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
)

var update = flag.Bool("update", false, "record what docker prints, in testdata/parity")

// Each transcript in testdata/parity is what a real docker printed: a line of
// shell after "$ ", its standard output, its errors after "! ", its exit code.
// Strake, called docker, prints the same. Where it does not, a line "# differs: "
// before the command says why, and what Strake prints stands below docker's,
// after "--".
func TestParity(t *testing.T) {
	files, err := filepath.Glob("testdata/parity/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no transcripts: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			p := newParity(newWorld(t))
			transcript := parseTranscript(string(text))
			if *update {
				p.play(transcript, p.docker(), func(s *step, out string) { s.docker = out })
			}
			p.play(transcript, p.strake(), func(s *step, out string) { s.strake = out })
			if *update {
				if err := os.WriteFile(file, []byte(transcript.String()), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want := parseTranscript(string(text))
			for i, s := range transcript {
				if *update {
					want[i] = s
				}
				switch want := want[i].wanted(); {
				case s.strake != want:
					t.Errorf("$ %s\nwant -, got +:\n%s", s.command, cmp.Diff(want, s.strake))
				case s.differs && s.strake == s.docker:
					t.Errorf("$ %s\nis said to differ from docker's, and does not", s.command)
				}
			}
		})
	}
}

type transcript []*step

// step is one command: what docker prints and what Strake does.
type step struct {
	comment, command string
	differs          bool
	docker, strake   string
}

func (s *step) wanted() string {
	if s.differs {
		return s.strake
	}
	return s.docker
}

func parseTranscript(text string) transcript {
	var steps transcript
	comment := ""
	var out *string
	for line := range strings.Lines(text) {
		command, ok := strings.CutPrefix(line, "$ ")
		switch {
		case ok:
			s := &step{comment: comment, command: strings.TrimSuffix(command, "\n"), differs: strings.Contains(comment, "# differs: ")}
			steps, comment, out = append(steps, s), "", &s.docker
		case strings.HasPrefix(line, "# "):
			comment += line
		case line == "--\n" && len(steps) > 0:
			out = &steps[len(steps)-1].strake
		case out != nil:
			*out += line
		}
	}
	for _, s := range steps { // the empty line that ends a step
		last := &s.docker
		if s.differs {
			last = &s.strake
		}
		*last = strings.TrimSuffix(*last, "\n")
	}
	return steps
}

func (t transcript) String() string {
	var b strings.Builder
	for _, s := range t {
		b.WriteString(s.comment + "$ " + s.command + "\n" + s.docker)
		if s.differs {
			b.WriteString("--\n" + s.strake)
		}
		b.WriteString("\n")
	}
	return b.String()
}

// parity is where transcripts are played: the images they work on and a
// registry, whose address is written REGISTRY in them.
type parity struct {
	*world
	registry string
}

func newParity(w *world) *parity {
	p := &parity{world: w, registry: w.hub()}
	w.write("archives/images.tar", string(p.archive(
		testImage{tags: []string{"app:1.0", "app:latest", "registry.example/team/app:1.0"}, layers: []string{"base", "app"}},
		testImage{tags: []string{"base:3"}, layers: []string{"base"}},
		testImage{tags: []string{"tool:arm"}, layers: []string{"armtool"}, arch: "arm64"},
	)))
	w.write("archives/dangling.tar", string(p.archive(testImage{layers: []string{"base", "lost"}})))
	w.write("archives/root.tar", string(layerTar("root")))
	return p
}

// docker is the command that speaks to a new daemon, and strake the one on a
// new store.
func (p *parity) docker() []string {
	host := p.startDockerd()
	p.script("docker", `exec `+p.lookPath("docker")+` -H `+host+` "$@"`)
	return p.environ("docker")
}

func (p *parity) strake() []string {
	p.script("strake", `exec `+filepath.Join(bin, "strake")+` "$@"`)
	return append(p.environ("strake"), "STRAKE_ROOT="+p.path("store"))
}

func (p *parity) lookPath(name string) string {
	path, err := exec.LookPath(name)
	if err != nil {
		p.Fatal(err)
	}
	return path
}

// script makes the program docker of one player.
func (p *parity) script(player, line string) {
	p.write(player+"-bin/docker", "#!/bin/sh\n"+line+"\n")
}

func (p *parity) environ(player string) []string {
	return append(os.Environ(), "PATH="+p.path(player+"-bin")+":"+os.Getenv("PATH"), "TZ=UTC", "REGISTRY="+p.registry,
		"DOCKER_CONFIG="+p.path(player+"-config"), "DOCKER_CLI_HINTS=false", "COLUMNS=200")
}

// play runs the commands of a transcript, and hands over what each prints.
func (p *parity) play(steps transcript, env []string, take func(s *step, out string)) {
	dir, err := os.MkdirTemp(p.dir, "play")
	if err != nil {
		p.Fatal(err)
	}
	p.run("cp", "-r", p.path("archives")+"/.", dir)
	for _, s := range steps {
		take(s, p.output(s.command, dir, env))
	}
}

func (p *parity) output(command, dir string, env []string) string {
	ctx, cancel := context.WithTimeout(p.Context(), time.Minute)
	defer cancel()
	var stdout, stderr bytes.Buffer
	cmd := exec.CommandContext(ctx, "bash", "-c", command)
	cmd.Dir, cmd.Env, cmd.Stdout, cmd.Stderr = dir, env, &stdout, &stderr
	err := cmd.Run()
	out := p.normal(stdout.String())
	if out != "" && !strings.HasSuffix(out, "\n") {
		out += "[no newline]\n"
	}
	for line := range strings.Lines(p.normal(stderr.String())) {
		out += "! " + strings.TrimSuffix(line, "\n") + "\n"
	}
	if err != nil {
		out += fmt.Sprintf("[%v]\n", err)
	}
	return out
}

// ages are times that go on.
var ages = regexp.MustCompile(`\b(\d+|About an?|Less than a) (seconds?|minutes?|hours?|days|weeks|months|years) ago`)

// normal takes out what two programs, or two runs, may differ in: their name,
// the daemon that only one has, the address of the registry, the time.
func (p *parity) normal(text string) string {
	text = strings.ReplaceAll(text, p.registry, "REGISTRY"+strings.Repeat("_", max(0, len("127.0.0.1:12345")-len("REGISTRY"))))
	text = strings.ReplaceAll(text, "Error response from daemon: ", "Error: ")
	text = strings.ReplaceAll(text, "strake", "docker")
	text = ages.ReplaceAllStringFunc(text, func(age string) string {
		return fmt.Sprintf("%-*s", len(age), "long ago")[:len(age)]
	})
	return text
}

// testImage is an image whose every byte is known.
type testImage struct {
	tags   []string
	layers []string
	arch   string // "" is amd64
}

// archive writes images as docker save does.
func (p *parity) archive(images ...testImage) []byte {
	type entry struct {
		Config   string
		RepoTags []string
		Layers   []string
	}
	var manifest []entry
	files := map[string][]byte{}
	var order []string
	add := func(name string, b []byte) {
		if _, ok := files[name]; !ok {
			files[name], order = b, append(order, name)
		}
	}
	for _, img := range images {
		config, layers := img.config(p.T)
		e := entry{digest.FromBytes(config).Encoded() + ".json", img.tags, nil}
		add(e.Config, config)
		for _, l := range layers {
			name := digest.FromBytes(l).Encoded() + "/layer.tar"
			add(name, l)
			e.Layers = append(e.Layers, name)
		}
		manifest = append(manifest, e)
	}
	b, err := json.Marshal(manifest)
	if err != nil {
		p.Fatal(err)
	}
	add("manifest.json", b)
	var buf bytes.Buffer
	tw := tar.NewWriter(&buf)
	for _, name := range order {
		writeTar(p.T, tw, name, files[name])
	}
	if err := tw.Close(); err != nil {
		p.Fatal(err)
	}
	return buf.Bytes()
}

func (img testImage) config(t *testing.T) (config []byte, layers [][]byte) {
	arch := img.arch
	if arch == "" {
		arch = "amd64"
	}
	created := time.Date(2001, 2, 3, 4, 5, 6, 0, time.UTC)
	history := []map[string]any{}
	diffIDs := []digest.Digest{}
	for i, name := range img.layers {
		l := layerTar(name)
		layers, diffIDs = append(layers, l), append(diffIDs, digest.FromBytes(l))
		history = append(history,
			map[string]any{"created": created.Add(time.Duration(i) * time.Hour), "created_by": "/bin/sh -c #(nop) ADD file:" + name + " in / ", "comment": "buildkit.dockerfile.v0"},
			map[string]any{"created": created.Add(time.Duration(i)*time.Hour + time.Second), "created_by": "/bin/sh -c #(nop)  ENV LAYER=" + name, "empty_layer": true})
	}
	top := img.layers[len(img.layers)-1]
	config, err := json.Marshal(map[string]any{
		"architecture": arch, "os": "linux", "created": created.Add(time.Duration(len(top)+10*len(layers)) * time.Hour),
		"author": "A Person", "config": map[string]any{
			"Env": []string{"PATH=/bin", "LAYER=" + top}, "Cmd": []string{"cat", "/" + top}, "Labels": map[string]string{"tier": top, "team": "blue"},
			"ExposedPorts": map[string]any{"80/tcp": map[string]any{}}, "WorkingDir": "/srv", "Volumes": map[string]any{"/data": map[string]any{}},
		},
		"rootfs": map[string]any{"type": "layers", "diff_ids": diffIDs}, "history": history,
	})
	if err != nil {
		t.Fatal(err)
	}
	return config, layers
}

// layerTar is a layer of one file of some megabytes, so that the bytes of its
// headers do not show in sizes.
func layerTar(name string) []byte {
	var buf bytes.Buffer
	tw := tar.NewWriter(&buf)
	for _, err := range []error{
		tw.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(name)) * 1_050_000, ModTime: time.Unix(981173106, 0), Format: tar.FormatUSTAR}),
		func() error { _, err := tw.Write(bytes.Repeat([]byte(name), 1_050_000)); return err }(),
		tw.Close(),
	} {
		if err != nil {
			panic(err) // a buffer takes everything
		}
	}
	return buf.Bytes()
}

func writeTar(t *testing.T, tw *tar.Writer, name string, b []byte) {
	t.Helper()
	err := tw.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(b)), ModTime: time.Unix(981173106, 0)})
	if err == nil {
		_, err = tw.Write(b)
	}
	if err != nil {
		t.Fatal(err)
	}
}
