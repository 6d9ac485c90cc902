package main

import (
	"errors"
	"io"
	"net/http"
	"net/netip"
	"strings"
	"time"
)

// maxHops is how many addresses of X-Forwarded-For are looked at, the last first.
const maxHops = 32

// proxies are the networks of proxies that tell whom they ask for.
type proxies []netip.Prefix

func (p proxies) trust(addr netip.Addr) bool {
	for _, network := range p {
		if network.Contains(addr) {
			return true
		}
	}
	return false
}

// forwarded makes the RemoteAddr of what comes from a trusted proxy the address
// that it came to the proxy from, so that the log, the audit log and the limits
// have that one. Each proxy adds an address at the end of X-Forwarded-For: the last
// that is no trusted proxy's is the client's, and what stands before it anybody may
// have written. From others the header says nothing.
func (p proxies) forwarded(next http.Handler) http.Handler {
	if len(p) == 0 {
		return next
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if peer, ok := parseHop(r.RemoteAddr); ok && p.trust(peer) {
			if client := p.client(r.Header.Values("X-Forwarded-For")); client.IsValid() {
				r.RemoteAddr = client.String()
			}
		}
		next.ServeHTTP(w, r)
	})
}

// client is who asked the outermost trusted proxy; invalid where the headers do not
// tell.
func (p proxies) client(headers []string) (client netip.Addr) {
	hops := strings.Split(strings.Join(headers, ","), ",")
	for i := len(hops) - 1; i >= 0 && i >= len(hops)-maxHops; i-- {
		addr, ok := parseHop(strings.TrimSpace(hops[i]))
		if !ok {
			return client
		}
		if client = addr; !p.trust(addr) {
			return client
		}
	}
	return client
}

// parseHop parses an address with or without a port.
func parseHop(s string) (netip.Addr, bool) {
	addr, err := netip.ParseAddr(strings.Trim(s, "[]"))
	if err != nil {
		with, perr := netip.ParseAddrPort(s)
		if perr != nil {
			return netip.Addr{}, false
		}
		addr = with.Addr()
	}
	return addr.Unmap().WithZone(""), true
}

// pace is how long clients may take.
type pace struct {
	header time.Duration // to send a request's header
	body   time.Duration // to send the body of what is no upload
	answer time.Duration // to take in the answer to that
}

// usualPace is what newServer and bounded are given but in tests.
var usualPace = pace{header: 30 * time.Second, body: time.Minute, answer: 5 * time.Minute}

// bounded serves pages and the API, whose bodies are small. Those of the
// distribution API it is not for: a layer takes as long as it takes, and the
// handler looks after clients that stall.
func (p pace) bounded(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		conn := http.NewResponseController(w)
		_ = conn.SetWriteDeadline(time.Now().Add(p.answer)) // a recorder of a test has none
		r.Body = &boundedBody{ReadCloser: r.Body, conn: conn, within: p.body}
		next.ServeHTTP(w, r)
	})
}

// boundedBody has a time from its first Read to its end.
type boundedBody struct {
	io.ReadCloser
	conn   *http.ResponseController
	within time.Duration
	begun  bool
}

func (b *boundedBody) Read(p []byte) (int, error) {
	if !b.begun {
		b.begun = true
		_ = b.conn.SetReadDeadline(time.Now().Add(b.within)) // a recorder of a test has none
	}
	n, err := b.ReadCloser.Read(p)
	if errors.Is(err, io.EOF) {
		_ = b.conn.SetReadDeadline(time.Time{})
	}
	return n, err
}
