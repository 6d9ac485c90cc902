package auth

import (
	"context"
	"database/sql"

	"strake/internal/sqldb"
)

// roleQuery finds what an account may do with a repository, whether or not it
// exists: by owning the namespace, by a grant, by a team's grant, and whether
// anybody may read it.
const roleQuery = `
	SELECT
	  (SELECT count(*) FROM accounts a WHERE a.id = $1 AND a.name = $3)
	  + (SELECT count(*) FROM members m JOIN accounts o ON o.id = m.organization WHERE m.account = $1 AND o.name = $3 AND m.owner = 1),
	  COALESCE((SELECT max(g.role) FROM grants g JOIN repositories r ON r.id = g.repository
	    WHERE r.name = $2 AND (g.account = $1 OR g.team IN (SELECT team FROM team_members WHERE account = $1))), 0),
	  COALESCE((SELECT public FROM repositories WHERE name = $2), 0)`

// RoleOf is what id may do with repo. A repository that does not exist is its
// namespace's: whoever owns that may make it.
func RoleOf(ctx context.Context, tx *sql.Tx, id Identity, repo string) (Role, error) {
	return roleOf(id, repo, func(query string, args []any, dest ...any) error {
		return tx.QueryRowContext(ctx, query, args...).Scan(dest...)
	})
}

// RoleNow is RoleOf in no transaction: what is read often is asked for by it.
func RoleNow(ctx context.Context, db *sqldb.DB, id Identity, repo string) (Role, error) {
	return roleOf(id, repo, func(query string, args []any, dest ...any) error { return db.Get(ctx, query, args, dest...) })
}

func roleOf(id Identity, repo string, get func(query string, args []any, dest ...any) error) (Role, error) {
	limit := id.Limit(repo)
	if id.System || id.Admin {
		return limit, nil
	}
	var owns, public int
	var granted Role
	if err := get(roleQuery, []any{id.Account, repo, Namespace(repo)}, &owns, &granted, &public); err != nil {
		return None, err
	}
	role := granted
	if owns > 0 {
		role = Admin
	}
	if public == 1 {
		role = max(role, Read)
	}
	return min(role, limit), nil
}

// Readable is a condition on the rows of repositories, of the name r in the
// query: those that the account of row $1 may read. Tokens may allow less, and
// administrators need no condition.
const Readable = `(r.public = 1
	OR r.namespace IN (SELECT name FROM accounts WHERE id = $1)
	OR r.namespace IN (SELECT o.name FROM members m JOIN accounts o ON o.id = m.organization WHERE m.account = $1 AND m.owner = 1)
	OR EXISTS (SELECT 1 FROM grants g WHERE g.repository = r.id
	  AND (g.account = $1 OR g.team IN (SELECT team FROM team_members WHERE account = $1))))`
