package auth

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"database/sql"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"strings"
	"time"

	"github.com/containerd/errdefs"

	"strake/internal/fault"
	"strake/internal/sqldb"
)

// The kinds of tokens.
const (
	kindPersonal = "personal"
	kindRobot    = "robot"
	kindLogin    = "login" // what a client keeps instead of a password
)

// A token is written sth_<id>_<secret><sum>: the ID in 12 characters, 160 bits
// of secret in 32 and a CRC-32 of all before it in 7, all of base 32. So
// scanners for secrets find tokens and are rarely wrong, and mistyped ones cost
// the database nothing.
const (
	tokenPrefix = "sth_"
	idLength    = 12
	secretBits  = 32
	sumLength   = 7
	tokenLength = len(tokenPrefix) + idLength + 1 + secretBits + sumLength
)

// loginLife is how long a client's login lasts after it was last used.
const loginLife = 30 * 24 * time.Hour

// Token is a token without its secret.
type Token struct {
	ID      string     `json:"id"`
	Account string     `json:"account"`
	Kind    string     `json:"kind"` // personal, robot, login
	Name    string     `json:"name"`
	Login   string     `json:"login"`            // the user name that goes with it
	Scopes  []Scope    `json:"scopes,omitempty"` // none: all that the account may
	Created time.Time  `json:"created"`
	Expires *time.Time `json:"expires,omitempty"`
	Used    *time.Time `json:"used,omitempty"` // to the hour
}

// NewToken is a token to be made.
type NewToken struct {
	Name    string    `json:"name"`
	Robot   bool      `json:"robot,omitempty"`
	Scopes  []Scope   `json:"scopes,omitempty"` // none: all that the account may; a robot has some
	Expires time.Time `json:"expires,omitzero"` // zero: never
}

// newSecret makes the text of a token and its hash.
func newSecret() (id, secret, hash string) {
	id = strings.ToLower(rand.Text()[:idLength])
	body := tokenPrefix + id + "_" + strings.ToLower(pad(rand.Text()+rand.Text(), secretBits))
	return id, body + checksum(body), hashSecret(body)
}

func pad(s string, n int) string { return s[:n] }

// checksum is the CRC-32 of a token's text, in base 32.
func checksum(body string) string {
	const digits = "abcdefghijklmnopqrstuvwxyz234567"
	sum := crc32.ChecksumIEEE([]byte(body))
	out := make([]byte, sumLength)
	for i := range out {
		out[i] = digits[sum&31]
		sum >>= 5
	}
	return string(out)
}

func hashSecret(body string) string {
	sum := sha256.Sum256([]byte(body))
	return hex.EncodeToString(sum[:])
}

// IsToken reports whether a secret is a token, by its form.
func IsToken(secret string) bool { return strings.HasPrefix(secret, tokenPrefix) }

// splitToken returns the ID and the hash of a token that is well formed.
func splitToken(secret string) (id, hash string, ok bool) {
	if len(secret) != tokenLength || !IsToken(secret) {
		return "", "", false
	}
	body := secret[:tokenLength-sumLength]
	if secret[len(body):] != checksum(body) || body[len(tokenPrefix)+idLength] != '_' {
		return "", "", false
	}
	return body[len(tokenPrefix) : len(tokenPrefix)+idLength], hashSecret(body), true
}

// AddToken makes a token of an account and returns its secret, which is shown
// once. Users make their own; owners make those of an organization, which are
// robots. It fails with errdefs.ErrAlreadyExists where the name is in use.
func AddToken(ctx context.Context, db *sqldb.DB, account string, t NewToken) (secret string, made Token, err error) {
	if err := checkToken(t); err != nil {
		return "", Token{}, err
	}
	id, secret, hash := newSecret()
	scopes := ""
	if t.Scopes != nil {
		b, err := json.Marshal(t.Scopes)
		if err != nil {
			return "", Token{}, err
		}
		scopes = string(b)
	}
	kind := kindPersonal
	if t.Robot {
		kind = kindRobot
	}
	err = db.Update(ctx, func(tx *sql.Tx) error {
		row, err := needPlace(ctx, tx, account, owner)
		if err != nil {
			return err
		}
		if who := From(ctx); kind == kindPersonal && !who.System && (row != who.Account || who.Token != "") {
			return fmt.Errorf("personal tokens are made by their owner, who logs in with a password: %w", errdefs.ErrPermissionDenied)
		}
		res, err := tx.ExecContext(ctx, `INSERT INTO tokens (id, account, kind, name, hash, scopes, created, expires) VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
			ON CONFLICT (account, kind, name) DO NOTHING`, id, row, kind, t.Name, hash, scopes, time.Now().Unix(), seconds(t.Expires))
		if err := affected(res, err, fault.In("name", fmt.Errorf("token %q is there: %w", t.Name, errdefs.ErrAlreadyExists))); err != nil {
			return err
		}
		if made, err = readToken(ctx, tx, row, id); err != nil {
			return err
		}
		return Audit(ctx, tx, "token.add", account, made)
	})
	if err != nil {
		return "", Token{}, err
	}
	return secret, made, nil
}

func checkToken(t NewToken) error {
	if err := checkWord("token name", t.Name); err != nil {
		return err
	}
	if !t.Expires.IsZero() && t.Expires.Before(time.Now()) {
		return fault.In("expires", fmt.Errorf("a token that has expired: %w", errdefs.ErrInvalidArgument))
	}
	if t.Robot && len(t.Scopes) == 0 {
		return fault.In("scopes", fmt.Errorf("a robot needs scopes: %w", errdefs.ErrInvalidArgument))
	}
	if len(t.Scopes) > 100 {
		return fault.In("scopes", fmt.Errorf("more than 100 scopes: %w", errdefs.ErrInvalidArgument))
	}
	for _, s := range t.Scopes {
		name, _ := strings.CutSuffix(s.Repository, "*")
		starred := name != s.Repository
		if s.Role < Read || s.Role > Admin || len(name) > 255 || strings.Trim(name, "abcdefghijklmnopqrstuvwxyz0123456789-_./") != "" ||
			starred && name != "" && !strings.HasSuffix(name, "/") || !starred && name == "" {
			return fault.In("scopes", fmt.Errorf("scope %.260q: the name of a repository, or a part of one that ends in /*, and a role: %w", s.Repository, errdefs.ErrInvalidArgument))
		}
	}
	return nil
}

const readTokens = `SELECT t.id, a.name, t.kind, t.name, t.scopes, t.created, t.expires, t.used FROM tokens t JOIN accounts a ON a.id = t.account ` //nolint:gosec // a query, no secret

func scanToken(row interface{ Scan(dest ...any) error }, t *Token) error {
	var scopes string
	var created, expires, used int64
	if err := row.Scan(&t.ID, &t.Account, &t.Kind, &t.Name, &scopes, &created, &expires, &used); err != nil {
		return err
	}
	t.Created, t.Login = unix(created), t.Account
	if t.Kind == kindRobot {
		t.Login = RobotName(t.Account, t.Name)
	}
	if expires != 0 {
		at := unix(expires)
		t.Expires = &at
	}
	if used != 0 {
		at := unix(used)
		t.Used = &at
	}
	return parseScopes(scopes, &t.Scopes)
}

// RobotName is the name that a robot logs in by.
func RobotName(account, robot string) string { return account + "+" + robot }

// parseScopes parses the scopes of a row.
func parseScopes(text string, scopes *[]Scope) error {
	if text == "" {
		return nil
	}
	*scopes = []Scope{} // none is not all
	if err := json.Unmarshal([]byte(text), scopes); err != nil {
		return fmt.Errorf("scopes of a token: %w", err)
	}
	return nil
}

func readToken(ctx context.Context, tx *sql.Tx, account int64, id string) (t Token, err error) {
	err = scanToken(tx.QueryRowContext(ctx, readTokens+`WHERE t.account = $1 AND t.id = $2`, account, id), &t)
	if errors.Is(err, sql.ErrNoRows) {
		return t, missing("token", id)
	}
	return t, err
}

// Tokens lists the tokens of an account, for its owner.
func Tokens(ctx context.Context, db *sqldb.DB, account string) (list []Token, err error) {
	err = db.View(ctx, func(tx *sql.Tx) error {
		row, err := needPlace(ctx, tx, account, owner)
		if err != nil {
			return err
		}
		list, err = sqldb.Collect(ctx, tx, readTokens+`WHERE t.account = $1 ORDER BY t.kind, t.name`, []any{row},
			func(rows *sql.Rows, t *Token) error { return scanToken(rows, t) })
		return err
	})
	return list, err
}

// RemoveToken ends a token. What was given out for it ends with it.
func RemoveToken(ctx context.Context, db *sqldb.DB, account, id string) error {
	return db.Update(ctx, func(tx *sql.Tx) error {
		row, err := needPlace(ctx, tx, account, owner)
		if err != nil {
			return err
		}
		t, err := readToken(ctx, tx, row, id)
		if err != nil {
			return err
		}
		if _, err := tx.ExecContext(ctx, `DELETE FROM tokens WHERE id = $1`, id); err != nil {
			return err
		}
		return Audit(ctx, tx, "token.remove", account, map[string]string{"id": id, "kind": t.Kind, "name": t.Name})
	})
}

// identityQuery reads who is behind an account or one of its tokens; $2 is ”
// for the account itself.
const identityQuery = `
	SELECT a.id, a.name, a.organization, a.admin, a.reviewer, a.verified, a.disabled, a.epoch,
	  COALESCE(t.id, ''), COALESCE(t.kind, ''), COALESCE(t.name, ''), COALESCE(t.hash, ''), COALESCE(t.scopes, ''), COALESCE(t.expires, 0), COALESCE(t.used, 0)
	FROM accounts a LEFT JOIN tokens t ON t.account = a.id AND t.id = $2
	WHERE a.id = COALESCE((SELECT account FROM tokens WHERE id = $2), $1)`

// identityRow is what identityQuery reads.
type identityRow struct {
	id            Identity
	organization  bool
	disabled      bool
	token         string // '' where there is none
	kind, name    string
	hash          string
	expires, used int64
}

// readIdentity reads an account, and a token of it where one is given; at every
// request, so that what is taken away is gone at once.
func readIdentity(ctx context.Context, db *sqldb.DB, account int64, token string) (identityRow, error) {
	var r identityRow
	var scopes string
	err := db.Get(ctx, identityQuery, []any{account, token}, &r.id.Account, &r.id.Name, &r.organization, &r.id.Admin, &r.id.Reviewer, &r.id.Verified,
		&r.disabled, &r.id.Epoch, &r.token, &r.kind, &r.name, &r.hash, &scopes, &r.expires, &r.used)
	if errors.Is(err, sql.ErrNoRows) {
		return r, errLogin
	}
	if err != nil {
		return r, err
	}
	if r.disabled || r.token != token || r.expires != 0 && r.expires <= time.Now().Unix() || r.organization && r.kind != kindRobot {
		return r, errLogin
	}
	if err := parseScopes(scopes, &r.id.Scopes); err != nil {
		return r, err
	}
	r.id.Token = r.token
	if r.kind == kindRobot {
		r.id.Name = RobotName(r.id.Name, r.name)
		r.id.Admin, r.id.Reviewer = false, false
	}
	return r, nil
}

// useToken finds who a token is for, which proves it.
func useToken(ctx context.Context, db *sqldb.DB, secret string) (identityRow, error) {
	id, hash, ok := splitToken(secret)
	if !ok {
		return identityRow{}, errLogin
	}
	r, err := readIdentity(ctx, db, 0, id)
	if err != nil {
		return r, err
	}
	if subtle.ConstantTimeCompare([]byte(hash), []byte(r.hash)) != 1 {
		return identityRow{}, errLogin
	}
	now := time.Now().Unix()
	if now-r.used < int64(time.Hour/time.Second) {
		return r, nil
	}
	err = db.Note(ctx, func(tx *sql.Tx) error {
		expires := r.expires
		if r.kind == kindLogin {
			expires = now + int64(loginLife/time.Second)
		}
		_, err := tx.ExecContext(ctx, `UPDATE tokens SET used = $2, expires = $3 WHERE id = $1`, id, now-now%3600, expires)
		return err
	})
	return r, err
}
