package remote_test

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"sync"
	"syscall"
	"testing"

	"strake/internal/remote"
)

// memNet is a network in memory, for tests in a bubble of synctest: there what
// takes time takes none, and what depends on time does not depend on the machine.
type memNet struct {
	mu    sync.Mutex
	hosts map[string]chan net.Conn
}

// memListener is a host of a memNet.
type memListener struct {
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

func (l *memListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *memListener) Close() error {
	l.once.Do(func() { close(l.closed) })
	return nil
}

func (l *memListener) Addr() net.Addr { return &net.TCPAddr{} }

// listen makes a host; its connections wait to be accepted.
func (n *memNet) listen(host string) *memListener {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.hosts == nil {
		n.hosts = map[string]chan net.Conn{}
	}
	l := &memListener{conns: make(chan net.Conn, 100), closed: make(chan struct{})}
	n.hosts[host] = l.conns
	return l
}

// serve makes a host that answers with h, and returns its name.
func (n *memNet) serve(t *testing.T, h http.Handler) string {
	t.Helper()
	host := fmt.Sprintf("127.0.0.1:%d", 5000+len(n.hosts))
	l := n.listen(host)
	var answers sync.WaitGroup
	s := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		answers.Add(1)
		defer answers.Done()
		h.ServeHTTP(w, r)
	})}
	go s.Serve(l) // ends with Close
	t.Cleanup(func() {
		_ = s.Close()
		answers.Wait()
	})
	return host
}

func (n *memNet) dial(_ context.Context, _, addr string) (net.Conn, error) {
	n.mu.Lock()
	conns := n.hosts[addr]
	n.mu.Unlock()
	if conns == nil {
		return nil, &net.OpError{Op: "dial", Net: "tcp", Err: syscall.ECONNREFUSED}
	}
	near, far := net.Pipe()
	conns <- far
	return near, nil
}

// repository is the repository called name for a client of this network.
func (n *memNet) repository(t *testing.T, opts remote.Options, name string) *remote.Repository {
	t.Helper()
	c := client(t, opts)
	repo := repository(t, c, name)
	remote.DialWith(c, n.dial)
	return repo
}
