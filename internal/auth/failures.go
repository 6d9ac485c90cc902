package auth

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/containerd/errdefs"

	"strake/internal/sqldb"
)

// How passwords that are guessed are slowed down: after so many failures from
// one place the next try has to wait, twice as long each time. A name alone is
// never locked, or anybody could lock it.
const (
	freeByName    = 5  // for one name from one address
	freeByAddress = 30 // for any names from one address
	firstWait     = 2 * time.Second
	longestWait   = 15 * time.Minute
	forgetAfter   = 24 * time.Hour
)

// TooManyError tells that somebody guessed wrong too often.
type TooManyError struct {
	Wait time.Duration // until the next try, whole seconds
}

func (e *TooManyError) Error() string {
	return fmt.Sprintf("too many failed logins: try again in %s", e.Wait)
}

// Unwrap returns the error's kind.
func (e *TooManyError) Unwrap() error { return errdefs.ErrResourceExhausted }

// placeKeys are the keys under which failures are counted, and how many are
// free. Names are kept as digests: people type passwords there, too.
func placeKeys(name, address string) map[string]int {
	net := network(address)
	return map[string]int{"a:" + digestKey(net): freeByAddress, "n:" + digestKey(name+"\x00"+net): freeByName}
}

func digestKey(s string) string {
	sum := sha256.Sum256([]byte(s))
	return hex.EncodeToString(sum[:16])
}

// network is whom an address belongs to: of IPv6 the first 64 bits.
func network(address string) string {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		host = address
	}
	ip, err := netip.ParseAddr(host)
	if err != nil {
		return host
	}
	ip = ip.Unmap().WithZone("")
	if ip.Is6() {
		if p, err := ip.Prefix(64); err == nil {
			return p.String()
		}
	}
	return ip.String()
}

// checkFailures fails with a *TooManyError while the place has to wait.
func checkFailures(ctx context.Context, db *sqldb.DB, name, address string) error {
	var until int64
	for key := range placeKeys(name, address) {
		var u int64
		if err := db.Get(ctx, `SELECT until FROM failures WHERE key = $1`, []any{key}, &u); err != nil && !errors.Is(err, sql.ErrNoRows) {
			return err
		}
		until = max(until, u)
	}
	if wait := until - time.Now().Unix(); wait > 0 {
		return &TooManyError{Wait: time.Duration(wait) * time.Second}
	}
	return nil
}

// noteFailure counts a failure.
func noteFailure(ctx context.Context, db *sqldb.DB, name, address string) error {
	now := time.Now().Unix()
	return db.Note(context.WithoutCancel(ctx), func(tx *sql.Tx) error {
		if _, err := tx.ExecContext(ctx, `DELETE FROM failures WHERE last < $1`, now-int64(forgetAfter/time.Second)); err != nil {
			return err
		}
		for key, free := range placeKeys(name, address) {
			count := 0
			err := tx.QueryRowContext(ctx, `INSERT INTO failures (key, count, last, until) VALUES ($1, 1, $2, 0)
				ON CONFLICT (key) DO UPDATE SET count = failures.count + 1, last = excluded.last RETURNING count`, key, now).Scan(&count)
			if err != nil {
				return err
			}
			if count < free {
				continue
			}
			wait := min(firstWait<<min(count-free, 20), longestWait)
			if _, err := tx.ExecContext(ctx, `UPDATE failures SET until = $2 WHERE key = $1`, key, now+int64(wait/time.Second)); err != nil {
				return err
			}
		}
		return nil
	})
}

// forgetFailures is for who got in: that name from that address starts anew.
// What the address did with other names stays counted.
func forgetFailures(ctx context.Context, db *sqldb.DB, name, address string) error {
	for key, free := range placeKeys(name, address) {
		if free != freeByName {
			continue
		}
		var one int
		err := db.Get(ctx, `SELECT 1 FROM failures WHERE key = $1`, []any{key}, &one)
		if errors.Is(err, sql.ErrNoRows) {
			return nil
		}
		if err != nil {
			return err
		}
		return db.Note(ctx, func(tx *sql.Tx) error {
			_, err := tx.ExecContext(ctx, `DELETE FROM failures WHERE key = $1`, key)
			return err
		})
	}
	return nil
}

// ForgetFailures lets everybody try again at once; for who administers the
// database.
func ForgetFailures(ctx context.Context, db *sqldb.DB) error {
	if err := NeedAdmin(ctx); err != nil {
		return err
	}
	return db.Update(ctx, func(tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, `DELETE FROM failures`)
		return err
	})
}
