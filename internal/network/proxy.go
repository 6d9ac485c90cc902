package network

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/network"

	"strake/internal/userns"
)

// Bounds of a proxy.
const (
	dialTimeout = 10 * time.Second
	udpIdle     = 90 * time.Second // after which a client of UDP is forgotten
	udpClients  = 1024             // of one port
	tcpConns    = 4096             // of one port, both ends of each counted
	udpPacket   = 64 << 10
)

// dial connects to the port of a container that a proxy serves.
type dial func(ctx context.Context) (net.Conn, error)

// dialer returns what connects to a port of a container, by the address that it has
// then: it may be connected to other networks meanwhile.
func (r rows) dialer(m Member, port network.Port) dial {
	return func(ctx context.Context) (conn net.Conn, err error) {
		st, err := r.read(ctx)
		if err != nil {
			return nil, err
		}
		to, ok := gateway(st.of(m.ID), &st)
		if !ok {
			return nil, fmt.Errorf("container %s has no address: %w", short(m.ID), errdefs.ErrUnavailable)
		}
		a := to.settings.IPAddress
		if !a.IsValid() {
			a = to.settings.GlobalIPv6Address
		}
		connect := func() error {
			conn, err = (&net.Dialer{}).DialContext(ctx, string(port.Proto()), netip.AddrPortFrom(a, port.Num()).String())
			return err
		}
		if userns.IDs() == 0 {
			err = connect()
			return conn, err
		}
		// Nobody else reaches an ordinary user's container.
		ns, err := os.Open(m.Namespace)
		if err != nil {
			return nil, err
		}
		defer func() { _ = ns.Close() }() // only entered
		err = inside(ns, connect)
		return conn, err
	}
}

// proxy passes on what comes to a port of the host and the packet filter cannot
// translate: from the host itself by a loopback address, by IPv6, and all of an
// ordinary user's.
type proxy struct {
	sock   io.Closer
	dial   dial
	cancel context.CancelFunc
	done   sync.WaitGroup

	mu    sync.Mutex
	conns map[net.Conn]bool // open ones, to be closed with the proxy
}

// newProxy serves a socket of listen until it is closed.
func newProxy(ctx context.Context, sock socket, dial dial) *proxy {
	ctx, cancel := context.WithCancel(ctx)
	p := &proxy{dial: dial, cancel: cancel, conns: map[net.Conn]bool{}}
	switch s := sock.(type) {
	case *net.TCPListener:
		p.sock = s
		p.done.Go(func() { p.serveTCP(ctx, s) })
	case *net.UDPConn:
		p.sock = s
		p.done.Go(func() { p.serveUDP(ctx, s) })
	}
	return p
}

// Close ends the proxy with all of its connections.
func (p *proxy) Close() error {
	p.cancel()
	err := p.sock.Close()
	p.mu.Lock()
	for c := range p.conns {
		_ = c.Close() // nobody asked for more of it
	}
	p.conns = nil
	p.mu.Unlock()
	p.done.Wait()
	return err
}

// hold notes a connection that Close is to close; false: it is closed already.
func (p *proxy) hold(c net.Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.conns == nil {
		_ = c.Close()
		return false
	}
	p.conns[c] = true
	return true
}

// full reports whether a port has all the connections that it may have.
func (p *proxy) full() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.conns) >= tcpConns
}

// drop closes a connection.
func (p *proxy) drop(c net.Conn) {
	p.mu.Lock()
	delete(p.conns, c)
	p.mu.Unlock()
	_ = c.Close() // what could not be sent is the peers' business
}

func (p *proxy) connect(ctx context.Context) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	return p.dial(ctx)
}

func (p *proxy) serveTCP(ctx context.Context, l *net.TCPListener) {
	for {
		client, err := l.AcceptTCP()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil { // of descriptors, which come back
			time.Sleep(10 * time.Millisecond)
			continue
		}
		if p.full() {
			_ = client.SetLinger(0) // refused, as by a listener whose queue is full
			_ = client.Close()      // nothing was said
			continue
		}
		if !p.hold(client) {
			return
		}
		p.done.Go(func() {
			defer p.drop(client)
			server, err := p.connect(ctx)
			if err != nil {
				_ = client.SetLinger(0) // as the container's kernel would refuse it
				return
			}
			if p.hold(server) {
				defer p.drop(server)
				splice(client, server)
			}
		})
	}
}

// splice copies both ways until both ends have said all they had to.
func splice(a, b net.Conn) {
	var both sync.WaitGroup
	for _, way := range [][2]net.Conn{{a, b}, {b, a}} {
		both.Go(func() {
			_, _ = io.Copy(way[0], way[1]) // who is at the ends sees how it ended
			if c, ok := way[0].(*net.TCPConn); ok {
				_ = c.CloseWrite()
			}
			if c, ok := way[1].(*net.TCPConn); ok {
				_ = c.CloseRead()
			}
		})
	}
	both.Wait()
}

func (p *proxy) serveUDP(ctx context.Context, host *net.UDPConn) {
	clients := map[netip.AddrPort]net.Conn{}
	var mu sync.Mutex
	buf := make([]byte, udpPacket)
	for {
		size, from, err := host.ReadFromUDPAddrPort(buf)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			continue // what an earlier answer met
		}
		mu.Lock()
		to := clients[from]
		if to == nil && len(clients) < udpClients {
			if to, err = p.connect(ctx); err == nil && p.hold(to) {
				clients[from] = to
				p.done.Go(func() {
					defer func() {
						mu.Lock()
						delete(clients, from)
						mu.Unlock()
						p.drop(to)
					}()
					answer(host, to, from)
				})
			} else {
				to = nil
			}
		}
		mu.Unlock()
		if to != nil {
			_ = to.SetReadDeadline(time.Now().Add(udpIdle))
			_, _ = to.Write(buf[:size]) // UDP may lose
		}
	}
}

// answer passes a container's answers on to a client until both are silent.
func answer(host *net.UDPConn, from net.Conn, to netip.AddrPort) {
	buf := make([]byte, udpPacket)
	for {
		size, err := from.Read(buf)
		if errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			continue // nobody listened in the container: the next may be heard
		}
		_ = from.SetReadDeadline(time.Now().Add(udpIdle))
		_, _ = host.WriteToUDPAddrPort(buf[:size], to)
	}
}
