package auth

import (
	"fmt"
	"slices"
	"strings"

	"github.com/containerd/errdefs"

	"strake/internal/fault"
)

// Official is the namespace of the images that the Hub itself vouches for.
// Nobody owns it, as nobody owns names without a namespace: administrators push
// there, and whom they grant it.
const Official = "library"

// reserved are names that no account has: they would be taken for a part of the
// server, or for somebody who speaks for it.
var reserved = []string{
	Official, "about", "account", "accounts", "admin", "administrator", "anonymous", "api", "assets", "audit", "auth", "docs", "explore", "help",
	"hub", "livez", "login", "logout", "metrics", "new", "oidc", "official", "organizations", "orgs", "public", "readyz", "register", "repositories",
	"review", "reviews", "robot", "root", "search", "settings", "static", "strake", "support", "system", "teams", "token", "tokens", "trust",
	"user", "users", "v1", "v2", "verified",
}

// CheckName fails with errdefs.ErrInvalidArgument unless name may be the name
// of an account: 2 to 39 lower-case letters, digits and single dashes between
// them, and none of those that are reserved.
func CheckName(name string) error {
	if err := checkWord("account name", name); err != nil {
		return err
	}
	if slices.Contains(reserved, name) {
		return fault.In("name", fmt.Errorf("account name %q is reserved: %w", name, errdefs.ErrInvalidArgument))
	}
	return nil
}

// checkWord holds the names of accounts, teams and robots to one form.
func checkWord(what, name string) error {
	bad := len(name) < 2 || len(name) > 39 || name[0] == '-' || name[len(name)-1] == '-' || strings.Contains(name, "--")
	if bad || strings.Trim(name, "abcdefghijklmnopqrstuvwxyz0123456789-") != "" {
		return fault.In("name", fmt.Errorf("%s %.50q: 2 to 39 lower-case letters, digits and single dashes between them: %w", what, name, errdefs.ErrInvalidArgument))
	}
	return nil
}

// ParseRole parses what Role.String prints.
func ParseRole(s string) (Role, error) {
	for r := Read; r <= Admin; r++ {
		if s == r.String() {
			return r, nil
		}
	}
	return None, fault.In("role", fmt.Errorf("role %.20q: read, write or admin: %w", s, errdefs.ErrInvalidArgument))
}

// MarshalText implements encoding.TextMarshaler.
func (r Role) MarshalText() ([]byte, error) { return []byte(r.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (r *Role) UnmarshalText(b []byte) (err error) {
	*r, err = ParseRole(string(b))
	return err
}
