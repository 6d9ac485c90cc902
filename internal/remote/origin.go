package remote

import (
	"context"
	"net/http"
	"net/url"
	"sync"

	"strake/internal/registry"
)

// Registry is one registry. It is a registry.Registry, safe for concurrent use.
type Registry struct {
	*connection
}

// connection is the way to one registry: it sends requests, with what the
// registry wants to see, to where they belong.
type connection struct {
	client *Client
	host   string // as image names have it
	key    registryKey
	ways   *transports
	auth   auth

	mu   sync.Mutex
	base *url.URL // the origin, once it is known
}

var _ registry.Registry = (*Registry)(nil)

func newRegistry(c *Client, key registryKey) (*Registry, error) {
	ways, err := newTransports(c, key)
	if err != nil {
		return nil, err
	}
	return &Registry{&connection{client: c, host: key.host, key: key, ways: ways, auth: auth{tokens: map[string]token{}}}}, nil
}

// tries is how often a request is tried.
func (r *connection) tries() int {
	if r.key.mirror {
		return 1
	}
	return maxTries
}

func (r *connection) closeIdle() { r.ways.closeIdle() }

// Host is the registry's name.
func (r *Registry) Host() string { return r.host }

// origin returns where the API is. Where http is allowed at all it is used only
// when https does not answer; that costs one request, once.
func (r *connection) origin(ctx context.Context) (*url.URL, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.base != nil {
		return r.base, nil
	}
	host := apiHost(r.host)
	secure := &url.URL{Scheme: "https", Host: host}
	if !r.key.insecure && !r.client.insecure(host) {
		r.base = secure
		return r.base, nil
	}
	var failed error // the last failure counts, as docker's does
	for _, u := range []*url.URL{secure, {Scheme: "http", Host: host}} {
		err := r.ping(ctx, u)
		if err == nil {
			r.base = u
			return u, nil
		}
		failed = connectError(u, err)
		if ctx.Err() != nil {
			break
		}
	}
	return nil, failed
}

// ping fails when nothing at u speaks HTTP.
func (r *connection) ping(ctx context.Context, u *url.URL) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String()+"/v2/", nil)
	if err != nil {
		return err
	}
	resp, err := r.ways.own.RoundTrip(req)
	if err != nil {
		return err
	}
	discard(resp)
	return nil
}

// Check fails unless the registry speaks the distribution API and lets the
// client's credential in.
func (r *Registry) Check(ctx context.Context) error {
	resp, err := r.do(ctx, request{method: http.MethodGet, path: "/v2/"})
	if err != nil {
		return err
	}
	discard(resp)
	return nil
}

// Login fails unless the registry at host takes the credential. It stores
// nothing: Config.Set does.
func (c *Client) Login(ctx context.Context, host string, cred Credential) error {
	opts := c.opts
	opts.Credentials = func(context.Context, string) (Credential, error) { return cred, nil }
	once := NewClient(opts)
	defer once.Close()
	r, err := once.Registry(host)
	if err != nil {
		return err
	}
	return r.Check(ctx)
}
