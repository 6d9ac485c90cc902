package gate

import (
	"errors"
	"net/http"
	"strings"

	"strake/internal/auth"
)

// CookieName is the name of the cookie that holds a browser's session. Over TLS
// browsers take it from this host alone, for all of its paths.
func CookieName(r *http.Request) string {
	if r.TLS != nil {
		return "__Host-strake"
	}
	return "strake"
}

// Identify tells who sends a request of the Hub's own API: by a password or a
// token (Basic), a token (Bearer), or a browser's session; nobody in particular
// without any. What does not hold is an error of the kind
// errdefs.ErrUnauthenticated, or an *auth.TooManyError; an old cookie is nobody.
func (g *Gate) Identify(r *http.Request) (auth.Identity, error) {
	r = nobody(r)
	scheme, value, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	switch {
	case strings.EqualFold(scheme, "Basic"):
		return g.basic(r)
	case strings.EqualFold(scheme, "Bearer"):
		return auth.AuthenticateToken(r.Context(), g.db, strings.TrimSpace(value))
	case scheme != "":
		return auth.Identity{}, errNobody
	}
	cookie, err := r.Cookie(CookieName(r))
	if errors.Is(err, http.ErrNoCookie) {
		return auth.From(r.Context()), nil
	}
	if err != nil {
		return auth.Identity{}, err
	}
	id, err := auth.Session(r.Context(), g.db, cookie.Value)
	if auth.IsLoggedOut(err) {
		return auth.From(r.Context()), nil
	}
	return id, err
}
