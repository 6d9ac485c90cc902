package conformance

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"strake/internal/image"
)

// Images is an image.Target that can be read back.
type Images interface {
	image.Source
	image.Target
}

// Target tests what image.Target promises, by what image.Source shows of it.
// newTarget returns an empty target whose refs may be tags.
func Target(t *testing.T, newTarget func(t *testing.T) Images) {
	for _, c := range []struct {
		name string
		run  func(t *testing.T, to Images)
	}{
		{"Copy", targetCopy},
		{"Resolve", targetResolve},
		{"Offsets", targetOffsets},
		{"Mismatch", targetMismatch},
		{"BrokenSource", targetBrokenSource},
		{"Select", targetSelect},
		{"HostileDigest", targetHostileDigest},
		{"Parallel", targetParallel},
	} {
		t.Run(c.name, func(t *testing.T) { c.run(t, newTarget(t)) })
	}
}

// Graph is an image.Source in memory, for tests.
type Graph struct {
	Root  ocispec.Descriptor
	blobs map[digest.Digest][]byte

	mu      sync.Mutex
	fetches map[digest.Digest]int
}

// NewGraph makes an index with one image for each of the architectures. Each
// image is a layer of its own and one that it shares with the others, of about
// size bytes each, as gzip would leave them.
func NewGraph(size int, architectures ...string) *Graph {
	g := &Graph{blobs: map[digest.Digest][]byte{}, fetches: map[digest.Digest]int{}}
	index := ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex}
	shared := g.add(ocispec.MediaTypeImageLayer, noise(1, size))
	for i, arch := range architectures {
		own := g.add(ocispec.MediaTypeImageLayer, noise(uint64(i)+2, size+i))
		config := g.addJSON(ocispec.MediaTypeImageConfig, ocispec.Image{
			Platform: ocispec.Platform{OS: "linux", Architecture: arch},
			RootFS:   ocispec.RootFS{Type: "layers", DiffIDs: []digest.Digest{shared.Digest, own.Digest}},
		})
		m := g.addJSON(ocispec.MediaTypeImageManifest, ocispec.Manifest{
			Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest,
			Config: config, Layers: []ocispec.Descriptor{shared, own},
		})
		m.Platform = &ocispec.Platform{OS: "linux", Architecture: arch}
		index.Manifests = append(index.Manifests, m)
	}
	g.Root = g.addJSON(ocispec.MediaTypeImageIndex, index)
	return g
}

// noise returns n bytes of a tar that holds one file of pseudo-random bytes.
func noise(seed uint64, n int) []byte {
	var key [32]byte
	key[0] = byte(seed)
	b := make([]byte, n)
	_, _ = rand.NewChaCha8(key).Read(b) // never fails
	return tarOf(fmt.Sprintf("noise%d", seed), b)
}

func (g *Graph) add(mediaType string, b []byte) ocispec.Descriptor {
	d := image.Bytes(mediaType, b)
	g.blobs[d.Digest] = b
	return d
}

func (g *Graph) addJSON(mediaType string, v any) ocispec.Descriptor {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err) // of a plain struct
	}
	return g.add(mediaType, b)
}

// Resolve implements image.Source: every ref is the root.
func (g *Graph) Resolve(context.Context, string) (ocispec.Descriptor, error) { return g.Root, nil }

// Fetch implements image.Source.
func (g *Graph) Fetch(_ context.Context, desc ocispec.Descriptor, offset int64) (io.ReadCloser, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	b, ok := g.blobs[desc.Digest]
	if !ok {
		return nil, fmt.Errorf("blob %s: %w", desc.Digest, errdefs.ErrNotFound)
	}
	g.fetches[desc.Digest]++
	return io.NopCloser(bytes.NewReader(b[offset:])), nil
}

// wantGraph fails the test unless src holds all of root, as g has it.
func wantGraph(t *testing.T, g *Graph, src image.Source, root ocispec.Descriptor) {
	t.Helper()
	err := image.Walk(t.Context(), src, root, func(d ocispec.Descriptor, b []byte) error {
		if b == nil {
			var err error
			if b, err = image.ReadAll(t.Context(), src, d, 1<<30); err != nil {
				return err
			}
		}
		if !bytes.Equal(b, g.blobs[d.Digest]) {
			t.Errorf("%s: other bytes", d.Digest)
		}
		return nil
	})
	if err != nil {
		t.Errorf("walk: %v", err)
	}
}

func targetCopy(t *testing.T, to Images) {
	g := NewGraph(300_000, "amd64", "arm64")
	states := map[digest.Digest]image.State{}
	opts := image.CopyOptions{Progress: func(e image.Event) {
		if e.State < states[e.Desc.Digest] {
			t.Errorf("%s: state %d after %d", e.Desc.Digest, e.State, states[e.Desc.Digest])
		}
		states[e.Desc.Digest] = e.State
	}}
	root, err := image.Copy(t.Context(), g, "", to, "v1", opts)
	if err != nil {
		t.Fatal(err)
	}
	wantGraph(t, g, to, root)
	for dgst := range g.blobs {
		if states[dgst] != image.StateDone {
			t.Errorf("%s ends in state %d", dgst, states[dgst])
		}
		if g.fetches[dgst] != 1 {
			t.Errorf("%s fetched %d times", dgst, g.fetches[dgst])
		}
	}
	clear(g.fetches)
	if _, err := image.Copy(t.Context(), g, "", to, "v2", image.CopyOptions{}); err != nil {
		t.Fatal(err)
	}
	for dgst, n := range g.fetches {
		if dgst != root.Digest {
			t.Errorf("again: %s fetched %d times", dgst, n)
		}
	}
}

func targetResolve(t *testing.T, to Images) {
	g := NewGraph(1000, "amd64")
	_, err := to.Resolve(t.Context(), "none")
	want(t, "resolve what is not there", err, errdefs.IsNotFound)
	if ok, err := to.Exists(t.Context(), g.Root); ok || err != nil {
		t.Errorf("exists before: %v, %v", ok, err)
	}
	root, err := image.Copy(t.Context(), g, "", to, "v1", image.CopyOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, ref := range []string{"v1", root.Digest.String()} {
		got, err := to.Resolve(t.Context(), ref)
		if err != nil || got.Digest != root.Digest || got.Size != root.Size || got.MediaType != root.MediaType {
			t.Errorf("resolve %s: %+v, %v", ref, got, err)
		}
	}
	if ok, err := to.Exists(t.Context(), root); !ok || err != nil {
		t.Errorf("exists after: %v, %v", ok, err)
	}
	g2 := NewGraph(1001, "amd64")
	root2, err := image.Copy(t.Context(), g2, "", to, "v1", image.CopyOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if got, err := to.Resolve(t.Context(), "v1"); err != nil || got.Digest != root2.Digest {
		t.Errorf("resolve moved tag: %+v, %v", got, err)
	}
}

func targetOffsets(t *testing.T, to Images) {
	g := NewGraph(50_000, "amd64")
	root, err := image.Copy(t.Context(), g, "", to, "v1", image.CopyOptions{})
	if err != nil {
		t.Fatal(err)
	}
	err = image.Walk(t.Context(), to, root, func(d ocispec.Descriptor, _ []byte) error {
		for _, offset := range []int64{0, 1, d.Size / 2, d.Size - 1, d.Size} {
			rc, err := to.Fetch(t.Context(), d, offset)
			if err != nil {
				return fmt.Errorf("fetch from %d of %d: %w", offset, d.Size, err)
			}
			b, err := io.ReadAll(rc)
			if err := errors.Join(err, rc.Close()); err != nil {
				return err
			}
			if !bytes.Equal(b, g.blobs[d.Digest][offset:]) {
				t.Errorf("%s from %d: other bytes", d.Digest, offset)
			}
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

func opener(b []byte) image.Opener {
	return func(_ context.Context, offset int64) (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(b[min(offset, int64(len(b))):])), nil
	}
}

func targetMismatch(t *testing.T, to Images) {
	good := tarOf("f", []byte("expected"))
	d := image.Bytes(ocispec.MediaTypeImageLayer, good)
	bad := bytes.Replace(good, []byte("expected"), []byte("anything"), 1)
	for name, b := range map[string][]byte{"other bytes": bad, "too few": good[:len(good)-1], "none": nil} {
		if err := to.Push(t.Context(), d, opener(b)); err == nil {
			t.Errorf("%s: pushed", name)
		}
		if ok, err := to.Exists(t.Context(), d); ok || err != nil {
			t.Errorf("%s: exists: %v, %v", name, ok, err)
		}
	}
	if err := to.Push(t.Context(), d, opener(good)); err != nil {
		t.Errorf("push after failures: %v", err)
	}
}

var errBroken = errors.New("source broke")

// targetBrokenSource ends a source in mid-blob: the push fails with its error,
// and the next one succeeds.
func targetBrokenSource(t *testing.T, to Images) {
	b := noise(9, 20_000_000)
	d := image.Bytes(ocispec.MediaTypeImageLayer, b)
	err := to.Push(t.Context(), d, func(_ context.Context, offset int64) (io.ReadCloser, error) {
		half := max(int64(len(b)/2), offset)
		return io.NopCloser(io.MultiReader(bytes.NewReader(b[offset:half]), brokenReader{})), nil
	})
	if !errors.Is(err, errBroken) {
		t.Errorf("push from a broken source: %v", err)
	}
	if ok, err := to.Exists(t.Context(), d); ok || err != nil {
		t.Errorf("exists: %v, %v", ok, err)
	}
	if err := to.Push(t.Context(), d, opener(b)); err != nil {
		t.Fatal(err)
	}
	if got, err := image.ReadAll(t.Context(), to, d, 1<<30); err != nil || !bytes.Equal(got, b) {
		t.Errorf("read back: %d bytes, %v", len(got), err)
	}
}

type brokenReader struct{}

func (brokenReader) Read([]byte) (int, error) { return 0, errBroken }

func targetSelect(t *testing.T, to Images) {
	g := NewGraph(1000, "amd64", "arm64")
	platform := ocispec.Platform{OS: "linux", Architecture: "arm64"}
	m, err := image.FindManifest(t.Context(), g, g.Root, platform)
	if err != nil {
		t.Fatal(err)
	}
	clear(g.fetches)
	if err := image.CopyGraph(t.Context(), g, to, m, image.CopyOptions{}); err != nil {
		t.Fatal(err)
	}
	wantGraph(t, g, to, m)
	if len(g.fetches) != 4 { // manifest, config, two layers
		t.Errorf("%d blobs fetched", len(g.fetches))
	}
}

func targetHostileDigest(t *testing.T, to Images) {
	for _, dgst := range []digest.Digest{"", "sha256:", "sha256:../../../x", "x", digest.Digest("sha256:" + strings.Repeat("z", 64))} {
		d := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayer, Digest: dgst, Size: 1}
		if err := to.Push(t.Context(), d, opener([]byte("x"))); err == nil {
			t.Errorf("pushed %q", dgst)
		}
		if rc, err := to.Fetch(t.Context(), d, 0); err == nil {
			_ = rc.Close()
			t.Errorf("fetched %q", dgst)
		}
	}
}

func targetParallel(t *testing.T, to Images) {
	g := NewGraph(500_000, "amd64", "arm64", "riscv64")
	var wg sync.WaitGroup
	for i := range 4 {
		wg.Go(func() {
			if _, err := image.Copy(t.Context(), g, "", to, fmt.Sprintf("v%d", i), image.CopyOptions{}); err != nil {
				t.Errorf("copy: %v", err)
			}
		})
	}
	wg.Wait()
	wantGraph(t, g, to, g.Root)
}

// tarOf returns a tar of one file.
func tarOf(name string, content []byte) []byte {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644, Size: int64(len(content))})
	if err == nil {
		_, err = w.Write(content)
	}
	if err := errors.Join(err, w.Close()); err != nil {
		panic(err) // into memory
	}
	return b.Bytes()
}
