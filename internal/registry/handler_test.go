package registry_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"strake/internal/auth"
	"strake/internal/hub"
	"strake/internal/registry"
)

func newServer(t *testing.T, opts registry.Options) (http.Handler, *hub.Hub) {
	t.Helper()
	h, err := hub.Open(t.Context(), hub.Options{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := h.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return auth.Open(registry.NewHandler(h, opts)), h
}

// call sends one request; headers are "Name: value".
func call(t *testing.T, h http.Handler, method, path string, body io.Reader, headers ...string) *http.Response {
	t.Helper()
	r := httptest.NewRequestWithContext(t.Context(), method, path, body)
	for _, s := range headers {
		name, value, _ := strings.Cut(s, ": ")
		r.Header.Set(name, value)
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w.Result()
}

// wantStatus reads the body to its end and closes it.
func wantStatus(t *testing.T, resp *http.Response, status int) []byte {
	t.Helper()
	b, err := io.ReadAll(resp.Body)
	if err := errors.Join(err, resp.Body.Close()); err != nil {
		t.Fatal(err)
	}
	if resp.StatusCode != status {
		t.Errorf("status %d, want %d: %s", resp.StatusCode, status, b)
	}
	return b
}

func pushBlob(t *testing.T, h http.Handler, repo, text string) digest.Digest {
	t.Helper()
	d := digest.FromString(text)
	wantStatus(t, call(t, h, "POST", "/v2/"+repo+"/blobs/uploads/?digest="+d.String(), strings.NewReader(text)), http.StatusCreated)
	return d
}

func TestRanges(t *testing.T) {
	h, _ := newServer(t, registry.Options{})
	d := pushBlob(t, h, "a", "0123456789")
	for _, c := range []struct {
		header, body, contentRange string
		status                     int
	}{
		{"", "0123456789", "", 200},
		{"bytes=0-", "0123456789", "bytes 0-9/10", 206},
		{"bytes=2-4", "234", "bytes 2-4/10", 206},
		{"bytes=9-9", "9", "bytes 9-9/10", 206},
		{"bytes=5-100", "56789", "bytes 5-9/10", 206},
		{"bytes=-3", "789", "bytes 7-9/10", 206},
		{"bytes=-100", "0123456789", "bytes 0-9/10", 206},
		{"bytes=4-2", "", "bytes */10", 416},
		{"bytes=x", "", "bytes */10", 416},
		{"bytes=-0", "", "bytes */10", 416},
		{"bytes=0-1,4-5", "0123456789", "", 200},
		{"lines=0-1", "0123456789", "", 200},
		{"bytes=0-99999999999999999999", "0123456789", "bytes 0-9/10", 206},
		{"bytes=99999999999999999999-", "", "bytes */10", 416},
	} {
		resp := call(t, h, "GET", "/v2/a/blobs/"+d.String(), nil, "Range: "+c.header)
		b := wantStatus(t, resp, c.status)
		if c.status == 416 {
			b = nil
		}
		if string(b) != c.body || resp.Header.Get("Content-Range") != c.contentRange {
			t.Errorf("%s: %q, %q", c.header, b, resp.Header.Get("Content-Range"))
		}
	}
	for tag, status := range map[string]int{`"` + d.String() + `"`: 206, `"other"`: 200, "Mon, 02 Jan 2006 15:04:05 GMT": 200} {
		wantStatus(t, call(t, h, "GET", "/v2/a/blobs/"+d.String(), nil, "Range: bytes=2-4", "If-Range: "+tag), status)
	}
	resp := call(t, h, "GET", "/v2/a/blobs/"+d.String(), nil, "Range: bytes=10-")
	wantStatus(t, resp, http.StatusRequestedRangeNotSatisfiable)
	if got := resp.Header.Get("Content-Range"); got != "bytes */10" {
		t.Errorf("Content-Range %q", got)
	}
	wantStatus(t, call(t, h, "GET", "/v2/a/blobs/"+d.String(), nil, "Range: bytes=11-"), http.StatusRequestedRangeNotSatisfiable)
	wantStatus(t, call(t, h, "GET", "/v2/a/blobs/"+d.String(), nil, `If-None-Match: "`+d.String()+`"`), http.StatusNotModified)
	wantStatus(t, call(t, h, "GET", "/v2/b/blobs/"+d.String(), nil, `If-None-Match: "`+d.String()+`"`), http.StatusNotFound)
}

func TestChunkedUpload(t *testing.T) {
	h, _ := newServer(t, registry.Options{})
	resp := call(t, h, "POST", "/v2/a/b/blobs/uploads/", nil)
	wantStatus(t, resp, http.StatusAccepted)
	at := resp.Header.Get("Location")
	chunk := func(text, contentRange string, status int, held string) {
		t.Helper()
		resp := call(t, h, "PATCH", at, strings.NewReader(text), "Content-Range: "+contentRange)
		wantStatus(t, resp, status)
		if got := resp.Header.Get("Range"); got != held {
			t.Errorf("Range %q, want %q", got, held)
		}
	}
	chunk("0123", "0-3", http.StatusAccepted, "0-3")
	chunk("0123", "0-3", http.StatusRequestedRangeNotSatisfiable, "0-3") // again
	chunk("89", "8-9", http.StatusRequestedRangeNotSatisfiable, "0-3")   // a gap
	chunk("45", "4-9", http.StatusBadRequest, "")                        // another length
	chunk("45", "x", http.StatusBadRequest, "")
	chunk("45", "4-5", http.StatusAccepted, "0-5")
	resp = call(t, h, "GET", at, nil)
	wantStatus(t, resp, http.StatusNoContent)
	if got := resp.Header.Get("Range"); got != "0-5" {
		t.Errorf("status: Range %q", got)
	}
	d := digest.FromString("0123456789")
	wantStatus(t, call(t, h, "PUT", at, nil), http.StatusBadRequest) // no digest
	wantStatus(t, call(t, h, "PUT", at+"?digest="+d.String(), strings.NewReader("6789"), "Content-Range: 6-9"), http.StatusCreated)
	if b := wantStatus(t, call(t, h, "GET", "/v2/a/b/blobs/"+d.String(), nil), http.StatusOK); string(b) != "0123456789" {
		t.Errorf("blob %q", b)
	}
	wantStatus(t, call(t, h, "GET", at, nil), http.StatusNotFound)
}

// TestCVE_2017_11468_ManifestBody sends manifests that do not end.
func TestCVE_2017_11468_ManifestBody(t *testing.T) {
	h, _ := newServer(t, registry.Options{})
	body := &endless{}
	wantStatus(t, call(t, h, "PUT", "/v2/a/manifests/t", body), http.StatusRequestEntityTooLarge)
	if body.read > 2*registry.MaxManifestSize {
		t.Errorf("%d bytes read", body.read)
	}
	r := httptest.NewRequestWithContext(t.Context(), "PUT", "/v2/a/manifests/t", &endless{})
	r.ContentLength = 1 << 40
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	if w.Code != http.StatusRequestEntityTooLarge {
		t.Errorf("announced: status %d", w.Code)
	}
}

type endless struct{ read int }

func (e *endless) Read(p []byte) (int, error) {
	e.read += len(p)
	return len(p), nil
}

// TestCVE_2023_2253_CatalogN asks for a thousand million names.
func TestCVE_2023_2253_CatalogN(t *testing.T) {
	h, _ := newServer(t, registry.Options{})
	for i := range 5 {
		pushBlob(t, h, fmt.Sprintf("r%d", i), "x")
	}
	allocs := testing.AllocsPerRun(1, func() {
		wantStatus(t, call(t, h, "GET", "/v2/_catalog?n=1000000000", nil), http.StatusOK)
	})
	if allocs > 10_000 {
		t.Errorf("%v allocations", allocs)
	}
	for _, n := range []string{"-1", "x", "99999999999999999999"} {
		wantStatus(t, call(t, h, "GET", "/v2/_catalog?n="+n, nil), http.StatusBadRequest)
	}
	var all []string
	for path := "/v2/_catalog?n=2"; path != ""; {
		resp := call(t, h, "GET", path, nil)
		var page struct{ Repositories []string }
		if err := json.Unmarshal(wantStatus(t, resp, http.StatusOK), &page); err != nil || len(page.Repositories) > 2 {
			t.Fatalf("%+v, %v", page, err)
		}
		all = append(all, page.Repositories...)
		path, _, _ = strings.Cut(strings.TrimPrefix(resp.Header.Get("Link"), "<"), ">")
	}
	if len(all) != 5 {
		t.Errorf("listed %v", all)
	}
}

func TestPaths(t *testing.T) {
	h, _ := newServer(t, registry.Options{})
	d := pushBlob(t, h, "blobs/manifests/tags", "x").String()
	for path, status := range map[string]int{
		"/v2/": 200, "/v2": 200, "/": 404, "/v2/x": 404, "/v1/": 404,
		"/v2/blobs/manifests/tags/blobs/" + d: 200,
		"/v2/blobs/manifests/tags/tags/list":  200,
		"/v2/../blobs/" + d:                   400,
		"/v2/A/blobs/" + d:                    400,
		"/v2/a/blobs/sha256:x":                400,
		"/v2/a/manifests/-":                   400,
		"/v2/a/blobs/uploads/nope":            404,
		"/v2//blobs/" + d:                     400,
		"/v2/a/blobs/uploads/..%2f..%2fx":     404,
	} {
		resp := call(t, h, "GET", path, nil)
		b := wantStatus(t, resp, status)
		if t.Failed() {
			t.Fatalf("GET %s: %s", path, b)
		}
	}
	wantStatus(t, call(t, h, "DELETE", "/v2/", nil), http.StatusMethodNotAllowed)
}

func TestReadOnly(t *testing.T) {
	h, hub := newServer(t, registry.Options{ReadOnly: true})
	d := ocispec.Descriptor{Digest: digest.FromString("x"), Size: 1}
	if err := hub.PushBlob(auth.With(t.Context(), auth.Identity{System: true}), "a", d, strings.NewReader("x")); err != nil {
		t.Fatal(err)
	}
	wantStatus(t, call(t, h, "GET", "/v2/a/blobs/"+d.Digest.String(), nil), http.StatusOK)
	for _, c := range []string{"POST /v2/a/blobs/uploads/", "PUT /v2/a/manifests/t", "DELETE /v2/a/manifests/t", "DELETE /v2/a/blobs/" + d.Digest.String()} {
		method, path, _ := strings.Cut(c, " ")
		wantStatus(t, call(t, h, method, path, bytes.NewReader(nil)), http.StatusMethodNotAllowed)
	}
}

func TestErrorOf(t *testing.T) {
	secret := errors.New("password=x")
	if e := registry.ErrorOf(fmt.Errorf("db: %w", secret)); e.Code != registry.Unknown || strings.Contains(e.Error(), "password") {
		t.Errorf("unknown error: %v", e)
	}
	if e := registry.ErrorOf(fmt.Errorf("x: %w", registry.Errorf(registry.BlobUnknown, "gone"))); e.Code != registry.BlobUnknown || e.Status() != 404 {
		t.Errorf("wrapped: %v", e)
	}
	if e := registry.ErrorOf(fmt.Errorf("x: %w", errdefs.ErrPermissionDenied)); e.Code != registry.Denied || e.Status() != 403 {
		t.Errorf("kind: %v", e)
	}
	if err := error(registry.Errorf(registry.ManifestUnknown, "x")); !errdefs.IsNotFound(err) {
		t.Error("MANIFEST_UNKNOWN is no errdefs.ErrNotFound")
	}
}
