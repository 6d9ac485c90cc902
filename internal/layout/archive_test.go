package layout_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"strake/internal/conformance"
	"strake/internal/image"
	"strake/internal/layout"
)

var amd64 = ocispec.Platform{OS: "linux", Architecture: "amd64"}

func writeArchive(t *testing.T, g *conformance.Graph, root ocispec.Descriptor, opts layout.WriteOptions, names ...string) []byte {
	t.Helper()
	var b bytes.Buffer
	err := layout.WriteArchive(t.Context(), &b, g, []layout.ArchiveImage{{Desc: root, Names: names}}, opts)
	if err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func readArchive(t *testing.T, r io.Reader) *layout.Archive {
	t.Helper()
	a, err := layout.ReadArchive(t.Context(), r, layout.ReadOptions{TempDir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := a.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return a
}

// imageID reads the config's digest and verifies all blobs on the way.
func imageID(t *testing.T, src image.Source, root ocispec.Descriptor) digest.Digest {
	t.Helper()
	d, err := image.FindManifest(t.Context(), src, root, amd64)
	if err != nil {
		t.Fatal(err)
	}
	m, _, err := image.ReadManifest(t.Context(), src, d)
	if err != nil {
		t.Fatal(err)
	}
	c, _, err := image.ReadConfig(t.Context(), src, m.Config)
	if err != nil {
		t.Fatal(err)
	}
	if len(c.RootFS.DiffIDs) != len(m.Layers) {
		t.Errorf("%d layers, %d diffIDs", len(m.Layers), len(c.RootFS.DiffIDs))
	}
	for _, l := range m.Layers {
		if _, err := image.ReadAll(t.Context(), src, l, 1<<30); err != nil {
			t.Error(err)
		}
	}
	return m.Config.Digest
}

func TestArchive(t *testing.T) {
	g := conformance.NewGraph(10_000, "amd64", "arm64")
	want := imageID(t, g, g.Root)
	names := []string{"docker.io/library/app:v1", "registry.example:5000/team/app:v1"}
	one, err := image.FindManifest(t.Context(), g, g.Root, amd64)
	if err != nil {
		t.Fatal(err)
	}
	partly := func(d ocispec.Descriptor) bool { return d.Digest == one.Digest }
	for name, c := range map[string]struct {
		root ocispec.Descriptor
		opts layout.WriteOptions
	}{
		"oci index": {g.Root, layout.WriteOptions{}}, "oci": {one, layout.WriteOptions{}},
		"part of an index": {g.Root, layout.WriteOptions{Keep: partly}},
		"docker":           {one, layout.WriteOptions{Format: layout.FormatDocker}},
	} {
		t.Run(name, func(t *testing.T) {
			b := writeArchive(t, g, c.root, c.opts, names...)
			if !bytes.Equal(b, writeArchive(t, g, c.root, c.opts, names...)) {
				t.Error("other bytes the second time")
			}
			var zipped bytes.Buffer
			z := gzip.NewWriter(&zipped)
			_, err := z.Write(b)
			if err := errors.Join(err, z.Close()); err != nil {
				t.Fatal(err)
			}
			file := filepath.Join(t.TempDir(), "image.tar")
			if err := os.WriteFile(file, b, 0o600); err != nil {
				t.Fatal(err)
			}
			f, err := os.Open(file)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			for form, r := range map[string]io.Reader{"file": f, "stream": bytes.NewReader(b), "gzip": &zipped} {
				a := readArchive(t, r)
				images := a.Images()
				if len(images) != 1 {
					t.Fatalf("%s: %d images", form, len(images))
				}
				if diff := cmp.Diff(names, images[0].Names); diff != "" {
					t.Errorf("%s: names: %s", form, diff)
				}
				root, err := a.Resolve(t.Context(), "app:v1")
				if err != nil {
					t.Fatal(err)
				}
				if got := imageID(t, a, root); got != want {
					t.Errorf("%s: image ID %s, want %s", form, got, want)
				}
			}
		})
	}
}

// TestForeignWriters reads what podman's library and docker's layout write.
func TestForeignWriters(t *testing.T) {
	skopeo, err := exec.LookPath("skopeo")
	if err != nil {
		t.Skip("needs skopeo")
	}
	g := conformance.NewGraph(10_000, "amd64")
	want := imageID(t, g, g.Root)
	dir := t.TempDir()
	for format, from := range map[layout.Format]string{
		layout.FormatOCI: "oci-archive:", layout.FormatDocker: "docker-archive:",
	} {
		ours := filepath.Join(dir, fmt.Sprintf("ours%d.tar", format))
		one, err := image.FindManifest(t.Context(), g, g.Root, amd64)
		if err != nil {
			t.Fatal(err)
		}
		b := writeArchive(t, g, one, layout.WriteOptions{Format: format}, "docker.io/library/app:v1")
		if err := os.WriteFile(ours, b, 0o600); err != nil {
			t.Fatal(err)
		}
		for i, to := range []string{"oci-archive:%s:docker.io/library/app:v1", "docker-archive:%s:docker.io/library/app:v1"} {
			theirs := filepath.Join(dir, fmt.Sprintf("theirs%d%d.tar", format, i))
			cmd := exec.CommandContext(t.Context(), skopeo, "--insecure-policy", "copy", from+ours, fmt.Sprintf(to, theirs))
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Fatalf("%v: %v: %s", cmd.Args, err, out)
			}
			f, err := os.Open(theirs)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			a := readArchive(t, f)
			root, err := a.Resolve(t.Context(), "app:v1")
			if err != nil {
				t.Fatalf("%s: %v (%+v)", theirs, err, a.Images())
			}
			if got := imageID(t, a, root); got != want {
				t.Errorf("%s: image ID %s, want %s", theirs, got, want)
			}
		}
	}
}

// file is an entry of a made tar.
type file struct {
	name, link string
	typ        byte
	body       []byte
}

func makeTar(t *testing.T, files []file) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, f := range files {
		if f.typ == 0 {
			f.typ = tar.TypeReg
		}
		err := w.WriteHeader(&tar.Header{Typeflag: f.typ, Name: f.name, Linkname: f.link, Size: int64(len(f.body)), Mode: 0o644})
		if err == nil {
			_, err = w.Write(f.body)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// dockerFiles are the files of a docker archive as docker wrote it once:
// <id>/layer.tar. Its one layer is layer.
func dockerFiles(t *testing.T, layer []byte, diffID digest.Digest) []file {
	t.Helper()
	config, err := json.Marshal(ocispec.Image{Platform: amd64, RootFS: ocispec.RootFS{Type: "layers", DiffIDs: []digest.Digest{diffID}}})
	if err != nil {
		t.Fatal(err)
	}
	return []file{
		{name: "abc/", typ: tar.TypeDir},
		{name: "abc/VERSION", body: []byte("1.0")},
		{name: "abc/layer.tar", body: layer},
		{name: "cfg.json", body: config},
		{name: "manifest.json", body: []byte(`[{"Config":"cfg.json","RepoTags":["app:v1"],"Layers":["abc/layer.tar"]}]`)},
	}
}

func TestDockerArchiveForms(t *testing.T) {
	layer := makeTar(t, []file{{name: "f", body: []byte("content")}})
	diffID := digest.FromBytes(layer)
	var zipped bytes.Buffer
	z := gzip.NewWriter(&zipped)
	_, err := z.Write(layer)
	if err := errors.Join(err, z.Close()); err != nil {
		t.Fatal(err)
	}
	plain := dockerFiles(t, layer, diffID)
	linked := slices.Clone(plain)
	linked[2] = file{name: "abc/layer.tar", typ: tar.TypeSymlink, link: "../" + diffID.Encoded() + ".tar"}
	linked = append(linked, file{name: diffID.Encoded() + ".tar", body: layer})
	hard := slices.Clone(plain)
	hard[2] = file{name: "abc/layer.tar", typ: tar.TypeLink, link: "x.tar"}
	hard = append(hard, file{name: "x.tar", body: layer})
	for name, c := range map[string]struct {
		files     []file
		mediaType string
	}{
		"plain":      {plain, ocispec.MediaTypeImageLayer},
		"symlink":    {linked, ocispec.MediaTypeImageLayer},
		"hard link":  {hard, ocispec.MediaTypeImageLayer},
		"compressed": {dockerFiles(t, zipped.Bytes(), diffID), ocispec.MediaTypeImageLayerGzip},
	} {
		a := readArchive(t, bytes.NewReader(makeTar(t, c.files)))
		root, err := a.Resolve(t.Context(), "app:v1")
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		imageID(t, a, root)
		m, _, err := image.ReadManifest(t.Context(), a, root)
		if err != nil || m.Layers[0].MediaType != c.mediaType {
			t.Errorf("%s: %+v, %v", name, m.Layers, err)
		}
	}
}

// TestHostileArchives is what CVE-2014-9358, CVE-2023-25153 and their like put
// into archives that are loaded.
func TestHostileArchives(t *testing.T) {
	layer := makeTar(t, nil)
	good := dockerFiles(t, layer, digest.FromBytes(layer))
	with := func(f ...file) []byte { return makeTar(t, append(slices.Clone(good), f...)) }
	manifest := func(text string) []byte {
		files := slices.Clone(good)
		files[len(files)-1].body = []byte(text)
		return makeTar(t, files)
	}
	whole := makeTar(t, good)
	for name, b := range map[string][]byte{
		"empty":             {},
		"no image":          makeTar(t, []file{{name: "x"}}),
		"dotdot":            with(file{name: "../x"}),
		"dotdot inside":     with(file{name: "a/../../x"}),
		"absolute":          with(file{name: "/etc/x"}),
		"twice":             with(good[len(good)-1]),
		"link out":          with(file{name: "l", typ: tar.TypeSymlink, link: "../../etc/passwd"}),
		"absolute link":     with(file{name: "l", typ: tar.TypeSymlink, link: "/etc/passwd"}),
		"hard link out":     with(file{name: "l", typ: tar.TypeLink, link: "../x"}),
		"device":            with(file{name: "d", typ: tar.TypeChar}),
		"cut off":           whole[:2500],
		"config outside":    manifest(`[{"Config":"../cfg.json","Layers":["abc/layer.tar"]}]`),
		"config absolute":   manifest(`[{"Config":"/etc/passwd","Layers":["abc/layer.tar"]}]`),
		"layer outside":     manifest(`[{"Config":"cfg.json","Layers":["abc/../../layer.tar"]}]`),
		"too few layers":    manifest(`[{"Config":"cfg.json","Layers":[]}]`),
		"layer not there":   manifest(`[{"Config":"cfg.json","Layers":["abc"]}]`),
		"no list":           manifest(`{}`),
		"too many images":   manifest("[" + strings.Repeat(`{},`, 20_000) + "{}]"),
		"link loop":         makeTar(t, append([]file{{name: "abc/layer.tar", typ: tar.TypeSymlink, link: "layer.tar"}}, good[3:]...)),
		"index.json digest": makeTar(t, []file{{name: "oci-layout", body: []byte(`{"imageLayoutVersion":"1.0.0"}`)}, {name: "index.json", body: []byte(`{"manifests":[{"mediaType":"` + ocispec.MediaTypeImageManifest + `","digest":"sha256:../../x","size":1}]}`)}}),
		"no oci-layout":     makeTar(t, []file{{name: "index.json", body: []byte(`{"manifests":[]}`)}}),
	} {
		a, err := layout.ReadArchive(t.Context(), bytes.NewReader(b), layout.ReadOptions{TempDir: t.TempDir()})
		if err == nil {
			t.Errorf("%s: read", name)
			_ = a.Close()
		} else if !errdefs.IsInvalidArgument(err) && !errdefs.IsNotFound(err) && !errdefs.IsResourceExhausted(err) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestHostileNames are names that are no names: they name nothing.
func TestHostileNames(t *testing.T) {
	layer := makeTar(t, nil)
	files := dockerFiles(t, layer, digest.FromBytes(layer))
	files[len(files)-1].body = []byte(`[{"Config":"cfg.json","RepoTags":["../../x","A:b","x@sha256:y","","ok"],"Layers":["abc/layer.tar"]}]`)
	a := readArchive(t, bytes.NewReader(makeTar(t, files)))
	if diff := cmp.Diff([]string{"docker.io/library/ok:latest"}, a.Images()[0].Names); diff != "" {
		t.Error(diff)
	}
}

func TestSpoolingEndsWithContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	dir := t.TempDir()
	if _, err := layout.ReadArchive(ctx, bytes.NewReader(make([]byte, 1<<20)), layout.ReadOptions{TempDir: dir}); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) > 0 {
		t.Errorf("left %v, %v", entries, err)
	}
}

func FuzzReadArchive(f *testing.F) {
	f.Add([]byte{})
	var b bytes.Buffer
	g := conformance.NewGraph(10, "amd64")
	if err := layout.WriteArchive(context.Background(), &b, g, []layout.ArchiveImage{{Desc: g.Root, Names: []string{"a:b"}}}, layout.WriteOptions{}); err != nil {
		f.Fatal(err)
	}
	f.Add(b.Bytes())
	f.Fuzz(func(t *testing.T, b []byte) {
		a, err := layout.ReadArchive(t.Context(), bytes.NewReader(b), layout.ReadOptions{TempDir: t.TempDir()})
		if err != nil {
			return
		}
		defer a.Close()
		for _, im := range a.Images() {
			_ = image.Walk(t.Context(), a, im.Desc, func(ocispec.Descriptor, []byte) error { return nil })
		}
	})
}

// TestBombIsBounded: an archive that has to be unpacked is, as far as there is
// room, and nothing is left of it.
func TestBombIsBounded(t *testing.T) {
	g := conformance.NewGraph(100_000, "amd64")
	plain := writeArchive(t, g, g.Root, layout.WriteOptions{}, "docker.io/library/app:v1")
	var zipped bytes.Buffer
	z := gzip.NewWriter(&zipped)
	_, err := z.Write(plain)
	if err := errors.Join(err, z.Close()); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for limit, want := range map[int64]bool{int64(len(plain)): true, int64(len(plain)) - 1: false, 1: false} {
		a, err := layout.ReadArchive(t.Context(), bytes.NewReader(zipped.Bytes()), layout.ReadOptions{TempDir: dir, MaxCopy: limit})
		if err == nil {
			err = a.Close()
		}
		if (err == nil) != want || err != nil && !errdefs.IsResourceExhausted(err) {
			t.Errorf("limit %d of %d: %v", limit, len(plain), err)
		}
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) > 0 {
		t.Errorf("left %v, %v", entries, err)
	}
}
