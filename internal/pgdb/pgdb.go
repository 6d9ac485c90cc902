// Package pgdb opens a PostgreSQL database as a sqldb.DB.
package pgdb

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strconv"
	"time"

	"github.com/containerd/errdefs"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"

	"strake/internal/sqldb"
)

// defaultConns is how many connections the readers and the writers of a process
// have at most, half each.
const defaultConns = 32

const (
	idleConns = 4               // of each half, that stay while nobody needs them
	idleTime  = 5 * time.Minute // after which the others go
	lifetime  = time.Hour       // of a connection: a server that moved is noticed
)

// settings are those of a session, where the URL has none. A process that hangs
// in a transaction keeps what it locked from nobody for longer than this.
var settings = map[string]string{
	"application_name":                    "strake",
	"idle_in_transaction_session_timeout": "30s",
}

// IsURL tells whether s is the URL of a PostgreSQL database.
func IsURL(s string) bool {
	u, err := url.Parse(s)
	return err == nil && (u.Scheme == "postgres" || u.Scheme == "postgresql")
}

// Open opens the database of a URL of libpq's form:
//
//	postgres://user:password@host:port/name?sslmode=verify-full&pool_max_conns=32
//
// What the URL does not say comes from the environment (PGHOST, PGPASSWORD,
// PGPASSFILE...). pool_max_conns is how many connections the process has at
// most, 2 or more. Open connects once. It fails with errdefs.ErrInvalidArgument
// when the URL is not one; no error holds the password.
func Open(ctx context.Context, databaseURL string) (*sqldb.DB, error) {
	config, conns, err := parse(databaseURL)
	if err != nil {
		return nil, fmt.Errorf("open database: %w", err)
	}
	name := config.Database + " of " + net.JoinHostPort(config.Host, strconv.Itoa(int(config.Port)))
	db := sqldb.NewPostgreSQL(name, pool(config, conns-conns/2), pool(config, conns/2))
	var one int
	if err := db.Get(ctx, "SELECT 1", nil, &one); err != nil {
		return nil, errors.Join(fmt.Errorf("open database %s: %w", name, err), db.Close())
	}
	return db, nil
}

// parse reads a URL.
func parse(databaseURL string) (config *pgx.ConnConfig, conns int, err error) {
	u, err := url.Parse(databaseURL)
	if err != nil || !IsURL(databaseURL) {
		return nil, 0, fmt.Errorf("not a URL of PostgreSQL, postgres://...: %w", errdefs.ErrInvalidArgument)
	}
	query := u.Query()
	conns = defaultConns
	if s := query.Get("pool_max_conns"); s != "" {
		if conns, err = strconv.Atoi(s); err != nil || conns < 2 {
			return nil, 0, fmt.Errorf("pool_max_conns %q: %w", s, errdefs.ErrInvalidArgument)
		}
		query.Del("pool_max_conns")
		u.RawQuery = query.Encode()
	}
	if config, err = pgx.ParseConfig(u.String()); err != nil {
		return nil, 0, fmt.Errorf("%w: %w", err, errdefs.ErrInvalidArgument)
	}
	for name, value := range settings {
		if _, ok := config.RuntimeParams[name]; !ok {
			config.RuntimeParams[name] = value
		}
	}
	return config, conns, nil
}

func pool(config *pgx.ConnConfig, conns int) *sql.DB {
	p := stdlib.OpenDB(*config)
	p.SetMaxOpenConns(conns)
	p.SetMaxIdleConns(max(idleConns, conns/2))
	p.SetConnMaxIdleTime(idleTime)
	p.SetConnMaxLifetime(lifetime)
	return p
}
