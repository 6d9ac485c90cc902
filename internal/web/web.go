// Package web is the Hub's pages: HTML that the server writes, with one style
// sheet and a script of some lines that nothing depends on.
//
// A page shows what the packages below it give to the caller, whom a session's
// cookie names; it asks no permission itself. What somebody may not see is the
// page of what does not exist. Forms that change something are answered with a
// redirection; those of other sites are refused (net/http.CrossOriginProtection,
// and the cookie's SameSite). Nothing is loaded from elsewhere, and the Content
// Security Policy forbids it.
package web

import (
	"embed"
	"io/fs"
	"log/slog"
	"net/http"

	"strake/internal/auth"
	"strake/internal/catalog"
	"strake/internal/gate"
	"strake/internal/hub"
	"strake/internal/policy"
	"strake/internal/proxy"
	"strake/internal/review"
	"strake/internal/sqldb"
	"strake/internal/webhook"
)

// Options say what the pages show.
type Options struct {
	DB       *sqldb.DB
	Catalog  *catalog.Catalog
	Hub      *hub.Hub
	Reviews  *review.Board // nil: nothing is reviewed
	Policy   *policy.Policy
	Webhooks *webhook.Book
	Proxy    *proxy.Cache
	Mirrors  *proxy.Mirrors
	URL      string       // by which people reach the Hub; empty: as the request says
	SSO      string       // what the button of the OIDC login says; empty: there is none
	Open     bool         // there are no accounts: whoever asks may do everything
	Missing  http.Handler // answers programs, which do not ask for HTML, what no page has; nil: pages do
	Log      *slog.Logger // of errors that people do not see; nil drops them
}

//go:embed static
var static embed.FS

// site is the handler.
type site struct {
	Options
	mux    *http.ServeMux
	assets map[string]asset
}

// NewHandler serves the pages.
func NewHandler(opts Options) (http.Handler, error) {
	if opts.Log == nil {
		opts.Log = slog.New(slog.DiscardHandler)
	}
	files, err := fs.Sub(static, "static")
	if err != nil {
		return nil, err
	}
	s := &site{Options: opts, mux: http.NewServeMux()}
	if s.assets, err = readAssets(files); err != nil {
		return nil, err
	}
	s.mux.HandleFunc("GET /static/{name}", s.asset)
	for pattern, serve := range s.routes() {
		s.mux.Handle(pattern, s.handler(serve))
	}
	return secure(http.NewCrossOriginProtection().Handler(s.mux)), nil
}

// routes are the pages. A name in braces is of an account or of a part of a form.
func (s *site) routes() map[string]func(*call) error {
	r := map[string]func(*call) error{
		"GET /{$}":               showFront,
		"GET /explore":           showExplore,
		"GET /r/{path...}":       showRepository,
		"POST /r/{path...}":      changeRepository,
		"GET /n/{name}":          showNamespace,
		"GET /login":             showLogin,
		"POST /login":            logIn,
		"POST /logout":           logOut,
		"GET /account":           showAccount,
		"POST /account":          changeAccount,
		"POST /account/password": changePassword,
		"GET /account/tokens":    showTokens,
		"POST /account/tokens":   changeTokens,
		"GET /account/sessions":  showSessions,
		"POST /account/sessions": changeSessions,
		"GET /account/stars":     showStars,
		"GET /orgs/new":          showNewOrganization,
		"POST /orgs/new":         addOrganization,
		"GET /orgs/{name}":       showOrganization,
		"POST /orgs/{name}":      changeOrganization,
		"GET /audit":             showAudit,
		"GET /review":            showReviews,
		"GET /review/{id}":       showReview,
		"POST /review/{id}":      changeReview,
		"GET /admin":             showAdmin,
		"GET /admin/users":       showUsers,
		"POST /admin/users":      changeUsers,

		"GET /admin/registries":       showRegistries,
		"POST /admin/registries":      changeRegistries,
		"GET /admin/storage":          showStorage,
		"POST /admin/storage":         changeStorage,
		"GET /admin/vulnerabilities":  showData,
		"POST /admin/vulnerabilities": changeData,

		"GET /": showMissing,
	}
	for path, find := range map[string]func(*call) (place, error){"/n/{name}": namespacePlace, "/admin": hubPlace} {
		for page, of := range placePages {
			r["GET "+path+page], r["POST "+path+page] = at(find, of.show), at(find, of.change)
		}
	}
	return r
}

// identify returns who a request comes from.
func (s *site) identify(r *http.Request) (auth.Identity, error) {
	if s.Open {
		return auth.Identity{System: true, Address: r.RemoteAddr}, nil
	}
	return gate.Session(r, s.DB)
}
