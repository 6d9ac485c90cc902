// Package gate stands before the Hub's HTTP handlers and tells who asks.
//
// Programs that speak the distribution API come with a registry token, a short
// lived signed text that the gate gives out at /token (docker's token
// authentication) for a password or a token of package auth, or to nobody in
// particular. It names an account and the actions that were asked for, nothing
// more: what the account may do is looked up at each request, so that what is
// taken away is gone with the next one on every replica. Programs that speak
// the Hub's own API send a token or a password; browsers a session's cookie.
package gate

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"math"
	"net/http"
	"strconv"
	"strings"
	"sync"

	"github.com/containerd/errdefs"

	"strake/internal/auth"
	"strake/internal/registry"
	"strake/internal/sqldb"
)

// Options say how a Gate works.
type Options struct {
	URL    string       // by which clients reach the Hub, as https://hub.example.com; empty: as the request says
	Limits Limits       // of how much one caller may ask
	Log    *slog.Logger // told of failed logins and of errors that clients do not see; nil drops them
}

// Gate tells who asks. It is safe for concurrent use.
type Gate struct {
	db   *sqldb.DB
	opts Options

	requests, pulls *buckets

	mu   sync.Mutex
	keys map[string]key // that were read, by their ID
	sign key            // the newest
}

// New returns the gate of the Hub with the database.
func New(db *sqldb.DB, opts Options) *Gate {
	if opts.Log == nil {
		opts.Log = slog.New(slog.DiscardHandler)
	}
	return &Gate{db: db, opts: opts, requests: newBuckets(), pulls: newBuckets(), keys: map[string]key{}}
}

// Registry serves next, the distribution API, with the caller's identity in the
// context. Who did not log in and needs to is answered 401 and told where
// tokens are to be had.
func (g *Gate) Registry(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		id, err := g.registryIdentity(nobody(r))
		scopes := registry.Scopes(r)
		if err == nil && id.jwt {
			if more := id.beyond(scopes); len(more) > 0 {
				err = g.another(r.Context(), id, more)
			}
		}
		if err == nil && id.none && (r.URL.Path == "/v2/" || r.URL.Path == "/v2") {
			err = errNobody
		}
		if err == nil {
			err = g.limit(w, r, id.Identity)
		}
		if err != nil {
			g.refuse(w, r, err, scopes)
			return
		}
		if id.Anonymous() {
			c := &challenger{ResponseWriter: w, challenge: g.challenge(r, scopes, nil)}
			if id.none && (r.Method == http.MethodGet || r.Method == http.MethodHead) {
				c.ask = func() { g.refuse(w, r, errNobody, scopes) }
			}
			next.ServeHTTP(c, r.WithContext(auth.With(r.Context(), id.Identity)))
			return
		}
		next.ServeHTTP(w, r.WithContext(auth.With(r.Context(), id.Identity)))
	})
}

// nobody is a request of whom only the address is known yet.
func nobody(r *http.Request) *http.Request {
	return r.WithContext(auth.With(r.Context(), auth.Identity{Address: r.RemoteAddr}))
}

// caller is who asks and how that is known.
type caller struct {
	auth.Identity
	none   bool         // no credentials at all
	jwt    bool         // a registry token
	grants []auth.Scope // of the registry token
}

// beyond are the scopes that a registry token was not made for.
func (c caller) beyond(scopes []registry.Scope) (more []registry.Scope) {
	granted := auth.Identity{}.WithScopes(c.grants)
	for _, s := range scopes {
		covered := granted.Limit(s.Name) >= roleOf(s.Actions)
		if s.Type == "registry" {
			covered = len(c.grants) > 0
		}
		if !covered {
			more = append(more, s)
		}
	}
	return more
}

// another fails with errScope when another registry token would serve for one of
// scopes: the caller asked for one that allows less. Otherwise the registry itself
// says what they may not.
func (g *Gate) another(ctx context.Context, c caller, scopes []registry.Scope) error {
	if c.Anonymous() || scopes[0].Type == "registry" {
		return errScope
	}
	return g.db.View(ctx, func(tx *sql.Tx) error {
		for _, s := range scopes {
			role, err := auth.RoleOf(ctx, tx, c.Whole(), s.Name)
			if err != nil {
				return err
			}
			if role >= roleOf(s.Actions) {
				return errScope
			}
		}
		return nil
	})
}

// roleOf is the role that actions need.
func roleOf(actions []string) auth.Role {
	role := auth.None
	for _, a := range actions {
		switch a {
		case "pull":
			role = max(role, auth.Read)
		case "push":
			role = max(role, auth.Write)
		case "delete", "*":
			role = auth.Admin
		}
	}
	return role
}

// The errors of who is to log in.
var (
	errNobody = registry.Errorf(registry.Unauthorized, "authentication required")
	errScope  = registry.Errorf(registry.Unauthorized, "authentication required for this action")
	errToken  = registry.Errorf(registry.Unauthorized, "the token is not valid any more")
)

// registryIdentity tells who sends a request of the distribution API.
func (g *Gate) registryIdentity(r *http.Request) (caller, error) {
	header := r.Header.Get("Authorization")
	scheme, value, _ := strings.Cut(header, " ")
	value = strings.TrimSpace(value)
	switch {
	case header == "":
		return caller{Identity: auth.Identity{Address: r.RemoteAddr}, none: true}, nil
	case strings.EqualFold(scheme, "Basic"):
		id, err := g.basic(r)
		return caller{Identity: id}, err
	case !strings.EqualFold(scheme, "Bearer"):
		return caller{}, errNobody
	case auth.IsToken(value):
		id, err := auth.AuthenticateToken(r.Context(), g.db, value)
		return caller{Identity: id}, err
	}
	return g.verify(r, value)
}

// basic is who sends a name and a password, or a token in its place.
func (g *Gate) basic(r *http.Request) (auth.Identity, error) {
	name, secret, ok := r.BasicAuth()
	if !ok {
		return auth.Identity{}, errNobody
	}
	return g.login(r, name, secret)
}

// login authenticates and tells the log of failures. Names that nobody has are
// left out: people type passwords there.
func (g *Gate) login(r *http.Request, name, secret string) (auth.Identity, error) {
	id, err := auth.Authenticate(r.Context(), g.db, name, secret)
	if err != nil {
		g.opts.Log.Warn("login failed", "remote", r.RemoteAddr, "err", err)
	}
	return id, err
}

// challenge is the WWW-Authenticate of a 401 (docker's token authentication).
func (g *Gate) challenge(r *http.Request, scopes []registry.Scope, err error) string {
	var b strings.Builder
	b.WriteString(`Bearer realm="` + g.base(r) + `/token",service="` + service + `"`)
	if len(scopes) > 0 {
		b.WriteString(`,scope="`)
		for i, s := range scopes {
			if i > 0 {
				b.WriteByte(' ')
			}
			b.WriteString(s.Type + ":" + s.Name + ":" + strings.Join(s.Actions, ","))
		}
		b.WriteByte('"')
	}
	switch {
	case errors.Is(err, errScope):
		b.WriteString(`,error="insufficient_scope"`)
	case errors.Is(err, errToken):
		b.WriteString(`,error="invalid_token"`)
	}
	return b.String()
}

// base is the Hub's own address, as clients write it.
func (g *Gate) base(r *http.Request) string {
	if g.opts.URL != "" {
		return strings.TrimSuffix(g.opts.URL, "/")
	}
	scheme := "http"
	if r.TLS != nil {
		scheme = "https"
	}
	host := r.Host
	if strings.ContainsAny(host, "\"\\/ ,") {
		host = ""
	}
	return scheme + "://" + host
}

// refuse answers a request whose sender is not known well enough.
func (g *Gate) refuse(w http.ResponseWriter, r *http.Request, err error, scopes []registry.Scope) {
	drain(r)
	e := g.errorOf(w, r, err)
	if e.Status() == http.StatusUnauthorized {
		w.Header().Set("WWW-Authenticate", g.challenge(r, scopes, err))
	}
	w.Header().Set("Docker-Distribution-Api-Version", "registry/2.0")
	writeJSON(w, r, e.Status(), map[string]any{"errors": []map[string]any{{"code": e.Code, "message": e.Error(), "detail": nil}}})
}

// errorOf turns an error into the registry's form, and says when to come back.
func (g *Gate) errorOf(w http.ResponseWriter, r *http.Request, err error) *registry.Error {
	if over, ok := errors.AsType[*limitError](err); ok {
		w.Header().Set("Retry-After", strconv.Itoa(int(math.Ceil(over.wait.Seconds()))))
		return registry.Errorf(registry.TooManyRequests, "%w", err)
	}
	if many, ok := errors.AsType[*auth.TooManyError](err); ok {
		w.Header().Set("Retry-After", strconv.Itoa(int(math.Ceil(many.Wait.Seconds()))))
		return registry.Errorf(registry.TooManyRequests, "%w", err)
	}
	if errors.Is(err, errdefs.ErrUnavailable) {
		w.Header().Set("Retry-After", "5")
	}
	e := registry.ErrorOf(err)
	if e.Status() >= http.StatusInternalServerError {
		g.opts.Log.Error("request failed", "method", r.Method, "path", r.URL.Path, "err", err)
	}
	if e.Code == registry.Unauthorized && errdefs.IsUnauthorized(err) {
		return &registry.Error{Code: e.Code, Message: strings.TrimSuffix(e.Error(), ": "+errdefs.ErrUnauthenticated.Error())}
	}
	return e
}

// drain reads a little of a body that is not wanted, so that the client, which
// may be sending it still, gets the answer on a connection that stays.
func drain(r *http.Request) {
	if r.Body != nil && r.Header.Get("Expect") == "" {
		_, _ = io.CopyN(io.Discard, r.Body, 64<<10) // what is wrong with it concerns nobody
	}
}

func writeJSON(w http.ResponseWriter, r *http.Request, status int, v any) {
	b, err := json.Marshal(v)
	if err != nil {
		status, b = http.StatusInternalServerError, []byte("{}")
	}
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Content-Length", strconv.Itoa(len(b)))
	w.WriteHeader(status)
	if r.Method != http.MethodHead {
		_, _ = w.Write(b) // the client is gone: nobody to tell
	}
}

// challenger adds the challenge to an answer 401, and keeps the way to sendfile
// open.
type challenger struct {
	http.ResponseWriter
	challenge string
	// ask answers in the place of a 404 who sent no credentials: with some they may
	// see more, such as what waits for a review. A client that has a token, if of
	// nobody, is answered 404. nil: nobody is asked.
	ask   func()
	asked bool
}

func (c *challenger) WriteHeader(status int) {
	switch {
	case status == http.StatusNotFound && c.ask != nil:
		c.asked = true
		c.ask()
		return
	case status == http.StatusUnauthorized:
		c.Header().Set("WWW-Authenticate", c.challenge)
	}
	c.ResponseWriter.WriteHeader(status)
}

// Write implements io.Writer; the body of an answer that was not given is dropped.
func (c *challenger) Write(b []byte) (int, error) {
	if c.asked {
		return len(b), nil
	}
	return c.ResponseWriter.Write(b)
}

// ReadFrom implements io.ReaderFrom.
func (c *challenger) ReadFrom(r io.Reader) (int64, error) {
	if c.asked {
		return io.Copy(io.Discard, r)
	}
	return io.Copy(c.ResponseWriter, r)
}

// Unwrap is for http.ResponseController.
func (c *challenger) Unwrap() http.ResponseWriter { return c.ResponseWriter }
