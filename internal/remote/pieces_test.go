package remote_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"strake/internal/remote"
)

// blobHandler serves b as any blob, with ranges.
func blobHandler(b []byte) http.Handler {
	etag := `"` + digest.FromBytes(b).String() + `"`
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.Contains(r.URL.Path, "/blobs/") {
			w.Header().Set("Etag", etag)
			http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(b))
		}
	})
}

// slowLink caps each answer that is a blob at rate bytes a second, or all of them
// together where they share, and counts those under way, and their bytes.
type slowLink struct {
	rate                    int
	now, most, served, sent atomic.Int64
	line                    chan struct{} // that they share; nil: each has its own
}

func (l *slowLink) wrap(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !strings.Contains(r.URL.Path, "/blobs/") {
			next.ServeHTTP(w, r)
			return
		}
		l.served.Add(1)
		if n := l.now.Add(1); n > l.most.Load() {
			l.most.Store(n)
		}
		defer l.now.Add(-1)
		next.ServeHTTP(slowWriter{w, l}, r)
	})
}

type slowWriter struct {
	http.ResponseWriter
	l *slowLink
}

func (w slowWriter) Write(p []byte) (int, error) {
	if w.l.rate > 0 {
		w.l.pass(time.Duration(len(p)) * time.Second / time.Duration(w.l.rate))
	}
	n, err := w.ResponseWriter.Write(p)
	w.l.sent.Add(int64(n))
	return n, err
}

func (l *slowLink) pass(d time.Duration) {
	if l.line != nil { // a mutex would stop the bubble's clock
		l.line <- struct{}{}
		defer func() { <-l.line }()
	}
	time.Sleep(d)
}

func wholeOnly(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r.Header.Del("Range")
		next.ServeHTTP(w, r)
	})
}

// TestPieces pulls a big blob over slow and fast links, from the start and from
// the middle, from servers with and without ranges, and gives up in the middle.
func TestPieces(t *testing.T) {
	b, desc := bigBlob(41<<20 + 5)
	for _, c := range []struct {
		name             string
		rate             int // bytes a second and connection; 0: at once
		wrap             func(http.Handler) http.Handler
		share            bool
		most, low, limit int64 // requests at once; of all
	}{
		{"slow", 20 << 20, nil, false, 6, 30, 50},
		{"fast", 0, nil, false, 1, 2, 2},
		{"no ranges", 20 << 20, wholeOnly, false, 1, 1, 1},
		{"shared", 20 << 20, nil, true, 2, 4, 4},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var mem memNet
				h := blobHandler(b)
				if c.wrap != nil {
					h = c.wrap(h)
				}
				link := &slowLink{rate: c.rate}
				if c.share {
					link.line = make(chan struct{}, 1)
				}
				repo := mem.repository(t, remote.Options{}, mem.serve(t, link.wrap(h))+"/a")
				wantBlob(t, repo, desc)
				if most, n := link.most.Load(), link.served.Load(); most != c.most || n < c.low || n > c.limit {
					t.Errorf("%d requests, %d at once", n, most)
				}
				rc, err := repo.Fetch(t.Context(), desc, 5<<20)
				if err != nil {
					t.Fatal(err)
				}
				got, err := digest.FromReader(rc)
				if want := digest.FromBytes(b[5<<20:]); err != nil || got != want || rc.Close() != nil {
					t.Errorf("from the middle: %s, %v, want %s", got, err, want)
				}
				for _, n := range []int64{0, 1 << 20, 9 << 20} {
					if rc, err = repo.Fetch(t.Context(), desc, 0); err != nil {
						t.Fatal(err)
					}
					if _, err := io.CopyN(io.Discard, rc, n); err != nil {
						t.Error(err)
					}
					if err := rc.Close(); err != nil {
						t.Errorf("close after %d: %v", n, err)
					}
				}
				wantBlob(t, repo, desc) // no piece is held for ever
			})
		})
	}
}

// after answers the first n requests for a blob as first does, and the others as
// then does.
func after(n int64, first, then http.Handler) http.Handler {
	var count atomic.Int64
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !strings.Contains(r.URL.Path, "/blobs/") || count.Add(1) <= n {
			first.ServeHTTP(w, r)
			return
		}
		then.ServeHTTP(w, r)
	})
}

// without takes headers off requests, and off their answers.
func without(next http.Handler, headers ...string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		for _, h := range headers {
			r.Header.Del(h)
		}
		next.ServeHTTP(&headerWriter{w, func(w http.ResponseWriter) {
			for _, h := range headers {
				w.Header().Del(h)
			}
		}}, r)
	})
}

// headerWriter changes an answer's headers before they go.
type headerWriter struct {
	http.ResponseWriter
	change func(http.ResponseWriter)
}

func (w *headerWriter) WriteHeader(status int) {
	w.change(w.ResponseWriter)
	w.ResponseWriter.WriteHeader(status)
}

// answer answers a range of b with the range from first+shift to last+longer, in
// a body of so many bytes more than that; chunked takes its length off.
func answer(b []byte, shift, longer, more int, chunked bool) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var first, last int
		if _, err := fmt.Sscanf(r.Header.Get("Range"), "bytes=%d-%d", &first, &last); err != nil {
			last = len(b) - 1
		}
		first, last = first+shift, last+longer
		body := append(bytes.Clone(b[first:last+1]), make([]byte, more)...)
		w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", first, last, len(b)))
		if !chunked {
			w.Header().Set("Content-Length", strconv.Itoa(len(body)))
		}
		w.WriteHeader(http.StatusPartialContent)
		_, _ = w.Write(body)
	})
}

// TestHostileRanges reads a big blob over a slow link from registries that change
// it meanwhile, or answer with other ranges than those that they are asked for.
// What is read is the blob, or an error.
func TestHostileRanges(t *testing.T) {
	b, desc := bigBlob(41<<20 + 5)
	good := blobHandler(b)
	other := blobHandler(append(bytes.Clone(b[:len(b)-1]), 'x'))
	longer := blobHandler(append(bytes.Clone(b), 'x'))
	short := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		first, last := 0, len(b)
		if n, _ := fmt.Sscanf(r.Header.Get("Range"), "bytes=%d-%d", &first, &last); n > 0 {
			r.Header.Set("Range", fmt.Sprintf("bytes=%d-%d", first, min(last, first+300_000)))
		}
		good.ServeHTTP(w, r)
	})
	for name, c := range map[string]struct {
		registry http.Handler
		err      string // "" for the blob
	}{
		"another blob, as a whole":            {after(4, good, other), "the registry changed it"},
		"another blob, in ranges":             {after(4, good, without(other, "If-Range")), "the registry changed it"},
		"a longer one":                        {after(4, good, without(longer, "If-Range", "Etag")), "expected 42991621"},
		"a longer one, as a whole":            {after(4, good, without(longer, "Range", "Etag")), "expected 42991621"},
		"the blob as a whole":                 {after(4, good, wholeOnly(good)), ""},
		"the blob as a whole, from the trial": {after(1, good, wholeOnly(good)), ""},
		"short ranges":                        {short, ""},
		"long ranges":                         {after(1, good, answer(b, 0, 1, 0, false)), "another range"},
		"long ranges for pieces":              {after(4, good, after(2, answer(b, 0, 1, 0, false), good)), ""},
		"shifted ranges":                      {after(1, good, answer(b, 1, 0, 0, false)), "another range"},
		"ranges from before":                  {after(1, good, answer(b, -1, 0, 0, false)), "another range"},
		"a longer body":                       {after(1, good, answer(b, 0, 0, 1, false)), "another range"},
		"a longer body, of unknown length":    {answer(b, 0, 0, 1, true), "more than it said"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var mem memNet
				link := &slowLink{rate: 20 << 20}
				repo := mem.repository(t, remote.Options{}, mem.serve(t, link.wrap(c.registry))+"/a")
				got, err := read(t, repo, desc)
				switch {
				case c.err == "" && (err != nil || !bytes.Equal(got, b)):
					t.Errorf("%d bytes, %v", len(got), err)
				case c.err != "" && (err == nil || !strings.Contains(err.Error(), c.err)):
					t.Errorf("%d bytes, %v, want %q", len(got), err, c.err)
				}
				if sent := link.sent.Load(); sent > 5*desc.Size/2 {
					t.Errorf("%d bytes were sent for %d", sent, desc.Size)
				}
			})
		})
	}
}

func read(t *testing.T, repo *remote.Repository, desc ocispec.Descriptor) ([]byte, error) {
	t.Helper()
	rc, err := repo.Fetch(t.Context(), desc, 0)
	if err != nil {
		return nil, err
	}
	b, err := io.ReadAll(rc)
	return b, errors.Join(err, rc.Close())
}

// TestBreaksOffWhileSkipping is a registry without ranges that breaks off before
// it gets to where it broke off before: it is not asked for ever.
func TestBreaksOffWhileSkipping(t *testing.T) {
	b, desc := bigBlob(3 << 20)
	var served atomic.Int64
	synctest.Test(t, func(t *testing.T) {
		var mem memNet
		host := mem.serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if strings.Contains(r.URL.Path, "/blobs/") {
				w.Header().Set("Content-Length", strconv.Itoa(len(b)))
				_, _ = w.Write(b[:(2<<20)/served.Add(1)])
				panic(http.ErrAbortHandler)
			}
		}))
		if got, err := read(t, mem.repository(t, remote.Options{}, host+"/a"), desc); !errors.Is(err, io.ErrUnexpectedEOF) || len(got) > 2<<20 {
			t.Errorf("%d bytes, %v", len(got), err)
		}
	})
	if n := served.Load(); n > 10 {
		t.Errorf("%d requests", n)
	}
}
