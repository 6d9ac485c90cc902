package dockerfile

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	dockerspec "github.com/moby/docker-image-spec/specs-go/v1"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"strake/internal/build"
)

var update = flag.Bool("update", false, "write the golden files")

// fakeImages has any image of a few names: of one layer, without files.
type fakeImages struct{}

func (fakeImages) Resolve(_ context.Context, ref string, p ocispec.Platform, _ bool) (build.Image, error) {
	name := strings.TrimPrefix(ref, "docker.io/library/")
	if strings.HasPrefix(name, "nosuch") {
		return build.Image{}, fmt.Errorf("%s: %w", ref, errdefs.ErrNotFound)
	}
	var img dockerspec.DockerOCIImage
	img.Platform = p
	img.Config.Env = []string{"PATH=/bin", "FROM_BASE=1"}
	img.Config.Cmd = []string{"sh"}
	img.History = []ocispec.History{{CreatedBy: "base of " + name}}
	if strings.HasPrefix(name, "onbuild") {
		img.Config.OnBuild = []string{"ENV SET=1", "RUN echo from the base"}
	}
	b, err := json.Marshal(img)
	return build.Image{
		Layers: []digest.Digest{digest.FromString(name)}, Config: b,
		Manifest: ocispec.Descriptor{Digest: digest.FromString("manifest of " + name)},
	}, err
}

// TestCompile compiles each folder of testdata and compares with its "want".
func TestCompile(t *testing.T) {
	dirs, err := filepath.Glob("testdata/*/Dockerfile")
	if err != nil || len(dirs) == 0 {
		t.Fatal("no cases", err)
	}
	for _, name := range dirs {
		dir := filepath.Dir(name)
		t.Run(filepath.Base(dir), func(t *testing.T) {
			t.Parallel()
			got := compileCase(t, dir)
			golden := filepath.Join(dir, "want")
			if *update {
				if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func compileCase(t *testing.T, dir string) string {
	t.Helper()
	source, err := os.ReadFile(filepath.Join(dir, "Dockerfile"))
	if err != nil {
		t.Fatal(err)
	}
	target, err := os.ReadFile(filepath.Join(dir, "target"))
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	allow, err := os.ReadFile(filepath.Join(dir, "allow"))
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	solver := build.NewSolver(build.Options{})
	var b strings.Builder
	f, err := Parse("Dockerfile", source, "")
	var def *build.Definition
	if err == nil {
		def, err = Compile(t.Context(), f, Options{
			Target: strings.TrimSpace(string(target)), Images: fakeImages{}, Solver: solver, Slot: "test",
			Platform: &ocispec.Platform{OS: "linux", Architecture: "amd64"},
			Allow:    strings.Fields(string(allow)),
			Context:  solver.LazyContext(build.LazyContextOptions{Dir: dir}),
		})
	}
	if f != nil {
		for _, w := range f.Warnings() {
			fmt.Fprintln(&b, "warning:", w)
		}
	}
	if err != nil {
		fmt.Fprintf(&b, "error: %v\n", err)
		if f != nil {
			b.WriteString(f.Excerpt(err))
		}
		return b.String()
	}
	seen := map[*build.Vertex]bool{}
	printVertex(t, &b, def.Root, seen)
	config, err := json.MarshalIndent(def.Config, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	b.Write(config)
	b.WriteByte('\n')
	return b.String()
}

func printVertex(t *testing.T, b *strings.Builder, v *build.Vertex, seen map[*build.Vertex]bool) {
	t.Helper()
	if seen[v] {
		return
	}
	seen[v] = true
	for _, in := range v.Inputs {
		printVertex(t, b, in, seen)
	}
	fmt.Fprintf(b, "%s\n", v.Name)
	if op, ok := v.Op.(*build.Copy); ok {
		for i := range op.Sources {
			op.Sources[i].Context = nil
		}
	}
	j, err := json.Marshal(v.Op)
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprintf(b, "    %T %s\n", v.Op, j)
}
