package gate

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"

	"strake/internal/auth"
	"strake/internal/registry"
)

const (
	service   = "strake-hub"    // who signs registry tokens and whom they are for
	tokenLife = 5 * time.Minute // of a registry token; what it allows ends with the account's right to it at once
	maxScopes = 50              // of one token
	maxForm   = 64 << 10        // bytes of a request for a token
)

// access is what a registry token was asked for (docker's token specification).
type access struct {
	Type    string   `json:"type"`
	Name    string   `json:"name"`
	Actions []string `json:"actions"`
}

// claims are the rest of a registry token.
type claims struct {
	Access  []access `json:"access"`
	Account int64    `json:"acc,omitempty"` // 0: anonymous
	Token   string   `json:"tok,omitempty"` // the token that it was given out for
	Epoch   int64    `json:"epo,omitempty"`
}

// verify tells who sends a registry token. The key is one of our own that the
// header's ID names, the algorithm is ours; what else the header says is not
// looked at.
func (g *Gate) verify(r *http.Request, text string) (caller, error) {
	ctx := r.Context()
	parsed, err := jwt.ParseSigned(text, []jose.SignatureAlgorithm{jose.EdDSA})
	if err != nil || len(parsed.Headers) != 1 {
		return caller{}, errToken
	}
	public, err := g.public(ctx, parsed.Headers[0].KeyID)
	if errdefs.IsNotFound(err) {
		return caller{}, errToken
	}
	if err != nil {
		return caller{}, err
	}
	var standard jwt.Claims
	var own claims
	if parsed.Claims(public, &standard, &own) != nil || standard.Expiry == nil ||
		standard.ValidateWithLeeway(jwt.Expected{Issuer: service, AnyAudience: jwt.Audience{service}, Time: time.Now()}, 10*time.Second) != nil {
		return caller{}, errToken
	}
	c := caller{Identity: auth.Identity{Address: r.RemoteAddr}, jwt: true}
	if own.Account != 0 {
		c.Identity, err = auth.Current(ctx, g.db, own.Account, own.Token, own.Epoch)
		if errdefs.IsUnauthorized(err) {
			return caller{}, errToken
		}
		if err != nil {
			return caller{}, err
		}
	}
	for _, a := range own.Access {
		switch {
		case a.Type == "repository":
			c.grants = append(c.grants, auth.Scope{Repository: a.Name, Role: roleOf(a.Actions)})
		case c.Scopes == nil: // the catalog: all names that the account may see
			c.grants = append(c.grants, auth.Scope{Repository: "*", Role: auth.Read})
		default:
			for _, s := range c.Scopes {
				c.grants = append(c.grants, auth.Scope{Repository: s.Repository, Role: auth.Read})
			}
		}
	}
	c.Identity = c.Asked(c.grants)
	return c, nil
}

// issue makes a registry token for what id may do of what was asked for.
func (g *Gate) issue(ctx context.Context, id auth.Identity, asked []access) (string, time.Time, error) {
	now := time.Now()
	granted, err := g.grant(ctx, id, asked)
	if err != nil {
		return "", now, err
	}
	k, err := g.signer(ctx)
	if err != nil {
		return "", now, err
	}
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.EdDSA, Key: jose.JSONWebKey{Key: k.private, KeyID: k.id}}, (&jose.SignerOptions{}).WithType("JWT"))
	if err != nil {
		return "", now, err
	}
	text, err := jwt.Signed(signer).Claims(jwt.Claims{
		Issuer: service, Audience: jwt.Audience{service}, Subject: id.Name,
		IssuedAt: jwt.NewNumericDate(now), NotBefore: jwt.NewNumericDate(now), Expiry: jwt.NewNumericDate(now.Add(tokenLife)),
	}).Claims(claims{Access: granted, Account: id.Account, Token: id.Token, Epoch: id.Epoch}).Serialize()
	return text, now, err
}

// grant leaves of what was asked for what id may do.
func (g *Gate) grant(ctx context.Context, id auth.Identity, asked []access) ([]access, error) {
	granted := []access{}
	err := g.db.View(ctx, func(tx *sql.Tx) error {
		for _, a := range asked {
			switch a.Type {
			case "registry":
				if a.Name == "catalog" {
					granted = append(granted, access{"registry", "catalog", []string{"*"}})
				}
			case "repository":
				role, err := auth.RoleOf(ctx, tx, id, a.Name)
				if err != nil {
					return err
				}
				a.Actions = slices.DeleteFunc(a.Actions, func(action string) bool {
					need := roleOf([]string{action})
					return need == auth.None || need > role
				})
				if len(a.Actions) > 0 {
					granted = append(granted, a)
				}
			}
		}
		return nil
	})
	return granted, err
}

// parseScopes parses scopes of the form type:name:action,action, several in one
// text with spaces between them. What is not understood asks for nothing.
func parseScopes(texts []string) ([]access, error) {
	var list []access
	for _, text := range texts {
		for scope := range strings.FieldsSeq(text) {
			kind, rest, ok := strings.Cut(scope, ":")
			i := strings.LastIndexByte(rest, ':')
			if !ok || i < 0 {
				return nil, fmt.Errorf("malformed scope %.100q: %w", scope, errdefs.ErrInvalidArgument)
			}
			if len(list) == maxScopes {
				return nil, fmt.Errorf("more than %d scopes: %w", maxScopes, errdefs.ErrInvalidArgument)
			}
			kind, _, _ = strings.Cut(kind, "(") // a class in parentheses says nothing here
			name, actions := rest[:i], strings.Split(rest[i+1:], ",")
			if kind == "repository" && registry.CheckName(name) != nil {
				continue
			}
			list = append(list, access{kind, name, actions[:min(len(actions), 10)]})
		}
	}
	return list, nil
}

// answer is what /token answers.
type answer struct {
	Token        string    `json:"token"`
	AccessToken  string    `json:"access_token"`
	ExpiresIn    int       `json:"expires_in"` // seconds
	IssuedAt     time.Time `json:"issued_at"`
	Scope        string    `json:"scope,omitempty"`
	RefreshToken string    `json:"refresh_token,omitempty"`
}

// Token serves /token: docker's token specification with GET, OAuth 2 with POST.
// A client that asks for it (offline_token, access_type) gets a login that it
// keeps instead of the password; for tokens there is none, they can be kept
// themselves.
func (g *Gate) Token() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r = nobody(r)
		r.Body = http.MaxBytesReader(w, r.Body, maxForm)
		w.Header().Set("Cache-Control", "no-store")
		var a answer
		var err error
		switch r.Method {
		case http.MethodGet:
			a, err = g.getToken(r)
		case http.MethodPost:
			a, err = g.postToken(r)
		default:
			w.Header().Set("Allow", "GET, POST")
			err = registry.Errorf(registry.Unsupported, "the operation is unsupported")
		}
		if err == nil {
			writeJSON(w, r, http.StatusOK, a)
			return
		}
		e := g.errorOf(w, r, err)
		if e.Status() == http.StatusUnauthorized {
			w.Header().Set("WWW-Authenticate", `Basic realm="`+service+`"`)
		}
		writeJSON(w, r, e.Status(), map[string]any{
			"error": oauthError(e.Status()), "error_description": e.Error(), "details": e.Error(),
			"errors": []map[string]any{{"code": e.Code, "message": e.Error(), "detail": nil}},
		})
	})
}

// oauthError is the code of RFC 6749, 5.2 for a status.
func oauthError(status int) string {
	switch status {
	case http.StatusUnauthorized:
		return "invalid_grant"
	case http.StatusBadRequest:
		return "invalid_request"
	case http.StatusTooManyRequests, http.StatusServiceUnavailable:
		return "temporarily_unavailable"
	}
	return "server_error"
}

func (g *Gate) getToken(r *http.Request) (answer, error) {
	query := r.URL.Query()
	id, err := auth.Identity{Address: r.RemoteAddr}, error(nil)
	switch scheme, value, _ := strings.Cut(r.Header.Get("Authorization"), " "); {
	case scheme == "":
	case strings.EqualFold(scheme, "Bearer"):
		id, err = auth.AuthenticateToken(r.Context(), g.db, strings.TrimSpace(value))
	default:
		id, err = g.basic(r)
	}
	if err != nil {
		return answer{}, err
	}
	a, err := g.answer(r.Context(), id, query["scope"])
	if err == nil && query.Get("offline_token") == "true" && id.Account != 0 && id.Token == "" {
		a.RefreshToken, err = auth.AddLogin(r.Context(), g.db, id, query.Get("client_id"))
	}
	return a, err
}

func (g *Gate) postToken(r *http.Request) (answer, error) {
	if err := r.ParseForm(); err != nil {
		return answer{}, fmt.Errorf("malformed form: %w", errors.Join(errdefs.ErrInvalidArgument, err))
	}
	form := r.PostForm
	var id auth.Identity
	var err error
	refresh := ""
	switch form.Get("grant_type") {
	case "password":
		if id, err = g.login(r, form.Get("username"), form.Get("password")); err == nil && form.Get("access_type") == "offline" && id.Token == "" {
			refresh, err = auth.AddLogin(r.Context(), g.db, id, form.Get("client_id"))
		}
	case "refresh_token":
		refresh = form.Get("refresh_token")
		id, err = auth.AuthenticateToken(r.Context(), g.db, refresh)
	default:
		err = fmt.Errorf("grant_type: password or refresh_token: %w", errdefs.ErrInvalidArgument)
	}
	if err != nil {
		return answer{}, err
	}
	a, err := g.answer(r.Context(), id, form["scope"])
	a.RefreshToken = refresh
	return a, err
}

func (g *Gate) answer(ctx context.Context, id auth.Identity, scopes []string) (answer, error) {
	asked, err := parseScopes(scopes)
	if err != nil {
		return answer{}, err
	}
	text, now, err := g.issue(ctx, id, asked)
	return answer{
		Token: text, AccessToken: text, ExpiresIn: int(tokenLife / time.Second),
		IssuedAt: now.UTC().Truncate(time.Second), Scope: strings.Join(scopes, " "),
	}, err
}
