package auth

import (
	"context"
	"database/sql"
	"fmt"
	"strings"
	"time"

	"github.com/containerd/errdefs"

	"strake/internal/sqldb"
)

// BrowserSession is a browser that is logged in.
type BrowserSession struct {
	ID      string    `json:"id"`
	Current bool      `json:"current"` // it is the one that asks
	Agent   string    `json:"agent"`   // as it calls itself
	Address string    `json:"address"` // where it was seen last
	Created time.Time `json:"created"`
	Expires time.Time `json:"expires"`
	Used    time.Time `json:"used"` // last, to the hour
}

// sessionID is the part of a session's hash that names it; the cookie does not
// follow from it.
const sessionID = 16

// clean is what a browser calls itself, as far as it is kept.
func clean(agent string) string {
	agent = strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return -1
		}
		return r
	}, agent)
	return agent[:min(len(agent), 200)]
}

// Sessions lists the browsers in which an account is logged in, the one that was
// used last first, to itself and to administrators. cookie is the caller's own,
// empty: they sent none.
func Sessions(ctx context.Context, db *sqldb.DB, account, cookie string) (list []BrowserSession, err error) {
	err = db.View(ctx, func(tx *sql.Tx) error {
		row, err := needPlace(ctx, tx, account, owner)
		if err != nil {
			return err
		}
		list = []BrowserSession{}
		return sqldb.Each(ctx, tx, `SELECT hash, agent, address, created, expires, used FROM sessions WHERE account = $1 AND expires > $2 ORDER BY used DESC, created DESC, hash`,
			[]any{row, time.Now().Unix()}, func(rows *sql.Rows) error {
				var s BrowserSession
				var hash string
				var created, expires, used int64
				err := rows.Scan(&hash, &s.Agent, &s.Address, &created, &expires, &used)
				s.ID, s.Current = hash[:min(sessionID, len(hash))], cookie != "" && hash == hashSecret(cookie)
				s.Created, s.Expires, s.Used = time.Unix(created, 0), time.Unix(expires, 0), time.Unix(max(created, used), 0)
				list = append(list, s)
				return err
			})
	})
	return list, err
}

// EndSessions logs browsers of an account out: the one with the ID, or with an
// empty one all but the one that has the cookie. The account may, and
// administrators. It fails with errdefs.ErrNotFound where there is none with the
// ID.
func EndSessions(ctx context.Context, db *sqldb.DB, account, id, cookie string) error {
	return db.Update(ctx, func(tx *sql.Tx) error {
		row, err := needPlace(ctx, tx, account, owner)
		if err != nil {
			return err
		}
		res, err := tx.ExecContext(ctx, `DELETE FROM sessions WHERE account = $1 AND (($2 <> '' AND substr(hash, 1, $3) = $2) OR ($2 = '' AND hash <> $4))`,
			row, id, sessionID, hashSecret(cookie))
		if err != nil {
			return err
		}
		n, err := res.RowsAffected()
		switch {
		case err != nil:
			return err
		case n == 0 && id != "":
			return fmt.Errorf("session %.20q: %w", id, errdefs.ErrNotFound)
		}
		return Audit(ctx, tx, "logout", account, map[string]int64{"sessions": n})
	})
}
