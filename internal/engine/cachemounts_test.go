package engine

import (
	"bytes"
	"context"
	"io"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"strake/internal/image"
)

// gives has the same bytes for every blob.
type gives struct {
	image.Source
	bytes []byte
}

func (g gives) Fetch(context.Context, ocispec.Descriptor, int64) (io.ReadCloser, error) {
	return io.NopCloser(bytes.NewReader(g.bytes)), nil
}

// TestOpenMountVerifies: the bytes of a cache mount are those that the manifest names, all of them and no more, or it fails.
func TestOpenMountVerifies(t *testing.T) {
	content := bytes.Repeat([]byte{7}, 5000)
	desc := image.Bytes(ocispec.MediaTypeImageLayer, content)
	key := digest.FromString("key")
	for name, test := range map[string]struct {
		has  []byte
		read int64
		good bool
	}{
		"all":      {content, 1 << 20, true},
		"changed":  {append(bytes.Clone(content[1:]), 8), 1 << 20, false},
		"cut":      {content[:4999], 1 << 20, false},
		"longer":   {append(bytes.Clone(content), 7), 1 << 20, false},
		"not read": {content, 100, false},
	} {
		c := &importedCache{env: testEnv(t), src: gives{bytes: test.has}, mounts: map[digest.Digest]ocispec.Descriptor{}}
		c.addMounts([]cacheMount{{key, desc.Digest}, {digest.FromString("absent"), key}, {"sha256:../..", desc.Digest}},
			map[digest.Digest]ocispec.Descriptor{desc.Digest: desc})
		if len(c.mounts) != 1 {
			t.Errorf("mounts: %v", c.mounts)
		}
		if _, err := c.OpenMount(t.Context(), digest.FromString("absent")); !errdefs.IsNotFound(err) {
			t.Errorf("absent: %v", err)
		}
		r, err := c.OpenMount(t.Context(), key)
		if err != nil {
			t.Fatal(err)
		}
		_, err = io.Copy(io.Discard, io.LimitReader(r, test.read))
		if closed := r.Close(); (err == nil && closed == nil) != test.good {
			t.Errorf("%s: %v, %v", name, err, closed)
		}
	}
}

// TestCVE_2024_23650 reads lists of caches that have nothing where there should be something: they are refused, or as good as empty.
func TestCVE_2024_23650(t *testing.T) {
	all := func(cacheLayer) (ocispec.Descriptor, bool) { return ocispec.Descriptor{}, true }
	for _, list := range []string{
		``, `null`, `[]`, `{`, `{"layers":null,"records":null,"mounts":null}`, `{"layers":[null],"records":[null],"mounts":[null]}`,
		`{"layers":[{"annotations":null}],"records":[{"digest":"","layers":null},{"layers":[null]},{"layers":[{"layer":0}]}]}`,
		`{"layers":[{"annotations":{"diffID":null,"createdAt":null}}],"records":[{"digest":null,"layers":[{"layer":-9223372036854775808}]}]}`,
	} {
		steps, mounts, err := parseCacheConfig([]byte(list), all)
		c := &importedCache{mounts: map[digest.Digest]ocispec.Descriptor{}}
		c.addMounts(mounts, nil)
		if len(steps)+len(c.mounts) > 0 {
			t.Errorf("%s: %v, %v, %v", list, steps, c.mounts, err)
		}
	}
}
