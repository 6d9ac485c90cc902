package remote_test

import (
	"context"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"strake/internal/auth"
	"strake/internal/conformance"
	"strake/internal/hub"
	"strake/internal/reference"
	"strake/internal/registry"
	"strake/internal/remote"
)

// newHub serves a new hub and returns its host. wrap, when not nil, is put
// before its handler.
func newHub(t *testing.T, wrap func(http.Handler) http.Handler) string {
	t.Helper()
	h, err := hub.Open(t.Context(), hub.Options{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := h.Close(); err != nil {
			t.Errorf("close hub: %v", err)
		}
	})
	handler := auth.Open(registry.NewHandler(h, registry.Options{}))
	if wrap != nil {
		handler = wrap(handler)
	}
	return serve(t, handler)
}

func serve(t *testing.T, h http.Handler) string {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return strings.TrimPrefix(s.URL, "http://")
}

// newClient makes a client that has cred for host and no other.
func newClient(t *testing.T, host string, cred remote.Credential) *remote.Client {
	t.Helper()
	c := remote.NewClient(remote.Options{
		Credentials: func(_ context.Context, h string) (remote.Credential, error) {
			if h != host {
				return remote.Credential{}, nil
			}
			return cred, nil
		},
	})
	t.Cleanup(c.Close)
	return c
}

func newRegistry(t *testing.T, host string) *remote.Registry {
	t.Helper()
	r, err := newClient(t, host, remote.Credential{}).Registry(host)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func repository(t *testing.T, c *remote.Client, name string) *remote.Repository {
	t.Helper()
	named, err := reference.Parse(name)
	if err != nil {
		t.Fatal(err)
	}
	r, err := c.Repository(named)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestRegistry(t *testing.T) {
	conformance.Registry(t, func(t *testing.T) registry.Registry {
		return newRegistry(t, newHub(t, nil))
	})
}

// TestProxy is the client of a handler over a client of a hub.
func TestProxy(t *testing.T) {
	conformance.Registry(t, func(t *testing.T) registry.Registry {
		upstream := newRegistry(t, newHub(t, nil))
		return newRegistry(t, serve(t, auth.Open(registry.NewHandler(upstream, registry.Options{}))))
	})
}

func TestRepository(t *testing.T) {
	conformance.Target(t, func(t *testing.T) conformance.Images {
		host := newHub(t, nil)
		return repository(t, newClient(t, host, remote.Credential{}), host+"/some/repo")
	})
}
