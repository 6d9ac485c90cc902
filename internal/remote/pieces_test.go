package remote_test

import (
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"strake/internal/remote"
)

// slowLink caps each answer that is a blob at rate bytes a second, or all of them
// together where they share, and counts those under way.
type slowLink struct {
	rate              int
	now, most, served atomic.Int64
	noRanges          bool
	share             bool
	line              sync.Mutex
}

func (l *slowLink) wrap(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet || !strings.Contains(r.URL.Path, "/blobs/sha256:") {
			next.ServeHTTP(w, r)
			return
		}
		l.served.Add(1)
		if n := l.now.Add(1); n > l.most.Load() {
			l.most.Store(n)
		}
		defer l.now.Add(-1)
		if l.noRanges {
			r.Header.Del("Range")
		}
		next.ServeHTTP(slowWriter{w, l}, r)
	})
}

type slowWriter struct {
	http.ResponseWriter
	l *slowLink
}

func (w slowWriter) Write(p []byte) (n int, err error) {
	for len(p) > 0 && err == nil {
		k := min(len(p), 256<<10)
		if w.l.rate > 0 {
			w.l.pass(time.Duration(k) * time.Second / time.Duration(w.l.rate))
		}
		var m int
		m, err = w.ResponseWriter.Write(p[:k])
		n, p = n+m, p[k:]
	}
	return n, err
}

func (l *slowLink) pass(d time.Duration) {
	if l.share {
		l.line.Lock()
		defer l.line.Unlock()
	}
	time.Sleep(d)
}

// TestPieces pulls a big blob over slow and fast links, from the start and from
// the middle, from servers with and without ranges, and gives up in the middle.
func TestPieces(t *testing.T) {
	b, desc := bigBlob(41<<20 + 5)
	for _, c := range []struct {
		name      string
		rate      int // bytes a second and connection; 0: as fast as it goes
		noRanges  bool
		share     bool
		low, high int64 // requests at once
	}{
		{"slow", 20 << 20, false, false, 3, 6},
		{"fast", 0, false, false, 1, 6}, // how fast it goes is the machine's affair
		{"no ranges", 20 << 20, true, false, 1, 1},
		{"shared", 20 << 20, false, true, 2, 2},
	} {
		t.Run(c.name, func(t *testing.T) {
			link := &slowLink{rate: c.rate, noRanges: c.noRanges, share: c.share}
			host := newHub(t, link.wrap)
			repo := repository(t, client(t, remote.Options{}), host+"/a")
			if err := repo.Push(t.Context(), desc, opener(b)); err != nil {
				t.Fatal(err)
			}
			wantBlob(t, repo, desc)
			if most := link.most.Load(); most < c.low || most > c.high {
				t.Errorf("%d requests at once", most)
			}
			if served := link.served.Load(); served > 50 || c.noRanges && served != 1 {
				t.Errorf("%d requests", served)
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
	}
}
