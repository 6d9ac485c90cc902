package hubapi

import (
	"net/http"
	"strconv"

	"strake/internal/auth"
)

// NewOrganization is an organization to be made.
type NewOrganization struct {
	Name     string `json:"name"`
	FullName string `json:"full_name,omitempty"`
}

// NewTeam is a team to be made.
type NewTeam struct {
	Name string `json:"name"`
}

// Membership is what a user is in an organization.
type Membership struct {
	Owner bool `json:"owner"`
}

func organizationRoutes() []Route {
	const org = "/organizations/{organization}"
	return []Route{
		{
			Method: "POST", Pattern: "/organizations", Need: User, Summary: "Make an organization, which the caller owns", Body: NewOrganization{},
			Answer: auth.Account{}, Status: http.StatusCreated, Do: addOrganization,
		},
		{
			Method: "GET", Pattern: org + "/members", Need: Related, Summary: "List members", Answer: Page[auth.Member]{},
			Do: func(a API, c *Call) (any, error) { return all(auth.Members(c.Context(), a.DB, c.account())) },
		},
		{
			Method: "PUT", Pattern: org + "/members/{member}", Need: Owner, Summary: "Make a user a member or an owner", Body: Membership{},
			Do: func(a API, c *Call) (any, error) {
				var m Membership
				if err := c.Decode(&m); err != nil {
					return nil, err
				}
				return nil, auth.SetMember(c.Context(), a.DB, c.account(), c.PathValue("member"), m.Owner)
			},
		},
		{
			Method: "DELETE", Pattern: org + "/members/{member}", Need: Related, Summary: "End a membership: an owner, or the member",
			Do: func(a API, c *Call) (any, error) {
				return nil, auth.RemoveMember(c.Context(), a.DB, c.account(), c.PathValue("member"))
			},
		},
		{
			Method: "GET", Pattern: org + "/teams", Need: Related, Summary: "List teams and their members", Answer: Page[auth.Team]{},
			Do: func(a API, c *Call) (any, error) { return all(auth.Teams(c.Context(), a.DB, c.account())) },
		},
		{
			Method: "POST", Pattern: org + "/teams", Need: Owner, Summary: "Make a team", Body: NewTeam{}, Answer: auth.Team{}, Status: http.StatusCreated,
			Do: func(a API, c *Call) (any, error) {
				var t NewTeam
				if err := c.Decode(&t); err != nil {
					return nil, err
				}
				return auth.Team{Name: t.Name, Members: []string{}}, auth.AddTeam(c.Context(), a.DB, c.account(), t.Name)
			},
		},
		{
			Method: "DELETE", Pattern: org + "/teams/{team}", Need: Owner, Summary: "Remove a team and what was granted to it",
			Do: func(a API, c *Call) (any, error) {
				return nil, auth.RemoveTeam(c.Context(), a.DB, c.account(), c.PathValue("team"))
			},
		},
		{
			Method: "PUT", Pattern: org + "/teams/{team}/members/{member}", Need: Owner, Summary: "Add a member of the organization to a team",
			Do: func(a API, c *Call) (any, error) {
				return nil, auth.AddTeamMember(c.Context(), a.DB, c.account(), c.PathValue("team"), c.PathValue("member"))
			},
		},
		{
			Method: "DELETE", Pattern: org + "/teams/{team}/members/{member}", Need: Owner, Summary: "Take a member out of a team",
			Do: func(a API, c *Call) (any, error) {
				return nil, auth.RemoveTeamMember(c.Context(), a.DB, c.account(), c.PathValue("team"), c.PathValue("member"))
			},
		},
	}
}

func addOrganization(a API, c *Call) (any, error) {
	var o NewOrganization
	if err := c.Decode(&o); err != nil {
		return nil, err
	}
	if err := auth.AddOrganization(c.Context(), a.DB, o.Name, o.FullName); err != nil {
		return nil, err
	}
	return auth.GetAccount(c.Context(), a.DB, o.Name)
}

func number(n int64) string { return strconv.FormatInt(n, 10) }
