package main

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"strake/internal/auth"
	"strake/internal/hub"
	"strake/internal/registry"
)

// TestForwarded: only what a trusted proxy added to X-Forwarded-For counts.
func TestForwarded(t *testing.T) {
	p := proxies{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("fd00::/8")}
	var got string
	h := p.forwarded(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { got = r.RemoteAddr }))
	for _, c := range []struct {
		name, peer string
		header     []string
		want       string
	}{
		{"a stranger says who asks", "203.0.113.9:40000", []string{"198.51.100.1"}, "203.0.113.9:40000"},
		{"a proxy", "10.0.0.2:40000", []string{"198.51.100.1"}, "198.51.100.1"},
		{"what the client wrote before", "10.0.0.2:40000", []string{"127.0.0.1, 198.51.100.1"}, "198.51.100.1"},
		{"proxies in a row", "10.0.0.2:40000", []string{"1.2.3.4, 198.51.100.1, 10.9.9.9, 10.0.0.3"}, "198.51.100.1"},
		{"headers in a row", "10.0.0.2:40000", []string{"1.2.3.4", "198.51.100.1", "10.0.0.3"}, "198.51.100.1"},
		{"a client in the proxies' network", "10.0.0.2:40000", []string{"10.5.5.5"}, "10.5.5.5"},
		{"no header", "10.0.0.2:40000", nil, "10.0.0.2:40000"},
		{"garbage", "10.0.0.2:40000", []string{"unknown"}, "10.0.0.2:40000"},
		{"garbage before", "10.0.0.2:40000", []string{"<script>, 198.51.100.1"}, "198.51.100.1"},
		{"a port", "10.0.0.2:40000", []string{"198.51.100.1:1234"}, "198.51.100.1"},
		{"IPv6", "[fd00::1]:40000", []string{"[2001:db8::7]:99"}, "2001:db8::7"},
		{"IPv6 in brackets", "[fd00::1]:40000", []string{"[2001:db8::7]"}, "2001:db8::7"},
		{"IPv4 as IPv6", "[::ffff:10.0.0.2]:40000", []string{"::ffff:198.51.100.1"}, "198.51.100.1"},
		{"too many", "10.0.0.2:40000", []string{"198.51.100.1" + strings.Repeat(", 10.0.0.3", 5000)}, "10.0.0.3"},
	} {
		r := httptest.NewRequest(http.MethodGet, "/", nil)
		r.RemoteAddr = c.peer
		r.Header["X-Forwarded-For"] = c.header
		h.ServeHTTP(httptest.NewRecorder(), r)
		if got != c.want {
			t.Errorf("%s: %s, want %s", c.name, got, c.want)
		}
	}
}

// TestTrustedProxy: the audit log has the client's address, not the proxy's, and who
// guesses passwords is slowed down by it.
func TestTrustedProxy(t *testing.T) {
	p := initialisedHub(t)
	for i, c := range []struct {
		trusted, address string
		another          int // status of a wrong password from another address
	}{{"127.0.0.0/8,::1/128", "198.51.100.7", http.StatusUnauthorized}, {"192.0.2.0/24", "127.0.0.1", http.StatusTooManyRequests}} {
		host, stop := startTLS(t, "--data", p.dir, "--trusted-proxy", c.trusted)
		add := func(client, secret string) int {
			t.Helper()
			body := strings.NewReader(fmt.Sprintf(`{"name":"user%d","password":"long enough a secret"}`, i))
			req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "https://"+host+"/api/v1/accounts", body)
			if err != nil {
				t.Fatal(err)
			}
			req.Header.Set("Content-Type", "application/json")
			req.Header.Set("X-Forwarded-For", client)
			req.SetBasicAuth("operator", secret)
			resp, err := p.client(t).Do(req)
			if err != nil {
				t.Fatal(err)
			}
			if err := resp.Body.Close(); err != nil {
				t.Fatal(err)
			}
			return resp.StatusCode
		}
		if got := add("198.51.100.7", p.password); got != http.StatusCreated {
			t.Errorf("status %d", got)
		}
		code, log := get(t, p.client(t), "https://"+host+"/api/v1/audit?limit=3", "operator", p.password)
		if code != http.StatusOK || !strings.Contains(log, c.address) {
			t.Errorf("trusted %s: the audit log has not %s: %s", c.trusted, c.address, log)
		}
		for range 5 {
			add("198.51.100.8", "wrong")
		}
		if got := add("198.51.100.9", "wrong"); got != c.another {
			t.Errorf("trusted %s: another address is answered %d", c.trusted, got)
		}
		stop()
	}
	cmd(t, 2, "", "serve", "--data", p.dir, "--trusted-proxy", "everybody")
}

// TestSlowClients is slowloris and its kin: who sends headers or small bodies byte by
// byte, or does not take the answer, is given up. An upload may trickle.
func TestSlowClients(t *testing.T) {
	h, err := hub.Open(t.Context(), hub.Options{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /api/", func(w http.ResponseWriter, r *http.Request) {
		if _, err := io.ReadAll(r.Body); err != nil {
			http.Error(w, "cut off", http.StatusRequestTimeout)
		}
	})
	mux.HandleFunc("GET /page", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(make([]byte, 64<<20)) })
	p := pace{header: 400 * time.Millisecond, body: 400 * time.Millisecond, answer: 400 * time.Millisecond}
	s := httptest.NewUnstartedServer(nil)
	s.Config = newServer(plainPaths(p.bounded(mux), auth.Open(registry.NewHandler(h, registry.Options{}))), p, discard())
	s.Start()
	t.Cleanup(func() {
		s.Close()
		if err := h.Close(); err != nil {
			t.Error(err)
		}
	})
	const long = "a body that takes longer than all of these times"    // 50 ms for each byte
	for name, c := range map[string]struct{ once, drip, want string }{ // of "" the connection ends, with an answer that tells of it or none
		"header": {"GET /page HTTP/1.1\r\nHost: x\r\nX-Drip: ", long, ""},
		"body":   {fmt.Sprintf("POST /api/x HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n", len(long)), long, ""},
		"upload": {fmt.Sprintf("POST /v2/a/blobs/uploads/?digest=%s HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n", digest.FromString(long), len(long)), long, "HTTP/1.1 201"},
		"huge":   {"GET /page HTTP/1.1\r\nHost: x\r\nX-Huge: " + strings.Repeat("a", 100<<10), "", "HTTP/1.1 431"},
		"many":   {"GET /page HTTP/1.1\r\nHost: x\r\n" + strings.Repeat("X: a\r\n", 20<<10), "", "HTTP/1.1 431"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if got := drip(t, s.Listener.Addr().String(), c.once, c.drip); !strings.HasPrefix(got, c.want) || c.want == "" && strings.HasPrefix(got, "HTTP/1.1 2") {
				t.Errorf("answered %.100q, want %q", got, c.want)
			}
		})
	}
	t.Run("answer", func(t *testing.T) {
		t.Parallel()
		conn := dialServer(t, s.Listener.Addr().String(), "GET /page HTTP/1.1\r\nHost: x\r\n\r\n")
		time.Sleep(2 * p.answer)
		if n, _ := io.Copy(io.Discard, conn); n >= 64<<20 {
			t.Errorf("%d bytes: nobody gave up", n)
		}
	})
}

// dialServer connects and sends text.
func dialServer(t *testing.T, address, text string) net.Conn {
	t.Helper()
	conn, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	_, _ = io.WriteString(conn, text) // the server may have enough before
	return conn
}

// drip sends once, then text byte by byte until the server gives up, and returns what
// it answered.
func drip(t *testing.T, address, once, text string) string {
	t.Helper()
	conn := dialServer(t, address, once)
	for i := range text {
		time.Sleep(50 * time.Millisecond)
		if _, err := io.WriteString(conn, text[i:i+1]); err != nil {
			break
		}
	}
	b := make([]byte, 100)
	n, _ := io.ReadAtLeast(conn, b, 12) // "" where the connection is closed
	return string(b[:n])
}
