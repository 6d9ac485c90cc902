package auth

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"github.com/containerd/errdefs"
)

// Unlimited reports whether id came with no token that allows less than the
// account. Only then may it change accounts, organizations and tokens: a token
// for one repository makes no other token.
func (id Identity) Unlimited() bool { return id.System || id.Account != 0 && id.Scopes == nil }

// IsAdmin reports whether id administers the Hub, itself and not by a token that
// allows less.
func (id Identity) IsAdmin() bool { return id.System || id.Admin && id.Unlimited() }

// IsReviewer reports whether id decides what is published.
func (id Identity) IsReviewer() bool {
	return id.System || (id.Reviewer || id.Admin) && id.Unlimited()
}

// The errors of who may not. All that is missing and all that one may not see
// is the same error.
var (
	errLogin  = fmt.Errorf("authentication required: %w", errdefs.ErrUnauthenticated)
	errDenied = fmt.Errorf("requested access to the resource is denied: %w", errdefs.ErrPermissionDenied)
)

func missing(what, name string) error {
	return fmt.Errorf("%s %.300q: %w", what, name, errdefs.ErrNotFound)
}

// needLogin fails unless somebody logged in, and with all that they may.
func needLogin(ctx context.Context) error {
	id := From(ctx)
	switch {
	case id.Anonymous():
		return errLogin
	case !id.Unlimited():
		return errDenied
	}
	return nil
}

// NeedAdmin fails unless the caller administers the Hub.
func NeedAdmin(ctx context.Context) error {
	if err := needLogin(ctx); err != nil || From(ctx).IsAdmin() {
		return err
	}
	return errDenied
}

// Need fails unless the caller may do as much as role with a repository that
// exists: with errdefs.ErrUnauthenticated for who did not log in, with
// ErrNotFound for who may not see it, else with ErrPermissionDenied.
func Need(ctx context.Context, tx *sql.Tx, repo string, role Role) error {
	id := From(ctx)
	have, err := RoleOf(ctx, tx, id, repo)
	if err != nil {
		return err
	}
	exists := 0
	if err := tx.QueryRowContext(ctx, `SELECT count(*) FROM repositories WHERE name = $1`, repo).Scan(&exists); err != nil {
		return err
	}
	switch {
	case exists > 0 && have >= role:
		return nil
	case id.Anonymous():
		return errLogin
	case exists == 0 || have == None:
		return missing("repository", repo)
	}
	return errDenied
}

// place is what somebody is to an account.
type place int

const (
	stranger place = iota
	member         // of the organization
	owner          // of the organization, or the account itself
)

// placeOf returns what the caller is to the account name, and its row. Of an
// account that is not there nobody is anything.
func placeOf(ctx context.Context, tx *sql.Tx, name string) (row int64, p place, err error) {
	id := From(ctx)
	var belongs, owns int
	err = tx.QueryRowContext(ctx, `
		SELECT a.id,
		  (SELECT count(*) FROM members m WHERE m.organization = a.id AND m.account = $1),
		  (SELECT count(*) FROM members m WHERE m.organization = a.id AND m.account = $1 AND m.owner = 1)
		FROM accounts a WHERE a.name = $2`, id.Account, name).Scan(&row, &belongs, &owns)
	switch {
	case errors.Is(err, sql.ErrNoRows):
		return 0, stranger, nil
	case err != nil:
		return 0, stranger, err
	case id.IsAdmin() || owns > 0 || row == id.Account:
		return row, owner, nil
	case belongs > 0:
		return row, member, nil
	}
	return row, stranger, nil
}

// needPlace returns the row of an account to which the caller is p at least; for
// strangers it does not exist.
func needPlace(ctx context.Context, tx *sql.Tx, name string, p place) (int64, error) {
	if err := needLogin(ctx); err != nil {
		return 0, err
	}
	row, have, err := placeOf(ctx, tx, name)
	switch {
	case err != nil:
		return 0, err
	case row == 0 || have == stranger:
		return 0, missing("account", name)
	case have < p:
		return 0, errDenied
	}
	return row, nil
}

// IsLoggedOut reports whether err says that nobody is logged in.
func IsLoggedOut(err error) bool { return errors.Is(err, errLogin) }

// NeedMember fails unless the caller is an account itself, belongs to the
// organization or administers the Hub; NeedOwner unless they own it.
func NeedMember(ctx context.Context, tx *sql.Tx, account string) error {
	_, err := needPlace(ctx, tx, account, member)
	return err
}

// NeedOwner is described at NeedMember.
func NeedOwner(ctx context.Context, tx *sql.Tx, account string) error {
	_, err := needPlace(ctx, tx, account, owner)
	return err
}
