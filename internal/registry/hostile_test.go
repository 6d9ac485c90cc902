package registry_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"strake/internal/auth"
	"strake/internal/registry"
)

// listen serves a Hub to connections that are given up after stall.
func listen(t *testing.T, stall time.Duration) (*httptest.Server, registry.Registry) {
	t.Helper()
	api, h := newServer(t, registry.Options{Stall: stall})
	s := httptest.NewServer(api)
	t.Cleanup(s.Close)
	return s, h
}

// system is the context of who may do everything.
func system(t *testing.T) context.Context {
	return auth.With(t.Context(), auth.Identity{System: true})
}

// dial sends text and returns the connection.
func dial(t *testing.T, s *httptest.Server, text string) net.Conn {
	t.Helper()
	conn, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", s.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	if err := errors.Join(conn.SetDeadline(time.Now().Add(20*time.Second)), write(conn, text)); err != nil {
		t.Fatal(err)
	}
	return conn
}

func write(w io.Writer, text string) error {
	_, err := io.WriteString(w, text)
	return err
}

// TestStalledUpload begins an upload that then sends nothing: the connection is
// given up, and what came is kept.
func TestStalledUpload(t *testing.T) {
	s, h := listen(t, 300*time.Millisecond)
	up, err := h.StartUpload(system(t), "a")
	if err != nil {
		t.Fatal(err)
	}
	if err := up.Close(); err != nil {
		t.Fatal(err)
	}
	at := "/v2/a/blobs/uploads/" + up.ID()
	start := time.Now()
	conn := dial(t, s, "PATCH "+at+" HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n0123456789")
	b, err := io.ReadAll(conn)
	if took := time.Since(start); err != nil || took > 10*time.Second || !strings.HasPrefix(string(b), "HTTP/1.1 400") {
		t.Errorf("after %v: %v: %.100q", took, err, b)
	}
	resp, err := http.Get(s.URL + at)
	if err != nil {
		t.Fatal(err)
	}
	if err := resp.Body.Close(); err != nil || resp.Header.Get("Range") != "0-9" {
		t.Errorf("%s, Range %q, %v", resp.Status, resp.Header.Get("Range"), err)
	}
}

// TestSlowUpload sends little at a time for longer than a stall may last.
func TestSlowUpload(t *testing.T) {
	s, _ := listen(t, time.Second)
	text := "0123456789abcdef"
	d := digest.FromString(text)
	conn := dial(t, s, fmt.Sprintf("POST /v2/a/blobs/uploads/?digest=%s HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n", d, len(text)))
	for i := range text {
		time.Sleep(100 * time.Millisecond)
		if err := write(conn, text[i:i+1]); err != nil {
			t.Fatal(err)
		}
	}
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	wantStatus(t, resp, http.StatusCreated)
}

// TestStalledDownload asks for a blob and does not read it.
func TestStalledDownload(t *testing.T) {
	s, h := listen(t, 300*time.Millisecond)
	b := bytes.Repeat([]byte("0123456789abcdef"), 2<<20) // more than sockets hold
	d := ocispec.Descriptor{Digest: digest.FromBytes(b), Size: int64(len(b))}
	if err := h.PushBlob(system(t), "a", d, bytes.NewReader(b)); err != nil {
		t.Fatal(err)
	}
	conn := dial(t, s, "GET /v2/a/blobs/"+d.Digest.String()+" HTTP/1.1\r\nHost: x\r\n\r\n")
	time.Sleep(1500 * time.Millisecond)
	if n, err := io.Copy(io.Discard, conn); n >= d.Size {
		t.Errorf("%d bytes, %v: nobody gave up", n, err)
	}
	resp, err := http.Get(s.URL + "/v2/a/blobs/" + d.Digest.String()) // who reads gets all of it
	if err != nil {
		t.Fatal(err)
	}
	if got := wantStatus(t, resp, http.StatusOK); !bytes.Equal(got, b) {
		t.Errorf("%d other bytes", len(got))
	}
}

// TestSmuggling sends requests that two servers could read in two ways, and names
// that would be headers of the answer.
func TestSmuggling(t *testing.T) {
	s, _ := listen(t, 5*time.Second)
	const post, next = "POST /v2/a/blobs/uploads/ HTTP/1.1\r\nHost: x\r\n", "GET /v2/_catalog HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
	for name, c := range map[string]string{
		"two lengths":          "Content-Length: 0\r\nContent-Length: 5\r\n\r\n",
		"length with a sign":   "Content-Length: +0\r\n\r\n",
		"list of lengths":      "Content-Length: 0, 5\r\n\r\n",
		"space before a colon": "Content-Length : 0\r\n\r\n",
		"other encoding":       "Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
		"encoding twice":       "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
		"encoding in disguise": "Transfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n",
		"control in a value":   "X: a\x00b\r\n\r\n",
		"two hosts":            "Host: y\r\n\r\n",
		"malformed chunk":      "Transfer-Encoding: chunked\r\n\r\n-1\r\n\r\n",
		"chunk without an end": "Transfer-Encoding: chunked\r\n\r\n0x0\r\n\r\n",
	} {
		b, _ := io.ReadAll(dial(t, s, post+c+next)) // the connection may be reset: what came counts
		if n := strings.Count(string(b), "HTTP/1.1 200"); n > 0 || strings.Contains(string(b), "repositories") {
			t.Errorf("%s: what follows was answered: %.300q", name, b)
		}
	}
	for _, path := range []string{
		"/v2/a/manifests/v1%0d%0aX-Evil:%201", "/v2/a%0d%0aX-Evil:%201/tags/list", "/v2/a/tags/list?last=%0d%0aX-Evil:%201",
		"/v2/_catalog?ns=x%0d%0aX-Evil:%201", "/v2/a/referrers/" + digest.FromString("x").String() + "?artifactType=%0d%0aX-Evil:%201",
	} {
		resp, err := http.Get(s.URL + path)
		if err != nil {
			t.Fatal(err)
		}
		if err := resp.Body.Close(); err != nil || resp.Header.Get("X-Evil") != "" {
			t.Errorf("%s: %v, %v", path, resp.Header, err)
		}
	}
}

// TestBodyLengths is CVE-2024-41110 and CVE-2026-34040: a body that is empty, or
// larger than said, is what it is for everybody.
func TestBodyLengths(t *testing.T) {
	s, _ := listen(t, time.Second)
	d := digest.FromString("x").String()
	for body, want := range map[string]string{
		"Content-Length: 0\r\n\r\n":                             "HTTP/1.1 400",
		"\r\n":                                                  "HTTP/1.1 400",
		"Content-Length: 1\r\n\r\nx":                            "HTTP/1.1 201",
		"Content-Length: 1\r\n\r\nxyz":                          "HTTP/1.1 201",
		"Content-Length: 3\r\n\r\nxyz":                          "HTTP/1.1 400",
		"Content-Length: 2\r\n\r\nx":                            "HTTP/1.1 400", // and no more comes
		"Transfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n": "HTTP/1.1 201",
	} {
		conn := dial(t, s, "POST /v2/a/blobs/uploads/?digest="+d+" HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"+body)
		b, _ := io.ReadAll(conn)
		if !strings.HasPrefix(string(b), want) {
			t.Errorf("%q: %.100q, want %s", body, b, want)
		}
	}
}
