package azblob

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"strake/internal/conformance"
)

func open(t *testing.T, opts Options) *Container {
	t.Helper()
	c, err := New(opts)
	if err != nil {
		t.Fatal(err)
	}
	c.client.Pause = 1
	return c
}

func server(t *testing.T) Options {
	t.Helper()
	account, container := conformance.Azure(t)
	return Options{AccountURL: account, Account: conformance.AzureAccount, Key: conformance.AzureKey, Container: container}
}

// TestConformance runs the suite of buckets on a server, in a container that the first write makes.
func TestConformance(t *testing.T) {
	opts := server(t)
	conformance.Bucket(t, open(t, opts))
	opts.Key = "d3Jvbmc="
	if _, err := open(t, opts).Use(t.Context(), "x", 1); !errdefs.IsPermissionDenied(err) || strings.Contains(err.Error(), opts.Key) {
		t.Error(err)
	}
}

// TestConcurrentWriters: all who write one blob at once succeed, and one who has other bytes spoils nothing.
func TestConcurrentWriters(t *testing.T) {
	opts := server(t)
	b := bytes.Repeat([]byte("0123456789abcdef"), BlockSize/16+1)
	wrong := append([]byte("x"), b[1:]...)
	desc := ocispec.Descriptor{Digest: digest.FromBytes(b), Size: int64(len(b))}
	var group sync.WaitGroup
	for range 3 {
		group.Go(func() {
			if err := open(t, opts).Put(t.Context(), "blob", desc, bytes.NewReader(b)); err != nil {
				t.Error(err)
			}
		})
	}
	group.Go(func() {
		if err := open(t, opts).Put(t.Context(), "blob", desc, bytes.NewReader(wrong)); !errdefs.IsDataLoss(err) {
			t.Error(err)
		}
	})
	group.Wait()
	body, err := open(t, opts).Get(t.Context(), "blob", 0)
	if err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(body)
	if err = errors.Join(err, body.Close()); err != nil || !bytes.Equal(got, b) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
}

// TestHostileServer: what fails for a moment is sent again, with the same bytes; no redirect is
// followed; an answer that is no part of a blob, or ends too early, is an error; words of the
// server that are none do not get into errors, nor does the key.
func TestHostileServer(t *testing.T) {
	asked, answer := 0, func(http.ResponseWriter) {}
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked++
		if b, err := io.ReadAll(r.Body); r.Method == http.MethodPut && (err != nil || string(b) != "text") {
			t.Errorf("%s %s: %q, %v", r.Method, r.URL, b, err)
		}
		answer(w)
	}))
	defer srv.Close()
	elsewhere := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("a redirect was followed") }))
	defer elsewhere.Close()
	status := func(code int) func(http.ResponseWriter) {
		return func(w http.ResponseWriter) {
			w.Header().Set("Location", elsewhere.URL)
			w.Header().Set("X-Ms-Error-Code", "Error: <b>")
			w.WriteHeader(code)
		}
	}
	c := open(t, Options{AccountURL: srv.URL, Account: "a", Key: conformance.AzureKey, Container: "c"})
	get := func(ctx context.Context) error { _, err := c.Get(ctx, "x", 2); return err }
	use := func(ctx context.Context) error { _, err := c.Use(ctx, "x", 4); return err }
	put := func(ctx context.Context) error { return c.PutBytes(ctx, "x", []byte("text")) }
	for _, step := range []struct {
		do     func(context.Context) error
		answer func(http.ResponseWriter)
		is     error
		tries  int
	}{
		{get, status(http.StatusTemporaryRedirect), errdefs.ErrInvalidArgument, 1},
		{put, status(http.StatusTemporaryRedirect), errdefs.ErrInvalidArgument, 1},
		{use, status(http.StatusMovedPermanently), errdefs.ErrInvalidArgument, 1},
		{get, status(http.StatusServiceUnavailable), errdefs.ErrUnavailable, Tries},
		{put, status(http.StatusTooManyRequests), errdefs.ErrUnavailable, Tries},
		{put, func(w http.ResponseWriter) {
			if asked < Tries {
				panic(http.ErrAbortHandler)
			}
			w.WriteHeader(http.StatusCreated)
		}, nil, Tries},
		{put, status(http.StatusForbidden), errdefs.ErrPermissionDenied, 1},
		{put, status(http.StatusOK), errdefs.ErrUnavailable, 1},       // written it would be 201
		{put, status(http.StatusConflict), errdefs.ErrUnavailable, 1}, // a container that is being removed
		{get, status(http.StatusOK), errdefs.ErrUnavailable, 1},       // all of it, not what is from an offset
	} {
		asked, answer = 0, step.answer
		err := step.do(t.Context())
		if !errors.Is(err, step.is) || asked != step.tries {
			t.Errorf("%d requests, %v, want %d, %v", asked, err, step.tries, step.is)
		}
		if err != nil && strings.Contains(err.Error(), "<b>") {
			t.Errorf("%q", err)
		}
	}
	answer = func(w http.ResponseWriter) {
		w.Header().Set("Content-Length", "1000")
		_, _ = io.WriteString(w, "text")
	}
	body, err := c.Get(t.Context(), "x", 0)
	if err != nil {
		t.Fatal(err)
	}
	_, err = io.ReadAll(body)
	if err = errors.Join(err, body.Close()); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("truncated: %v", err)
	}
	if is, err := c.Use(t.Context(), "x", 4); is || err != nil {
		t.Errorf("another size: %t, %v", is, err)
	}
}

// TestOptions: what is no URL and no key is refused, and not told.
func TestOptions(t *testing.T) {
	for _, opts := range []Options{
		{AccountURL: "nothing"},
		{AccountURL: "ftp://a"},
		{AccountURL: "https://user:secret@a"},
		{AccountURL: "https://a/?sig=secret"},
		{AccountURL: "https://a", Key: "secret!"},
	} {
		if _, err := New(opts); !errdefs.IsInvalidArgument(err) || strings.Contains(err.Error(), "secret") {
			t.Errorf("%v: %v", opts, err)
		}
	}
}
