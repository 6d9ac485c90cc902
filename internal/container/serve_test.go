package container

import (
	"errors"
	"net"
	"sync"
	"syscall"
	"testing"
	"time"
)

// brokenListener fails once for want of descriptors, then accepts one connection.
type brokenListener struct {
	net.Listener
	calls int
	conn  net.Conn
}

func (l *brokenListener) Accept() (net.Conn, error) {
	l.calls++
	switch l.calls {
	case 1:
		return nil, syscall.EMFILE
	case 2:
		return l.conn, nil
	}
	return nil, net.ErrClosed
}

func TestAccept(t *testing.T) {
	own, other := net.Pipe()
	defer func() { _ = errors.Join(own.Close(), other.Close()) }()
	served := 0
	accept(&brokenListener{conn: own}, func(net.Conn) { served++ })
	if served != 1 {
		t.Errorf("%d connections were served after an error", served)
	}
}

// A client that does not read keeps nobody else from the monitor.
func TestTellStarted(t *testing.T) {
	own, other, err := Pair()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = errors.Join(own.Close(), other.Close()) }()
	m := &Monitor{Container: &Container{ID: "c1"}, clients: map[*Conn]bool{own: true}}
	own.mu.Lock() // as while a frame is written that is not read
	var telling sync.WaitGroup
	telling.Go(m.tellStarted)
	defer telling.Wait()
	defer own.mu.Unlock()
	time.Sleep(20 * time.Millisecond)
	asked := make(chan struct{})
	go func() {
		defer close(asked)
		_, _ = m.running()
	}()
	select {
	case <-asked:
	case <-time.After(20 * time.Second):
		t.Error("the monitor is held by a client that does not read")
	}
}
