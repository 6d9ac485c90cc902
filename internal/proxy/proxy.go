// Package proxy serves images of other registries through the Hub.
//
// A proxied namespace is another registry, or a part of it: "dockerhub/library/x"
// is docker.io's "library/x" where the namespace dockerhub stands for that. What is
// pulled is kept, and served from here the next time. A tag is asked for again
// when it was not for some minutes, which costs a HEAD request; where the other
// registry is gone, refuses or limits us, what is here is served on, with a warning.
// Nothing can be pushed to such a namespace.
//
// A mirror is a repository of the Hub into which a job copies tags of another
// registry from time to time, whole.
//
// Both are administrators' to set up: they decide where the Hub connects to.
package proxy

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sync/singleflight"

	"strake/internal/auth"
	"strake/internal/fault"
	"strake/internal/hub"
	"strake/internal/policy"
	"strake/internal/registry"
	"strake/internal/remote"
	"strake/internal/seal"
	"strake/internal/sqldb"
)

// Proxy is a namespace that stands for another registry.
type Proxy struct {
	Namespace string `json:"namespace"`
	Host      string `json:"host"`               // of the other registry, as in names of images
	Prefix    string `json:"prefix,omitempty"`   // before the names of its repositories
	Username  string `json:"username,omitempty"` // for the other registry
	Password  string `json:"password,omitempty"` // never given out
	Insecure  bool   `json:"insecure,omitempty"` // it is spoken to by http, or whatever its certificate
	Public    bool   `json:"public"`             // anybody may pull by it
	Fresh     int    `json:"fresh,omitempty"`    // seconds for which a tag is not asked for again; 0 is 300

	version int64
}

// defaultFresh is for how many seconds a tag is not asked for again.
const defaultFresh = 300

// Options say what a Cache works with.
type Options struct {
	Key   *seal.Key
	Spool string       // directory for blobs that are on their way
	Log   *slog.Logger // nil: nothing is logged
}

// Cache is the Hub with the namespaces that stand for other registries. It is safe
// for concurrent use.
type Cache struct {
	*hub.Hub
	db   *sqldb.DB
	opts Options
	ask  singleflight.Group // for manifests, by repository and reference

	mu      sync.Mutex
	clients map[string]client // by namespace
	fetches map[string]*fetch // blobs on their way, by namespace and digest
	refused map[string]time.Time
	running chan struct{} // one for each fetch that is under way
}

// client is the connection to the registry of a namespace.
type client struct {
	version int64
	remote  *remote.Client
}

// maxFetches is how many blobs are fetched at once.
const maxFetches = 32

var (
	_ registry.Registry   = (*Cache)(nil)
	_ registry.Redirector = (*Cache)(nil)
)

// New returns h with the proxied namespaces that its database says.
func New(h *hub.Hub, opts Options) *Cache {
	if opts.Log == nil {
		opts.Log = slog.New(slog.DiscardHandler)
	}
	return &Cache{
		Hub: h, db: hub.DB(h), opts: opts,
		clients: map[string]client{}, fetches: map[string]*fetch{}, refused: map[string]time.Time{}, running: make(chan struct{}, maxFetches),
	}
}

// needAdmin fails unless the caller administers the Hub.
func needAdmin(ctx context.Context, tx *sql.Tx) error {
	return policy.NeedScope(ctx, tx, "*", auth.Admin)
}

// checkUpstream fails unless a registry and a part of its names are well-formed.
func checkUpstream(host, prefix string) error {
	c := remote.NewClient(remote.Options{RegistriesConf: []string{}})
	defer c.Close()
	if _, err := c.Registry(host); err != nil {
		return fault.In("host", err)
	}
	if prefix == "" {
		return nil
	}
	return fault.In("prefix", registry.CheckName(prefix))
}

var errAlone = fault.In("password", fmt.Errorf("a user name comes with a password: %w", errdefs.ErrInvalidArgument))

// Set makes a namespace stand for another registry, or changes for which. It is
// for administrators. A namespace with repositories of its own cannot.
func (c *Cache) Set(ctx context.Context, p Proxy) error {
	if err := registry.CheckName(p.Namespace); err != nil || strings.Contains(p.Namespace, "/") {
		return fault.In("namespace", fmt.Errorf("namespace %.100q: small letters, digits and dashes, and no slash: %w", p.Namespace, errdefs.ErrInvalidArgument))
	}
	if p.Fresh < 0 {
		return fault.In("fresh", fmt.Errorf("fresh counts from 0: %w", errdefs.ErrInvalidArgument))
	}
	if (p.Username == "") != (p.Password == "") {
		return errAlone
	}
	if err := checkUpstream(p.Host, p.Prefix); err != nil {
		return fmt.Errorf("%w: %w", err, errdefs.ErrInvalidArgument)
	}
	p.Host = remote.CanonicalHost(p.Host)
	sealed, err := c.opts.Key.Seal(p.Password, "proxy "+p.Host)
	if err != nil {
		return err
	}
	if p.Fresh == 0 {
		p.Fresh = defaultFresh
	}
	return c.db.Update(ctx, func(tx *sql.Tx) error {
		if err := needAdmin(ctx, tx); err != nil {
			return err
		}
		var taken int
		err := tx.QueryRowContext(ctx, `
			SELECT count(*) FROM repositories WHERE namespace = $1 AND NOT EXISTS (SELECT 1 FROM proxies WHERE namespace = $1)`, p.Namespace).Scan(&taken)
		if err == nil && taken > 0 {
			err = fmt.Errorf("namespace %s has repositories of its own: %w", p.Namespace, errdefs.ErrConflict)
		}
		if err != nil {
			return err
		}
		_, err = tx.ExecContext(ctx, `
			INSERT INTO proxies (namespace, host, prefix, username, password, insecure, public, fresh) VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
			ON CONFLICT (namespace) DO UPDATE SET host = excluded.host, prefix = excluded.prefix, username = excluded.username, password = excluded.password,
			insecure = excluded.insecure, public = excluded.public, fresh = excluded.fresh, version = proxies.version + 1`,
			p.Namespace, p.Host, p.Prefix, p.Username, sealed, flag(p.Insecure), flag(p.Public), p.Fresh)
		if err != nil {
			return fmt.Errorf("set proxy: %w", err)
		}
		if _, err := tx.ExecContext(ctx, `UPDATE repositories SET public = $2 WHERE namespace = $1`, p.Namespace, flag(p.Public)); err != nil {
			return fmt.Errorf("set proxy: %w", err)
		}
		p.Password = ""
		return auth.Audit(ctx, tx, "proxy.set", p.Namespace, p)
	})
}

// Unset makes a namespace an ordinary one again. What was cached stays.
func (c *Cache) Unset(ctx context.Context, namespace string) error {
	return c.db.Update(ctx, func(tx *sql.Tx) error {
		if err := needAdmin(ctx, tx); err != nil {
			return err
		}
		res, err := tx.ExecContext(ctx, `DELETE FROM proxies WHERE namespace = $1`, namespace)
		if err != nil {
			return err
		}
		if n, err := res.RowsAffected(); err != nil || n == 0 {
			return errors.Join(err, fmt.Errorf("proxy %.100q: %w", namespace, errdefs.ErrNotFound))
		}
		return auth.Audit(ctx, tx, "proxy.remove", namespace, nil)
	})
}

const proxyColumns = `SELECT namespace, host, prefix, username, password, insecure, public, fresh, version FROM proxies `

func scanProxy(row interface{ Scan(dest ...any) error }) (p Proxy, err error) {
	var insecure, public int
	err = row.Scan(&p.Namespace, &p.Host, &p.Prefix, &p.Username, &p.Password, &insecure, &public, &p.Fresh, &p.version)
	p.Insecure, p.Public = insecure == 1, public == 1
	return p, err
}

// List lists the proxied namespaces, for administrators, without passwords.
func (c *Cache) List(ctx context.Context) (list []Proxy, err error) {
	err = c.db.View(ctx, func(tx *sql.Tx) error {
		list = []Proxy{}
		if err := needAdmin(ctx, tx); err != nil {
			return err
		}
		return sqldb.Each(ctx, tx, proxyColumns+`ORDER BY namespace`, nil, func(rows *sql.Rows) error {
			p, err := scanProxy(rows)
			p.Password = ""
			list = append(list, p)
			return err
		})
	})
	return list, err
}

// place is a repository of a proxied namespace.
type place struct {
	Proxy
	repo string // here
	name string // there
}

// find returns what repo stands for; ok is false for the Hub's own repositories.
// It fails for who may not pull by the namespace, as the Hub does.
func (c *Cache) find(ctx context.Context, repo string) (at place, ok bool, err error) {
	namespace := auth.Namespace(repo)
	if namespace == "" || registry.CheckName(repo) != nil { // which the Hub tells
		return at, false, nil //nolint:nilerr // see above
	}
	err = c.db.View(ctx, func(tx *sql.Tx) error {
		ok = false
		p, err := scanProxy(tx.QueryRowContext(ctx, proxyColumns+`WHERE namespace = $1`, namespace))
		if errors.Is(err, sql.ErrNoRows) {
			return nil
		}
		if err != nil {
			return err
		}
		id := auth.From(ctx)
		role, err := auth.RoleOf(ctx, tx, id, repo)
		if err != nil {
			return err
		}
		if p.Public {
			role = min(max(role, auth.Read), id.Limit(repo))
		}
		switch {
		case role >= auth.Read:
		case id.Anonymous():
			return registry.Errorf(registry.Unauthorized, "authentication required")
		default:
			return registry.Errorf(registry.NameUnknown, "repository name not known to registry")
		}
		at, ok = place{p, repo, p.upstream(repo)}, true
		return nil
	})
	return at, ok, err
}

// upstream is what a repository is called in the other registry.
func (p Proxy) upstream(repo string) string {
	name := strings.TrimPrefix(repo, p.Namespace+"/")
	if p.Prefix != "" {
		return p.Prefix + "/" + name
	}
	if p.Host == "docker.io" && !strings.Contains(name, "/") {
		return "library/" + name
	}
	return name
}

// remote is the other registry of a namespace.
func (c *Cache) remote(p Proxy) (*remote.Registry, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	have, ok := c.clients[p.Namespace]
	if !ok || have.version != p.version {
		password, err := c.opts.Key.Open(p.Password, "proxy "+p.Host)
		if err != nil {
			return nil, err
		}
		if ok {
			have.remote.Close()
		}
		have = client{p.version, newRemote(p.Host, p.Username, password, p.Insecure, c.opts.Log)}
		c.clients[p.Namespace] = have
	}
	return have.remote.Registry(p.Host)
}

// newRemote returns a client of one registry, which alone gets the credential.
func newRemote(host, username, password string, insecure bool, log *slog.Logger) *remote.Client {
	opts := remote.Options{
		RegistriesConf: []string{}, UserAgent: "strake-hub", Log: log,
		Credentials: func(_ context.Context, h string) (remote.Credential, error) {
			if remote.CanonicalHost(h) != host {
				return remote.Credential{}, nil
			}
			return remote.Credential{Username: username, Password: password}, nil
		},
	}
	if insecure {
		opts.Insecure = []string{host}
	}
	return remote.NewClient(opts)
}

func flag(b bool) int {
	if b {
		return 1
	}
	return 0
}

// asSystem is a context of the Hub itself.
func asSystem(ctx context.Context) context.Context {
	return auth.With(ctx, auth.Identity{System: true, Name: auth.From(ctx).Name, Address: auth.From(ctx).Address})
}
