package web

import (
	"strings"

	"github.com/containerd/errdefs"

	"strake/internal/auth"
)

func showNewOrganization(c *call) error {
	if c.id.Anonymous() {
		return errdefs.ErrUnauthenticated
	}
	return c.render("New organization", newOrganizationPage(c.form))
}

func addOrganization(c *call) error {
	name := strings.TrimSpace(c.r.PostFormValue("name"))
	if err := auth.AddOrganization(c.ctx(), c.DB, name, c.r.PostFormValue("full_name")); err != nil {
		return c.refused(err, nil, showNewOrganization)
	}
	return c.done("/orgs/"+name, "added")
}

type organizationView struct {
	namespace
	Form    form
	User    string
	Members []auth.Member
	Teams   []auth.Team
}

func showOrganization(c *call) error {
	name := c.r.PathValue("name")
	if c.r.FormValue("tab") == "robots" {
		return showRobots(c, name)
	}
	n, err := c.organization(name)
	if err != nil {
		return err
	}
	v := organizationView{namespace: n, Form: c.form, User: c.id.Name}
	if v.Members, err = auth.Members(c.ctx(), c.DB, name); err != nil {
		return err
	}
	if v.Teams, err = auth.Teams(c.ctx(), c.DB, name); err != nil {
		return err
	}
	return c.render(name, organizationPage(v))
}

// organization is the namespace of an organization, for its members.
func (c *call) organization(name string) (namespace, error) {
	n, err := c.namespace(name)
	switch {
	case err != nil:
		return n, err
	case c.id.Anonymous():
		return n, errdefs.ErrUnauthenticated
	case !n.Known || !n.Organization:
		return n, errdefs.ErrNotFound
	}
	return n, nil
}

// robotsOf is the page of an organization's robots.
func robotsOf(n namespace) tokensView {
	return tokensView{namespace: n, Account: n.Name, Action: "/orgs/" + n.Name + "?tab=robots"}
}

func showRobots(c *call, name string) error {
	n, err := c.organization(name)
	if err != nil {
		return err
	}
	return renderTokens(c, robotsOf(n))
}

func memberText(m auth.Member) string {
	if m.Owner {
		return "owner"
	}
	return "member"
}

// changeOrganization does what a form of the organization's pages says.
func changeOrganization(c *call) error {
	name := c.r.PathValue("name")
	if c.r.URL.Query().Get("tab") == "robots" {
		n, err := c.organization(name)
		if err != nil {
			return err
		}
		return changeTokensOf(c, robotsOf(n))
	}
	f := func(key string) string { return strings.TrimSpace(c.r.PostFormValue(key)) }
	var fields ids
	var err error
	switch f("do") {
	case "set-member":
		fields = ids{"": "member", "name": "member"}
		err = auth.SetMember(c.ctx(), c.DB, name, f("name"), f("owner") != "")
	case "remove-member":
		if err = auth.RemoveMember(c.ctx(), c.DB, name, f("name")); err == nil && f("name") == c.id.Name {
			return c.done("/account", "removed")
		}
	case "add-team":
		fields = ids{"name": "team"}
		err = auth.AddTeam(c.ctx(), c.DB, name, f("team"))
	case "remove-team":
		err = auth.RemoveTeam(c.ctx(), c.DB, name, f("team"))
	case "add-to-team":
		err = auth.AddTeamMember(c.ctx(), c.DB, name, f("team"), f("name"))
	case "remove-from-team":
		err = auth.RemoveTeamMember(c.ctx(), c.DB, name, f("team"), f("name"))
	default:
		err = errdefs.ErrInvalidArgument
	}
	if err != nil {
		return c.refused(err, fields, showOrganization)
	}
	return c.done("/orgs/"+name, "saved")
}
