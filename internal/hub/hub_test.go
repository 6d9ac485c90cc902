package hub_test

import (
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"strake/internal/auth"
	"strake/internal/hub"
	"strake/internal/registry"
)

func open(t *testing.T, dir string) *hub.Hub {
	t.Helper()
	h, err := hub.Open(t.Context(), hub.Options{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := h.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return h
}

// TestSparse pushes an index of which one manifest is not there: refused, unless
// the Hub is told to take such.
func TestSparse(t *testing.T) {
	const index = `{"schemaVersion":2,"mediaType":"` + ocispec.MediaTypeImageIndex + `","manifests":[{"mediaType":"` + ocispec.MediaTypeImageManifest +
		`","digest":"sha256:2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881","size":7}]}`
	ctx := auth.With(t.Context(), auth.Identity{System: true})
	m := registry.Manifest{MediaType: ocispec.MediaTypeImageIndex, Bytes: []byte(index)}
	for _, sparse := range []bool{false, true} {
		h := openWith(t, hub.Options{Dir: t.TempDir(), Sparse: sparse})
		_, err := h.PutManifest(ctx, "a", []string{"v1"}, m)
		if sparse != (err == nil) || !sparse && !registry.HasCode(err, registry.ManifestBlobUnknown) {
			t.Errorf("sparse %v: %v", sparse, err)
		}
	}
}

// TestUploadAcrossRestart resumes an upload in another Hub on the same data.
func TestUploadAcrossRestart(t *testing.T) {
	dir, ctx := t.TempDir(), auth.With(t.Context(), auth.Identity{System: true})
	first, err := hub.Open(t.Context(), hub.Options{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	up, err := first.StartUpload(ctx, "a")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := up.Write([]byte("before, ")); err != nil {
		t.Fatal(err)
	}
	if err := up.Close(); err != nil {
		t.Fatal(err)
	}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	second := open(t, dir)
	up, err = second.ResumeUpload(ctx, "a", up.ID())
	if err != nil {
		t.Fatal(err)
	}
	if up.Offset() != 8 {
		t.Errorf("offset %d, want 8", up.Offset())
	}
	if _, err := up.Write([]byte("after")); err != nil {
		t.Fatal(err)
	}
	if _, err := up.Commit(ctx, digest.FromString("before, after")); err != nil {
		t.Fatal(err)
	}
	if err := up.Close(); err != nil {
		t.Fatal(err)
	}
}
