package hubapi

import (
	"net/http"

	"strake/internal/auth"
)

// Who is who asks.
type Who struct {
	Name     string       `json:"name"` // '' is nobody
	Admin    bool         `json:"admin"`
	Reviewer bool         `json:"reviewer"`
	Verified bool         `json:"verified"`
	Scopes   []auth.Scope `json:"scopes,omitempty"` // of the token, where it allows less than the account may
}

// Passwords change one.
type Passwords struct {
	Old string `json:"old,omitempty"` // of whose own it is
	New string `json:"new"`
}

// MadeToken is a token with its secret, which is told this once.
type MadeToken struct {
	auth.Token
	Secret string `json:"secret"`
}

func accountRoutes() []Route {
	return []Route{
		{
			Method: "GET", Pattern: "/whoami", Need: Anyone, Summary: "Who asks", Answer: Who{},
			Do: func(_ API, c *Call) (any, error) {
				id := auth.From(c.Context())
				return Who{id.Name, id.IsAdmin(), id.IsReviewer(), id.Verified, id.Scopes}, nil
			},
		},
		{
			Method: "GET", Pattern: "/accounts", Need: User, Query: paging, Answer: Page[auth.Account]{},
			Summary: "List accounts by name: all for administrators, else one's own and one's organizations", Do: listAccounts,
		},
		{
			Method: "POST", Pattern: "/accounts", Need: SiteAdmin, Summary: "Make a user", Body: auth.NewUser{}, Answer: auth.Account{}, Status: http.StatusCreated,
			Do: func(a API, c *Call) (any, error) {
				var u auth.NewUser
				if err := c.Decode(&u); err != nil {
					return nil, err
				}
				if err := auth.AddUser(c.Context(), a.DB, u); err != nil {
					return nil, err
				}
				return auth.GetAccount(c.Context(), a.DB, u.Name)
			},
		},
		{
			Method: "GET", Pattern: "/accounts/{account}", Need: Related, Summary: "Describe an account", Answer: auth.Account{},
			Do: func(a API, c *Call) (any, error) { return auth.GetAccount(c.Context(), a.DB, c.account()) },
		},
		{
			Method: "PATCH", Pattern: "/accounts/{account}", Need: Owner, Body: auth.AccountChange{}, Answer: auth.Account{},
			Summary: "Change an account; admin, reviewer, verified and disabled are for administrators", Do: changeAccount,
		},
		{
			Method: "DELETE", Pattern: "/accounts/{account}", Need: Owner, Summary: "Delete an account whose namespace holds no repositories",
			Do: func(a API, c *Call) (any, error) { return nil, auth.DeleteAccount(c.Context(), a.DB, c.account()) },
		},
		{
			Method: "PUT", Pattern: "/accounts/{account}/password", Need: Owner, Summary: "Change a password, which ends all logins", Body: Passwords{},
			Do: func(a API, c *Call) (any, error) {
				var p Passwords
				if err := c.Decode(&p); err != nil {
					return nil, err
				}
				return nil, auth.SetPassword(c.Context(), a.DB, c.account(), p.Old, p.New)
			},
		},
		{
			Method: "GET", Pattern: "/accounts/{account}/tokens", Need: Owner, Summary: "List tokens", Answer: Page[auth.Token]{},
			Do: func(a API, c *Call) (any, error) { return all(auth.Tokens(c.Context(), a.DB, c.account())) },
		},
		{
			Method: "POST", Pattern: "/accounts/{account}/tokens", Need: Owner, Summary: "Make a personal token or a robot", Body: auth.NewToken{},
			Answer: MadeToken{}, Status: http.StatusCreated, Do: addToken,
		},
		{
			Method: "DELETE", Pattern: "/accounts/{account}/tokens/{token}", Need: Owner, Summary: "End a token",
			Do: func(a API, c *Call) (any, error) {
				return nil, auth.RemoveToken(c.Context(), a.DB, c.account(), c.PathValue("token"))
			},
		},
		{
			Method: "GET", Pattern: "/audit", Need: SiteAdmin, Summary: "Read the audit log, the newest first", Answer: Page[auth.Entry]{},
			Query: append([]Param{{"actor", "Who did it"}, {"action", "What was done, or a prefix that ends in a dot"}}, paging...),
			Do:    func(a API, c *Call) (any, error) { return audit(a, c, "") },
		},
	}
}

func listAccounts(a API, c *Call) (any, error) {
	limit, err := c.Limit()
	if err != nil {
		return nil, err
	}
	items, err := auth.Accounts(c.Context(), a.DB, c.URL.Query().Get("after"), limit+1)
	if err != nil || len(items) <= limit {
		return Page[auth.Account]{Items: items}, err
	}
	return Page[auth.Account]{Items: items[:limit], Next: items[limit-1].Name}, nil
}

func changeAccount(a API, c *Call) (any, error) {
	var change auth.AccountChange
	if err := c.Decode(&change); err != nil {
		return nil, err
	}
	if err := auth.ChangeAccount(c.Context(), a.DB, c.account(), change); err != nil {
		return nil, err
	}
	return auth.GetAccount(c.Context(), a.DB, c.account())
}

func addToken(a API, c *Call) (any, error) {
	var t auth.NewToken
	if err := c.Decode(&t); err != nil {
		return nil, err
	}
	secret, made, err := auth.AddToken(c.Context(), a.DB, c.account(), t)
	return MadeToken{made, secret}, err
}

// audit reads a part of the audit log.
func audit(a API, c *Call, repo string) (any, error) {
	limit, err := c.Limit()
	if err != nil {
		return nil, err
	}
	before, err := c.After()
	if err != nil {
		return nil, err
	}
	query := c.URL.Query()
	items, err := auth.AuditLog(c.Context(), a.DB, auth.AuditFilter{
		Repository: repo, Actor: query.Get("actor"), Action: query.Get("action"), Before: before, Limit: limit + 1,
	})
	if err != nil || len(items) <= limit {
		return Page[auth.Entry]{Items: items}, err
	}
	return Page[auth.Entry]{Items: items[:limit], Next: number(items[limit-1].ID)}, nil
}
