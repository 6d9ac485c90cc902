package auth

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"github.com/containerd/errdefs"

	"strake/internal/fault"
	"strake/internal/sqldb"
)

// AddOrganization makes an organization, of which the caller is the owner. Any
// user may.
func AddOrganization(ctx context.Context, db *sqldb.DB, name, fullName string) error {
	if err := needLogin(ctx); err != nil {
		return err
	}
	if err := errors.Join(CheckName(name), checkFullName(fullName)); err != nil {
		return err
	}
	return db.Update(ctx, func(tx *sql.Tx) error {
		row, err := insertAccount(ctx, tx, name, true)
		if err != nil {
			return err
		}
		if _, err := tx.ExecContext(ctx, `UPDATE accounts SET full_name = $2 WHERE id = $1`, row, fullName); err != nil {
			return err
		}
		if id := From(ctx); id.Account != 0 {
			if _, err := tx.ExecContext(ctx, `INSERT INTO members (organization, account, owner) VALUES ($1, $2, 1)`, row, id.Account); err != nil {
				return err
			}
		}
		return Audit(ctx, tx, "organization.add", name, nil)
	})
}

// needOrganization is needPlace for organizations alone.
func needOrganization(ctx context.Context, tx *sql.Tx, name string, p place) (int64, error) {
	row, err := needPlace(ctx, tx, name, p)
	if err != nil {
		return 0, err
	}
	is := false
	if err := tx.QueryRowContext(ctx, `SELECT organization FROM accounts WHERE id = $1`, row).Scan(&is); err != nil {
		return 0, err
	}
	if !is {
		return 0, missing("organization", name)
	}
	return row, nil
}

// userRow finds a user by name.
func userRow(ctx context.Context, tx *sql.Tx, name string) (row int64, err error) {
	err = tx.QueryRowContext(ctx, `SELECT id FROM accounts WHERE name = $1 AND organization = 0`, name).Scan(&row)
	if errors.Is(err, sql.ErrNoRows) {
		return 0, missing("user", name)
	}
	return row, err
}

// Member is a user of an organization.
type Member struct {
	Name  string `json:"name"`
	Owner bool   `json:"owner"`
}

// Members lists who belongs to an organization, for its members.
func Members(ctx context.Context, db *sqldb.DB, org string) (list []Member, err error) {
	err = db.View(ctx, func(tx *sql.Tx) error {
		row, err := needOrganization(ctx, tx, org, member)
		if err != nil {
			return err
		}
		list, err = sqldb.Collect(ctx, tx, `SELECT a.name, m.owner FROM members m JOIN accounts a ON a.id = m.account WHERE m.organization = $1 ORDER BY a.name`,
			[]any{row}, func(rows *sql.Rows, m *Member) error { return rows.Scan(&m.Name, &m.Owner) })
		return err
	})
	return list, err
}

// SetMember makes a user a member of an organization, or changes what they are
// in it. Its owners may; one stays.
func SetMember(ctx context.Context, db *sqldb.DB, org, name string, owns bool) error {
	return changeOrganization(ctx, db, org, name, owner, func(tx *sql.Tx, row, user int64) error {
		_, err := tx.ExecContext(ctx, `INSERT INTO members (organization, account, owner) VALUES ($1, $2, $3)
			ON CONFLICT (organization, account) DO UPDATE SET owner = excluded.owner`, row, user, flag(owns))
		if err != nil {
			return err
		}
		return Audit(ctx, tx, "member.set", org, Member{name, owns})
	})
}

// RemoveMember ends a membership, and with it those of the organization's teams
// and what was granted to the user for its repositories. Owners may, and the
// member.
func RemoveMember(ctx context.Context, db *sqldb.DB, org, name string) error {
	need := owner
	if From(ctx).Name == name {
		need = member
	}
	return changeOrganization(ctx, db, org, name, need, func(tx *sql.Tx, row, user int64) error {
		res, err := tx.ExecContext(ctx, `DELETE FROM members WHERE organization = $1 AND account = $2`, row, user)
		if err := affected(res, err, missing("member", name)); err != nil {
			return err
		}
		if _, err := tx.ExecContext(ctx, `DELETE FROM team_members WHERE account = $2 AND team IN (SELECT id FROM teams WHERE organization = $1)`, row, user); err != nil {
			return err
		}
		if _, err := tx.ExecContext(ctx, `DELETE FROM grants WHERE account = $2 AND repository IN (SELECT id FROM repositories WHERE namespace = $1)`, org, user); err != nil {
			return err
		}
		return Audit(ctx, tx, "member.remove", org, map[string]string{"name": name})
	})
}

// changeOrganization runs a change that concerns a user of an organization,
// which who is need to it may. An owner remains.
func changeOrganization(ctx context.Context, db *sqldb.DB, org, name string, need place, change func(tx *sql.Tx, row, user int64) error) error {
	return db.Update(ctx, func(tx *sql.Tx) error {
		row, err := needOrganization(ctx, tx, org, need)
		if err != nil {
			return err
		}
		user, err := userRow(ctx, tx, name)
		if err != nil {
			return err
		}
		if err := change(tx, row, user); err != nil {
			return err
		}
		n := 0
		if err := tx.QueryRowContext(ctx, `SELECT count(*) FROM members WHERE organization = $1 AND owner = 1`, row).Scan(&n); err != nil {
			return err
		}
		if n == 0 {
			return fmt.Errorf("organization %q keeps an owner: %w", org, errdefs.ErrFailedPrecondition)
		}
		return nil
	})
}

// affected turns a change of no row into an error.
func affected(res sql.Result, err, none error) error {
	if err != nil {
		return err
	}
	if n, err := res.RowsAffected(); err != nil || n == 0 {
		return errors.Join(err, none)
	}
	return nil
}

// Team is a team of an organization.
type Team struct {
	Name    string   `json:"name"`
	Members []string `json:"members"`
}

// Teams lists the teams of an organization, for its members.
func Teams(ctx context.Context, db *sqldb.DB, org string) (list []Team, err error) {
	err = db.View(ctx, func(tx *sql.Tx) error {
		row, err := needOrganization(ctx, tx, org, member)
		if err != nil {
			return err
		}
		type pair struct{ team, user string }
		pairs, err := sqldb.Collect(ctx, tx, `
			SELECT t.name, COALESCE(a.name, '') FROM teams t LEFT JOIN team_members m ON m.team = t.id LEFT JOIN accounts a ON a.id = m.account
			WHERE t.organization = $1 ORDER BY t.name, a.name`, []any{row}, func(rows *sql.Rows, p *pair) error { return rows.Scan(&p.team, &p.user) })
		list = []Team{}
		for _, p := range pairs {
			if len(list) == 0 || list[len(list)-1].Name != p.team {
				list = append(list, Team{p.team, []string{}})
			}
			if t := &list[len(list)-1]; p.user != "" {
				t.Members = append(t.Members, p.user)
			}
		}
		return err
	})
	return list, err
}

// AddTeam makes a team; the organization's owners may.
func AddTeam(ctx context.Context, db *sqldb.DB, org, team string) error {
	if err := checkWord("team name", team); err != nil {
		return err
	}
	return db.Update(ctx, func(tx *sql.Tx) error {
		row, err := needOrganization(ctx, tx, org, owner)
		if err != nil {
			return err
		}
		res, err := tx.ExecContext(ctx, `INSERT INTO teams (organization, name) VALUES ($1, $2) ON CONFLICT (organization, name) DO NOTHING`, row, team)
		if err := affected(res, err, fault.In("name", fmt.Errorf("team %q is there: %w", team, errdefs.ErrAlreadyExists))); err != nil {
			return err
		}
		return Audit(ctx, tx, "team.add", org+"/"+team, nil)
	})
}

// RemoveTeam removes a team and what was granted to it.
func RemoveTeam(ctx context.Context, db *sqldb.DB, org, team string) error {
	return db.Update(ctx, func(tx *sql.Tx) error {
		row, err := needOrganization(ctx, tx, org, owner)
		if err != nil {
			return err
		}
		res, err := tx.ExecContext(ctx, `DELETE FROM teams WHERE organization = $1 AND name = $2`, row, team)
		if err := affected(res, err, missing("team", team)); err != nil {
			return err
		}
		return Audit(ctx, tx, "team.remove", org+"/"+team, nil)
	})
}

// teamRow finds a team of the organization of row org.
func teamRow(ctx context.Context, tx *sql.Tx, org int64, team string) (row int64, err error) {
	err = tx.QueryRowContext(ctx, `SELECT id FROM teams WHERE organization = $1 AND name = $2`, org, team).Scan(&row)
	if errors.Is(err, sql.ErrNoRows) {
		return 0, missing("team", team)
	}
	return row, err
}

// AddTeamMember makes a member of the organization one of the team.
func AddTeamMember(ctx context.Context, db *sqldb.DB, org, team, name string) error {
	return changeOrganization(ctx, db, org, name, owner, func(tx *sql.Tx, row, user int64) error {
		id, err := teamRow(ctx, tx, row, team)
		if err != nil {
			return err
		}
		n := 0
		if err := tx.QueryRowContext(ctx, `SELECT count(*) FROM members WHERE organization = $1 AND account = $2`, row, user).Scan(&n); err != nil {
			return err
		}
		if n == 0 {
			return fmt.Errorf("%q is no member of %q: %w", name, org, errdefs.ErrFailedPrecondition)
		}
		if _, err := tx.ExecContext(ctx, `INSERT INTO team_members (team, account) VALUES ($1, $2) ON CONFLICT DO NOTHING`, id, user); err != nil {
			return err
		}
		return Audit(ctx, tx, "team.member.add", org+"/"+team, map[string]string{"name": name})
	})
}

// RemoveTeamMember takes a user out of a team.
func RemoveTeamMember(ctx context.Context, db *sqldb.DB, org, team, name string) error {
	return changeOrganization(ctx, db, org, name, owner, func(tx *sql.Tx, row, user int64) error {
		id, err := teamRow(ctx, tx, row, team)
		if err != nil {
			return err
		}
		res, err := tx.ExecContext(ctx, `DELETE FROM team_members WHERE team = $1 AND account = $2`, id, user)
		if err := affected(res, err, missing("member", name)); err != nil {
			return err
		}
		return Audit(ctx, tx, "team.member.remove", org+"/"+team, map[string]string{"name": name})
	})
}
