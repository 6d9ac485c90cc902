package s3cache

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"net/url"
	"testing"
	"time"

	"github.com/containerd/errdefs"

	"strake/internal/conformance"
)

func open(t *testing.T, endpoint, bucket string) *Bucket {
	t.Helper()
	c, err := New(Options{
		Name: bucket, Region: "us-east-1", Endpoint: endpoint, PathStyle: true,
		AccessKeyID: conformance.S3Key, SecretAccessKey: conformance.S3Secret, Touch: time.Hour,
	})
	if err != nil {
		t.Fatal(err)
	}
	c.pause = 1
	return c
}

// TestConformance runs the suite of buckets on a server; what is old there gets a new time.
func TestConformance(t *testing.T) {
	u, err := url.Parse(conformance.S3(t))
	if err != nil {
		t.Fatal(err)
	}
	c := open(t, u.Query().Get("endpoint"), u.Host)
	conformance.Bucket(t, c)
	if err := c.PutBytes(t.Context(), "old", []byte("text")); err != nil {
		t.Fatal(err)
	}
	c.opts.Touch = -time.Hour // what is there is old
	if is, err := c.Use(t.Context(), "old", 4); !is || err != nil {
		t.Error(is, err)
	}
}

// TestAdaptive: who is asked for fewer requests waits before the next ones, once that was asked for.
func TestAdaptive(t *testing.T) {
	busy := true
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if busy {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
		busy = false
	}))
	defer srv.Close()
	for _, adaptive := range []bool{false, true} {
		c, err := New(Options{Name: "b", Region: "us-east-1", Endpoint: srv.URL, PathStyle: true, AccessKeyID: "a", SecretAccessKey: "b", Adaptive: adaptive})
		if err != nil {
			t.Fatal(err)
		}
		c.pause, busy = 1, true
		begin := time.Now()
		for range 2 {
			if err := c.PutBytes(t.Context(), "x", nil); err != nil {
				t.Fatal(err)
			}
		}
		if took := time.Since(begin); took > 500*time.Millisecond != adaptive {
			t.Errorf("adaptive %v: %v", adaptive, took)
		}
	}
}

// TestHostileServer: what a server says is bounded, and no redirect is followed.
func TestHostileServer(t *testing.T) {
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
	} {
		c := open(t, srv.URL, "b")
		for _, do := range []func(context.Context) error{
			func(ctx context.Context) error { _, err := c.Get(ctx, "x", 0); return err },
			func(ctx context.Context) error { return c.PutBytes(ctx, "x", nil) },
		} {
			asked, answer = 0, step.answer
			if err := do(t.Context()); !errors.Is(err, step.is) || asked != step.tries {
				t.Errorf("%d requests, %v, want %v", asked, err, step.is)
			}
		}
	}
}
