package build

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httputil"
	"net/netip"
	"os"
	"strings"
	"sync"
	"syscall"
	"time"

	"strake/internal/address"
)

// proxyVariables are the user's own settings, in either case.
var proxyVariables = []string{"HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"}

// userProxy is the user's settings, for an environment, and whether they name a
// proxy.
func userProxy() (env []string, is bool) {
	for _, upper := range proxyVariables {
		for _, name := range []string{upper, strings.ToLower(upper)} {
			if v, ok := os.LookupEnv(name); ok {
				env = append(env, name+"="+v)
				is = is || v != "" && upper != "NO_PROXY"
			}
		}
	}
	return env, is
}

// gitProxy is the way out of git over HTTP: whatever redirects, submodules and
// names that change their address lead to, none of it is link-local. It serves who
// knows its token, and ends with this process, and so do the downloads.
type gitProxy struct {
	server http.Server
	out    *http.Transport
	url    string // with the token
	token  string

	mu      sync.Mutex
	refused error // the first
}

func newGitProxy(ctx context.Context) (*gitProxy, error) {
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("proxy for git: %w", err)
	}
	p := &gitProxy{token: rand.Text()}
	p.url = "http://git:" + p.token + "@" + l.Addr().String()
	p.out = &http.Transport{DialContext: p.dial, TLSHandshakeTimeout: 20 * time.Second, MaxResponseHeaderBytes: 256 << 10, DisableCompression: true}
	p.server = http.Server{Handler: p, ReadHeaderTimeout: 20 * time.Second, ErrorLog: log.New(io.Discard, "", 0)}
	go p.server.Serve(l) //nolint:errcheck // ends when it is closed
	return p, nil
}

// close ends the proxy, and returns why it refused anything.
func (p *gitProxy) close() error {
	err := p.server.Close()
	p.out.CloseIdleConnections()
	p.mu.Lock()
	defer p.mu.Unlock()
	return errors.Join(p.refused, err)
}

// dial refuses by the address that is dialled: a name may have another each time.
func (p *gitProxy) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	d := net.Dialer{Timeout: 20 * time.Second}
	d.Control = func(_, dialled string, _ syscall.RawConn) error {
		ap, err := netip.ParseAddrPort(dialled)
		if err == nil && address.LinkLocal(ap.Addr()) {
			err = fmt.Errorf("%s is at %s: nothing is fetched from link-local addresses", addr, ap.Addr())
			p.mu.Lock()
			defer p.mu.Unlock()
			if p.refused == nil {
				p.refused = err
			}
		}
		return err
	}
	return d.DialContext(ctx, network, addr)
}

// ServeHTTP answers one request as a proxy does (RFC 9110, sections 7.6 and 9.3.6).
func (p *gitProxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	given := http.Request{Header: http.Header{"Authorization": r.Header["Proxy-Authorization"]}}
	if _, token, _ := given.BasicAuth(); subtle.ConstantTimeCompare([]byte(token), []byte(p.token)) == 0 {
		w.Header().Set("Proxy-Authenticate", "Basic")
		w.WriteHeader(http.StatusProxyAuthRequired)
		return
	}
	if r.Method == http.MethodConnect {
		p.tunnel(w, r)
		return
	}
	forward := httputil.ReverseProxy{
		Rewrite: func(*httputil.ProxyRequest) {}, Transport: p.out, FlushInterval: -1, ErrorLog: p.server.ErrorLog,
	}
	forward.ServeHTTP(w, r)
}

// tunnel connects the client to the server that it names.
func (p *gitProxy) tunnel(w http.ResponseWriter, r *http.Request) {
	server, err := p.dial(r.Context(), "tcp", r.Host)
	if err != nil {
		w.WriteHeader(http.StatusBadGateway)
		return
	}
	defer server.Close() //nolint:errcheck // the client sees what is cut short
	client, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return
	}
	defer client.Close() //nolint:errcheck // so does the server
	if _, err := io.WriteString(client, "HTTP/1.1 200 OK\r\n\r\n"); err != nil {
		return
	}
	go func() {
		defer server.Close()      //nolint:errcheck // ends the other direction
		io.Copy(server, buffered) //nolint:errcheck // TLS tells what is cut short
	}()
	io.Copy(client, server) //nolint:errcheck // TLS tells what is cut short
}
