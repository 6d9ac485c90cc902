package web

import (
	"slices"
	"strings"

	"github.com/containerd/errdefs"

	"strake/internal/auth"
)

func showNewOrganization(c *call) error {
	if c.id.Anonymous() {
		return errdefs.ErrUnauthenticated
	}
	return c.render("New organization", newOrganizationPage())
}

func addOrganization(c *call) error {
	name := strings.TrimSpace(c.r.PostFormValue("name"))
	if err := auth.AddOrganization(c.ctx(), c.DB, name, c.r.PostFormValue("full_name")); err != nil {
		return c.refused(err, showNewOrganization)
	}
	return c.done("/orgs/"+name, "added")
}

type organizationView struct {
	Name, FullName string
	User           string
	Owner          bool // the caller is one
	Members        []auth.Member
	Teams          []auth.Team
}

func showOrganization(c *call) error {
	name := c.r.PathValue("name")
	if c.r.FormValue("tab") == "robots" {
		return showRobots(c, name)
	}
	v := organizationView{Name: name, User: c.id.Name}
	a, err := auth.GetAccount(c.ctx(), c.DB, name)
	if err != nil {
		return err
	}
	v.FullName = a.FullName
	if v.Members, err = auth.Members(c.ctx(), c.DB, name); err != nil {
		return err
	}
	if v.Teams, err = auth.Teams(c.ctx(), c.DB, name); err != nil {
		return err
	}
	v.Owner = c.id.IsAdmin() || slices.Contains(v.Members, auth.Member{Name: c.id.Name, Owner: true})
	return c.render(name, organizationPage(v))
}

// robotsOf is the page of an organization's robots.
func robotsOf(name string) tokensView {
	return tokensView{Account: name, Action: "/orgs/" + name + "?tab=robots", Organization: true}
}

func showRobots(c *call, name string) error { return renderTokens(c, robotsOf(name)) }

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
		return changeTokensOf(c, robotsOf(name))
	}
	f := func(key string) string { return strings.TrimSpace(c.r.PostFormValue(key)) }
	var err error
	switch f("do") {
	case "set-member":
		err = auth.SetMember(c.ctx(), c.DB, name, f("name"), f("owner") != "")
	case "remove-member":
		if err = auth.RemoveMember(c.ctx(), c.DB, name, f("name")); err == nil && f("name") == c.id.Name {
			return c.done("/account", "removed")
		}
	case "add-team":
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
		return c.refused(err, showOrganization)
	}
	return c.done("/orgs/"+name, "saved")
}
