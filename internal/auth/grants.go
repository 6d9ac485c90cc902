package auth

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"

	"github.com/containerd/errdefs"

	"strake/internal/fault"
	"strake/internal/sqldb"
)

// Grant is a role that was granted for one repository.
type Grant struct {
	To   string `json:"to"` // a user, or a team as ORGANIZATION/TEAM
	Role Role   `json:"role"`
}

// Grants lists what was granted for a repository, for who administers it.
func Grants(ctx context.Context, db *sqldb.DB, repo string) (list []Grant, err error) {
	err = db.View(ctx, func(tx *sql.Tx) error {
		if err := Need(ctx, tx, repo, Admin); err != nil {
			return err
		}
		list, err = sqldb.Collect(ctx, tx, `
			SELECT COALESCE(a.name, o.name || '/' || t.name) AS holder, g.role
			FROM grants g JOIN repositories r ON r.id = g.repository LEFT JOIN accounts a ON a.id = g.account
			LEFT JOIN teams t ON t.id = g.team LEFT JOIN accounts o ON o.id = t.organization
			WHERE r.name = $1 ORDER BY holder`, []any{repo}, func(rows *sql.Rows, g *Grant) error { return rows.Scan(&g.To, &g.Role) })
		return err
	})
	return list, err
}

// SetGrant grants a role for a repository to a user or a team, in place of the
// one they had; None takes it back. Who administers the repository may, unless
// by a token. A team is one of the organization in whose namespace the
// repository is; official repositories take teams of any.
func SetGrant(ctx context.Context, db *sqldb.DB, repo string, g Grant) error {
	if g.Role < None || g.Role > Admin {
		return fault.In("role", fmt.Errorf("role %d: %w", int(g.Role), errdefs.ErrInvalidArgument))
	}
	return db.Update(ctx, func(tx *sql.Tx) error {
		if err := Need(ctx, tx, repo, Admin); err != nil {
			return err
		}
		if err := needLogin(ctx); err != nil {
			return err
		}
		column, holder, err := grantee(ctx, tx, repo, g.To)
		if err != nil {
			return fault.In("to", err)
		}
		if g.Role == None {
			res, err := tx.ExecContext(ctx, `DELETE FROM grants WHERE repository = (SELECT id FROM repositories WHERE name = $1) AND `+column+` = $2`, repo, holder) //nolint:gosec // the column is account or team
			if err := affected(res, err, missing("grant to", g.To)); err != nil {
				return err
			}
			return Audit(ctx, tx, "grant.remove", repo, map[string]string{"to": g.To})
		}
		//nolint:gosec // the column is account or team
		_, err = tx.ExecContext(ctx, `INSERT INTO grants (repository, `+column+`, role) SELECT id, CAST($2 AS BIGINT), CAST($3 AS BIGINT) FROM repositories WHERE name = $1
			ON CONFLICT (repository, `+column+`) DO UPDATE SET role = excluded.role`, repo, holder, int(g.Role))
		if err != nil {
			return err
		}
		return Audit(ctx, tx, "grant.set", repo, g)
	})
}

// grantee finds the column and the row of a user or a team.
func grantee(ctx context.Context, tx *sql.Tx, repo, name string) (column string, row int64, err error) {
	org, team, isTeam := strings.Cut(name, "/")
	if !isTeam {
		row, err = userRow(ctx, tx, name)
		return "account", row, err
	}
	if ns := Namespace(repo); org != ns && ns != "" && ns != Official {
		return "", 0, fmt.Errorf("team %.100q is not one of %q: %w", name, ns, errdefs.ErrInvalidArgument)
	}
	err = tx.QueryRowContext(ctx, `SELECT t.id FROM teams t JOIN accounts o ON o.id = t.organization WHERE o.name = $1 AND t.name = $2`, org, team).Scan(&row)
	if errors.Is(err, sql.ErrNoRows) {
		return "", 0, missing("team", name)
	}
	return "team", row, err
}
