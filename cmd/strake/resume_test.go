package main_test

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// stuckLink is a proxy before a registry that counts the bytes of blobs, and
// falls silent after so many when it is told to.
type stuckLink struct {
	http.Handler
	bytes, stuckAt atomic.Int64
	stuck          chan struct{} // closed when it falls silent
	once           sync.Once
}

func newStuckLink(t *testing.T, addr string) (*stuckLink, string) {
	t.Helper()
	l := &stuckLink{
		Handler: httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: addr}), stuck: make(chan struct{}),
	}
	s := httptest.NewServer(l)
	t.Cleanup(s.Close)
	return l, strings.TrimPrefix(s.URL, "http://")
}

func (l *stuckLink) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if strings.Contains(r.URL.Path, "/blobs/") {
		r.Body = &stuckBody{r.Body, l, r.Context()}
		w = &stuckWriter{w, l, r.Context()}
	}
	l.Handler.ServeHTTP(w, r)
}

// pass counts n bytes more, or holds them until the client has gone.
func (l *stuckLink) pass(ctx context.Context, n int) {
	sum := l.bytes.Add(int64(n))
	if at := l.stuckAt.Load(); at > 0 && sum > at {
		l.once.Do(func() { close(l.stuck) })
		<-ctx.Done()
	}
}

type stuckBody struct {
	io.ReadCloser
	l   *stuckLink
	ctx context.Context //nolint:containedctx // the request's, as Read has none
}

func (b *stuckBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.l.pass(b.ctx, n)
	return n, err
}

type stuckWriter struct {
	http.ResponseWriter
	l   *stuckLink
	ctx context.Context //nolint:containedctx // the request's, as Write has none
}

func (w *stuckWriter) Write(p []byte) (int, error) {
	w.l.pass(w.ctx, len(p))
	return w.ResponseWriter.Write(p)
}

// A pull that is killed (-9) at 90 % takes at most 15 % of the bytes to finish.
func TestPullKilledAt90Percent(t *testing.T) {
	w := newWorld(t)
	w.busybox("src")
	w.write("big/Dockerfile", "FROM busybox\nRUN head -c 24000000 /dev/urandom > /a\nRUN head -c 20000000 /dev/urandom > /b\n")
	addr := w.hub()
	w.strake("src", "build", "-t", addr+"/team/big:1", "big")
	w.strake("src", "push", addr+"/team/big:1")
	id := w.id("src", addr+"/team/big:1")

	link, via := newStuckLink(t, addr)
	w.strake("whole", "pull", via+"/team/big:1")
	total := link.bytes.Swap(0)
	link.stuckAt.Store(total * 90 / 100)
	cmd := w.command(t.Context(), "dst", "pull", via+"/team/big:1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	<-link.stuck
	time.Sleep(3 * time.Second) // what is in the sockets' buffers arrives
	if err := syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	link.stuckAt.Store(0)
	link.bytes.Store(0)
	w.strake("dst", "pull", via+"/team/big:1")
	if n := link.bytes.Load(); n > total*15/100 {
		t.Errorf("the second pull took %d of %d bytes", n, total)
	} else {
		t.Logf("the second pull took %d of %d bytes, %.1f %%", n, total, 100*float64(n)/float64(total))
	}
	if got := w.id("dst", via+"/team/big:1"); got != id {
		t.Errorf("pulled %s, want %s", got, id)
	}
}
