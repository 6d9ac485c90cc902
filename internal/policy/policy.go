// Package policy holds the Hub's images to the rules of their owners: tags that
// never change, tags that go when they are old, and how much a namespace holds.
//
// A rule has a scope: a repository ("team/app"), all repositories of a namespace
// ("team/*") or all of the Hub ("*"). Who administers the scope makes its rules.
// A pattern of tags is a glob, in which * is any text and ? any character, or a
// regular expression between slashes ("/v[0-9]+/") that has to match all of it.
package policy

import (
	"context"
	"database/sql"
	"fmt"
	"regexp"
	"strings"
	"time"

	"github.com/containerd/errdefs"

	"strake/internal/auth"
	"strake/internal/fault"
	"strake/internal/hub"
	"strake/internal/registry"
	"strake/internal/sqldb"
)

// Policy keeps the rules in the Hub's database. It is safe for concurrent use.
type Policy struct {
	db  *sqldb.DB
	now func() time.Time
}

// New returns the policy of a Hub.
func New(db *sqldb.DB) *Policy { return &Policy{db: db, now: time.Now} }

// Hook is the hub.Hook that refuses what the rules forbid, with DENIED.
func (p *Policy) Hook(ctx context.Context, tx *sql.Tx, c hub.Change) error {
	switch c.Kind {
	case hub.TagSet, hub.TagDeleted, hub.ManifestDeleted, hub.BlobDeleted:
		return checkImmutable(ctx, tx, c)
	case hub.Incoming, hub.BlobLinked, hub.ManifestPut, hub.ManifestRestored:
		return checkQuota(ctx, tx, c)
	}
	return nil
}

// maxPattern is how long a pattern may be, in bytes.
const maxPattern = 256

// compile reads a pattern of tags.
func compile(pattern string) (*regexp.Regexp, error) {
	if pattern == "" || len(pattern) > maxPattern {
		return nil, fault.In("pattern", fmt.Errorf("a pattern has 1 to %d bytes: %w", maxPattern, errdefs.ErrInvalidArgument))
	}
	expr := ""
	if inner, ok := strings.CutPrefix(pattern, "/"); ok && len(inner) > 1 && strings.HasSuffix(inner, "/") {
		expr = strings.TrimSuffix(inner, "/")
	} else {
		expr = strings.NewReplacer(`\*`, `.*`, `\?`, `.`).Replace(regexp.QuoteMeta(pattern))
	}
	re, err := regexp.Compile("^(?:" + expr + ")$")
	if err != nil {
		return nil, fault.In("pattern", fmt.Errorf("pattern %q: %w: %w", pattern, err, errdefs.ErrInvalidArgument))
	}
	return re, nil
}

// Matcher returns what tells whether a tag matches a pattern.
func Matcher(pattern string) (func(tag string) bool, error) {
	re, err := compile(pattern)
	if err != nil {
		return nil, err
	}
	return re.MatchString, nil
}

// checkScope fails unless scope is one.
func checkScope(scope string) error {
	name, _ := strings.CutSuffix(scope, "/*")
	if scope == "*" {
		return nil
	}
	if name != scope && strings.Contains(name, "/") {
		return fmt.Errorf("scope %q: a namespace has no slash: %w", scope, errdefs.ErrInvalidArgument)
	}
	if err := registry.CheckName(name); err != nil {
		return fmt.Errorf("scope %q: neither a repository nor namespace/* nor *: %w", scope, errdefs.ErrInvalidArgument)
	}
	return nil
}

// Scopes are those that a repository is in, the narrowest first.
func Scopes(repo string) [3]string {
	if ns := auth.Namespace(repo); ns != "" {
		return [3]string{repo, ns + "/*", "*"}
	}
	return [3]string{repo, "*", "*"}
}

// NeedScope fails unless the caller has a role in scope. Of a namespace or the whole
// Hub that is its owner's alone.
func NeedScope(ctx context.Context, tx *sql.Tx, scope string, role auth.Role) error {
	if err := checkScope(scope); err != nil {
		return err
	}
	if !strings.HasSuffix(scope, "*") {
		return auth.Need(ctx, tx, scope, role)
	}
	id := auth.From(ctx)
	have, err := auth.RoleOf(ctx, tx, id, scope)
	switch {
	case err != nil || have >= role:
		return err
	case id.Anonymous():
		return fmt.Errorf("authentication required: %w", errdefs.ErrUnauthenticated)
	}
	return fmt.Errorf("requested access to the resource is denied: %w", errdefs.ErrPermissionDenied)
}
