// Package oidc logs browsers in by an identity provider that speaks OpenID
// Connect: the authorization code flow with PKCE, state and nonce. Groups of the
// provider are teams of the Hub; who lost a group there loses the team at the
// next login.
package oidc

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/coreos/go-oidc/v3/oidc"
	"golang.org/x/oauth2"

	"strake/internal/auth"
	"strake/internal/gate"
	"strake/internal/sqldb"
)

// Paths of the login, below the Hub's address. The provider is told CallbackPath.
const (
	LoginPath    = "/login/oidc"
	CallbackPath = "/login/oidc/callback"
)

// Options say which provider logs people in, and what its groups mean.
type Options struct {
	Issuer       string            // URL of the provider
	ClientID     string            // as which the Hub is known there
	ClientSecret string            // empty: a public client, by PKCE alone
	Scopes       []string          // asked for beside openid; empty: profile, email and groups
	NameClaim    string            // that names an account; empty: preferred_username
	GroupsClaim  string            // empty: groups
	AdminGroup   string            // whose members administer the Hub; empty: the provider does not decide that
	Teams        map[string]string // ORGANIZATION/TEAM by group
	URL          string            // by which people reach the Hub; empty: as the request says
	Client       *http.Client      // to the provider; nil: one with bounds
	Log          *slog.Logger      // of logins that fail; nil drops it
}

// Check fails with errdefs.ErrInvalidArgument where the options make no sense.
func (o Options) Check() error {
	u, err := url.Parse(o.Issuer)
	if err != nil || u.Host == "" || u.Scheme != "https" && !local(u.Hostname()) {
		return fmt.Errorf("oidc: issuer %q is no https URL: %w", o.Issuer, errdefs.ErrInvalidArgument)
	}
	if o.ClientID == "" {
		return fmt.Errorf("oidc: no client_id: %w", errdefs.ErrInvalidArgument)
	}
	for group, team := range o.Teams {
		if strings.Count(team, "/") != 1 {
			return fmt.Errorf("oidc: group %q: team %q is not ORGANIZATION/TEAM: %w", group, team, errdefs.ErrInvalidArgument)
		}
	}
	return nil
}

// local is this machine, for which plain HTTP is no risk.
func local(host string) bool { return host == "localhost" || host == "127.0.0.1" || host == "::1" }

// Login is the handler of both paths. It is safe for concurrent use.
type Login struct {
	db   *sqldb.DB
	opts Options

	mu       sync.Mutex
	provider *oidc.Provider // nil: not asked yet, so that the Hub starts while the provider does not answer
}

// New returns the login by a provider.
func New(db *sqldb.DB, opts Options) (*Login, error) {
	if err := opts.Check(); err != nil {
		return nil, err
	}
	if len(opts.Scopes) == 0 {
		opts.Scopes = []string{"profile", "email", "groups"}
	}
	if opts.NameClaim == "" {
		opts.NameClaim = "preferred_username"
	}
	if opts.GroupsClaim == "" {
		opts.GroupsClaim = "groups"
	}
	if opts.Client == nil {
		opts.Client = &http.Client{Timeout: 15 * time.Second}
	}
	if opts.Log == nil {
		opts.Log = slog.New(slog.DiscardHandler)
	}
	return &Login{db: db, opts: opts}, nil
}

// loginTime is how long somebody may take at the provider.
const loginTime = 10 * time.Minute

// pending is what the browser keeps between the two paths.
type pending struct {
	State, Nonce, Verifier, Next string
}

func cookieName(r *http.Request) string { return gate.CookieName(r) + "-oidc" }

// ServeHTTP implements http.Handler.
func (l *Login) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("Referrer-Policy", "no-referrer")
	var err error
	switch {
	case r.Method != http.MethodGet:
		w.Header().Set("Allow", "GET")
		http.Error(w, "the method is not allowed", http.StatusMethodNotAllowed)
		return
	case r.URL.Path == LoginPath:
		err = l.begin(w, r)
	case r.URL.Path == CallbackPath:
		err = l.finish(w, r)
	default:
		http.NotFound(w, r)
		return
	}
	if err == nil {
		return
	}
	l.opts.Log.Warn("oidc login failed", "remote", r.RemoteAddr, "err", err)
	status, text := http.StatusBadGateway, "the identity provider does not answer as it should; try again later"
	switch {
	case errdefs.IsUnauthorized(err):
		status, text = http.StatusUnauthorized, "the login failed; begin again at the login page"
	case errdefs.IsInvalidArgument(err):
		status, text = http.StatusBadRequest, "the login failed; begin again at the login page"
	}
	http.Error(w, text, status)
}

// config asks the provider who it is, once.
func (l *Login) config(ctx context.Context, r *http.Request) (*oidc.Provider, oauth2.Config, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.provider == nil {
		// The provider keeps the context's client for its keys, longer than the request lasts.
		p, err := oidc.NewProvider(oidc.ClientContext(context.WithoutCancel(ctx), l.opts.Client), l.opts.Issuer)
		if err != nil {
			return nil, oauth2.Config{}, fmt.Errorf("provider: %w", err)
		}
		l.provider = p
	}
	return l.provider, oauth2.Config{
		ClientID: l.opts.ClientID, ClientSecret: l.opts.ClientSecret, Endpoint: l.provider.Endpoint(),
		RedirectURL: l.base(r) + CallbackPath, Scopes: append([]string{oidc.ScopeOpenID}, l.opts.Scopes...),
	}, nil
}

func (l *Login) base(r *http.Request) string {
	if l.opts.URL != "" {
		return strings.TrimSuffix(l.opts.URL, "/")
	}
	if r.TLS != nil {
		return "https://" + r.Host
	}
	return "http://" + r.Host
}

// begin sends the browser to the provider.
func (l *Login) begin(w http.ResponseWriter, r *http.Request) error {
	_, config, err := l.config(r.Context(), r)
	if err != nil {
		return err
	}
	p := pending{State: rand.Text(), Nonce: rand.Text(), Verifier: oauth2.GenerateVerifier(), Next: gate.Local(r.URL.Query().Get("next"))}
	b, err := json.Marshal(p)
	if err != nil {
		return err
	}
	gate.SetCookie(w, r, cookieName(r), base64.RawURLEncoding.EncodeToString(b), loginTime)
	//nolint:gosec // to the provider; it looks whether the address to come back to is one of ours
	http.Redirect(w, r, config.AuthCodeURL(p.State, oidc.Nonce(p.Nonce), oauth2.S256ChallengeOption(p.Verifier)), http.StatusSeeOther)
	return nil
}

// finish takes up the browser that comes back from the provider.
func (l *Login) finish(w http.ResponseWriter, r *http.Request) error {
	p, err := l.pending(r)
	if err != nil {
		return err
	}
	gate.SetCookie(w, r, cookieName(r), "", 0)
	query := r.URL.Query()
	if subtle.ConstantTimeCompare([]byte(query.Get("state")), []byte(p.State)) != 1 {
		return fmt.Errorf("the state is another: %w", errdefs.ErrInvalidArgument)
	}
	if query.Get("code") == "" {
		return fmt.Errorf("the provider says %.100q: %w", query.Get("error"), errdefs.ErrUnauthenticated)
	}
	ctx := auth.With(r.Context(), auth.Identity{Address: r.RemoteAddr})
	person, err := l.person(ctx, r, p, query.Get("code"))
	if err != nil {
		return err
	}
	id, absent, err := auth.LogInPerson(ctx, l.db, person)
	if err != nil {
		return err
	}
	if len(absent) > 0 {
		l.opts.Log.Warn("groups of the provider are mapped to teams that do not exist", "teams", absent)
	}
	if err := gate.LogIn(w, r, l.db, id); err != nil { //nolint:contextcheck // it is the request's
		return err
	}
	http.Redirect(w, r, gate.Local(p.Next), http.StatusSeeOther)
	return nil
}

func (l *Login) pending(r *http.Request) (p pending, err error) {
	cookie, err := r.Cookie(cookieName(r))
	if err != nil {
		return p, fmt.Errorf("no login is under way in this browser: %w", errdefs.ErrInvalidArgument)
	}
	b, err := base64.RawURLEncoding.DecodeString(cookie.Value)
	if err == nil {
		err = json.Unmarshal(b, &p)
	}
	if err != nil || p.State == "" || p.Nonce == "" {
		return p, fmt.Errorf("the login's cookie is damaged: %w", errdefs.ErrInvalidArgument)
	}
	return p, nil
}

// person exchanges the code for what the provider says of who logs in.
func (l *Login) person(ctx context.Context, r *http.Request, p pending, code string) (auth.Person, error) {
	provider, config, err := l.config(ctx, r)
	if err != nil {
		return auth.Person{}, err
	}
	token, err := config.Exchange(oidc.ClientContext(ctx, l.opts.Client), code, oauth2.VerifierOption(p.Verifier))
	if _, refused := errors.AsType[*oauth2.RetrieveError](err); refused {
		return auth.Person{}, fmt.Errorf("the provider refuses the code: %w", errdefs.ErrUnauthenticated)
	}
	if err != nil {
		return auth.Person{}, fmt.Errorf("exchange the code: %w", err)
	}
	raw, ok := token.Extra("id_token").(string)
	if !ok {
		return auth.Person{}, fmt.Errorf("no ID token: %w", errdefs.ErrUnauthenticated)
	}
	verified, err := provider.Verifier(&oidc.Config{ClientID: l.opts.ClientID}).Verify(oidc.ClientContext(ctx, l.opts.Client), raw)
	if err != nil {
		return auth.Person{}, fmt.Errorf("ID token: %w", errors.Join(errdefs.ErrUnauthenticated, err))
	}
	if subtle.ConstantTimeCompare([]byte(verified.Nonce), []byte(p.Nonce)) != 1 {
		return auth.Person{}, fmt.Errorf("the nonce is another: %w", errdefs.ErrUnauthenticated)
	}
	claims := map[string]any{}
	if err := verified.Claims(&claims); err != nil {
		return auth.Person{}, fmt.Errorf("claims: %w", errors.Join(errdefs.ErrUnauthenticated, err))
	}
	return l.translate(verified.Issuer, verified.Subject, claims), nil
}

// translate says what claims mean here. Groups that are not there are groups
// that one has not.
func (l *Login) translate(issuer, subject string, claims map[string]any) auth.Person {
	text := func(name string) string {
		s, _ := claims[name].(string)
		return s
	}
	var groups []string
	list, _ := claims[l.opts.GroupsClaim].([]any)
	for _, g := range list {
		if s, ok := g.(string); ok {
			groups = append(groups, s)
		}
	}
	p := auth.Person{Subject: issuer + " " + subject, Name: text(l.opts.NameClaim), Email: text("email"), FullName: text("name"), Teams: map[string]bool{}}
	if p.Name == "" {
		p.Name = p.Email
	}
	if l.opts.AdminGroup != "" {
		is := slices.Contains(groups, l.opts.AdminGroup)
		p.Admin = &is
	}
	for group, team := range l.opts.Teams {
		p.Teams[team] = p.Teams[team] || slices.Contains(groups, group)
	}
	return p
}
