package address

import (
	"context"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

// TestOutboundLinkLocal: what counts is the address that is dialled, whatever the name was.
func TestOutboundLinkLocal(t *testing.T) {
	for _, addr := range []string{"169.254.169.254:80", "[fe80::1]:80", "[::ffff:169.254.169.254]:80", "0.0.0.0:80"} {
		_, err := Outbound(http.ProxyFromEnvironment).DialContext(t.Context(), "tcp", addr)
		if err == nil || !strings.Contains(err.Error(), ": nothing is fetched from link-local addresses") {
			t.Errorf("%s: %v", addr, err)
		}
	}
}

// TestOutboundPrivate: from a public server nothing leads to a private one.
func TestOutboundPrivate(t *testing.T) {
	srv := httptest.NewServer(http.NotFoundHandler())
	defer srv.Close()
	addr := srv.Listener.Addr().String()
	out := Outbound(http.ProxyFromEnvironment)
	if conn, err := out.DialContext(t.Context(), "tcp", addr); err != nil || conn.Close() != nil {
		t.Errorf("asked for by the user: %v", err)
	}
	out = Outbound(http.ProxyFromEnvironment)
	short, end := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer end()
	_, _ = out.DialContext(short, "tcp", "192.0.2.1:80") // the first, of the public
	if _, err := out.DialContext(t.Context(), "tcp", addr); err == nil || !strings.Contains(err.Error(), "may not redirect to a private address") {
		t.Errorf("redirected: %v", err)
	}
}

// TestRedirectToPlain is sent from https to http.
func TestRedirectToPlain(t *testing.T) {
	from, to := httptest.NewRequest(http.MethodGet, "https://h/f", nil), httptest.NewRequest(http.MethodGet, "http://h/f", nil)
	if err := CheckRedirect(to, []*http.Request{from}); err == nil {
		t.Error("followed from https to http")
	}
	if err := CheckRedirect(from, []*http.Request{from, from}); err != nil {
		t.Error(err)
	}
}
