package remote

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/containerd/errdefs"

	"strake/internal/address"
)

// transports are the two ways out of one registry: to its own origin, and to
// foreign hosts that it names.
type transports struct {
	own, foreign, proxied *http.Transport
	private               atomic.Bool // the origin is at a private address
}

func newTransports(c *Client, key registryKey) (*transports, error) {
	host := apiHost(key.host)
	conf, err := tlsConfig(c.opts.CertsDirs, host)
	if err != nil {
		return nil, err
	}
	t := &transports{}
	if ip, err := netip.ParseAddr(hostname(host)); err == nil {
		t.private.Store(address.Private(ip))
	}
	ownTLS := conf.Clone()
	ownTLS.InsecureSkipVerify = key.insecure || c.insecure(host)
	own := patience
	if key.mirror {
		own = mirrorPatience
	}
	t.own = newTransport(ownTLS, own, c.opts.Stall, func(addr string, ip netip.Addr) error {
		if addr == host || addr == host+":443" || addr == host+":80" { // and not a proxy
			t.private.Store(address.Private(ip))
		}
		return nil
	})
	t.own.Proxy = http.ProxyFromEnvironment

	foreignTLS := conf.Clone()
	foreignTLS.Certificates = nil // the client's certificate is for the registry
	t.foreign = newTransport(foreignTLS, patience, c.opts.Stall, func(host string, ip netip.Addr) error {
		return checkAddress(ip, t.private.Load() || listed(c.opts.PrivateHosts, host) || c.insecure(host))
	})
	t.proxied = newTransport(foreignTLS, patience, c.opts.Stall, nil)
	t.proxied.Proxy = http.ProxyFromEnvironment
	return t, nil
}

// limits say how long to wait.
type limits struct{ connect, answer time.Duration }

// Of mirrors little is asked for: there is a registry behind them.
var (
	patience       = limits{connect: 20 * time.Second, answer: 3 * time.Minute}
	mirrorPatience = limits{connect: 3 * time.Second, answer: 6 * time.Second}
)

// newTransport makes a transport for big bodies: HTTP/1.1, for there parallel
// downloads have a connection (and its flow control) each, with buffers to
// match. check, when not nil, may refuse the address that host is dialled at.
func newTransport(conf *tls.Config, wait limits, stall time.Duration, check func(host string, ip netip.Addr) error) *http.Transport {
	t := &http.Transport{
		TLSClientConfig:        conf,
		MaxIdleConnsPerHost:    16,
		IdleConnTimeout:        90 * time.Second,
		TLSHandshakeTimeout:    wait.connect,
		ResponseHeaderTimeout:  wait.answer,
		ExpectContinueTimeout:  time.Second,
		MaxResponseHeaderBytes: 256 << 10,
		ReadBufferSize:         64 << 10,
		WriteBufferSize:        64 << 10,
		DisableCompression:     true, // digests are of the bytes as they are
	}
	t.Protocols = new(http.Protocols)
	t.Protocols.SetHTTP1(true)
	t.DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
		d := net.Dialer{Timeout: wait.connect, KeepAlive: 30 * time.Second}
		d.Control = func(_, dialled string, _ syscall.RawConn) error {
			ap, err := netip.ParseAddrPort(dialled)
			if err != nil {
				return fmt.Errorf("dial %s: %w", addr, err)
			}
			if check == nil {
				return nil
			}
			return check(addr, ap.Addr())
		}
		conn, err := d.DialContext(ctx, network, addr)
		if err != nil {
			return nil, err
		}
		return stallConn{conn, stall}, nil
	}
	return t
}

// stallConn is a connection whose writes fail when the other end takes nothing
// for long. For reads a blobReader and the transport have their own limits.
type stallConn struct {
	net.Conn
	stall time.Duration
}

func (c stallConn) Write(p []byte) (int, error) {
	if err := c.SetWriteDeadline(time.Now().Add(c.stall)); err != nil {
		return 0, err
	}
	return c.Conn.Write(p)
}

// foreignFor chooses the transport for a foreign URL. Through a proxy the
// address is the proxy's to resolve: then only what the URL says is checked.
func (t *transports) foreignFor(c *Client, req *http.Request) (*http.Transport, error) {
	proxy, err := http.ProxyFromEnvironment(req)
	if err != nil {
		return nil, fmt.Errorf("proxy for %s: %w", req.URL.Host, err)
	}
	if proxy == nil {
		return t.foreign, nil
	}
	if ip, err := netip.ParseAddr(req.URL.Hostname()); err == nil {
		if err := checkAddress(ip, t.private.Load() || listed(c.opts.PrivateHosts, req.URL.Host)); err != nil {
			return nil, err
		}
	}
	return t.proxied, nil
}

func (t *transports) closeIdle() {
	for _, tr := range []*http.Transport{t.own, t.foreign, t.proxied} {
		tr.CloseIdleConnections()
	}
}

var errAddress = fmt.Errorf("the registry may not send clients to this address: %w", errdefs.ErrPermissionDenied)

// checkAddress fails for addresses that foreign hosts must not be at.
func checkAddress(ip netip.Addr, privateAllowed bool) error {
	switch {
	case address.LinkLocal(ip):
		return fmt.Errorf("%s: link-local: %w", ip.Unmap(), errAddress)
	case address.Private(ip) && !privateAllowed:
		return fmt.Errorf("%s: private: %w", ip.Unmap(), errAddress)
	}
	return nil
}

func defaultCertsDirs() []string {
	dirs := []string{"/etc/docker/certs.d", "/etc/containers/certs.d"}
	if dir, err := os.UserConfigDir(); err == nil {
		dirs = append(dirs, filepath.Join(dir, "docker", "certs.d"), filepath.Join(dir, "containers", "certs.d"))
	}
	return dirs
}

// tlsConfig reads the certificates for host: *.crt are authorities beside the
// system's, <name>.cert with <name>.key are the client's own.
func tlsConfig(dirs []string, host string) (*tls.Config, error) {
	conf := &tls.Config{MinVersion: tls.VersionTLS12}
	for _, dir := range dirs {
		dir = filepath.Join(dir, host)
		entries, err := os.ReadDir(dir)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("certificates of %s: %w", host, err)
		}
		for _, e := range entries {
			path := filepath.Join(dir, e.Name())
			switch filepath.Ext(path) {
			case ".crt":
				err = addAuthority(conf, path)
			case ".cert":
				var cert tls.Certificate
				cert, err = tls.LoadX509KeyPair(path, strings.TrimSuffix(path, ".cert")+".key")
				conf.Certificates = append(conf.Certificates, cert)
			}
			if err != nil {
				return nil, fmt.Errorf("certificates of %s: %w", host, err)
			}
		}
	}
	return conf, nil
}

func addAuthority(conf *tls.Config, path string) error {
	pem, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if conf.RootCAs == nil {
		if conf.RootCAs, err = x509.SystemCertPool(); err != nil {
			return fmt.Errorf("system certificates: %w", err)
		}
	}
	if !conf.RootCAs.AppendCertsFromPEM(pem) {
		return fmt.Errorf("%s: no certificate: %w", path, errdefs.ErrInvalidArgument)
	}
	return nil
}

// sameOrigin reports whether two URLs have one scheme, host and port.
func sameOrigin(a, b *url.URL) bool {
	return a.Scheme == b.Scheme && strings.EqualFold(a.Hostname(), b.Hostname()) && port(a) == port(b)
}

func port(u *url.URL) string {
	switch {
	case u.Port() != "":
		return u.Port()
	case u.Scheme == "http":
		return "80"
	}
	return "443"
}
