package auth

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/containerd/errdefs"

	"strake/internal/sqldb"
)

// Person is who an identity provider says that somebody is.
type Person struct {
	Subject  string // issuer and subject, which never change
	Name     string // that they would like to have
	Email    string
	FullName string
	Admin    *bool           // whether the provider says that they administer the Hub; nil: it says nothing of that
	Teams    map[string]bool // of each team that the provider decides about, as ORGANIZATION/TEAM: whether they belong to it
}

// LogInPerson returns the account of who a provider vouches for, and makes it
// when they come for the first time. An account is found by its subject alone,
// never by a name or an e-mail address, which others may have had before: a name
// that is taken gets a number. What the provider says of teams and of
// administration replaces what was there; teams that do not exist are returned.
func LogInPerson(ctx context.Context, db *sqldb.DB, p Person) (id Identity, absent []string, err error) {
	if p.Subject == "" {
		return id, nil, fmt.Errorf("a login without a subject: %w", errdefs.ErrUnauthenticated)
	}
	address := From(ctx).Address
	ctx = With(ctx, Identity{System: true, Address: address})
	var row int64
	err = db.Update(ctx, func(tx *sql.Tx) error {
		absent = nil
		err := tx.QueryRowContext(ctx, `SELECT id FROM accounts WHERE subject = $1`, p.Subject).Scan(&row)
		if errors.Is(err, sql.ErrNoRows) {
			row, err = p.insert(ctx, tx)
		}
		if err != nil {
			return err
		}
		if err := p.setAdmin(ctx, tx, row); err != nil {
			return err
		}
		absent, err = p.setTeams(ctx, tx, row)
		return err
	})
	if err != nil {
		return id, nil, err
	}
	r, err := readIdentity(ctx, db, row, "")
	r.id.Address = address
	return r.id, absent, err
}

// insert makes the account of a person.
func (p Person) insert(ctx context.Context, tx *sql.Tx) (int64, error) {
	base := accountName(p.Name)
	for n := 1; n < 1000; n++ {
		name := base
		if n > 1 {
			name = fmt.Sprintf("%s-%d", base[:min(len(base), 34)], n)
		}
		if CheckName(name) != nil {
			continue
		}
		used := 0
		if err := tx.QueryRowContext(ctx, `SELECT (SELECT count(*) FROM accounts WHERE name = $1) + (SELECT count(*) FROM repositories WHERE namespace = $1)`, name).Scan(&used); err != nil {
			return 0, err
		}
		if used > 0 {
			continue
		}
		row, err := insertAccount(ctx, tx, name, false)
		if err != nil {
			return 0, err
		}
		email, full := p.Email, p.FullName
		if checkEmail(email) != nil {
			email = ""
		}
		if checkFullName(full) != nil {
			full = ""
		}
		if _, err := tx.ExecContext(ctx, `UPDATE accounts SET subject = $2, email = $3, full_name = $4 WHERE id = $1`, row, p.Subject, email, full); err != nil {
			return 0, err
		}
		return row, Audit(ctx, tx, "account.add", name, map[string]string{"subject": p.Subject})
	}
	return 0, fmt.Errorf("no name is free for %.50q: %w", p.Name, errdefs.ErrAlreadyExists)
}

// accountName makes a name of an account of what a provider calls somebody.
func accountName(name string) string {
	name, _, _ = strings.Cut(strings.ToLower(name), "@")
	name = strings.Map(func(r rune) rune {
		if 'a' <= r && r <= 'z' || '0' <= r && r <= '9' {
			return r
		}
		return '-'
	}, name)
	for strings.Contains(name, "--") {
		name = strings.ReplaceAll(name, "--", "-")
	}
	name = strings.Trim(name[:min(len(name), 39)], "-")
	if len(name) < 2 {
		return "user-" + name + "0"
	}
	return name
}

// setAdmin makes the account an administrator, or one no more. The last one stays.
func (p Person) setAdmin(ctx context.Context, tx *sql.Tx, row int64) error {
	if p.Admin == nil {
		return nil
	}
	is, others, name := false, 0, ""
	err := tx.QueryRowContext(ctx, `SELECT admin, name, (SELECT count(*) FROM accounts WHERE admin = 1 AND disabled = 0 AND id <> $1) FROM accounts WHERE id = $1`, row).
		Scan(&is, &name, &others)
	if err != nil || is == *p.Admin || !*p.Admin && others == 0 {
		return err
	}
	if _, err := tx.ExecContext(ctx, `UPDATE accounts SET admin = $2 WHERE id = $1`, row, flag(*p.Admin)); err != nil {
		return err
	}
	return Audit(ctx, tx, "account.change", name, AccountChange{Admin: p.Admin})
}

// setTeams adds the account to teams and takes it out of others.
func (p Person) setTeams(ctx context.Context, tx *sql.Tx, row int64) (absent []string, err error) {
	for name, belongs := range p.Teams {
		org, team, _ := strings.Cut(name, "/")
		var teamID, orgID int64
		err := tx.QueryRowContext(ctx, `SELECT t.id, o.id FROM teams t JOIN accounts o ON o.id = t.organization WHERE o.name = $1 AND t.name = $2`, org, team).Scan(&teamID, &orgID)
		if errors.Is(err, sql.ErrNoRows) {
			absent = append(absent, name)
			continue
		}
		if err != nil {
			return nil, err
		}
		var res sql.Result
		action := "team.member.remove"
		if belongs {
			action = "team.member.add"
			if _, err := tx.ExecContext(ctx, `INSERT INTO members (organization, account, owner) VALUES ($1, $2, 0) ON CONFLICT DO NOTHING`, orgID, row); err != nil {
				return nil, err
			}
			res, err = tx.ExecContext(ctx, `INSERT INTO team_members (team, account) VALUES ($1, $2) ON CONFLICT DO NOTHING`, teamID, row)
		} else {
			res, err = tx.ExecContext(ctx, `DELETE FROM team_members WHERE team = $1 AND account = $2`, teamID, row)
		}
		if err != nil {
			return nil, err
		}
		if n, err := res.RowsAffected(); err != nil || n == 0 {
			if err != nil {
				return nil, err
			}
			continue
		}
		if err := Audit(ctx, tx, action, name, map[string]int64{"account": row}); err != nil {
			return nil, err
		}
	}
	slices.Sort(absent)
	return absent, nil
}
