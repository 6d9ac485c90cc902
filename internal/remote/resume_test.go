package remote_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"strake/internal/image"
	"strake/internal/remote"
)

// memUploads is remote.Uploads of one test.
type memUploads struct {
	mu    sync.Mutex
	list  map[string]string
	taken map[string]bool
}

func (m *memUploads) ClaimUpload(_ context.Context, repository, key string) (string, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	key = repository + " " + key
	if m.taken[key] || m.list[key] == "" {
		return "", nil
	}
	if m.taken == nil {
		m.taken = map[string]bool{}
	}
	m.taken[key] = true
	return m.list[key], nil
}

func (m *memUploads) SetUpload(_ context.Context, repository, key, location string, left bool) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.list == nil {
		m.list = map[string]string{}
	}
	if m.taken == nil {
		m.taken = map[string]bool{}
	}
	m.taken[repository+" "+key] = location != "" && !left
	if delete(m.list, repository+" "+key); location != "" {
		m.list[repository+" "+key] = location
	}
	return nil
}

// meter counts the bytes of blobs that go through a server, and breaks them off.
type meter struct {
	up, down atomic.Int64
	cut      atomic.Int64 // break the next body off after so many bytes; 0: never
	hang     atomic.Bool  // instead of breaking off, fall silent
}

func (m *meter) wrap(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !strings.Contains(r.URL.Path, "/blobs/") {
			next.ServeHTTP(w, r)
			return
		}
		cut := int64(-1)
		if r.Method == http.MethodPatch || r.Method == http.MethodGet && strings.Contains(r.URL.Path, "sha256:") {
			if n := m.cut.Swap(0); n > 0 {
				cut = n
			}
		}
		if r.Method == http.MethodPatch && cut > 0 {
			r.Body = io.NopCloser(io.MultiReader(io.LimitReader(r.Body, cut), abort{}))
		}
		r.Body = &countBody{r.Body, &m.up}
		next.ServeHTTP(&meterWriter{ResponseWriter: w, m: m, cut: cut, ctx: r.Context()}, r)
	})
}

type countBody struct {
	io.ReadCloser
	n *atomic.Int64
}

func (c *countBody) Read(p []byte) (int, error) {
	n, err := c.ReadCloser.Read(p)
	c.n.Add(int64(n))
	return n, err
}

type meterWriter struct {
	http.ResponseWriter
	m   *meter
	cut int64
	ctx context.Context //nolint:containedctx // the request's, as Write has none
}

func (w *meterWriter) Write(p []byte) (int, error) {
	if w.cut > 0 && int64(len(p)) >= w.cut {
		if w.m.hang.Load() {
			<-w.ctx.Done()
		}
		panic(http.ErrAbortHandler)
	}
	if w.cut > 0 {
		w.cut -= int64(len(p))
	}
	w.m.down.Add(int64(len(p)))
	return w.ResponseWriter.Write(p)
}

func bigBlob(size int) ([]byte, ocispec.Descriptor) {
	b := make([]byte, size)
	for i := range b {
		b[i] = byte(i * i >> 9)
	}
	return b, image.Bytes(ocispec.MediaTypeImageLayerGzip, b)
}

func opener(b []byte) image.Opener {
	return func(_ context.Context, offset int64) (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(b[offset:])), nil
	}
}

// wantBlob fails the test unless the repository has the blob.
func wantBlob(t *testing.T, repo *remote.Repository, desc ocispec.Descriptor) {
	t.Helper()
	rc, err := repo.Fetch(t.Context(), desc, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer rc.Close()
	got, err := digest.FromReader(rc)
	if err != nil || got != desc.Digest {
		t.Errorf("the registry has %s, %v", got, err)
	}
}

func client(t *testing.T, opts remote.Options) *remote.Client {
	t.Helper()
	opts.Credentials = func(context.Context, string) (remote.Credential, error) { return remote.Credential{}, nil }
	c := remote.NewClient(opts)
	t.Cleanup(c.Close)
	return c
}

// TestUploadIsTakenUp pushes with a client that dies at 90 % and with a second
// one that knows what the first one left.
func TestUploadIsTakenUp(t *testing.T) {
	var m meter
	host := newHub(t, m.wrap)
	uploads := &memUploads{}
	b, desc := bigBlob(20 << 20)
	m.cut.Store(18 << 20)
	ctx, cancel := context.WithCancel(t.Context())
	first := repository(t, client(t, remote.Options{Uploads: uploads}), host+"/a")
	err := first.Push(ctx, desc, func(ctx context.Context, offset int64) (io.ReadCloser, error) {
		if offset > 0 || m.up.Load() > 0 {
			cancel()
		}
		return opener(b)(ctx, offset)
	})
	if err == nil || len(uploads.list) != 1 {
		t.Fatalf("%v; remembered: %v", err, uploads.list)
	}
	m.up.Store(0)
	second := repository(t, client(t, remote.Options{Uploads: uploads}), host+"/a")
	if err := second.Push(t.Context(), desc, opener(b)); err != nil {
		t.Fatal(err)
	}
	if n := m.up.Load(); n > desc.Size*15/100 {
		t.Errorf("%d of %d bytes were sent again", n, desc.Size)
	}
	if len(uploads.list) != 0 {
		t.Errorf("remembered: %v", uploads.list)
	}
	wantBlob(t, second, desc)
}

// TestUploadIsLost pushes where the registry has forgotten the upload.
func TestUploadIsLost(t *testing.T) {
	host := newHub(t, nil)
	b, desc := bigBlob(9 << 20)
	for _, location := range []string{
		"http://" + host + "/v2/a/blobs/uploads/none", "https://169.254.169.254/x", "ftp://x/", ":", "/relative",
	} {
		uploads := &memUploads{list: map[string]string{host + "/a " + desc.Digest.String(): location}}
		repo := repository(t, client(t, remote.Options{Uploads: uploads}), host+"/a")
		if err := repo.Push(t.Context(), desc, opener(b)); err != nil {
			t.Errorf("%s: %v", location, err)
		}
		wantBlob(t, repo, desc)
	}
}

// TestUploadHoldsOtherBytes takes up uploads that hold something else: they fail
// at their end, and the blob is pushed from its beginning.
func TestUploadHoldsOtherBytes(t *testing.T) {
	host := newHub(t, nil)
	b, desc := bigBlob(9 << 20)
	leave := func(uploads *memUploads, key string, n int) {
		t.Helper()
		reg, err := client(t, remote.Options{}).Registry(host)
		if err != nil {
			t.Fatal(err)
		}
		u, err := reg.StartUpload(t.Context(), "a")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := u.Write(bytes.Repeat([]byte("x"), n)); err != nil {
			t.Fatal(err)
		}
		if err := u.Close(); err != nil {
			t.Fatal(err)
		}
		path, err := base64.RawURLEncoding.DecodeString(u.ID())
		if err != nil {
			t.Fatal(err)
		}
		if err := uploads.SetUpload(t.Context(), host+"/a", key, "http://"+host+string(path), true); err != nil {
			t.Fatal(err)
		}
	}
	for _, n := range []int{1 << 20, len(b)} {
		uploads := &memUploads{}
		leave(uploads, desc.Digest.String(), n)
		repo := repository(t, client(t, remote.Options{Uploads: uploads}), host+"/a")
		if err := repo.Push(t.Context(), desc, opener(b)); err != nil || len(uploads.list) != 0 {
			t.Errorf("%d other bytes: %v; remembered: %v", n, err, uploads.list)
		}
		wantBlob(t, repo, desc)
	}

	b[0]++
	desc = image.Bytes(desc.MediaType, b)
	uploads := &memUploads{}
	leave(uploads, "key", 1<<20)
	repo := repository(t, client(t, remote.Options{Uploads: uploads}), host+"/a")
	s := repo.Stream(t.Context(), "key")
	if _, err := s.Write(b); err != nil {
		t.Fatal(err)
	}
	if err := s.Finish(desc); err == nil || len(uploads.list) != 0 {
		t.Errorf("stream: %v; remembered: %v", err, uploads.list)
	}
	if err := repo.Push(t.Context(), desc, opener(b)); err != nil {
		t.Error(err)
	}
	wantBlob(t, repo, desc)
}

// TestStream uploads a blob whose digest is known at its end, whole and broken
// off, and pushes the rest.
func TestStream(t *testing.T) {
	var m meter
	host := newHub(t, m.wrap)
	uploads := &memUploads{}
	repo := repository(t, client(t, remote.Options{Uploads: uploads}), host+"/a")
	b, desc := bigBlob(20 << 20)
	write := func(s *remote.BlobStream) {
		for rest := b; len(rest) > 0; rest = rest[min(len(rest), 100_000):] {
			if n, err := s.Write(rest[:min(len(rest), 100_000)]); n == 0 || err != nil {
				t.Fatal(n, err)
			}
		}
	}
	m.cut.Store(15 << 20)
	s := repo.Stream(t.Context(), "key")
	write(s)
	if err := s.Finish(desc); err == nil {
		t.Error("a stream that was cut off did not fail")
	}
	m.up.Store(0)
	if err := repo.Push(t.Context(), desc, opener(b)); err != nil {
		t.Fatal(err)
	}
	if n := m.up.Load(); n > desc.Size/2 {
		t.Errorf("%d of %d bytes were sent again", n, desc.Size)
	}
	wantBlob(t, repo, desc)

	// A process that dies leaves a stream that the next one continues.
	s = repo.Stream(t.Context(), "key2")
	if _, err := s.Write(b[:12<<20]); err != nil {
		t.Fatal(err)
	}
	s.Cancel()
	m.up.Store(0)
	other := repository(t, client(t, remote.Options{Uploads: uploads}), host+"/a")
	s = other.Stream(t.Context(), "key2")
	write(s)
	if err := s.Finish(desc); err != nil {
		t.Error(err)
	}
	if n := m.up.Load(); n > 16<<20 {
		t.Errorf("%d of %d bytes were sent again", n, desc.Size)
	}
	if ok, err := other.Exists(t.Context(), desc); !ok || err != nil {
		t.Errorf("exists: %v, %v", ok, err)
	}
	if len(uploads.list) != 0 {
		t.Errorf("remembered: %v", uploads.list)
	}
}

// TestStall pulls from a server that falls silent in the middle.
func TestStall(t *testing.T) {
	var m meter
	host := newHub(t, m.wrap)
	b, desc := bigBlob(9 << 20)
	repo := repository(t, client(t, remote.Options{Stall: 300 * time.Millisecond}), host+"/a")
	if err := repo.Push(t.Context(), desc, opener(b)); err != nil {
		t.Fatal(err)
	}
	m.down.Store(0)
	m.hang.Store(true)
	m.cut.Store(5 << 20)
	start := time.Now()
	wantBlob(t, repo, desc)
	if d := time.Since(start); d < 300*time.Millisecond || d > 20*time.Second || m.down.Load() > desc.Size+1<<20 {
		t.Errorf("%v, %d bytes for %d", d, m.down.Load(), desc.Size)
	}
}
