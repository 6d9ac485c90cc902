package web

import (
	"database/sql"
	"net/http"
	"strings"

	"github.com/a-h/templ"
	"github.com/containerd/errdefs"

	"strake/internal/auth"
	"strake/internal/registry"
)

// place is where rules and webhooks are made: a repository, a namespace or all of
// the Hub.
type place struct {
	Scope string    // as package policy has it
	Path  string    // of its first page
	Role  auth.Role // of the caller, Write at least
	head  func(tab string) templ.Component
}

// admin tells whether the caller may change something here.
func (p place) admin() bool { return p.Role == auth.Admin }

// of is what the place is called in a sentence.
func (p place) of() string {
	switch name, whole := strings.CutSuffix(p.Scope, "/*"); {
	case p.Scope == "*":
		return "all repositories"
	case whole:
		return "all repositories of " + name
	}
	return "this repository"
}

// isRepository tells whether the place is one.
func (p place) isRepository() bool { return !strings.HasSuffix(p.Scope, "*") }

// page is the path of a page of the place.
func (p place) page(parts ...string) string {
	if p.isRepository() {
		return repositoryPath(p.Scope, parts...)
	}
	return p.Path + "/" + strings.Join(parts, "/")
}

// placePage is a page that every place has.
type placePage struct {
	show, change func(*call, place) error
}

// placePages are those of namespaces and of the Hub, by their paths.
var placePages = map[string]placePage{
	"/rules":         {showRules, changeRules},
	"/webhooks":      {showWebhooks, addWebhook},
	"/webhooks/{id}": {showWebhook, changeWebhook},
}

// at is a page of the place that find finds.
func at(find func(*call) (place, error), serve func(*call, place) error) func(*call) error {
	return func(c *call) error {
		p, err := find(c)
		if err != nil {
			return err
		}
		return serve(c, p)
	}
}

// repositoryPlace is a repository for who may do as much as role there; for
// others the page does not exist.
func (c *call) repositoryPlace(repo, tab string, role auth.Role) (place, error) {
	v, err := c.repositoryView(repo, tab)
	if err != nil {
		return place{}, err
	}
	if v.Role < role {
		return place{}, errdefs.ErrNotFound
	}
	return place{Scope: repo, Path: repositoryPath(repo), Role: v.Role, head: func(string) templ.Component { return repositoryHead(v) }}, nil
}

// namespacePlace is the namespace that the path names, for its owners.
func namespacePlace(c *call) (place, error) {
	v, err := c.namespace(c.r.PathValue("name"))
	switch {
	case err != nil:
		return place{}, err
	case c.id.Anonymous():
		return place{}, errdefs.ErrUnauthenticated
	case !v.Owner:
		return place{}, errdefs.ErrNotFound
	}
	return place{Scope: v.Name + "/*", Path: "/n/" + v.Name, Role: auth.Admin, head: func(tab string) templ.Component { return namespaceHead(v, tab) }}, nil
}

// hubPlace is all of the Hub, for administrators.
func hubPlace(c *call) (place, error) {
	return place{Scope: "*", Path: "/admin", Role: auth.Admin, head: adminHead}, c.needAdmin()
}

// namespace is what the pages of an account have in common.
type namespace struct {
	Name, FullName string
	Known          bool // the caller sees the account
	Organization   bool // it is one
	Owner          bool // the caller owns it, or administers the Hub
}

// namespace finds out what the caller is to a namespace. Nobody learns by it
// whether an account exists that they may not see.
func (c *call) namespace(name string) (namespace, error) {
	n := namespace{Name: name}
	if registry.CheckName(name) != nil {
		return n, errdefs.ErrNotFound
	}
	err := c.DB.View(c.ctx(), func(tx *sql.Tx) error {
		role, err := auth.RoleOf(c.ctx(), tx, c.id, name+"/*")
		if err != nil {
			return err
		}
		var used int
		err = tx.QueryRowContext(c.ctx(), `SELECT (SELECT count(*) FROM accounts WHERE name = $1) + (SELECT count(*) FROM proxies WHERE namespace = $1)
			+ (SELECT count(*) FROM (SELECT 1 FROM repositories WHERE namespace = $1 LIMIT 1) AS r)`, name).Scan(&used)
		n.Owner = role == auth.Admin && used > 0
		return err
	})
	if err != nil {
		return n, err
	}
	a, err := auth.GetAccount(c.ctx(), c.DB, name)
	switch kindOf(err) {
	case 0:
		n.Known, n.FullName, n.Organization = true, a.FullName, a.Organization
	case http.StatusNotFound, http.StatusUnauthorized:
		err = nil
	}
	return n, err
}
