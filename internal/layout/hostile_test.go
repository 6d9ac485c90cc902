package layout_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"strake/internal/image"
	"strake/internal/layout"
)

// refused fails the test unless an archive cannot be read, or an image of it
// cannot, and nothing was written but in the directory for that.
func refused(t *testing.T, name string, b io.Reader) {
	t.Helper()
	temp := t.TempDir()
	a, err := layout.ReadArchive(t.Context(), b, layout.ReadOptions{TempDir: temp})
	if err == nil {
		for _, im := range a.Images() {
			err = errors.Join(err, image.Walk(t.Context(), a, im.Desc, func(desc ocispec.Descriptor, _ []byte) error {
				_, err := image.ReadAll(t.Context(), a, desc, 1<<30)
				return err
			}))
		}
		if closeErr := a.Close(); closeErr != nil {
			t.Error(closeErr)
		}
	}
	if !errdefs.IsInvalidArgument(err) && !errdefs.IsNotFound(err) && !errdefs.IsResourceExhausted(err) && !errdefs.IsFailedPrecondition(err) {
		t.Errorf("%s: %v", name, err)
	}
	if entries, err := os.ReadDir(temp); err != nil || len(entries) > 0 {
		t.Errorf("%s: left %v, %v", name, entries, err)
	}
}

// TestCVE_2014_9358 has image IDs and layer names in a docker archive that are
// paths: out of the archive, into the host, or at another image's layer.
func TestCVE_2014_9358(t *testing.T) {
	secret := filepath.Join(t.TempDir(), "secret.json")
	if err := os.WriteFile(secret, []byte(`{"rootfs":{"type":"layers","diff_ids":[]}}`), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Chdir(filepath.Dir(secret))
	layer := makeTar(t, nil)
	good := dockerFiles(t, layer, digest.FromBytes(layer))
	for _, name := range []string{secret, "secret.json", "./secret.json", "../secret.json", "a/../../secret.json", "/proc/self/environ", "..", "", "\x00", `..\secret.json`} {
		item, err := json.Marshal([]map[string]any{{"Config": name, "RepoTags": []string{"x:1"}, "Layers": []string{"abc/layer.tar"}}})
		if err != nil {
			t.Fatal(err)
		}
		files := append([]file{}, good...)
		files[len(files)-1].body = item
		refused(t, "config "+name, bytes.NewReader(makeTar(t, files)))
		if item, err = json.Marshal([]map[string]any{{"Config": "cfg.json", "Layers": []string{name}}}); err != nil {
			t.Fatal(err)
		}
		files[len(files)-1].body = item
		refused(t, "layer "+name, bytes.NewReader(makeTar(t, files)))
	}
}

// ociFiles is an OCI archive of one manifest, as its bytes and descriptor say.
func ociFiles(manifest []byte, desc ocispec.Descriptor) []file {
	index := fmt.Sprintf(`{"schemaVersion":2,"manifests":[{"mediaType":%q,"digest":%q,"size":%d}]}`, desc.MediaType, desc.Digest, desc.Size)
	return []file{
		{name: "oci-layout", body: []byte(`{"imageLayoutVersion":"1.0.0"}`)},
		{name: "index.json", body: []byte(index)},
		{name: "blobs/sha256/" + desc.Digest.Encoded(), body: manifest},
	}
}

// TestCVE_2023_25153 has indexes, manifests and configs of gigabytes: they are
// refused before memory is spent.
func TestCVE_2023_25153(t *testing.T) {
	endless := func(files []file, name string, size int64) io.Reader {
		var parts []io.Reader
		for _, f := range files {
			b := makeTar(t, []file{f})
			b = b[:len(b)-1024]
			if f.name != name {
				parts = append(parts, bytes.NewReader(b))
				continue
			}
			head := bytes.Clone(b[:512])
			copy(head[124:], fmt.Sprintf("%011o\x00", size))
			copy(head[148:], "        ")
			sum := 0
			for _, c := range head {
				sum += int(c)
			}
			copy(head[148:], fmt.Sprintf("%06o\x00 ", sum))
			parts = append(parts, bytes.NewReader(head), io.LimitReader(spaces{}, size))
		}
		return io.MultiReader(append(parts, bytes.NewReader(make([]byte, 1024)))...)
	}
	const big = 80 << 20
	manifest := image.Bytes(ocispec.MediaTypeImageManifest, []byte("{}"))
	claimed := manifest
	claimed.Size = big
	layer := makeTar(t, nil)
	for name, b := range map[string]io.Reader{
		"index.json":      endless(ociFiles([]byte("{}"), manifest), "index.json", big),
		"manifest":        endless(ociFiles([]byte("{}"), claimed), "blobs/sha256/"+manifest.Digest.Encoded(), big),
		"manifest.json":   endless(dockerFiles(t, layer, digest.FromBytes(layer)), "manifest.json", big),
		"config":          endless(dockerFiles(t, layer, digest.FromBytes(layer)), "cfg.json", big),
		"deep index.json": bytes.NewReader(makeTar(t, []file{{name: "oci-layout", body: []byte(`{"imageLayoutVersion":"1.0.0"}`)}, {name: "index.json", body: []byte(strings.Repeat(`{"manifests":[`, 1_000_000))}})),
	} {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		refused(t, name, b)
		runtime.ReadMemStats(&after)
		if used := after.TotalAlloc - before.TotalAlloc; used > 160<<20 {
			t.Errorf("%s: %d MB were allocated", name, used>>20)
		}
	}
}

type spaces struct{}

func (spaces) Read(b []byte) (int, error) {
	for i := range b {
		b[i] = ' '
	}
	return len(b), nil
}

// TestCVE_2025_62725 has paths in annotations, as names and as titles of layers:
// they name nothing and write nothing.
func TestCVE_2025_62725(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir)
	layer := image.Bytes(ocispec.MediaTypeImageLayer, makeTar(t, nil))
	layer.Annotations = map[string]string{ocispec.AnnotationTitle: "../../evil"}
	configBytes := fmt.Appendf(nil, `{"rootfs":{"type":"layers","diff_ids":[%q]}}`, layer.Digest)
	config := image.Bytes(ocispec.MediaTypeImageConfig, configBytes)
	manifest, err := json.Marshal(map[string]any{"schemaVersion": 2, "mediaType": ocispec.MediaTypeImageManifest, "config": config, "layers": []any{layer}})
	if err != nil {
		t.Fatal(err)
	}
	desc := image.Bytes(ocispec.MediaTypeImageManifest, manifest)
	index := fmt.Sprintf(`{"schemaVersion":2,"manifests":[{"mediaType":%q,"digest":%q,"size":%d,"annotations":{"io.containerd.image.name":"../../evil:1","org.opencontainers.image.ref.name":"/etc/evil"}}]}`,
		desc.MediaType, desc.Digest, desc.Size)
	files := ociFiles(manifest, desc)
	files[1].body = []byte(index)
	files = append(files, file{name: "blobs/sha256/" + config.Digest.Encoded(), body: configBytes}, file{name: "blobs/sha256/" + layer.Digest.Encoded(), body: makeTar(t, nil)})
	a := readArchive(t, bytes.NewReader(makeTar(t, files)))
	for _, im := range a.Images() {
		if len(im.Names) > 0 {
			t.Errorf("names %q", im.Names)
		}
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) > 0 {
		t.Errorf("wrote %v, %v", entries, err)
	}
}

// A blob of an archive is what its digest says or nothing (CVE-2014-8179,
// GHSA-qv35-3gw6-8q4j).
func TestGHSA_qv35_3gw6_8q4j(t *testing.T) {
	manifest := []byte(`{"schemaVersion":2}`)
	desc := image.Bytes(ocispec.MediaTypeImageManifest, manifest)
	files := ociFiles(bytes.Replace(manifest, []byte("2"), []byte("1"), 1), desc)
	refused(t, "other bytes", bytes.NewReader(makeTar(t, files)))
	files = ociFiles(append(manifest, ' '), desc)
	refused(t, "trailing bytes", bytes.NewReader(makeTar(t, files)))
}
