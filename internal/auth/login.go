package auth

import (
	"context"
	"crypto/rand"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/containerd/errdefs"

	"strake/internal/sqldb"
)

// errWrong is all that a failed login says: not whether the name, the password
// or the account is the reason.
var errWrong = fmt.Errorf("incorrect username or password: %w", errdefs.ErrUnauthenticated)

// Authenticate returns who logs in with a name and a password, or with the name
// and a token; the address in the context is where from. It fails with
// errdefs.ErrUnauthenticated, after the same work whatever is wrong, and with a
// *TooManyError for who guesses.
func Authenticate(ctx context.Context, db *sqldb.DB, name, secret string) (Identity, error) {
	if !IsToken(secret) {
		r, err := verify(ctx, db, name, secret)
		return r.id, err
	}
	r, err := useToken(ctx, db, secret)
	if errors.Is(err, errLogin) || err == nil && r.id.Name != name {
		return Identity{}, errWrong
	}
	r.id.Address = From(ctx).Address
	return r.id, err
}

// AuthenticateToken is Authenticate for a token that comes without a name.
func AuthenticateToken(ctx context.Context, db *sqldb.DB, secret string) (Identity, error) {
	r, err := useToken(ctx, db, secret)
	if errors.Is(err, errLogin) {
		return Identity{}, errWrong
	}
	r.id.Address = From(ctx).Address
	return r.id, err
}

// verify checks a password. Failures are looked at and counted while it is this
// login's turn, so that who sends a thousand at once gains nothing by it.
func verify(ctx context.Context, db *sqldb.DB, name, password string) (r identityRow, err error) {
	address := From(ctx).Address
	err = inTurn(ctx, func() error {
		if err := checkFailures(ctx, db, name, address); err != nil {
			return err
		}
		var row int64
		var hash string
		err := db.Get(ctx, `SELECT id, password FROM accounts WHERE name = $1 AND disabled = 0`, []any{name}, &row, &hash)
		if err != nil && !errors.Is(err, sql.ErrNoRows) {
			return err
		}
		if !samePassword(hash, password) {
			return errors.Join(errWrong, noteFailure(ctx, db, name, address))
		}
		if r, err = readIdentity(ctx, db, row, ""); err != nil {
			return err
		}
		return forgetFailures(ctx, db, name, address)
	})
	if err != nil {
		return identityRow{}, err
	}
	r.id.Address = address
	return r, nil
}

// SessionLife is how long a browser stays logged in.
const SessionLife = 7 * 24 * time.Hour

// StartSession logs a browser in as who, and returns what its cookie holds; agent
// is what the browser calls itself.
func StartSession(ctx context.Context, db *sqldb.DB, who Identity, agent string) (cookie string, err error) {
	if who.Account == 0 || who.Token != "" {
		return "", fmt.Errorf("browsers log in with a password, not with a token: %w", errdefs.ErrPermissionDenied)
	}
	cookie = rand.Text() + rand.Text()
	now := time.Now()
	err = db.Update(ctx, func(tx *sql.Tx) error {
		if _, err := tx.ExecContext(ctx, `DELETE FROM sessions WHERE account = $1 AND expires < $2`, who.Account, now.Unix()); err != nil {
			return err
		}
		_, err := tx.ExecContext(ctx, `INSERT INTO sessions (hash, account, created, expires, address, agent) VALUES ($1, $2, $3, $4, $5, $6)`,
			hashSecret(cookie), who.Account, now.Unix(), now.Add(SessionLife).Unix(), From(ctx).Address, clean(agent))
		if err != nil {
			return err
		}
		return Audit(With(ctx, who), tx, "login", who.Name, map[string]string{"client": "browser"})
	})
	return cookie, err
}

// Session returns whose browser shows a cookie; errdefs.ErrUnauthenticated when
// nobody's.
func Session(ctx context.Context, db *sqldb.DB, cookie string) (Identity, error) {
	var account, used int64
	now, hash := time.Now().Unix(), hashSecret(cookie)
	err := db.Get(ctx, `SELECT account, used FROM sessions WHERE hash = $1 AND expires > $2`, []any{hash, now}, &account, &used)
	if errors.Is(err, sql.ErrNoRows) {
		return Identity{}, errLogin
	}
	if err != nil {
		return Identity{}, err
	}
	r, err := readIdentity(ctx, db, account, "")
	if err != nil {
		return Identity{}, err
	}
	r.id.Address = From(ctx).Address
	if now-used < int64(time.Hour/time.Second) {
		return r.id, nil
	}
	return r.id, db.Note(ctx, func(tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, `UPDATE sessions SET used = $2, address = $3 WHERE hash = $1`, hash, now-now%3600, r.id.Address)
		return err
	})
}

// EndSession logs a browser out.
func EndSession(ctx context.Context, db *sqldb.DB, cookie string) error {
	return db.Update(ctx, func(tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, `DELETE FROM sessions WHERE hash = $1`, hashSecret(cookie))
		return err
	})
}

// Current returns who an account is now, or one of its tokens unless that is
// empty, as long as nothing ended what was given out to it: it is called for
// each request that shows something which was signed earlier. It fails with
// errdefs.ErrUnauthenticated.
func Current(ctx context.Context, db *sqldb.DB, account int64, token string, epoch int64) (Identity, error) {
	r, err := readIdentity(ctx, db, account, token)
	if err != nil {
		return Identity{}, err
	}
	if r.id.Account != account || r.id.Epoch != epoch {
		return Identity{}, errLogin
	}
	r.id.Address = From(ctx).Address
	return r.id, nil
}

// maxLogins is how many logins of clients an account has at most; more end the
// oldest.
const maxLogins = 100

// AddLogin makes the token that a client keeps in place of the password that
// who logged in with.
func AddLogin(ctx context.Context, db *sqldb.DB, who Identity, client string) (string, error) {
	if checkWord("client", client) != nil {
		client = "client"
	}
	id, secret, hash := newSecret()
	now := time.Now()
	err := db.Update(ctx, func(tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, `DELETE FROM tokens WHERE account = $1 AND kind = 'login' AND (expires < $2 OR id IN (
			SELECT id FROM tokens WHERE account = $1 AND kind = 'login' ORDER BY used DESC, id LIMIT 1000 OFFSET $3))`, who.Account, now.Unix(), maxLogins-1)
		if err != nil {
			return err
		}
		_, err = tx.ExecContext(ctx, `INSERT INTO tokens (id, account, kind, name, hash, created, expires, used) VALUES ($1, $2, 'login', $3, $4, $5, $6, $5)`,
			id, who.Account, client+"-"+id, hash, now.Unix(), now.Add(loginLife).Unix())
		if err != nil {
			return err
		}
		return Audit(With(ctx, who), tx, "login", who.Name, map[string]string{"client": client, "token": id})
	})
	return secret, err
}
