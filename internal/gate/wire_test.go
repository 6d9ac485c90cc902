package gate

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"strake/internal/auth"
	"strake/internal/conformance"
	"strake/internal/hub"
	"strake/internal/registry"
)

// TestWire runs the suite of the protocol as a client with an account does: each
// request has a registry token that allows what the request needs and no more.
func TestWire(t *testing.T) {
	h, err := hub.Open(t.Context(), hub.Options{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := h.Close(); err != nil {
			t.Error(err)
		}
	})
	system := auth.With(t.Context(), auth.Identity{System: true})
	if err := auth.AddUser(system, hub.DB(h), auth.NewUser{Name: "case", Password: password}); err != nil {
		t.Fatal(err)
	}
	secret, _, err := auth.AddToken(system, hub.DB(h), "case", auth.NewToken{Name: "suite"}) // no password, which is slow to check
	if err != nil {
		t.Fatal(err)
	}
	g := New(hub.DB(h), Options{})
	conformance.WireThrough(t, h, conformance.Door{
		Serve: func(api http.Handler) http.Handler {
			api = g.Registry(api)
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Path == "/token" {
					g.Token().ServeHTTP(w, r)
					return
				}
				api.ServeHTTP(w, r)
			})
		},
		Client: tokenClient{basic("case", secret)},
	})
}

// tokenClient gets a registry token for each request.
type tokenClient struct{ login string }

// RoundTrip implements http.RoundTripper.
func (c tokenClient) RoundTrip(r *http.Request) (*http.Response, error) {
	query := url.Values{"service": {service}}
	for i, s := range registry.Scopes(r) {
		if i == 0 { // a mount that names no source is from there
			query.Add("scope", s.Type+":"+s.Name+"/from:pull")
		}
		query.Add("scope", s.Type+":"+s.Name+":"+strings.Join(s.Actions, ","))
	}
	ask, err := http.NewRequestWithContext(r.Context(), http.MethodGet, "http://"+r.URL.Host+"/token?"+query.Encode(), nil)
	if err != nil {
		return nil, err
	}
	ask.Header.Set("Authorization", c.login)
	resp, err := http.DefaultTransport.RoundTrip(ask)
	if err != nil {
		return nil, err
	}
	var a answer
	err = json.NewDecoder(resp.Body).Decode(&a)
	if err := errors.Join(err, resp.Body.Close()); err != nil || resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("token: %s: %w", resp.Status, err)
	}
	r = r.Clone(r.Context())
	r.Header.Set("Authorization", "Bearer "+a.Token)
	return http.DefaultTransport.RoundTrip(r)
}
