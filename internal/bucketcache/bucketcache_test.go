package bucketcache

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"strings"
	"sync"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"strake/internal/image"
)

const listType = "application/list"

// mem is a Bucket in memory.
type mem struct{ sync.Map }

func (m *mem) Get(_ context.Context, key string, offset int64) (io.ReadCloser, error) {
	b, ok := m.Load(key)
	if !ok {
		return nil, errdefs.ErrNotFound
	}
	return io.NopCloser(bytes.NewReader(b.([]byte)[offset:])), nil
}

func (m *mem) Use(_ context.Context, key string, _ int64) (bool, error) {
	_, ok := m.Load(key)
	return ok, nil
}

func (m *mem) Put(ctx context.Context, key string, _ ocispec.Descriptor, body io.Reader) error {
	b, err := io.ReadAll(body)
	return errors.Join(err, m.PutBytes(ctx, key, b))
}

func (m *mem) PutBytes(_ context.Context, key string, b []byte) error {
	m.Store(key, b)
	return nil
}

func (m *mem) cache() *Cache {
	return New(m, Options{Blobs: "blobs/", Manifests: "manifests/", ConfigType: listType})
}

func push(t *testing.T, c *Cache, mediaType string, b []byte) ocispec.Descriptor {
	t.Helper()
	desc := ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(b), Size: int64(len(b))}
	err := c.Push(t.Context(), desc, func(context.Context, int64) (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(b)), nil })
	if err != nil {
		t.Fatal(err)
	}
	return desc
}

// TestNames: a manifest is there under each of its names, with its list and its layers; the bucket has no more than those.
func TestNames(t *testing.T) {
	var bucket mem
	c := bucket.cache()
	layer := push(t, c, ocispec.MediaTypeImageLayer, []byte("layer"))
	config := push(t, c, listType, []byte(`{"layers":[],"records":[{"digest":"x"}]}`))
	m, err := json.Marshal(ocispec.Manifest{MediaType: ocispec.MediaTypeImageManifest, Config: config, Layers: []ocispec.Descriptor{layer}})
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Tag(t.Context(), push(t, c, ocispec.MediaTypeImageManifest, m), "a;b"); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"a", "b"} {
		other := bucket.cache()
		desc, err := other.Resolve(t.Context(), name)
		if err != nil {
			t.Fatal(err)
		}
		manifest, _, err := image.ReadManifest(t.Context(), other, desc)
		if err != nil {
			t.Fatal(err)
		}
		list, err := image.ReadAll(t.Context(), other, manifest.Config, image.MaxConfigSize)
		if err != nil || !bytes.Contains(list, []byte(`"records":[{"digest":"x"}]`)) {
			t.Errorf("list %s, %v", list, err)
		}
		if len(manifest.Layers) != 1 || manifest.Layers[0].Digest != layer.Digest || manifest.Layers[0].Size != layer.Size {
			t.Errorf("layers %v", manifest.Layers)
		}
	}
	objects := 0
	bucket.Range(func(any, any) bool { objects++; return true })
	if objects != 3 {
		t.Errorf("%d objects, want a blob and two lists", objects)
	}
}

// TestLargeList: a list that grows too large by the descriptors of its layers could not be read again, and is not written.
func TestLargeList(t *testing.T) {
	for over, is := range map[int]error{0: nil, 1: errdefs.ErrInvalidArgument} {
		var bucket mem
		c := bucket.cache()
		layer := push(t, c, ocispec.MediaTypeImageLayer, []byte("layer"))
		blobs, err := json.Marshal([]ocispec.Descriptor{layer})
		if err != nil {
			t.Fatal(err)
		}
		head, tail, added := `{"records":"`, `"}`, `"blobs":`+string(blobs)+`,`
		text := strings.Repeat("x", image.MaxConfigSize-len(head)-len(tail)-len(added)+over)
		m, err := json.Marshal(ocispec.Manifest{
			MediaType: ocispec.MediaTypeImageManifest, Config: push(t, c, listType, []byte(head+text+tail)), Layers: []ocispec.Descriptor{layer},
		})
		if err != nil {
			t.Fatal(err)
		}
		if err := c.Tag(t.Context(), push(t, c, ocispec.MediaTypeImageManifest, m), "a"); !errors.Is(err, is) {
			t.Errorf("%d bytes too many: %v, want %v", over, err, is)
		}
		_, err = bucket.cache().Resolve(t.Context(), "a")
		if is == nil && err != nil || is != nil && !errdefs.IsNotFound(err) {
			t.Errorf("%d bytes too many: read %v", over, err)
		}
	}
}

// TestHostileList: a list that names nonsense has no blobs, and one that is none is an error.
func TestHostileList(t *testing.T) {
	var bucket mem
	for text, is := range map[string]error{
		"":  errdefs.ErrDataLoss,
		"[": errdefs.ErrDataLoss,
		strings.Repeat(" ", image.MaxConfigSize+1) + "{}": errdefs.ErrDataLoss,
		`{"layers":[{"blob":"../../x","annotations":{"mediaType":"a","size":1}},{"blob":"sha256:` + strings.Repeat("a", 64) + `","annotations":{"mediaType":"a","size":-1}},{}],"blobs":[{}]}`: nil,
	} {
		if err := bucket.PutBytes(t.Context(), "manifests/x", []byte(text)); err != nil {
			t.Fatal(err)
		}
		c := bucket.cache()
		desc, err := c.Resolve(t.Context(), "x")
		if !errors.Is(err, is) {
			t.Errorf("%.20q: %v, want %v", text, err, is)
		}
		if b, _ := c.small.Kept(desc.Digest); is == nil && !bytes.Contains(b, []byte(`"layers":[]`)) {
			t.Errorf("%s", b)
		}
	}
	if _, err := bucket.cache().Resolve(t.Context(), "none"); !errdefs.IsNotFound(err) {
		t.Error(err)
	}
}
