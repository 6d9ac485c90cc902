package proxy_test

import (
	"bytes"
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"strake/internal/auth"
	"strake/internal/hub"
	"strake/internal/image"
	"strake/internal/jobs"
	"strake/internal/proxy"
	"strake/internal/registry"
	"strake/internal/seal"
)

// upstream is another registry, which counts what it is asked for and can fail.
type upstream struct {
	*hub.Hub
	host string

	mu     sync.Mutex
	asked  map[string]int // by kind of request
	answer int            // instead of serving; 0: serves
	slow   chan struct{}  // layers are held up after their first half until it is closed
	broken bool           // blobs are changed
	cut    int            // how many times a blob breaks off after its half
}

func (u *upstream) ServeHTTP(w http.ResponseWriter, r *http.Request, next http.Handler) {
	kind := r.Method + " manifest"
	if strings.Contains(r.URL.Path, "/blobs/") {
		kind = r.Method + " blob"
	}
	if user, password, _ := r.BasicAuth(); user != "me" || password != "secret" {
		w.Header().Set("WWW-Authenticate", `Basic realm="x"`)
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	u.mu.Lock()
	u.asked[kind]++
	answer, slow, broken, cut := u.answer, u.slow, u.broken, u.cut > 0
	if cut && kind == "GET blob" {
		u.cut--
	}
	u.mu.Unlock()
	if answer != 0 {
		w.WriteHeader(answer)
		return
	}
	if kind != "GET blob" || slow == nil && !broken && !cut {
		next.ServeHTTP(w, r)
		return
	}
	rec := httptest.NewRecorder()
	next.ServeHTTP(rec, r)
	b := rec.Body.Bytes()
	if broken {
		b = bytes.Repeat([]byte("x"), len(b))
	}
	w.Header().Set("Content-Length", fmt.Sprint(len(b)))
	_, _ = w.Write(b[:len(b)/2])
	if slow != nil {
		_ = http.NewResponseController(w).Flush()
		<-slow
	}
	if cut {
		panic(http.ErrAbortHandler)
	}
	_, _ = w.Write(b[len(b)/2:])
}

func (u *upstream) set(change func()) {
	u.mu.Lock()
	defer u.mu.Unlock()
	change()
	u.asked = map[string]int{}
}

func (u *upstream) count(kind string) int {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.asked[kind]
}

// push pushes an image of one layer to the upstream.
func (u *upstream) push(t *testing.T, repo, tag, layer string) (ocispec.Descriptor, ocispec.Manifest) {
	t.Helper()
	ctx := auth.With(t.Context(), auth.Identity{System: true})
	blob := func(mediaType, text string) ocispec.Descriptor {
		d := image.Bytes(mediaType, []byte(text))
		if err := u.PushBlob(ctx, repo, d, strings.NewReader(text)); err != nil {
			t.Fatal(err)
		}
		return d
	}
	m := ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest,
		Config: blob(ocispec.MediaTypeImageConfig, `{"architecture":"amd64","os":"linux"}`), Layers: []ocispec.Descriptor{blob(ocispec.MediaTypeImageLayer, layer)},
	}
	b, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	d, err := u.PutManifest(ctx, repo, []string{tag}, registry.Manifest{MediaType: m.MediaType, Bytes: b})
	if err != nil {
		t.Fatal(err)
	}
	return d, m
}

// attach pushes an artifact about subject to the upstream.
func (u *upstream) attach(t *testing.T, repo string, subject ocispec.Descriptor, text string) ocispec.Descriptor {
	t.Helper()
	ctx := auth.With(t.Context(), auth.Identity{System: true})
	empty := image.Bytes(ocispec.MediaTypeEmptyJSON, []byte("{}"))
	if err := u.PushBlob(ctx, repo, empty, strings.NewReader("{}")); err != nil {
		t.Fatal(err)
	}
	b, err := json.Marshal(ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest, ArtifactType: "text/" + text,
		Config: empty, Layers: []ocispec.Descriptor{empty}, Subject: &subject,
	})
	if err != nil {
		t.Fatal(err)
	}
	d, err := u.PutManifest(ctx, repo, nil, registry.Manifest{MediaType: ocispec.MediaTypeImageManifest, Bytes: b})
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func openHub(t *testing.T, dir string) *hub.Hub {
	t.Helper()
	h, err := hub.Open(t.Context(), hub.Options{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := h.Close(); err != nil {
			t.Error(err)
		}
	})
	return h
}

// site is a Hub whose namespace up stands for an upstream's team/.
type site struct {
	*proxy.Cache
	up      *upstream
	hub     *hub.Hub
	mirrors *proxy.Mirrors
	admin   context.Context //nolint:containedctx // of the test
	anyone  context.Context //nolint:containedctx // of the test
}

func open(t *testing.T, public bool) *site {
	t.Helper()
	u := &upstream{Hub: openHub(t, t.TempDir()), asked: map[string]int{}}
	next := auth.Open(registry.NewHandler(u.Hub, registry.Options{}))
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { u.ServeHTTP(w, r, next) }))
	t.Cleanup(server.Close)
	u.host = strings.TrimPrefix(server.URL, "http://")
	dir := t.TempDir()
	key, err := seal.Load(filepath.Join(dir, "key"))
	if err != nil {
		t.Fatal(err)
	}
	spool := filepath.Join(dir, "spool")
	if err := os.Mkdir(spool, 0o700); err != nil {
		t.Fatal(err)
	}
	h := openHub(t, filepath.Join(dir, "data"))
	s := &site{
		Cache: proxy.New(h, proxy.Options{Key: key, Spool: spool}), mirrors: proxy.NewMirrors(h, proxy.Options{Key: key}), up: u, hub: h,
		admin: auth.With(t.Context(), auth.Identity{Account: 9, Name: "root", Admin: true}), anyone: t.Context(),
	}
	err = s.Set(s.admin, proxy.Proxy{Namespace: "up", Host: u.host, Prefix: "team", Username: "me", Password: "secret", Public: public})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// age makes the tags that are here old.
func (s *site) age(t *testing.T) {
	t.Helper()
	err := hub.DB(s.hub).Update(t.Context(), func(tx *sql.Tx) error {
		_, err := tx.ExecContext(t.Context(), `UPDATE proxy_tags SET checked = 0`)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

func (s *site) read(ctx context.Context, d ocispec.Descriptor, offset int64) (string, error) {
	blob, err := s.OpenBlob(ctx, "up/app", d.Digest, offset)
	if err != nil {
		return "", err
	}
	b, err := io.ReadAll(blob)
	return string(b), errors.Join(err, blob.Close())
}

// eventually waits for something that happens beside the requests.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal(what)
		}
	}
}

// What was pulled once is served from here; a tag is asked for when it is old; an
// upstream that limits, fails or lost it takes nothing away.
func TestPullThrough(t *testing.T) {
	s := open(t, true)
	first, m := s.up.push(t, "team/app", "v1", strings.Repeat("layer", 1000))
	if d, err := s.StatManifest(s.anyone, "up/app", "v1"); err != nil || d.Digest != first.Digest {
		t.Fatalf("HEAD: %v, %v", d, err)
	}
	got, err := s.GetManifest(s.anyone, "up/app", "v1")
	if err != nil || digest.FromBytes(got.Bytes) != first.Digest || got.Warning != "" {
		t.Fatalf("GET: %v, %q", err, got.Warning)
	}
	if n := s.up.count("GET manifest"); n != 1 {
		t.Errorf("asked for the manifest %d times", n)
	}
	if d, err := s.StatBlob(s.anyone, "up/app", m.Layers[0].Digest); err != nil || d.Size != m.Layers[0].Size {
		t.Errorf("HEAD of a layer that is not here: %v, %v", d, err)
	}
	for _, d := range []ocispec.Descriptor{m.Config, m.Layers[0]} {
		if text, err := s.read(s.anyone, d, 0); err != nil || digest.FromString(text) != d.Digest {
			t.Errorf("blob: %d bytes, %v", len(text), err)
		}
	}
	eventually(t, "the layer was not stored", func() bool { _, err := s.hub.StatBlob(s.anyone, "up/app", m.Layers[0].Digest); return err == nil })
	s.up.set(func() {})
	for range 3 {
		_, err1 := s.GetManifest(s.anyone, "up/app", "v1")
		_, err2 := s.GetManifest(s.anyone, "up/app", first.Digest.String())
		text, err3 := s.read(s.anyone, m.Layers[0], 4990)
		if err := errors.Join(err1, err2, err3); err != nil || text != "layerlayer" {
			t.Errorf("from the cache: %q, %v", text, err)
		}
	}
	if len(s.up.asked) != 0 {
		t.Errorf("asked the upstream for what is here: %v", s.up.asked)
	}
	s.age(t)
	if _, err := s.GetManifest(s.anyone, "up/app", "v1"); err != nil || s.up.count("HEAD manifest") == 0 || s.up.count("GET manifest") != 0 {
		t.Errorf("revalidation: %v, %v", err, s.up.asked)
	}
	second, _ := s.up.push(t, "team/app", "v1", "other")
	s.age(t)
	if got, err := s.GetManifest(s.anyone, "up/app", "v1"); err != nil || digest.FromBytes(got.Bytes) != second.Digest {
		t.Errorf("a tag that moved: %v", err)
	}
	var tags []string
	for tag, err := range s.Tags(s.anyone, "up/app", "") {
		if err != nil {
			t.Fatal(err)
		}
		tags = append(tags, tag)
	}
	if len(tags) != 1 {
		t.Errorf("tags %v", tags)
	}
	for _, status := range []int{http.StatusNotFound, http.StatusForbidden, http.StatusTooManyRequests, http.StatusBadGateway} {
		s.up.set(func() { s.up.answer = status })
		s.age(t)
		got, err := s.GetManifest(s.anyone, "up/app", "v1")
		if err != nil || !strings.Contains(got.Warning, "does not answer") || digest.FromBytes(got.Bytes) != second.Digest {
			t.Errorf("upstream answers %d: %v, %q", status, err, got.Warning)
		}
		_, err = s.GetManifest(s.anyone, "up/app", first.Digest.String())
		if _, lerr := s.read(s.anyone, m.Layers[0], 0); err != nil || lerr != nil {
			t.Errorf("upstream answers %d: by digest: %v, a layer: %v", status, err, lerr)
		}
	}
	// Of what is not here the client is told what is wrong, but never to log in.
	if _, err := s.GetManifest(s.anyone, "up/app", "none"); !registry.HasCode(err, registry.Unavailable) {
		t.Errorf("what is not here, while upstream fails: %v", err)
	}
	s.up.set(func() { s.up.answer = http.StatusForbidden })
	if _, err := s.GetManifest(s.anyone, "up/other", "none"); !registry.HasCode(err, registry.ManifestUnknown) {
		t.Errorf("what upstream refuses: %v", err)
	}
	resp := httptest.NewRecorder()
	registry.NewHandler(s.Cache, registry.Options{}).ServeHTTP(resp, httptest.NewRequest(http.MethodGet, "/v2/up/app/manifests/v1", http.NoBody))
	if w := resp.Header().Get("Warning"); resp.Code != http.StatusOK || !strings.HasPrefix(w, `299 - "`) {
		t.Errorf("over HTTP: %d, Warning %q", resp.Code, w)
	}
}

// Many that want the same blob share one request, and get its bytes as they come.
func TestSharedFetch(t *testing.T) {
	s := open(t, true)
	_, m := s.up.push(t, "team/app", "v1", strings.Repeat("0123456789", 10_000))
	if _, err := s.GetManifest(s.anyone, "up/app", "v1"); err != nil {
		t.Fatal(err)
	}
	slow := make(chan struct{})
	s.up.set(func() { s.up.slow = slow })
	var wait sync.WaitGroup
	var half sync.WaitGroup
	for i := range 8 {
		half.Add(1)
		wait.Go(func() {
			blob, err := s.OpenBlob(s.anyone, "up/app", m.Layers[0].Digest, int64(i))
			if err != nil {
				t.Error(err)
				half.Done()
				return
			}
			b := make([]byte, 1000)
			if _, err := io.ReadFull(blob, b); err != nil || string(b[:3]) != "0123456789012345"[i:i+3] {
				t.Errorf("the first half: %q, %v", b[:3], err)
			}
			half.Done()
			rest, err := io.ReadAll(blob)
			if err := errors.Join(err, blob.Close()); err != nil || len(rest) != 100_000-1000-i {
				t.Errorf("the rest: %d bytes, %v", len(rest), err)
			}
		})
	}
	half.Wait() // while the upstream stands still
	// One that leaves takes the blob from nobody.
	ctx, cancel := context.WithCancel(s.anyone)
	blob, err := s.OpenBlob(ctx, "up/app", m.Layers[0].Digest, 99_000)
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	if _, err := blob.Read(make([]byte, 1)); !errors.Is(err, context.Canceled) {
		t.Errorf("read by who left: %v", err)
	}
	if err := blob.Close(); err != nil {
		t.Error(err)
	}
	close(slow)
	wait.Wait()
	if n := s.up.count("GET blob"); n != 1 {
		t.Errorf("fetched %d times", n)
	}
	eventually(t, "not stored", func() bool { _, err := s.hub.StatBlob(s.anyone, "up/app", m.Layers[0].Digest); return err == nil })
}

// Bytes of another digest reach nobody whole, and are not stored.
func TestWrongBytes(t *testing.T) {
	s := open(t, true)
	_, m := s.up.push(t, "team/app", "v1", "layer")
	if _, err := s.GetManifest(s.anyone, "up/app", "v1"); err != nil {
		t.Fatal(err)
	}
	s.up.set(func() { s.up.broken = true })
	text, err := s.read(s.anyone, m.Layers[0], 0)
	if err == nil || len(text) >= len("layer") {
		t.Errorf("read %q, %v", text, err)
	}
	if _, err := s.hub.StatBlob(s.anyone, "up/app", m.Layers[0].Digest); !registry.HasCode(err, registry.BlobUnknown) {
		t.Errorf("stored: %v", err)
	}
	s.up.set(func() { s.up.broken = false })
	eventually(t, "the next one does not get it", func() bool { text, err := s.read(s.anyone, m.Layers[0], 0); return err == nil && text == "layer" })
	// Nothing but what a manifest refers to is fetched.
	if _, err := s.read(s.anyone, image.Bytes("", []byte("else")), 0); !registry.HasCode(err, registry.BlobUnknown) {
		t.Errorf("a blob of no manifest: %v", err)
	}
}

// A blob that breaks off on its way goes on where it broke; where the upstream stays
// gone, nobody takes the half for the whole, and the next one gets it when the
// upstream is back.
func TestBrokenOff(t *testing.T) {
	s := open(t, true)
	_, m := s.up.push(t, "team/app", "v1", strings.Repeat("0123456789", 10_000))
	other, n := s.up.push(t, "team/app", "v2", strings.Repeat("9876543210", 10_000))
	for _, ref := range []string{"v1", other.Digest.String()} {
		if _, err := s.GetManifest(s.anyone, "up/app", ref); err != nil {
			t.Fatal(err)
		}
	}
	s.up.set(func() { s.up.cut = 1 })
	if text, err := s.read(s.anyone, m.Layers[0], 0); err != nil || digest.FromString(text) != m.Layers[0].Digest {
		t.Errorf("broken off once: %d bytes, %v", len(text), err)
	}
	slow := make(chan struct{})
	s.up.set(func() { s.up.slow, s.up.cut = slow, 100 })
	blob, err := s.OpenBlob(s.anyone, "up/app", n.Layers[0].Digest, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(blob, make([]byte, 10_000)); err != nil {
		t.Fatal(err)
	}
	s.up.set(func() { s.up.answer = http.StatusTooManyRequests })
	close(slow)
	rest, err := io.ReadAll(blob)
	if err == nil || len(rest) >= 90_000 {
		t.Errorf("of a blob whose upstream is gone: %d bytes more, %v", len(rest), err)
	}
	if err := blob.Close(); err != nil {
		t.Error(err)
	}
	if _, err := s.hub.StatBlob(s.anyone, "up/app", n.Layers[0].Digest); !registry.HasCode(err, registry.BlobUnknown) {
		t.Errorf("half of it is stored: %v", err)
	}
	if _, err := s.GetManifest(s.anyone, "up/app", other.Digest.String()); err != nil {
		t.Errorf("its manifest: %v", err)
	}
	s.up.set(func() { s.up.answer, s.up.slow, s.up.cut = 0, nil, 0 })
	eventually(t, "the next one does not get it", func() bool {
		text, err := s.read(s.anyone, n.Layers[0], 0)
		return err == nil && digest.FromString(text) == n.Layers[0].Digest
	})
}

// Who may not read the namespace does not pull by it, nobody pushes to it, and
// administrators alone say what stands for what.
func TestWho(t *testing.T) {
	s := open(t, false)
	s.up.push(t, "team/app", "v1", "layer")
	bob := auth.With(t.Context(), auth.Identity{Account: 2, Name: "bob"})
	if _, err := s.GetManifest(s.anyone, "up/app", "v1"); !registry.HasCode(err, registry.Unauthorized) {
		t.Errorf("anonymous: %v", err)
	}
	if _, err := s.GetManifest(bob, "up/app", "v1"); !registry.HasCode(err, registry.NameUnknown) {
		t.Errorf("bob: %v", err)
	}
	if len(s.up.asked) > 0 {
		t.Error("the upstream was asked on behalf of who may not")
	}
	if _, err := s.GetManifest(s.admin, "up/app", "v1"); err != nil {
		t.Error(err)
	}
	_, err := s.StartUpload(s.admin, "up/app")
	_, merr := s.MountBlob(s.admin, "up/app", "a", digest.FromString("x"))
	_, perr := s.PutManifest(s.admin, "up/app", nil, registry.Manifest{})
	for i, err := range []error{err, merr, perr, s.PushBlob(s.admin, "up/app", image.Bytes("", nil), http.NoBody)} {
		if !registry.HasCode(err, registry.Denied) {
			t.Errorf("push %d: %v", i, err)
		}
	}
	_, lerr := s.List(bob)
	_, aerr := s.mirrors.Add(bob, proxy.Mirror{Repository: "bob/app", Source: s.up.host + "/team/app", Pattern: "*", Every: 60})
	for i, err := range []error{s.Set(bob, proxy.Proxy{Namespace: "bob", Host: "quay.io"}), s.Unset(bob, "up"), lerr, aerr, s.mirrors.Run(bob, 1), s.mirrors.Remove(bob, 1)} {
		if !errdefs.IsPermissionDenied(err) {
			t.Errorf("call %d by bob: %v", i, err)
		}
	}
	for _, p := range []proxy.Proxy{{Namespace: "a/b", Host: "quay.io"}, {Namespace: "a", Host: "ho st"}, {Namespace: "a", Host: "quay.io", Prefix: "../x"}, {Namespace: "a", Host: "quay.io", Username: "x"}} {
		if err := s.Set(s.admin, p); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%+v: %v", p, err)
		}
	}
	list, err := s.List(s.admin)
	if err != nil || len(list) != 1 || list[0].Password != "" {
		t.Errorf("listed %+v, %v", list, err)
	}
	var password string
	if err := hub.DB(s.hub).Get(t.Context(), `SELECT password FROM proxies`, nil, &password); err != nil || strings.Contains(password, "secret") || password == "" {
		t.Errorf("kept %q, %v", password, err)
	}
	if err := s.hub.PushBlob(s.admin, "own/app", image.Bytes("", []byte("x")), strings.NewReader("x")); err != nil {
		t.Fatal(err)
	}
	if err := s.Set(s.admin, proxy.Proxy{Namespace: "own", Host: "quay.io"}); !errdefs.IsConflict(err) {
		t.Errorf("a namespace with repositories: %v", err)
	}
}

// A mirror copies the tags that match, and the next time what changed.
func TestMirror(t *testing.T) {
	s := open(t, true)
	one, _ := s.up.push(t, "team/app", "v1", "one")
	s.up.push(t, "team/app", "v2", "two")
	s.up.push(t, "team/app", "dev", "dev")
	queue := jobs.New(hub.DB(s.hub), jobs.Options{Handlers: s.mirrors.Handlers(), Poll: 10 * time.Millisecond})
	ctx, cancel := context.WithCancel(t.Context())
	var ended sync.WaitGroup
	ended.Go(func() { queue.Run(ctx) })
	defer ended.Wait()
	defer cancel()
	source := s.up.host + "/team/app"
	for _, m := range []proxy.Mirror{
		{Repository: "ann/app", Source: source + ":v1", Pattern: "*", Every: 60},
		{Repository: "ann/app", Source: source, Pattern: "/(/", Every: 60},
		{Repository: "ann/app", Source: source, Pattern: "*", Every: 1},
	} {
		if _, err := s.mirrors.Add(s.admin, m); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%+v: %v", m, err)
		}
	}
	m, err := s.mirrors.Add(s.admin, proxy.Mirror{Repository: "ann/app", Source: source, Pattern: "v*", Every: 3600, Username: "me", Password: "secret"})
	if err != nil {
		t.Fatal(err)
	}
	state := func() proxy.Mirror {
		t.Helper()
		list, err := s.mirrors.List(s.admin)
		if err != nil || len(list) != 1 || list[0].Password != "" {
			t.Fatal(list, err)
		}
		return list[0]
	}
	eventually(t, "it did not run", func() bool { return state().Copied == 2 })
	system := auth.With(t.Context(), auth.Identity{System: true})
	if d, err := s.hub.StatManifest(system, "ann/app", "v1"); err != nil || d.Digest != one.Digest {
		t.Errorf("copied %v, %v", d, err)
	}
	if _, err := s.hub.StatManifest(system, "ann/app", "dev"); !errdefs.IsNotFound(err) {
		t.Errorf("copied a tag that was not asked for: %v", err)
	}
	// Signatures come later than the image, and are signed themselves.
	sbom := s.up.attach(t, "team/app", one, "sbom")
	signature := s.up.attach(t, "team/app", sbom, "signature")
	if err := s.mirrors.Run(s.admin, m.ID); err != nil {
		t.Fatal(err)
	}
	eventually(t, "what refers to an image was not copied", func() bool {
		_, err := s.hub.StatManifest(system, "ann/app", signature.Digest.String())
		return err == nil
	})
	for d, err := range s.hub.Referrers(system, "ann/app", one.Digest, "", "") {
		if err != nil || d.Digest != sbom.Digest {
			t.Errorf("refers to v1: %v, %v", d, err)
		}
	}
	eventually(t, "it did not end", func() bool { return state().Copied == 0 })
	moved, _ := s.up.push(t, "team/app", "v1", "moved")
	if err := s.mirrors.Run(s.admin, m.ID); err != nil {
		t.Fatal(err)
	}
	eventually(t, "it did not run again", func() bool { return state().Copied == 1 })
	if d, err := s.hub.StatManifest(system, "ann/app", "v1"); err != nil || d.Digest != moved.Digest {
		t.Errorf("copied %v, %v", d, err)
	}
	s.up.set(func() { s.up.answer = http.StatusServiceUnavailable })
	if err := s.mirrors.Run(s.admin, m.ID); err != nil {
		t.Fatal(err)
	}
	eventually(t, "its failure is not told", func() bool { return strings.Contains(state().Error, "503") })
	if err := s.mirrors.Remove(s.admin, m.ID); err != nil {
		t.Fatal(err)
	}
}
