package web

import (
	"database/sql"
	"net/url"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"

	"strake/internal/auth"
)

// number is a figure of the Hub.
type number struct{ What, Value string }

// needAdmin fails unless the caller administers the Hub; for others the pages do
// not exist.
func (c *call) needAdmin() error {
	switch {
	case c.id.IsAdmin():
		return nil
	case c.id.Anonymous():
		return errdefs.ErrUnauthenticated
	}
	return errdefs.ErrNotFound
}

func showAdmin(c *call) error {
	if err := c.needAdmin(); err != nil {
		return err
	}
	var repositories, public, manifests, tags, users, organizations, size, stale, uploads int64
	err := c.DB.View(c.ctx(), func(tx *sql.Tx) error {
		return tx.QueryRowContext(c.ctx(), `SELECT
			(SELECT count(*) FROM repositories), (SELECT count(*) FROM repositories WHERE public = 1),
			(SELECT count(*) FROM manifests), (SELECT count(*) FROM tags),
			(SELECT count(*) FROM accounts WHERE organization = 0), (SELECT count(*) FROM accounts WHERE organization = 1),
			(SELECT CAST(COALESCE(sum(size), 0) AS BIGINT) FROM (SELECT DISTINCT digest, size FROM blobs) AS b),
			(SELECT count(*) FROM stale), (SELECT count(*) FROM uploads)`).
			Scan(&repositories, &public, &manifests, &tags, &users, &organizations, &size, &stale, &uploads)
	})
	if err != nil {
		return err
	}
	return c.render("Administration", adminPage([]number{
		{"Repositories", count(repositories) + " (" + count(public) + " public)"},
		{"Images and indexes", count(manifests)},
		{"Tags", count(tags)},
		{"Users", count(users)},
		{"Organizations", count(organizations)},
		{"Stored, each blob once", sizeText(size)},
		{"Uploads under way", count(uploads)},
		{"Waiting for the search index", count(stale)},
	}))
}

func sizeText(n int64) string { return size(n) }

type usersView struct {
	Form           form
	Accounts       []auth.Account
	Pages          pages
	Made, Password string // an account that was just made
}

func showUsers(c *call) error { return renderUsers(c, usersView{}) }

func renderUsers(c *call, v usersView) (err error) {
	if err := c.needAdmin(); err != nil {
		return err
	}
	const limit = 50
	if v.Accounts, err = auth.Accounts(c.ctx(), c.DB, c.r.FormValue("after"), limit+1); err != nil {
		return err
	}
	if len(v.Accounts) > limit {
		v.Accounts = v.Accounts[:limit]
		v.Pages.Next = "/admin/users?after=" + escape(v.Accounts[limit-1].Name)
	}
	v.Form, c.secret = c.form.of("add"), v.Password != ""
	return c.render("People", usersPage(v))
}

// accountTexts is what an account is.
func accountTexts(a auth.Account) (list []string) {
	for _, t := range []struct {
		is   bool
		text string
	}{{a.Organization, "organization"}, {a.Admin, "administrator"}, {a.Reviewer, "reviewer"}, {a.Verified, "verified"}, {a.Disabled, "disabled"}} {
		if t.is {
			list = append(list, t.text)
		}
	}
	return list
}

// choice is a button, and what is said before it does something grave.
type choice struct{ Do, Text, Sure string }

// userChoices is what may be done with an account.
func userChoices(a auth.Account) []choice {
	either := func(is bool, name string, yes, no choice) choice {
		if is {
			no.Do = "-" + name
			return no
		}
		yes.Do = "+" + name
		return yes
	}
	return []choice{
		either(a.Reviewer, "reviewer", choice{Text: "Make a reviewer"}, choice{Text: "No reviewer any more"}),
		either(a.Verified, "verified", choice{Text: "Mark as verified"}, choice{Text: "Not verified any more"}),
		either(a.Admin, "admin", choice{Text: "Make an administrator", Sure: a.Name + " may then see, change and delete everything on this Hub."}, choice{Text: "No administrator any more"}),
		{"password", "New password", "The old password of " + a.Name + " ends, and whatever is logged in with it is logged out. You are shown a new one."},
		either(a.Disabled, "disabled", choice{
			Text: "Disable",
			Sure: a.Name + " is logged out everywhere, and the passwords, tokens and robots of the account are refused until you enable it again. Nothing is deleted.",
		}, choice{Text: "Enable"}),
	}
}

// changeUsers does what a form of the administration says.
func changeUsers(c *call) error {
	if err := c.needAdmin(); err != nil {
		return err
	}
	f := func(key string) string { return strings.TrimSpace(c.r.PostFormValue(key)) }
	name, do := f("name"), f("do")
	var v usersView
	var err error
	switch {
	case do == "add":
		v.Made, v.Password = name, auth.NewPassword()
		err = auth.AddUser(c.ctx(), c.DB, auth.NewUser{Name: name, FullName: f("full_name"), Email: f("email"), Password: v.Password})
	case do == "password":
		v.Made, v.Password = name, auth.NewPassword()
		err = auth.SetPassword(c.ctx(), c.DB, name, "", v.Password)
	case len(do) > 1:
		change, on := auth.AccountChange{}, do[0] == '+'
		switch do[1:] {
		case "reviewer":
			change.Reviewer = &on
		case "verified":
			change.Verified = &on
		case "admin":
			change.Admin = &on
		case "disabled":
			change.Disabled = &on
		}
		err = auth.ChangeAccount(c.ctx(), c.DB, name, change)
	default:
		err = errdefs.ErrInvalidArgument
	}
	if err != nil {
		return c.refused(err, nil, showUsers)
	}
	if v.Password != "" {
		return renderUsers(c, v)
	}
	return c.done("/admin/users", "saved")
}

type auditView struct {
	Admin   bool
	Ask     bool // for a repository
	Filter  auth.AuditFilter
	Entries []auth.Entry
	Pages   pages
}

func actorText(name string) string {
	if name == "" {
		return "the server"
	}
	return name
}

func showAudit(c *call) error {
	if c.id.Anonymous() {
		return errdefs.ErrUnauthenticated
	}
	f := func(key string) string { return strings.TrimSpace(c.r.FormValue(key)) }
	const limit = 50
	v := auditView{Admin: c.id.IsAdmin(), Filter: auth.AuditFilter{Repository: f("repository"), Actor: f("actor"), Action: f("action"), Limit: limit + 1}}
	if before, err := strconv.ParseInt(f("before"), 10, 64); err == nil && before > 0 {
		v.Filter.Before = before
	}
	if v.Ask = !v.Admin && v.Filter.Repository == ""; !v.Ask {
		var err error
		if v.Entries, err = auth.AuditLog(c.ctx(), c.DB, v.Filter); err != nil {
			return err
		}
	}
	if len(v.Entries) > limit {
		v.Entries = v.Entries[:limit]
		q := url.Values{"before": {strconv.FormatInt(v.Entries[limit-1].ID, 10)}}
		for key, value := range map[string]string{"repository": v.Filter.Repository, "actor": v.Filter.Actor, "action": v.Filter.Action} {
			if value != "" {
				q.Set(key, value)
			}
		}
		v.Pages.Next = "/audit?" + q.Encode()
	}
	return c.render("Activity", auditPage(v))
}
