package web

import (
	"cmp"
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/errdefs"

	"strake/internal/auth"
	"strake/internal/catalog"
	"strake/internal/fault"
	"strake/internal/gate"
)

type loginView struct{ Name, Next, SSO string }

func showLogin(c *call) error {
	if c.id.Account != 0 {
		return c.done(gate.Local(c.r.FormValue("next")), "")
	}
	return c.render("Log in", loginPage(loginView{c.r.PostFormValue("name"), gate.Local(c.r.FormValue("next")), c.SSO}))
}

func logIn(c *call) error {
	name := strings.TrimSpace(c.r.PostFormValue("name"))
	who, err := auth.Authenticate(c.ctx(), c.DB, name, c.r.PostFormValue("password"))
	if err == nil {
		if err = gate.LogIn(c.w, c.r, c.DB, who); err == nil {
			return c.done(gate.Local(c.r.PostFormValue("next")), "")
		}
	}
	switch status := kindOf(err); status {
	case http.StatusUnauthorized, http.StatusForbidden, http.StatusTooManyRequests:
		c.problem, c.status = reason(err), status
		return showLogin(c)
	}
	return err
}

func logOut(c *call) error {
	if err := gate.LogOut(c.w, c.r, c.DB); err != nil {
		return err
	}
	return c.done("/", "out")
}

// showAccount shows one's own account.
func showAccount(c *call) error {
	a, err := auth.GetAccount(c.ctx(), c.DB, c.id.Name)
	if err != nil {
		return err
	}
	orgs, err := c.organizations()
	if err != nil {
		return err
	}
	return c.render("Settings", accountPage(a, orgs, c.form))
}

// maxOrganizations bounds the list of one's organizations.
const maxOrganizations = 500

func (c *call) organizations() ([]auth.Account, error) {
	list, err := auth.Accounts(c.ctx(), c.DB, "", maxOrganizations)
	return slices.DeleteFunc(list, func(a auth.Account) bool { return !a.Organization }), err
}

func changeAccount(c *call) error {
	email, full := c.r.PostFormValue("email"), c.r.PostFormValue("full_name")
	if err := auth.ChangeAccount(c.ctx(), c.DB, c.id.Name, auth.AccountChange{Email: &email, FullName: &full}); err != nil {
		return c.refused(err, nil, showAccount)
	}
	return c.done("/account", "saved")
}

// changePassword ends all logins; the browser that asked for it gets a new one.
func changePassword(c *call) error {
	f := c.r.PostFormValue
	err := auth.SetPassword(c.ctx(), c.DB, c.id.Name, f("old"), f("new"))
	if kindOf(err) == http.StatusUnauthorized && !c.id.Anonymous() {
		return c.wrong(http.StatusForbidden, "old", "The old password is not right.", showAccount)
	}
	if err != nil {
		return c.refused(err, nil, showAccount)
	}
	who, err := auth.Authenticate(c.ctx(), c.DB, c.id.Name, f("new"))
	if err != nil {
		return err
	}
	if err := gate.LogIn(c.w, c.r, c.DB, who); err != nil {
		return err
	}
	return c.done("/account", "password")
}

type tokensView struct {
	namespace             // of an organization's robots
	Account, Host, Action string
	Form                  form
	Tokens                []auth.Token
	Secret                string // of the token that was just made
	Made                  auth.Token
}

func showTokens(c *call) error {
	return renderTokens(c, tokensView{Account: c.id.Name, Action: "/account/tokens"})
}

func renderTokens(c *call, v tokensView) (err error) {
	if v.Tokens, err = auth.Tokens(c.ctx(), c.DB, v.Account); err != nil {
		return err
	}
	v.Host, v.Form = c.host(), c.form
	c.secret = v.Secret != ""
	return c.render("Tokens of "+v.Account, tokensPage(v))
}

func changeTokens(c *call) error {
	return changeTokensOf(c, tokensView{Account: c.id.Name, Action: "/account/tokens"})
}

// changeTokensOf makes a token, and shows its secret, or removes one.
func changeTokensOf(c *call, v tokensView) error {
	f, again := c.r.PostFormValue, func(c *call) error { return renderTokens(c, v) }
	if id := f("remove"); id != "" {
		if err := auth.RemoveToken(c.ctx(), c.DB, v.Account, id); err != nil {
			return c.refused(err, nil, again)
		}
		return c.done(v.Action, "removed")
	}
	t, err := newToken(f)
	if err == nil {
		t.Robot = v.Organization
		v.Secret, v.Made, err = auth.AddToken(c.ctx(), c.DB, v.Account, t)
	}
	if err != nil {
		return c.refused(err, ids{"scopes": "scope", "expires": "days"}, again)
	}
	return renderTokens(c, v)
}

// scopeHelp explains what a token may be limited to.
func (v tokensView) scopeHelp() string {
	text := "A name, or a prefix such as " + v.Account + "/*."
	if !v.Organization {
		text += " Empty: all that you may."
	}
	return text
}

// newToken is what a form asks for.
func newToken(f func(string) string) (t auth.NewToken, err error) {
	t.Name = strings.TrimSpace(f("name"))
	if scope := strings.TrimSpace(f("scope")); scope != "" {
		role, err := auth.ParseRole(f("role"))
		if err != nil {
			return t, err
		}
		t.Scopes = []auth.Scope{{Repository: scope, Role: role}}
	}
	days, err := strconv.Atoi(cmp.Or(f("days"), "90"))
	if err != nil || days < 0 || days > 3650 {
		return t, fault.In("expires", fmt.Errorf("a token ends after 1 to 3650 days, or never: %w", errdefs.ErrInvalidArgument))
	}
	if days > 0 {
		t.Expires = time.Now().AddDate(0, 0, days)
	}
	return t, nil
}

func momentOf(t *time.Time) moment {
	if t == nil {
		return moment{}
	}
	return moment{*t}
}

var plainWord = regexp.MustCompile(`^[A-Za-z0-9_./+@:-]+$`)

// shellWord is a word as a shell takes it.
func shellWord(s string) string {
	if plainWord.MatchString(s) {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

func showStars(c *call) error {
	if c.id.Account == 0 {
		return errdefs.ErrUnauthenticated
	}
	found, err := c.Catalog.Search(c.ctx(), catalog.Query{Starred: true, Sort: "name", Limit: 100})
	if err != nil {
		return err
	}
	return c.render("Stars", starsPage(c.id.Name, found.Repositories))
}

type namespaceView struct {
	namespace
	Host   string
	Result catalog.Result
	Pages  pages
}

// showNamespace shows the repositories of an account. Nobody learns by it whether an
// account exists that has none for them to see; to itself and to members it does.
func showNamespace(c *call) error {
	n, err := c.namespace(c.r.PathValue("name"))
	if err != nil {
		return err
	}
	v := namespaceView{namespace: n, Host: c.host()}
	offset := c.offset()
	if v.Result, err = c.Catalog.Search(c.ctx(), catalog.Query{Namespace: v.Name, Sort: "name", Limit: perPage, Offset: offset}); err != nil {
		return err
	}
	if v.Result.Total == 0 && !v.Known && !v.Owner {
		return errdefs.ErrNotFound
	}
	v.Pages = c.pagesOf(offset, perPage, offset+perPage < v.Result.Total)
	return c.render(v.Name, namespacePage(v))
}
