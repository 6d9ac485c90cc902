// Package auth knows the Hub's people: accounts, organizations, teams, tokens
// and sessions, what each may do, and the log of what they did.
//
// Who asks travels in the context (With, From). What they may do with a
// repository is a Role, which Access finds in the database for every request:
// nothing is remembered, so a grant that is taken back is gone with the next
// request on every replica.
package auth

import (
	"context"
	"strings"
)

// Role is what somebody may do with a repository. A higher one includes the
// lower ones.
type Role int

// The roles.
const (
	None  Role = iota // for them it does not exist
	Read              // pull
	Write             // push, tag, see what waits for review
	Admin             // delete, settings, grants
)

// String is the role's name.
func (r Role) String() string { return [...]string{"none", "read", "write", "admin"}[r] }

// Scope is what a token allows: a role for repositories that match a pattern.
type Scope struct {
	Repository string `json:"repository"` // a name, or a prefix that ends in /*
	Role       Role   `json:"role"`
}

// covers reports whether the scope speaks of repo.
func (s Scope) covers(repo string) bool {
	if prefix, ok := strings.CutSuffix(s.Repository, "*"); ok {
		return strings.HasPrefix(repo, prefix)
	}
	return s.Repository == repo
}

// Identity is who asks. The zero Identity is somebody who did not log in.
type Identity struct {
	Account  int64  // row; 0: anonymous
	Name     string // of the account, or of the robot
	Admin    bool   // of the whole Hub
	Reviewer bool
	Verified bool    // publishes without review
	Scopes   []Scope // what the token allows; nil: all that the account may
	System   bool    // the server itself, or a Hub without accounts: everything is allowed
	Address  string  // where the request came from, for the log
	Token    string  // public part of the token that it came with; empty: a password or a session
	Epoch    int64   // of the account: what was given out in an earlier one has ended

	whole *Identity // before Asked narrowed it
}

// Anonymous reports whether nobody logged in.
func (id Identity) Anonymous() bool { return id.Account == 0 && !id.System }

// Limit is the most that the token allows for repo.
func (id Identity) Limit(repo string) Role {
	if id.Scopes == nil {
		return Admin
	}
	most := None
	for _, s := range id.Scopes {
		if s.covers(repo) {
			most = max(most, s.Role)
		}
	}
	return most
}

// WithScopes narrows what id may do; it never widens it.
func (id Identity) WithScopes(scopes []Scope) Identity {
	narrowed := make([]Scope, 0, len(scopes)) // not nil
	for _, s := range scopes {
		s.Role = min(s.Role, id.Limit(s.Repository))
		narrowed = append(narrowed, s)
	}
	id.Scopes = narrowed
	return id
}

// Asked is id by a registry token that was asked for scopes: it does no more than
// those. What it is shown of a repository that it reads is not narrowed, for who
// pulls asks to pull alone, whatever else they may.
func (id Identity) Asked(scopes []Scope) Identity {
	narrowed := id.WithScopes(scopes)
	narrowed.whole = &id
	return narrowed
}

// Whole is id without what Asked took.
func (id Identity) Whole() Identity {
	if id.whole == nil {
		return id
	}
	return *id.whole
}

type key struct{}

// With returns a context of a request by id.
func With(ctx context.Context, id Identity) context.Context {
	return context.WithValue(ctx, key{}, id)
}

// From returns who asks; without With that is the zero Identity, who may do the
// least.
func From(ctx context.Context) Identity {
	id, _ := ctx.Value(key{}).(Identity)
	return id
}

// Namespace is the account that a repository's name belongs to: what stands
// before the first slash; ” where there is none.
func Namespace(repo string) string {
	namespace, _, found := strings.Cut(repo, "/")
	if !found {
		return ""
	}
	return namespace
}
