package s3_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"

	"strake/internal/conformance"
	"strake/internal/content"
	"strake/internal/s3"
)

func open(t *testing.T, url string) *s3.Store {
	t.Helper()
	s, err := s3.Open(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestStore(t *testing.T) {
	conformance.Content(t, func(t *testing.T) content.Store { return open(t, conformance.S3(t)) })
}

// TestLarge writes a blob of several segments, by writers of two processes.
func TestLarge(t *testing.T) {
	ctx := t.Context()
	url := conformance.S3(t)
	first, second := open(t, url), open(t, url)
	b := make([]byte, 30<<20)
	_, _ = rand.Read(b)
	dgst := digest.FromBytes(b)
	for i, step := range []struct {
		store    *s3.Store
		from, to int
	}{{first, 0, 3 << 20}, {second, 3 << 20, 16 << 20}, {first, 16 << 20, 16<<20 + 1}, {second, 16<<20 + 1, 29 << 20}} {
		w, err := step.store.Writer(ctx, "large", content.WriterOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if w.Offset() != int64(step.from) || w.Digest() != digest.FromBytes(b[:step.from]) {
			t.Fatalf("step %d: resumed at %d", i, w.Offset())
		}
		if _, err := w.Write(b[step.from:step.to]); err != nil {
			t.Fatal(err)
		}
		if i == 3 { // what is behind is wrong
			if err := w.Truncate(9 << 20); err != nil {
				t.Fatal(err)
			}
			if w.Digest() != digest.FromBytes(b[:9<<20]) {
				t.Error("digest after Truncate")
			}
			if _, err := w.Write(b[9<<20:]); err != nil {
				t.Fatal(err)
			}
			got, err := io.ReadAll(io.NewSectionReader(w, 7<<20, 12<<20))
			if err != nil || !bytes.Equal(got, b[7<<20:19<<20]) {
				t.Errorf("read back: %v", err)
			}
			if err := w.Commit(ctx, int64(len(b)), dgst); err != nil {
				t.Fatal(err)
			}
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
	}
	got, err := content.ReadAll(ctx, first, dgst, 1<<30)
	if err != nil || !bytes.Equal(got, b) {
		t.Errorf("read: %v", err)
	}
	ra, err := first.Open(ctx, dgst)
	if err != nil {
		t.Fatal(err)
	}
	for _, offset := range []int64{0, 5 << 20, 5<<20 + 100, 5<<20 + 50_000, 1, 30<<20 - 10} {
		part := make([]byte, 10)
		if _, err := ra.ReadAt(part, offset); err != nil || !bytes.Equal(part, b[offset:offset+10]) {
			t.Errorf("at %d: %v", offset, err)
		}
	}
	if err := ra.Close(); err != nil {
		t.Error(err)
	}
	link, err := first.URL(ctx, dgst, time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.Get(link)
	if err != nil {
		t.Fatal(err)
	}
	got, err = io.ReadAll(resp.Body)
	if err := errors.Join(err, resp.Body.Close()); err != nil || resp.StatusCode != http.StatusOK || !bytes.Equal(got, b) {
		t.Errorf("GET: %s, %d bytes, %v", resp.Status, len(got), err)
	}
	if err := first.Sweep(ctx, time.Now().Add(time.Hour)); err != nil {
		t.Error(err)
	}
}

// TestTakeOver is a writer that sleeps for so long that another takes its ingest
// over: what it then does harms nobody.
func TestTakeOver(t *testing.T) {
	ctx := t.Context()
	url := conformance.S3(t)
	asleep, err := s3.OpenAsleep(ctx, url) // its leases are not renewed
	if err != nil {
		t.Fatal(err)
	}
	awake := open(t, url)
	awake.SetLease(time.Second)
	bad, good := bytes.Repeat([]byte("bad "), 5<<20), bytes.Repeat([]byte("good"), 5<<20)
	w, err := asleep.Writer(ctx, "x", content.WriterOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(bad[:9<<20]); err != nil {
		t.Fatal(err)
	}
	var v content.Writer
	for start := time.Now(); ; time.Sleep(200 * time.Millisecond) {
		v, err = awake.Writer(ctx, "x", content.WriterOptions{})
		if err == nil {
			break
		}
		if !errdefs.IsUnavailable(err) || time.Since(start) > time.Minute {
			t.Fatal(err)
		}
	}
	if err := v.Truncate(0); err != nil {
		t.Fatal(err)
	}
	if _, err := v.Write(good[:18<<20]); err != nil {
		t.Fatal(err)
	}
	// Once both segments are stored, the sleeper overwrites the second.
	for start := time.Now(); ; time.Sleep(20 * time.Millisecond) {
		infos, err := awake.Ingests(ctx)
		if err == nil && len(infos) == 1 && infos[0].Offset == 16<<20 {
			break
		}
		if time.Since(start) > time.Minute {
			t.Fatalf("%+v, %v", infos, err)
		}
	}
	if _, err := w.Write(bad[9<<20 : 17<<20]); err != nil {
		t.Logf("the sleeper's Write: %v", err)
	}
	if err := w.Close(); err != nil {
		t.Logf("the sleeper's Close: %v", err)
	}
	if _, err := v.Write(good[18<<20:]); err != nil {
		t.Fatal(err)
	}
	dgst := digest.FromBytes(good)
	if err := v.Commit(ctx, 0, dgst); !errdefs.IsUnavailable(err) {
		t.Errorf("Commit of segments of two writers: %v", err)
	}
	if err := v.Close(); err != nil {
		t.Error(err)
	}
	// Who resumes it reads what is there, and never takes the one for the other.
	if v, err = awake.Writer(context.WithoutCancel(ctx), "x", content.WriterOptions{}); err != nil {
		t.Fatal(err)
	}
	held, err := io.ReadAll(io.NewSectionReader(v, 0, v.Offset()))
	if err != nil || digest.FromBytes(held) != v.Digest() {
		t.Errorf("digest of %d bytes is not theirs: %v", len(held), err)
	}
	if err := v.Commit(ctx, 0, dgst); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("Commit of what is another blob: %v", err)
	}
}

// A server that has not decided between two requests yet says so: the second
// asks again.
func TestUndecided(t *testing.T) {
	bucket, err := url.Parse(conformance.S3(t))
	if err != nil {
		t.Fatal(err)
	}
	q := bucket.Query()
	server, err := url.Parse(q.Get("endpoint"))
	if err != nil {
		t.Fatal(err)
	}
	var refused atomic.Int32
	forward := &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) {
		r.Out.URL.Scheme, r.Out.URL.Host, r.Out.Host = server.Scheme, server.Host, r.In.Host
	}}
	front := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPut && strings.HasSuffix(r.URL.Path, "/lease") && refused.Add(1) <= 2 {
			w.WriteHeader(http.StatusConflict)
			_, _ = io.WriteString(w, "<Error><Code>ConditionalRequestConflict</Code></Error>") // the client may be gone
			return
		}
		forward.ServeHTTP(w, r)
	}))
	defer front.Close()
	q.Set("endpoint", front.URL)
	bucket.RawQuery = q.Encode()
	w, err := open(t, bucket.String()).Writer(t.Context(), "new", content.WriterOptions{})
	if err != nil || refused.Load() != 3 {
		t.Fatalf("writer: %v, asked %d times", err, refused.Load())
	}
	if err := w.Close(); err != nil {
		t.Error(err)
	}
}

func TestOpenErrors(t *testing.T) {
	for _, url := range []string{"", "s3://", "http://bucket", "s3://k:s@bucket", "s3://bucket?endpoint=host:9000", "s3://bucket?color=red", "s3://bucket?endpoint=http://h/path"} {
		if _, err := s3.Open(t.Context(), url); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%q: %v", url, err)
		}
	}
	url := conformance.S3(t)
	if _, err := s3.Open(t.Context(), "s3://nosuch"+url[len("s3://"):]); err == nil {
		t.Error("no bucket: no error")
	}
}
