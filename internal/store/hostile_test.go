package store

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"sync"
	"testing"

	"github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"strake/internal/image"
)

// TestCVE_2014_8178 has images that would poison what others get: a layer of other
// bytes than its digest says, one that its config does not name, a manifest whose
// bytes go on after its end. None of them is taken, and the layer's true bytes are.
func TestCVE_2014_8178(t *testing.T) {
	good, evil := newFixture(t, "good"), newFixture(t, "evil")
	s := open(t, t.TempDir())
	try := func(what string, f *fixture) {
		t.Helper()
		if _, err := image.Copy(t.Context(), f, "", s, "docker.io/library/"+what+":1", image.CopyOptions{}); err == nil {
			t.Errorf("%s: taken", what)
		}
	}
	poisoned := newFixture(t, "good")
	poisoned.blobs[poisoned.layer.Digest] = evil.blobs[evil.layer.Digest]
	try("bytes", poisoned)
	claims := newFixture(t, "good")
	claims.config = good.config
	claims.layer = evil.layer
	claims.blobs[evil.layer.Digest] = evil.blobs[evil.layer.Digest]
	claims.root = claims.putJSON(t, ocispec.MediaTypeImageManifest, ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest,
		Config: good.config, Layers: []ocispec.Descriptor{evil.layer},
	})
	try("layer", claims)
	trailing := newFixture(t, "good") // CVE-2014-8179
	trailing.root = trailing.put(ocispec.MediaTypeImageManifest, append(bytes.Clone(trailing.blobs[trailing.root.Digest]), "{}"...))
	try("trailing", trailing)
	pull(t, s, good, "docker.io/library/good:1")
	if _, found := findKinds(t, s, false); len(found) > 0 {
		t.Error(found)
	}
}

// TestCVE_2021_21285 has manifests and configs that lack, double or mistype
// whatever they can: they are errors, not crashes.
func TestCVE_2021_21285(t *testing.T) {
	s := open(t, t.TempDir())
	f := newFixture(t, "malformed")
	for _, d := range []digest.Digest{f.root.Digest, f.config.Digest} {
		var fields map[string]json.RawMessage
		if err := json.Unmarshal(f.blobs[d], &fields); err != nil {
			t.Fatal(err)
		}
		for field := range fields {
			for _, value := range []string{"", "null", "0", `""`, "[]", "{}", "[null]", "[[]]", `[{}]`, "true", `"\u0000"`, "1e999"} {
				changed := newFixture(t, "malformed")
				saved := fields[field]
				if fields[field] = json.RawMessage(value); value == "" {
					delete(fields, field)
				}
				b, err := json.Marshal(fields)
				fields[field] = saved
				if err != nil {
					continue // no JSON
				}
				if d == f.root.Digest {
					changed.root = changed.put(ocispec.MediaTypeImageManifest, b)
				} else {
					changed.config = changed.put(ocispec.MediaTypeImageConfig, b)
					changed.root = changed.putJSON(t, ocispec.MediaTypeImageManifest, ocispec.Manifest{
						Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest,
						Config: changed.config, Layers: []ocispec.Descriptor{changed.layer},
					})
				}
				_, err = image.Copy(t.Context(), changed, "", s, "docker.io/library/m:1", image.CopyOptions{})
				if err != nil && err.Error() == "" {
					t.Errorf("%s %s: an error without a text", field, value)
				}
			}
		}
	}
	if _, found := findKinds(t, s, false); len(found) > 0 {
		t.Error(found)
	}
}

// TestCVE_2024_36621 takes one layer in from many at once, in several stores of
// one directory: one wins, all have it, and it is there once.
func TestCVE_2024_36621(t *testing.T) {
	root := t.TempDir()
	f := newFixture(t, "race")
	var wg sync.WaitGroup
	errs := make([]error, 12)
	stores := []*Store{open(t, root), open(t, root), open(t, root)}
	for i := range errs {
		wg.Go(func() {
			errs[i] = stores[i%3].Push(t.Context(), f.layer, func(_ context.Context, offset int64) (io.ReadCloser, error) {
				return io.NopCloser(bytes.NewReader(f.blobs[f.layer.Digest][offset:])), nil
			})
		})
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		t.Error(err)
	}
	if got := files(t, stores[0], "indexes"); len(got) != 1 {
		t.Errorf("indexes: %v", got)
	}
	if _, found := findKinds(t, stores[0], false); len(found) > 0 {
		t.Error(found)
	}
}
