package gha

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"strake/internal/azblob"
	"strake/internal/conformance"
)

func open(t *testing.T, f *conformance.ActionsCache, scope string) *Cache {
	c, err := New(Options{URL: f.URL + "/results/", Token: conformance.ActionsToken, Scope: scope})
	if err != nil {
		t.Fatal(err)
	}
	c.client.Pause = 1
	return c
}

func blob(mediaType string, b []byte) (ocispec.Descriptor, func(context.Context, int64) (io.ReadCloser, error)) {
	desc := ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(b), Size: int64(len(b))}
	return desc, func(_ context.Context, offset int64) (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(b[offset:])), nil
	}
}

func read(t *testing.T, c *Cache, desc ocispec.Descriptor, offset int64) []byte {
	t.Helper()
	body, err := c.Fetch(t.Context(), desc, offset)
	if err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(body)
	if err = errors.Join(err, body.Close()); err != nil {
		t.Fatal(err)
	}
	return b
}

// TestCache: blobs of no, one and several blocks come back, from any offset; a name is the
// manifest that got it last; a scope knows nothing of another.
func TestCache(t *testing.T) {
	f := conformance.NewActionsCache(t)
	c := open(t, f, "main")
	for _, b := range [][]byte{{}, []byte("one"), bytes.Repeat([]byte("0123456789abcdef"), 2*azblob.BlockSize/16+1)} {
		desc, body := blob(ocispec.MediaTypeImageLayer, b)
		if is, err := c.Exists(t.Context(), desc); is || err != nil {
			t.Fatal(is, err)
		}
		for range 2 { // pushing what is there succeeds
			if err := c.Push(t.Context(), desc, body); err != nil {
				t.Fatal(err)
			}
		}
		if is, err := c.Exists(t.Context(), desc); !is || err != nil {
			t.Fatal(is, err)
		}
		at := int64(len(b) / 2)
		if got := read(t, c, desc, 0); !bytes.Equal(got, b) {
			t.Errorf("%d bytes of %d", len(got), len(b))
		}
		if len(b) > 0 && !bytes.Equal(read(t, c, desc, at), b[at:]) {
			t.Error("other bytes from an offset")
		}
	}
	var last ocispec.Descriptor
	for _, note := range []string{"a", "b"} {
		m, err := json.Marshal(ocispec.Manifest{MediaType: ocispec.MediaTypeImageManifest, Annotations: map[string]string{"n": note}})
		if err != nil {
			t.Fatal(err)
		}
		desc, body := blob(ocispec.MediaTypeImageManifest, m)
		last = desc
		if err := errors.Join(c.Push(t.Context(), desc, body), c.Tag(t.Context(), desc, "x")); err != nil {
			t.Fatal(err)
		}
	}
	other := open(t, f, "main")
	if got, err := other.Resolve(t.Context(), "x"); err != nil || got.Digest != last.Digest || len(read(t, other, got, 0)) == 0 {
		t.Error(got, err)
	}
	for _, c := range []*Cache{open(t, f, "else"), open(t, f, "mai")} {
		if got, err := c.Resolve(t.Context(), "x"); !errdefs.IsNotFound(err) {
			t.Error(got, err)
		}
	}
}

// TestFailures: what fails for a moment is sent again; other bytes than those of the
// digest become no entry; a signed address is in no error; addresses that are not encrypted are not followed.
func TestFailures(t *testing.T) {
	f := conformance.NewActionsCache(t)
	c := open(t, f, "main")
	desc, body := blob(ocispec.MediaTypeImageLayer, []byte("text"))
	f.Fail(azblob.Tries - 1)
	if err := c.Push(t.Context(), desc, body); err != nil {
		t.Error(err)
	}
	f.Fail(azblob.Tries)
	if _, err := c.Exists(t.Context(), desc); !errdefs.IsUnavailable(err) {
		t.Error(err)
	}
	other, _ := blob(ocispec.MediaTypeImageLayer, []byte("TEXT"))
	if err := c.Push(t.Context(), other, body); !errdefs.IsDataLoss(err) {
		t.Error(err)
	}
	if is, err := c.Exists(t.Context(), other); is || err != nil {
		t.Error(is, err)
	}
	denied := open(t, f, "main")
	denied.opts.Token = "wrong"
	if _, err := denied.Resolve(t.Context(), "x"); !errdefs.IsPermissionDenied(err) {
		t.Error(err)
	}
	c.base.Scheme = "https" // as GitHub's is: the fake's addresses are not
	if err := c.signed(f.URL); !errdefs.IsUnavailable(err) {
		t.Error(err)
	}
	f.CloseClientConnections()
	if _, err := c.client.Get(t.Context(), "http://127.0.0.1:1/x?sig=secret", 0); err == nil || strings.Contains(err.Error(), "secret") {
		t.Error(err)
	}
	if _, err := New(Options{URL: "nothing"}); !errdefs.IsInvalidArgument(err) {
		t.Error(err)
	}
}
