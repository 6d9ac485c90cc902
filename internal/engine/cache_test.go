package engine

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"strake/internal/image"
	"strake/internal/layout"
	"strake/internal/progress"
	"strake/internal/remote"
	"strake/internal/store"
)

func testEnv(t *testing.T) *Env {
	t.Helper()
	s, err := store.Open(t.Context(), store.Options{Root: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return &Env{Store: s, Remote: remote.NewClient(remote.Options{})}
}

// TestHostileCache is a cache that lies: of what its blobs hold, of what it has,
// of how much there is. The steps run, and the image is what it is without it.
func TestHostileCache(t *testing.T) {
	ctxDir, cacheDir := t.TempDir(), filepath.Join(t.TempDir(), "cache")
	for name, text := range map[string]string{"Dockerfile": "FROM scratch\nCOPY a /a\nCOPY b /b\n", "a": "first", "b": "second"} {
		if err := os.WriteFile(filepath.Join(ctxDir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	env := testEnv(t)
	honest, err := Build(t.Context(), env, BuildOptions{
		Context: ctxDir, CacheTo: []Cache{{Type: "local", Attrs: map[string]string{"dest": cacheDir}}},
	})
	if err != nil {
		t.Fatal(err)
	}
	want := diffIDs(t, env, honest)
	for name, lie := range map[string]func(*cacheConfig, *ocispec.Manifest){
		"diffID": func(c *cacheConfig, _ *ocispec.Manifest) {
			for _, l := range c.Layers {
				l.Annotations.DiffID = digest.FromString("something else")
			}
		},
		"exchanged": func(c *cacheConfig, _ *ocispec.Manifest) {
			a, b := c.Layers[0].Annotations, c.Layers[1].Annotations
			a.DiffID, b.DiffID = digest.FromString("a"), digest.FromString("b")
		},
		"no such layer": func(c *cacheConfig, _ *ocispec.Manifest) { c.Records[0].Results[0].Layer = 7 },
		"negative":      func(c *cacheConfig, _ *ocispec.Manifest) { c.Records[0].Results[0].Layer = -1 },
		"no blob":       func(_ *cacheConfig, m *ocispec.Manifest) { m.Layers = nil },
		"no layer": func(_ *cacheConfig, m *ocispec.Manifest) {
			for i := range m.Layers {
				m.Layers[i].MediaType = "application/octet-stream"
			}
		},
		"absent": func(c *cacheConfig, m *ocispec.Manifest) {
			for i := range m.Layers {
				m.Layers[i].Digest = digest.FromString(string(rune('a' + i)))
				c.Layers[i].Blob = m.Layers[i].Digest
			}
		},
		"too many": func(c *cacheConfig, _ *ocispec.Manifest) { c.Records = make([]cacheRecord, maxCacheRecords+1) },
		"year 10000": func(c *cacheConfig, _ *ocispec.Manifest) {
			for i := range c.Records {
				c.Records[i].Results[0].CreatedAt = time.Date(9999, 12, 31, 23, 59, 59, 0, time.FixedZone("", -23*60*60))
			}
		},
		"year -1": func(c *cacheConfig, _ *ocispec.Manifest) {
			c.Records[0].Results[0].CreatedAt = time.Date(0, 1, 1, 0, 0, 0, 0, time.FixedZone("", 60*60))
		},
		"digest": func(c *cacheConfig, _ *ocispec.Manifest) {
			for i := range c.Layers {
				c.Layers[i].Annotations.DiffID = "sha256:../../../etc/passwd"
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			env := testEnv(t)
			src := lieInCache(t, cacheDir, lie)
			ran := 0
			got, err := Build(t.Context(), env, BuildOptions{
				Context: ctxDir, CacheFrom: []Cache{{Type: "local", Attrs: map[string]string{"src": src}}},
				Progress: func(e progress.Event) {
					if e.State == progress.Done && strings.Contains(e.Name, "COPY") {
						ran++
					}
				},
			})
			if err != nil || ran != 2 {
				t.Fatalf("%d steps ran of 2: %v", ran, err)
			}
			if diff := cmp.Diff(want, diffIDs(t, env, got)); diff != "" {
				t.Errorf("layers differ (-want +got):\n%s", diff)
			}
		})
	}
}

// TestHostileCacheIndex is a cache whose index lies of what it lists. The steps run.
func TestHostileCacheIndex(t *testing.T) {
	ctxDir := t.TempDir()
	for name, text := range map[string]string{"Dockerfile": "FROM scratch\nCOPY a /a\n", "a": "first"} {
		if err := os.WriteFile(filepath.Join(ctxDir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for name, lie := range map[string]func(*ocispec.Index){
		"honest":              func(*ocispec.Index) {},
		"no layers":           func(x *ocispec.Index) { x.Manifests = x.Manifests[1:] },
		"config is big":       func(x *ocispec.Index) { x.Manifests[1].Size = image.MaxConfigSize + 1 },
		"layer is a config":   func(x *ocispec.Index) { x.Manifests[0].MediaType = cacheConfigType },
		"layer is a manifest": func(x *ocispec.Index) { x.Manifests[0].MediaType = ocispec.MediaTypeImageManifest },
	} {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "cache")
			if _, err := Build(t.Context(), testEnv(t), BuildOptions{
				Context: ctxDir, CacheTo: []Cache{{Type: "local", Attrs: map[string]string{"dest": dir, "image-manifest": "false"}}},
			}); err != nil {
				t.Fatal(err)
			}
			cache, err := layout.Open(dir)
			if err != nil {
				t.Fatal(err)
			}
			root, err := cache.Resolve(t.Context(), "latest")
			if err != nil {
				t.Fatal(err)
			}
			index, _, err := image.ReadIndex(t.Context(), cache, root)
			if err != nil {
				t.Fatal(err)
			}
			lie(&index)
			if err := cache.Tag(t.Context(), pushJSON(t, cache, root.MediaType, index), "latest"); err != nil {
				t.Fatal(err)
			}
			cached := false
			if _, err = Build(t.Context(), testEnv(t), BuildOptions{
				Context: ctxDir, CacheFrom: []Cache{{Type: "local", Attrs: map[string]string{"src": dir}}},
				Progress: func(e progress.Event) {
					cached = cached || e.State == progress.Cached && strings.Contains(e.Name, "COPY")
				},
			}); err != nil || cached != (name == "honest") {
				t.Errorf("cached: %v, %v", cached, err)
			}
		})
	}
}

// diffIDs are the layers of what was built.
func diffIDs(t *testing.T, env *Env, built BuildResult) []digest.Digest {
	t.Helper()
	manifest, _, err := image.ReadManifest(t.Context(), env.Store, *built.Root)
	if err != nil {
		t.Fatal(err)
	}
	config, _, err := image.ReadConfig(t.Context(), env.Store, manifest.Config)
	if err != nil {
		t.Fatal(err)
	}
	return config.RootFS.DiffIDs
}

// lieInCache copies a cache and changes it.
func lieInCache(t *testing.T, src string, lie func(*cacheConfig, *ocispec.Manifest)) string {
	t.Helper()
	ctx, dest := t.Context(), filepath.Join(t.TempDir(), "lie")
	from, err := layout.Open(src)
	if err != nil {
		t.Fatal(err)
	}
	to, err := layout.Open(dest)
	if err != nil {
		t.Fatal(err)
	}
	root, err := image.Copy(ctx, from, "latest", to, "", image.CopyOptions{})
	if err != nil {
		t.Fatal(err)
	}
	manifest, _, err := image.ReadManifest(ctx, to, root)
	if err != nil {
		t.Fatal(err)
	}
	b, err := image.ReadAll(ctx, to, manifest.Config, image.MaxConfigSize)
	if err != nil {
		t.Fatal(err)
	}
	var config cacheConfig
	if err := json.Unmarshal(b, &config); err != nil {
		t.Fatal(err)
	}
	lie(&config, &manifest)
	manifest.Config = pushJSON(t, to, cacheConfigType, config)
	if err := to.Tag(ctx, pushJSON(t, to, root.MediaType, manifest), "latest"); err != nil {
		t.Fatal(err)
	}
	return dest
}

// pushJSON writes v as a blob of a layout.
func pushJSON(t *testing.T, to *layout.Layout, mediaType string, v any) ocispec.Descriptor {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	desc := image.Bytes(mediaType, b)
	err = to.Push(t.Context(), desc, func(context.Context, int64) (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(b)), nil })
	if err != nil {
		t.Fatal(err)
	}
	return desc
}
