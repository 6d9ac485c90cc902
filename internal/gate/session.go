package gate

import (
	"net/http"
	"net/url"
	"strings"
	"time"

	"strake/internal/auth"
	"strake/internal/sqldb"
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
	return Session(r, g.db)
}

// Session tells whose browser sends a request, by its cookie; nobody's in
// particular without one, or with one that has ended.
func Session(r *http.Request, db *sqldb.DB) (auth.Identity, error) {
	r = nobody(r)
	cookie := SessionCookie(r)
	if cookie == "" {
		return auth.From(r.Context()), nil
	}
	id, err := auth.Session(r.Context(), db, cookie)
	if auth.IsLoggedOut(err) {
		return auth.From(r.Context()), nil
	}
	return id, err
}

// SessionCookie is what the browser's cookie holds; empty: it sent none.
func SessionCookie(r *http.Request) string {
	cookie, err := r.Cookie(CookieName(r))
	if err != nil { // there is none
		return ""
	}
	return cookie.Value
}

// LogIn begins a session of who in the browser that sends a request, and LogOut
// ends the browser's.
func LogIn(w http.ResponseWriter, r *http.Request, db *sqldb.DB, who auth.Identity) error {
	value, err := auth.StartSession(nobody(r).Context(), db, who, r.UserAgent())
	if err == nil {
		SetCookie(w, r, CookieName(r), value, auth.SessionLife)
	}
	return err
}

// LogOut is described at LogIn.
func LogOut(w http.ResponseWriter, r *http.Request, db *sqldb.DB) error {
	if cookie := SessionCookie(r); cookie != "" {
		if err := auth.EndSession(r.Context(), db, cookie); err != nil {
			return err
		}
	}
	SetCookie(w, r, CookieName(r), "", 0)
	return nil
}

// Local is where a login leads: a path of this Hub, whatever somebody wrote into
// the link. Browsers take a second slash, or a backslash, for another host.
func Local(next string) string {
	u, err := url.Parse(next)
	if err != nil || u.Scheme != "" || u.Host != "" || u.User != nil || !strings.HasPrefix(next, "/") ||
		strings.HasPrefix(next, "//") || strings.ContainsAny(next, "\\\r\n\t") {
		return "/"
	}
	return next
}

// SetCookie gives a browser a cookie for as long as life, whole seconds; without
// a value it takes the cookie back. Scripts do not see it, and other sites' forms
// do not send it.
func SetCookie(w http.ResponseWriter, r *http.Request, name, value string, life time.Duration) {
	age := int(life / time.Second)
	if value == "" {
		age = -1
	}
	http.SetCookie(w, &http.Cookie{ //nolint:gosec // plain HTTP is for the loopback address alone
		Name: name, Value: value, Path: "/", MaxAge: age, Secure: r.TLS != nil, HttpOnly: true, SameSite: http.SameSiteLaxMode,
	})
}
