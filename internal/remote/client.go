// Package remote is the client of image registries.
//
// A Client holds what all registries share: credentials, which registries may
// be spoken to without TLS, certificates. A Registry is one registry, named by
// its host as image names have it; it is a registry.Registry. A Repository is
// one repository of it; it is an image.Source, Target and BlobMounter.
//
// The origin of a registry is the scheme, host and port that its API is at.
// Everything else that it sends the client to (a token server's realm, a
// redirect, an upload's Location) is foreign: it gets no credentials of the
// registry (a token server gets those that the user gave for this registry, and
// nobody else does), must have https unless the registry itself has http, and
// is never dialled at a link-local address, nor at a private one unless the
// registry is at one too or the user lists the host.
package remote

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/containerd/errdefs"

	"strake/internal/reference"
)

// Options say how registries are spoken to. The zero value is docker's way.
type Options struct {
	// Credentials finds the credential for a registry's host, the zero one
	// for none; nil reads docker's config.json (see Config).
	Credentials func(ctx context.Context, host string) (Credential, error)
	// Insecure lists hosts ("host", "host:port") and networks in CIDR form that
	// may be spoken to by http, or by https with any certificate. Loopback
	// addresses always may.
	Insecure []string
	// PrivateHosts lists hosts at private addresses that public registries may
	// send the client to.
	PrivateHosts []string
	// CertsDirs are searched for <host[:port]>/{*.crt,*.cert,*.key}; nil is
	// docker's directories.
	CertsDirs []string
	// RegistriesConf lists files of the format of containers-registries.conf(5);
	// nil is the system's and the user's.
	RegistriesConf []string
	// Stall is how long a transfer may stand still before it is begun again; 0
	// is 30 seconds.
	Stall time.Duration
	// Uploads remembers unfinished uploads over processes; nil forgets them.
	Uploads   Uploads
	UserAgent string       // "" is "strake"
	Log       *slog.Logger // told of retries, and what registries warn of; nil drops them
}

// Uploads remembers where unfinished uploads go on, by repository (with its
// host) and by a key that names what is uploaded.
type Uploads interface {
	// ClaimUpload returns the location of an upload that nobody works on (who
	// worked on it left it, or died), "" for none, and makes it the caller's: of
	// all that claim it at once, one gets it.
	ClaimUpload(ctx context.Context, repository, key string) (location string, err error)
	// SetUpload sets the location of an upload that the caller works on, or that
	// it has left; "" forgets the upload. One that another process works on stays.
	SetUpload(ctx context.Context, repository, key, location string, left bool) error
}

// Credential is what a registry knows its user by.
type Credential struct {
	Username      string
	Password      string
	IdentityToken string // traded for access tokens at the token server
	RegistryToken string // sent to the registry as it is
}

// String keeps the secrets out of logs and errors.
func (c Credential) String() string {
	if c == (Credential{}) {
		return "no credential"
	}
	return "credential of " + c.Username
}

// GoString is String.
func (c Credential) GoString() string { return c.String() }

// MarshalJSON is String.
func (c Credential) MarshalJSON() ([]byte, error) { return json.Marshal(c.String()) }

// LogValue is String.
func (c Credential) LogValue() slog.Value { return slog.StringValue(c.String()) }

// Client speaks to registries. It is safe for concurrent use.
type Client struct {
	opts     Options
	networks []netip.Prefix // the insecure ones
	rules    func() (rules, error)
	pieces   chan struct{} // one for each piece of a blob in memory

	mu         sync.Mutex
	registries map[registryKey]*Registry
	warned     map[string]bool // of what registries warned
}

// registryKey tells registries apart that are spoken to differently.
type registryKey struct {
	host     string
	insecure bool // even if the host is not
	mirror   bool // to be given up soon
}

// NewClient makes a client. It reads no file and opens no connection yet.
func NewClient(opts Options) *Client {
	c := &Client{opts: opts, pieces: make(chan struct{}, piecesHeld), registries: map[registryKey]*Registry{}, warned: map[string]bool{}}
	if opts.Credentials == nil {
		c.opts.Credentials = (&Config{}).Get
	}
	if opts.UserAgent == "" {
		c.opts.UserAgent = "strake"
	}
	if opts.Stall == 0 {
		c.opts.Stall = 30 * time.Second
	}
	if opts.CertsDirs == nil {
		c.opts.CertsDirs = defaultCertsDirs()
	}
	if opts.Log == nil {
		c.opts.Log = slog.New(slog.DiscardHandler)
	}
	c.rules = sync.OnceValues(func() (rules, error) {
		files := opts.RegistriesConf
		if files == nil {
			var err error
			if files, err = registriesConfFiles(); err != nil {
				return nil, err
			}
		}
		return readRules(files)
	})
	for _, s := range opts.Insecure {
		if p, err := netip.ParsePrefix(s); err == nil {
			c.networks = append(c.networks, p)
		}
	}
	return c
}

// Close closes idle connections.
func (c *Client) Close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, r := range c.registries {
		r.closeIdle()
	}
}

// Registry returns the registry at host, which is "docker.io" or a host with
// or without a port. It is the same one every time. It fails for one that
// registries.conf blocks.
func (c *Client) Registry(host string) (*Registry, error) {
	key := registryKey{host: CanonicalHost(host)}
	list, err := c.rules()
	if err != nil {
		return nil, err
	}
	if r, _ := list.find(key.host); r != nil {
		if r.Blocked {
			return nil, blockedError{r.Prefix, r.file}
		}
		key.insecure = r.Insecure && r.Location == r.Prefix
	}
	return c.registry(key)
}

func (c *Client) registry(key registryKey) (*Registry, error) {
	if strings.Trim(key.host, "0123456789abcdefghijklmnopqrstuvwxyz.-_:[]") != "" || strings.Contains(key.host, "..") {
		return nil, fmt.Errorf("registry %q: not a host: %w", key.host, errdefs.ErrInvalidArgument)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if r, ok := c.registries[key]; ok {
		return r, nil
	}
	r, err := newRegistry(c, key)
	if err != nil {
		return nil, err
	}
	c.registries[key] = r
	return r, nil
}

// Repository returns the repository that named is in: where registries.conf
// says that it is, behind the mirrors that it says. It fails for one that is
// blocked there.
func (c *Client) Repository(named reference.Named) (*Repository, error) {
	return c.repository(named, false)
}

// InsecureRepository is Repository for a registry that may be spoken to by http,
// or by https with any certificate.
func (c *Client) InsecureRepository(named reference.Named) (*Repository, error) {
	return c.repository(named, true)
}

func (c *Client) repository(named reference.Named, insecure bool) (*Repository, error) {
	list, err := c.rules()
	if err != nil {
		return nil, err
	}
	r, length := list.find(named.Name())
	if r == nil {
		r = &rule{}
	}
	if r.Blocked {
		return nil, blockedError{r.Prefix, r.file}
	}
	repo := &Repository{}
	if repo.site, err = c.site(named.Name(), length, r.Location, registryKey{insecure: r.Insecure || insecure}); err != nil {
		return nil, err
	}
	for _, m := range r.Mirrors {
		p, err := c.site(named.Name(), length, m.Location, registryKey{insecure: m.Insecure, mirror: true})
		if err != nil {
			return nil, fmt.Errorf("mirror of %s: %w", r.Prefix, err)
		}
		repo.mirrors = append(repo.mirrors, &mirrorSite{site: p, byTag: m.serves(r, false), byDigest: m.serves(r, true)})
	}
	return repo, nil
}

// site is where the repository called name is when a part of that stands for
// location.
func (c *Client) site(name string, length int, location string, key registryKey) (site, error) {
	host, path, err := rewrite(name, length, location)
	if err != nil {
		return site{}, err
	}
	key.host = CanonicalHost(host)
	reg, err := c.registry(key)
	return site{reg, path}, err
}

// CanonicalHost returns the one spelling of a registry's host: of docker's the
// aliases become "docker.io", of others scheme and path are cut off.
func CanonicalHost(host string) string {
	host = strings.TrimPrefix(strings.TrimPrefix(host, "https://"), "http://")
	host, _, _ = strings.Cut(host, "/")
	switch host {
	case "", "index.docker.io", "registry-1.docker.io", "registry.hub.docker.com":
		return "docker.io"
	}
	return strings.ToLower(host)
}

// apiHost returns where the API of the registry called host is.
func apiHost(host string) string {
	if host == "docker.io" {
		return "registry-1.docker.io"
	}
	return host
}

// insecure reports whether host may be spoken to without verified TLS.
func (c *Client) insecure(host string) bool {
	name := hostname(host)
	if isLoopback(name) || listed(c.opts.Insecure, host) {
		return true
	}
	ip, err := netip.ParseAddr(name)
	if err != nil {
		return false
	}
	for _, p := range c.networks {
		if p.Contains(ip.Unmap()) {
			return true
		}
	}
	return false
}

// listed reports whether host, or its name without the port, is in list.
func listed(list []string, host string) bool {
	for _, s := range list {
		if strings.EqualFold(s, host) || strings.EqualFold(s, hostname(host)) {
			return true
		}
	}
	return false
}

// hostname cuts the port off host.
func hostname(host string) string {
	if name, _, err := net.SplitHostPort(host); err == nil {
		return name
	}
	return strings.Trim(host, "[]")
}

// isLoopback reports whether name is this machine by what it says: a name that
// the network resolves is not asked.
func isLoopback(name string) bool {
	if strings.EqualFold(name, "localhost") {
		return true
	}
	ip, err := netip.ParseAddr(name)
	return err == nil && ip.Unmap().IsLoopback()
}
