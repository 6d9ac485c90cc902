package engine

import (
	"archive/tar"
	"strings"
	"testing"

	imagespec "github.com/moby/docker-image-spec/specs-go/v1"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// A history that tells of too few steps, or too many, or of none, names the layers
// that it can.
func TestLayerSteps(t *testing.T) {
	step := func(by string) ocispec.History { return ocispec.History{CreatedBy: by} }
	empty := ocispec.History{CreatedBy: "ENV a=b", EmptyLayer: true}
	for _, c := range []struct {
		layers  int
		history []ocispec.History
		want    string
	}{
		{2, []ocispec.History{step("a"), empty, step("b")}, "a b"},
		{3, []ocispec.History{step("a"), empty, step("b")}, "a b"},
		{1, []ocispec.History{step("a"), step("b"), step("c")}, "a"},
		{2, nil, ""},
		{0, []ocispec.History{step("a"), empty}, ""},
	} {
		var config imagespec.DockerOCIImage
		config.RootFS.DiffIDs = make([]digest.Digest, c.layers)
		config.History = c.history
		var got []string
		for _, h := range layerSteps(config) {
			got = append(got, h.CreatedBy)
		}
		if strings.Join(got, " ") != c.want {
			t.Errorf("%d layers, %d steps: %q, want %q", c.layers, len(c.history), got, c.want)
		}
	}
}

// What a path leads to is inside the image, however it is written.
func TestListFilesInside(t *testing.T) {
	env := imageOf(t, tarDir("d", 0o755), tar.Header{Name: "d/x"}, tarLink("up", "../../../d"), tarLink("loop", "loop"))
	for path, want := range map[string]string{
		"": "/d /loop /up", "/..": "/d /loop /up", "../../d/.": "/d/x", "up": "/up/x", "/up/../d//x": "/d/x", "/up/x": "/up/x",
	} {
		list, err := ListFiles(t.Context(), env, ListFilesOptions{LookOptions: LookOptions{Ref: "i"}, Path: path})
		var got []string
		for _, f := range list {
			got = append(got, f.Path)
		}
		if err != nil || strings.Join(got, " ") != want {
			t.Errorf("%q: %s, %v, want %s", path, got, err, want)
		}
	}
	for path, want := range map[string]string{
		"/none": "/none: No such file or directory", "/d/x/y": "/d/x/y: Not a directory", "/loop": "/loop: Too many levels of symbolic links",
	} {
		_, err := ListFiles(t.Context(), env, ListFilesOptions{LookOptions: LookOptions{Ref: "i"}, Path: path})
		if err == nil || err.Error() != want {
			t.Errorf("%s: %v, want %s", path, err, want)
		}
	}
}
