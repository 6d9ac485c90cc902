package auth

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/mail"
	"strings"
	"time"
	"unicode"

	"github.com/containerd/errdefs"

	"strake/internal/fault"
	"strake/internal/sqldb"
)

// Account is a user or an organization.
type Account struct {
	Name         string    `json:"name"`
	Organization bool      `json:"organization"`
	Email        string    `json:"email,omitempty"`
	FullName     string    `json:"full_name,omitempty"`
	Admin        bool      `json:"admin"`
	Reviewer     bool      `json:"reviewer"`
	Verified     bool      `json:"verified"`
	Disabled     bool      `json:"disabled"`
	Password     bool      `json:"password"` // has one
	SSO          bool      `json:"sso"`      // logs in by OIDC
	Created      time.Time `json:"created"`
}

const accountColumns = `a.name, a.organization, a.email, a.full_name, a.admin, a.reviewer, a.verified, a.disabled, a.password <> '', a.subject <> '', a.created`

func scanAccount(row interface{ Scan(dest ...any) error }, a *Account) error {
	var created int64
	err := row.Scan(&a.Name, &a.Organization, &a.Email, &a.FullName, &a.Admin, &a.Reviewer, &a.Verified, &a.Disabled, &a.Password, &a.SSO, &created)
	a.Created = unix(created)
	return err
}

// NewUser is a user to be made.
type NewUser struct {
	Name     string `json:"name"`
	Email    string `json:"email,omitempty"`
	FullName string `json:"full_name,omitempty"`
	Password string `json:"password,omitempty"` // empty: none, logs in by OIDC alone
	Admin    bool   `json:"admin,omitempty"`
	Reviewer bool   `json:"reviewer,omitempty"`
	Verified bool   `json:"verified,omitempty"`
}

// AddUser makes a user. Only administrators may; nobody registers by themselves.
// It fails with errdefs.ErrAlreadyExists when the name is taken.
func AddUser(ctx context.Context, db *sqldb.DB, u NewUser) error {
	if err := NeedAdmin(ctx); err != nil {
		return err
	}
	if err := errors.Join(CheckName(u.Name), checkEmail(u.Email), checkFullName(u.FullName)); err != nil {
		return err
	}
	hash := ""
	if u.Password != "" {
		var err error
		if hash, err = hashPassword(ctx, u.Password); err != nil {
			return fault.In("password", err)
		}
	}
	return db.Update(ctx, func(tx *sql.Tx) error {
		row, err := insertAccount(ctx, tx, u.Name, false)
		if err != nil {
			return err
		}
		_, err = tx.ExecContext(ctx, `UPDATE accounts SET email = $2, full_name = $3, password = $4, admin = $5, reviewer = $6, verified = $7 WHERE id = $1`,
			row, u.Email, u.FullName, hash, flag(u.Admin), flag(u.Reviewer), flag(u.Verified))
		if err != nil {
			return err
		}
		return Audit(ctx, tx, "account.add", u.Name, map[string]bool{"admin": u.Admin, "reviewer": u.Reviewer, "verified": u.Verified})
	})
}

func errTaken(name string) error {
	return fault.In("name", fmt.Errorf("the name %q is taken: %w", name, errdefs.ErrAlreadyExists))
}

// insertAccount makes the row of a new account. A namespace in which there are
// repositories already, of before the Hub had accounts, is for administrators
// to give.
func insertAccount(ctx context.Context, tx *sql.Tx, name string, organization bool) (row int64, err error) {
	err = tx.QueryRowContext(ctx, `INSERT INTO accounts (name, organization, created) VALUES ($1, $2, $3) ON CONFLICT (name) DO NOTHING RETURNING id`,
		name, flag(organization), time.Now().Unix()).Scan(&row)
	if errors.Is(err, sql.ErrNoRows) {
		return 0, errTaken(name)
	}
	if err != nil || From(ctx).IsAdmin() {
		return row, err
	}
	used := 0
	if err := tx.QueryRowContext(ctx, `SELECT count(*) FROM repositories WHERE namespace = $1`, name).Scan(&used); err != nil {
		return 0, err
	}
	if used > 0 {
		return 0, errTaken(name)
	}
	return row, nil
}

// checkEmail accepts nothing, or one address as it is written in a header.
func checkEmail(email string) error {
	if email == "" {
		return nil
	}
	if a, err := mail.ParseAddress(email); err != nil || a.Address != email || len(email) > 254 {
		return fault.In("email", fmt.Errorf("%.80q is no e-mail address: %w", email, errdefs.ErrInvalidArgument))
	}
	return nil
}

// checkFullName accepts one short line of text.
func checkFullName(s string) error {
	if len(s) > 200 || strings.ContainsFunc(s, func(r rune) bool { return r == unicode.ReplacementChar || !unicode.IsPrint(r) }) {
		return fault.In("full_name", fmt.Errorf("full name %.50q: one line of 200 bytes at most: %w", s, errdefs.ErrInvalidArgument))
	}
	return nil
}

// GetAccount returns an account: to itself, to the members of the organization,
// and to administrators. For others it does not exist.
func GetAccount(ctx context.Context, db *sqldb.DB, name string) (a Account, err error) {
	err = db.View(ctx, func(tx *sql.Tx) error {
		row, err := needPlace(ctx, tx, name, member)
		if err != nil {
			return err
		}
		return scanAccount(tx.QueryRowContext(ctx, `SELECT `+accountColumns+` FROM accounts a WHERE a.id = $1`, row), &a)
	})
	return a, err
}

// Accounts lists accounts after a name, in order: all for administrators, for
// others their own and their organizations.
func Accounts(ctx context.Context, db *sqldb.DB, after string, limit int) (list []Account, err error) {
	if err := needLogin(ctx); err != nil {
		return nil, err
	}
	id := From(ctx)
	err = db.View(ctx, func(tx *sql.Tx) error {
		list, err = sqldb.Collect(ctx, tx, `SELECT `+accountColumns+` FROM accounts a
			WHERE a.name > $1 AND ($3 = 1 OR a.id = $4 OR a.id IN (SELECT organization FROM members WHERE account = $4))
			ORDER BY a.name LIMIT $2`, []any{after, limit, flag(id.IsAdmin()), id.Account},
			func(rows *sql.Rows, a *Account) error { return scanAccount(rows, a) })
		return err
	})
	return list, err
}

// AccountChange is what is to change of an account; nil stays as it is.
type AccountChange struct {
	Email    *string `json:"email,omitempty"`
	FullName *string `json:"full_name,omitempty"`
	Admin    *bool   `json:"admin,omitempty"` // by administrators alone, as what follows
	Reviewer *bool   `json:"reviewer,omitempty"`
	Verified *bool   `json:"verified,omitempty"`
	Disabled *bool   `json:"disabled,omitempty"` // nothing that was given out to it works any more
}

// ChangeAccount changes an account. Its owner may change what describes it;
// what gives power is for administrators, of which one at least remains.
func ChangeAccount(ctx context.Context, db *sqldb.DB, name string, c AccountChange) error {
	return db.Update(ctx, func(tx *sql.Tx) error {
		row, err := needPlace(ctx, tx, name, owner)
		if err != nil {
			return err
		}
		if c.Admin != nil || c.Reviewer != nil || c.Verified != nil || c.Disabled != nil {
			if err := NeedAdmin(ctx); err != nil {
				return err
			}
		}
		for _, f := range []struct {
			column string
			text   *string
			flag   *bool
			check  func(string) error
		}{
			{"email", c.Email, nil, checkEmail},
			{"full_name", c.FullName, nil, checkFullName},
			{"admin", nil, c.Admin, nil},
			{"reviewer", nil, c.Reviewer, nil},
			{"verified", nil, c.Verified, nil},
			{"disabled", nil, c.Disabled, nil},
		} {
			var value any
			switch {
			case f.text != nil:
				if err := f.check(*f.text); err != nil {
					return err
				}
				value = *f.text
			case f.flag != nil:
				value = flag(*f.flag)
			default:
				continue
			}
			if _, err := tx.ExecContext(ctx, `UPDATE accounts SET `+f.column+` = $2 WHERE id = $1`, row, value); err != nil { //nolint:gosec // the column is one of those above
				return err
			}
		}
		if err := guardFlags(ctx, tx, row, c); err != nil {
			return err
		}
		return Audit(ctx, tx, "account.change", name, c)
	})
}

// guardFlags checks what flags an account has after a change.
func guardFlags(ctx context.Context, tx *sql.Tx, row int64, c AccountChange) error {
	if c.Admin != nil || c.Reviewer != nil {
		wrong := 0
		if err := tx.QueryRowContext(ctx, `SELECT count(*) FROM accounts WHERE id = $1 AND organization = 1 AND (admin = 1 OR reviewer = 1)`, row).Scan(&wrong); err != nil {
			return err
		}
		if wrong > 0 {
			return fmt.Errorf("an organization is no administrator and no reviewer: its members are: %w", errdefs.ErrInvalidArgument)
		}
	}
	if c.Disabled != nil && *c.Disabled {
		if err := endAll(ctx, tx, row); err != nil {
			return err
		}
	}
	return keepAdmin(ctx, tx)
}

// keepAdmin fails when nobody is left who administers the Hub.
func keepAdmin(ctx context.Context, tx *sql.Tx) error {
	n := 0
	if err := tx.QueryRowContext(ctx, `SELECT count(*) FROM accounts WHERE admin = 1 AND disabled = 0`).Scan(&n); err != nil {
		return err
	}
	if n == 0 && !From(ctx).System {
		return fmt.Errorf("the last administrator stays one: %w", errdefs.ErrFailedPrecondition)
	}
	return nil
}

// endAll ends all logins of an account: sessions, and what clients got for the
// password. Its tokens stay.
func endAll(ctx context.Context, tx *sql.Tx, row int64) error {
	for _, q := range []string{
		`DELETE FROM sessions WHERE account = $1`,
		`DELETE FROM tokens WHERE account = $1 AND kind = 'login'`,
		`UPDATE accounts SET epoch = epoch + 1 WHERE id = $1`,
	} {
		if _, err := tx.ExecContext(ctx, q, row); err != nil {
			return err
		}
	}
	return nil
}

// SetPassword gives an account a new password and ends all its logins. Who does
// that for themselves says the old one too; administrators may for everybody
// else. An empty new password takes it away, for who logs in by OIDC.
func SetPassword(ctx context.Context, db *sqldb.DB, name, old, password string) error {
	id := From(ctx)
	if err := needLogin(ctx); err != nil {
		return err
	}
	if id.Name != name && !id.IsAdmin() {
		return missing("account", name)
	}
	if id.Name == name && !id.System {
		if _, err := verify(ctx, db, name, old); err != nil {
			return fault.In("old", err)
		}
	}
	hash, err := "", error(nil)
	if password != "" || !id.IsAdmin() {
		if hash, err = hashPassword(ctx, password); err != nil {
			return fault.In("new", err)
		}
	}
	return db.Update(ctx, func(tx *sql.Tx) error {
		var row int64
		err := tx.QueryRowContext(ctx, `UPDATE accounts SET password = $2 WHERE name = $1 AND organization = 0 RETURNING id`, name, hash).Scan(&row)
		if errors.Is(err, sql.ErrNoRows) {
			return missing("user", name)
		}
		if err != nil {
			return err
		}
		if err := endAll(ctx, tx, row); err != nil {
			return err
		}
		return Audit(ctx, tx, "account.password", name, nil)
	})
}

// DeleteAccount deletes an account with its tokens, teams and grants. One whose
// namespace holds repositories fails with errdefs.ErrFailedPrecondition: whoever
// takes the name next would own them.
func DeleteAccount(ctx context.Context, db *sqldb.DB, name string) error {
	return db.Update(ctx, func(tx *sql.Tx) error {
		row, err := needPlace(ctx, tx, name, owner)
		if err != nil {
			return err
		}
		n := 0
		if err := tx.QueryRowContext(ctx, `SELECT count(*) FROM repositories WHERE namespace = $1`, name).Scan(&n); err != nil {
			return err
		}
		if n > 0 {
			return fmt.Errorf("account %q has %d repositories, which are to be deleted first: %w", name, n, errdefs.ErrFailedPrecondition)
		}
		if err := soleOwner(ctx, tx, row); err != nil {
			return err
		}
		if _, err := tx.ExecContext(ctx, `DELETE FROM accounts WHERE id = $1`, row); err != nil {
			return err
		}
		if err := keepAdmin(ctx, tx); err != nil {
			return err
		}
		return Audit(ctx, tx, "account.delete", name, nil)
	})
}

// soleOwner fails when an organization would have no owner without the account.
func soleOwner(ctx context.Context, tx *sql.Tx, row int64) error {
	var org string
	err := tx.QueryRowContext(ctx, `
		SELECT o.name FROM members m JOIN accounts o ON o.id = m.organization
		WHERE m.account = $1 AND m.owner = 1 AND NOT EXISTS (
		  SELECT 1 FROM members n WHERE n.organization = m.organization AND n.account <> $1 AND n.owner = 1)
		ORDER BY o.name LIMIT 1`, row).Scan(&org)
	if errors.Is(err, sql.ErrNoRows) {
		return nil
	}
	if err != nil {
		return err
	}
	return fmt.Errorf("organization %q has no other owner: %w", org, errdefs.ErrFailedPrecondition)
}
