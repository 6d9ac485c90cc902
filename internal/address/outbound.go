package address

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"sync"
	"syscall"
	"time"
)

// Outbound makes the way out of one download that a file or a server asked for: to
// no link-local address, and from a public host not on to a private one. proxy is a
// Transport's; it finds the addresses of names, and is not asked for a host that is
// told by number and would be refused. The caller closes its idle connections.
func Outbound(proxy func(*http.Request) (*url.URL, error)) *http.Transport {
	r := &route{}
	return &http.Transport{
		Proxy: func(req *http.Request) (*url.URL, error) {
			if ip, err := netip.ParseAddr(req.URL.Hostname()); err == nil && LinkLocal(ip) {
				return nil, errLinkLocal(ip)
			}
			return proxy(req)
		},
		DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
			d := net.Dialer{Timeout: 20 * time.Second, Control: func(_, dialled string, _ syscall.RawConn) error {
				ap, err := netip.ParseAddrPort(dialled)
				if err != nil {
					return fmt.Errorf("dial %s: %w", addr, err)
				}
				return r.check(addr, ap.Addr())
			}}
			return d.DialContext(ctx, network, addr)
		},
		TLSHandshakeTimeout: 20 * time.Second, ResponseHeaderTimeout: 3 * time.Minute,
		MaxResponseHeaderBytes: 256 << 10,
	}
}

// route is where one download went: what its first host was decides where it may go on.
type route struct {
	mu      sync.Mutex
	first   string // host:port
	private bool   // it has a private address
}

// check fails when a connection for addr may not go to ip.
func (r *route) check(addr string, ip netip.Addr) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.first == "" || addr == r.first {
		r.first, r.private = addr, r.private || Private(ip)
	}
	switch {
	case LinkLocal(ip):
		return errLinkLocal(ip)
	case Private(ip) && !r.private:
		return fmt.Errorf("%s: a public server may not redirect to a private address", ip)
	}
	return nil
}

func errLinkLocal(ip netip.Addr) error {
	return fmt.Errorf("%s: nothing is fetched from link-local addresses", ip)
}

// CheckRedirect is an http.Client's: up to ten redirects, and none from https to http.
func CheckRedirect(req *http.Request, via []*http.Request) error {
	if len(via) >= 10 {
		return errors.New("stopped after 10 redirects")
	}
	if via[0].URL.Scheme == "https" && req.URL.Scheme != "https" {
		return &url.Error{Op: "Get", URL: req.URL.Redacted(), Err: errors.New("redirected from https to http")}
	}
	return nil
}
