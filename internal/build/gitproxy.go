package build

import (
	"bufio"
	"cmp"
	"context"
	"crypto/rand"
	"crypto/subtle"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httputil"
	"net/netip"
	"net/url"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/net/http/httpproxy"
	"golang.org/x/net/proxy"

	"strake/internal/address"
)

// userProxy tells which proxy the user has for an address; nil for none.
func userProxy() func(*url.URL) (*url.URL, error) {
	config := httpproxy.FromEnvironment()
	all := cmp.Or(os.Getenv("all_proxy"), os.Getenv("ALL_PROXY")) // which git knows besides
	config.HTTPProxy, config.HTTPSProxy = cmp.Or(config.HTTPProxy, all), cmp.Or(config.HTTPSProxy, all)
	return config.ProxyFunc()
}

// gitProxy is the way out of git and of ssh: whatever redirects, submodules and
// names that change their address lead to, none of it is link-local. Where the user has a
// proxy, it hands on to that, and knows addresses only as far as they are told by number.
// It serves who knows its token, and ends with this process, and so do the downloads.
type gitProxy struct {
	server http.Server
	out    *http.Transport
	user   func(*url.URL) (*url.URL, error)
	addr   string
	token  string
	done   chan struct{} // closed with the proxy

	mu      sync.Mutex
	refused error // the first
}

// Who asks a gitProxy, by the name that is given with the token.
const (
	asksForHTTP    = "http"    // the user's proxies are for it
	asksForAnyData = "connect" // they are not
)

func newGitProxy(ctx context.Context) (*gitProxy, error) {
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("proxy for git: %w", err)
	}
	p := &gitProxy{token: rand.Text(), done: make(chan struct{}), addr: l.Addr().String(), user: userProxy()}
	p.out = &http.Transport{DialContext: p.dial, TLSHandshakeTimeout: 20 * time.Second, MaxResponseHeaderBytes: 256 << 10, DisableCompression: true}
	p.out.Proxy = func(r *http.Request) (*url.URL, error) { return p.user(r.URL) }
	p.server = http.Server{Handler: p, ReadHeaderTimeout: 20 * time.Second, ErrorLog: log.New(io.Discard, "", 0)}
	go p.server.Serve(l) //nolint:errcheck // ends when it is closed
	return p, nil
}

// url is the proxy's address for who asks so.
func (p *gitProxy) url(who string) string { return "http://" + who + ":" + p.token + "@" + p.addr }

// close ends the proxy, and returns why it refused anything.
func (p *gitProxy) close() error {
	err := p.server.Close()
	close(p.done)
	p.out.CloseIdleConnections()
	p.mu.Lock()
	defer p.mu.Unlock()
	return errors.Join(p.refused, err)
}

// dial refuses by the address that is dialled: a name may have another each time.
func (p *gitProxy) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	d := net.Dialer{Timeout: 20 * time.Second}
	d.Control = func(_, dialled string, _ syscall.RawConn) error { return p.check(addr, dialled) }
	return d.DialContext(ctx, network, addr)
}

// check fails for a server whose address, with its port, is link-local.
func (p *gitProxy) check(host, addr string) error {
	ap, err := netip.ParseAddrPort(addr)
	if err == nil && address.LinkLocal(ap.Addr()) {
		err = fmt.Errorf("%s is at %s: nothing is fetched from link-local addresses", host, ap.Addr().Unmap())
		p.mu.Lock()
		defer p.mu.Unlock()
		if p.refused == nil {
			p.refused = err
		}
	}
	return err
}

// reach connects to a server by way of the user's proxy for HTTPS, if who asks uses it.
func (p *gitProxy) reach(ctx context.Context, who, host string) (net.Conn, error) {
	user, err := p.user(&url.URL{Scheme: "https", Host: host})
	if err != nil {
		return nil, err
	}
	if who != asksForHTTP || user == nil {
		return p.dial(ctx, "tcp", host)
	}
	if user.Scheme != "http" && user.Scheme != "https" {
		d, err := proxy.FromURL(user, &net.Dialer{Timeout: 20 * time.Second})
		if err != nil {
			return nil, err
		}
		return d.Dial("tcp", host)
	}
	return tunnel(ctx, user, host)
}

// tunnel asks an HTTP proxy for a connection.
func tunnel(ctx context.Context, through *url.URL, host string) (conn net.Conn, err error) {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	at := cmp.Or(through.Port(), map[string]string{"http": "80", "https": "443"}[through.Scheme])
	at = net.JoinHostPort(through.Hostname(), at)
	if through.Scheme == "https" {
		conn, err = (&tls.Dialer{}).DialContext(ctx, "tcp", at)
	} else {
		conn, err = (&net.Dialer{}).DialContext(ctx, "tcp", at)
	}
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("proxy %s: %w", through.Redacted(), err), conn.Close())
		}
	}()
	stop := context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) }) //nolint:errcheck // it is over
	defer stop()
	ask := &http.Request{Method: http.MethodConnect, URL: &url.URL{Opaque: host}, Host: host, Header: http.Header{}}
	if password, ok := through.User.Password(); ok || through.User.Username() != "" {
		as := &http.Request{Header: http.Header{}}
		as.SetBasicAuth(through.User.Username(), password)
		ask.Header["Proxy-Authorization"] = as.Header["Authorization"]
	}
	if err := ask.Write(conn); err != nil {
		return nil, err
	}
	in := bufio.NewReader(conn)
	answer, err := http.ReadResponse(in, ask) //nolint:bodyclose // a tunnel has none
	if err == nil && answer.StatusCode != http.StatusOK {
		err = errors.New(answer.Status)
	}
	return &buffered{Conn: conn, in: in}, err
}

// buffered is a connection of which something was read.
type buffered struct {
	net.Conn
	in *bufio.Reader
}

// Read is io.Reader's.
func (b *buffered) Read(p []byte) (int, error) { return b.in.Read(p) }

// CloseWrite tells the other side that nothing more comes.
func (b *buffered) CloseWrite() error {
	if half, ok := b.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return b.Close()
}

// ServeHTTP answers one request as a proxy does (RFC 9110, sections 7.6 and 9.3.6).
func (p *gitProxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	given := http.Request{Header: http.Header{"Authorization": r.Header["Proxy-Authorization"]}}
	who, token, _ := given.BasicAuth()
	if subtle.ConstantTimeCompare([]byte(token), []byte(p.token)) == 0 {
		w.Header().Set("Proxy-Authenticate", "Basic")
		w.WriteHeader(http.StatusProxyAuthRequired)
		return
	}
	if ip, err := netip.ParseAddr(r.URL.Hostname()); err == nil && p.check(r.URL.Hostname(), netip.AddrPortFrom(ip, 0).String()) != nil {
		w.WriteHeader(http.StatusBadGateway)
		return
	}
	if r.Method == http.MethodConnect {
		p.connect(w, r, who)
		return
	}
	forward := httputil.ReverseProxy{
		Rewrite: func(*httputil.ProxyRequest) {}, Transport: p.out, FlushInterval: -1, ErrorLog: p.server.ErrorLog,
	}
	forward.ServeHTTP(w, r)
}

// connect connects the client to the server that it names.
func (p *gitProxy) connect(w http.ResponseWriter, r *http.Request, who string) {
	server, err := p.reach(r.Context(), who, r.Host)
	if err != nil {
		w.WriteHeader(http.StatusBadGateway)
		return
	}
	over := make(chan struct{})
	defer close(over)
	go func() {
		select {
		case <-over:
		case <-p.done:
		}
		server.Close() //nolint:errcheck // the client sees what is cut short
	}()
	client, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return
	}
	defer client.Close() //nolint:errcheck // so does the server
	if _, err := io.WriteString(client, "HTTP/1.1 200 OK\r\n\r\n"); err != nil {
		return
	}
	go send(server, buffered)
	io.Copy(client, server) //nolint:errcheck // its protocol tells what is cut short
}

// send writes what in has to a connection, and that this is all.
func send(to net.Conn, in io.Reader) {
	_, err := io.Copy(to, in)
	if half, ok := to.(interface{ CloseWrite() error }); ok && err == nil {
		half.CloseWrite() //nolint:errcheck // the other direction tells
		return
	}
	to.Close() //nolint:errcheck // so does its end
}

// connectVariable tells a Connect of its gitProxy.
const connectVariable = "STRAKE_GIT_PROXY"

// Connect is what git and ssh run to reach a server: it connects standard input and output
// to it, by way of the gitProxy of the build that runs git.
func Connect(ctx context.Context, host, port string, in io.Reader, out io.Writer) error {
	by, err := url.Parse(os.Getenv(connectVariable))
	if err != nil || by.Host == "" {
		return fmt.Errorf("%s is not set: this command is git's", connectVariable)
	}
	conn, err := tunnel(ctx, by, net.JoinHostPort(host, port))
	if err != nil {
		return fmt.Errorf("%s: %w", host, err)
	}
	go send(conn, in)
	_, err = io.Copy(out, conn)
	return errors.Join(err, conn.Close())
}
