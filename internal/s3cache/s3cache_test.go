package s3cache

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"strake/internal/conformance"
)

const listType = "application/list"

func open(t *testing.T, endpoint, bucket string) *Cache {
	t.Helper()
	c, err := New(Options{
		Bucket: bucket, Region: "us-east-1", Endpoint: endpoint, PathStyle: true, BlobsPrefix: "blobs/", ManifestsPrefix: "manifests/",
		AccessKeyID: conformance.S3Key, SecretAccessKey: conformance.S3Secret, ConfigType: listType, Touch: time.Hour,
	})
	if err != nil {
		t.Fatal(err)
	}
	c.client.pause = 1
	return c
}

func bucket(t *testing.T) *Cache {
	t.Helper()
	u, err := url.Parse(conformance.S3(t))
	if err != nil {
		t.Fatal(err)
	}
	return open(t, u.Query().Get("endpoint"), u.Host)
}

func blob(mediaType string, b []byte) (ocispec.Descriptor, func(context.Context, int64) (io.ReadCloser, error)) {
	return ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(b), Size: int64(len(b))}, func(_ context.Context, offset int64) (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(b[offset:])), nil
	}
}

// TestBlobs: blobs of one and of several parts come back, from any offset; one with other bytes than its digest's is not there.
func TestBlobs(t *testing.T) {
	c := bucket(t)
	for _, b := range [][]byte{[]byte("one"), bytes.Repeat([]byte("0123456789abcdef"), 2*partSize/16+1)} {
		desc, body := blob(ocispec.MediaTypeImageLayer, b)
		other, wrong := blob(ocispec.MediaTypeImageLayer, append([]byte("x"), b[1:]...))
		other.Digest, desc.Digest = desc.Digest, other.Digest
		if err := c.Push(t.Context(), other, wrong); !errors.Is(err, errdefs.ErrDataLoss) {
			t.Errorf("other bytes: %v", err)
		}
		other.Digest, desc.Digest = desc.Digest, other.Digest
		if is, err := c.Exists(t.Context(), desc); is || err != nil {
			t.Fatal(is, err)
		}
		for range 2 { // pushing what is there succeeds
			if err := c.Push(t.Context(), desc, body); err != nil {
				t.Fatal(err)
			}
		}
		c.opts.Touch = 0 // what is there is old
		if is, err := c.Exists(t.Context(), desc); !is || err != nil {
			t.Fatal(is, err)
		}
		for _, offset := range []int64{0, 1, desc.Size - 1} {
			r, err := c.Fetch(t.Context(), desc, offset)
			if err != nil {
				t.Fatal(err)
			}
			got, err := io.ReadAll(r)
			if err = errors.Join(err, r.Close()); err != nil || !bytes.Equal(got, b[offset:]) {
				t.Errorf("from %d: %d bytes, %v", offset, len(got), err)
			}
		}
	}
}

// TestHostileBucket: what a server says is bounded, no redirect is followed, and a list that names nonsense has no blobs.
func TestHostileBucket(t *testing.T) {
	asked, answer := 0, func(http.ResponseWriter) {}
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked++
		answer(w)
	}))
	defer srv.Close()
	elsewhere := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("a redirect was followed") }))
	defer elsewhere.Close()
	for _, step := range []struct {
		answer func(http.ResponseWriter)
		is     error
		tries  int
	}{
		{func(w http.ResponseWriter) {
			w.Header().Set("Location", elsewhere.URL)
			w.WriteHeader(http.StatusTemporaryRedirect)
		}, errdefs.ErrInvalidArgument, 1},
		{func(w http.ResponseWriter) { w.WriteHeader(http.StatusServiceUnavailable) }, errdefs.ErrUnavailable, 4},
		{func(w http.ResponseWriter) { w.WriteHeader(http.StatusForbidden) }, errdefs.ErrPermissionDenied, 1},
		{func(w http.ResponseWriter) { _, _ = w.Write([]byte("[")) }, errdefs.ErrDataLoss, 1},
		{func(w http.ResponseWriter) { _, _ = io.WriteString(w, strings.Repeat(" ", 9<<20)) }, errdefs.ErrDataLoss, 1},
	} {
		asked, answer = 0, step.answer
		if _, err := open(t, srv.URL, "b").Resolve(t.Context(), "x"); !errors.Is(err, step.is) || asked != step.tries {
			t.Errorf("%d requests, %v, want %v", asked, err, step.is)
		}
	}
	answer = func(w http.ResponseWriter) {
		_, _ = io.WriteString(w, `{"layers":[{"blob":"../../x","annotations":{"mediaType":"a","size":1}},{"blob":"sha256:`+strings.Repeat("a", 64)+`","annotations":{"mediaType":"a","size":-1}},{}],"blobs":[{}]}`)
	}
	c := open(t, srv.URL, "b")
	desc, err := c.Resolve(t.Context(), "x")
	if err != nil {
		t.Fatal(err)
	}
	if b, _ := c.kept(desc.Digest); !bytes.Contains(b, []byte(`"layers":[]`)) {
		t.Errorf("%s", b)
	}
}
