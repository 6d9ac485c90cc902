package conformance

import (
	"bytes"
	"errors"
	"io"
	"slices"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"strake/internal/bucketcache"
)

// Bucket checks a bucketcache.Bucket that is empty. It writes blobs of up to 9 MiB.
func Bucket(t *testing.T, bucket bucketcache.Bucket) {
	if _, err := bucket.Get(t.Context(), "blobs/none", 0); !errdefs.IsNotFound(err) {
		t.Errorf("get what is not there: %v", err)
	}
	for _, b := range [][]byte{[]byte("one"), bytes.Repeat([]byte("0123456789abcdef"), 1<<19+1)} {
		desc := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayer, Digest: digest.FromBytes(b), Size: int64(len(b))}
		key := "blobs/" + desc.Digest.String()
		wrong := slices.Clone(b)
		wrong[0] ^= 1
		for _, body := range [][]byte{wrong, b[1:], append(slices.Clone(b), 'x')} {
			if err := bucket.Put(t.Context(), key, desc, bytes.NewReader(body)); !errdefs.IsDataLoss(err) {
				t.Errorf("put %d other bytes: %v", len(body), err)
			}
			if is, err := bucket.Use(t.Context(), key, desc.Size); is || err != nil {
				t.Errorf("after %d other bytes: %t, %v", len(body), is, err)
			}
		}
		for range 2 { // putting what is there succeeds
			if err := bucket.Put(t.Context(), key, desc, bytes.NewReader(b)); err != nil {
				t.Fatal(err)
			}
		}
		if is, err := bucket.Use(t.Context(), key, desc.Size); !is || err != nil {
			t.Errorf("use: %t, %v", is, err)
		}
		for _, offset := range []int64{0, 1, desc.Size - 1} {
			if got := bucketBytes(t, bucket, key, offset); !bytes.Equal(got, b[offset:]) {
				t.Errorf("from %d: %d bytes of %d", offset, len(got), desc.Size)
			}
		}
	}
	key := "some/name of a branch: ä+&%2F?#"
	for _, text := range []string{"first", "second"} {
		if err := bucket.PutBytes(t.Context(), key, []byte(text)); err != nil {
			t.Fatal(err)
		}
		if got := bucketBytes(t, bucket, key, 0); string(got) != text {
			t.Errorf("%q, want %q", got, text)
		}
	}
}

func bucketBytes(t *testing.T, bucket bucketcache.Bucket, key string, offset int64) []byte {
	t.Helper()
	body, err := bucket.Get(t.Context(), key, offset)
	if err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(body)
	if err = errors.Join(err, body.Close()); err != nil {
		t.Fatal(err)
	}
	return b
}
