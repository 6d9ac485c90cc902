package main

import (
	"context"
	"database/sql"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"

	"strake/internal/auth"
	"strake/internal/hubdb"
	"strake/internal/sqldb"
)

// place is where a Hub lives.
type place struct {
	data string // directory
}

// define defines the flags that say where the Hub lives.
func (p *place) define(f *flag.FlagSet) {
	f.StringVar(&p.data, "data", "", "Directory that holds the registry (required)")
}

func (p *place) check() error {
	if p.data == "" {
		return usageError{errors.New("--data is required")}
	}
	return nil
}

// open opens the database.
func (p *place) open(ctx context.Context) (*sqldb.DB, error) {
	if err := p.check(); err != nil {
		return nil, err
	}
	if _, err := os.Stat(filepath.Join(p.data, "hub.db")); err != nil {
		return nil, fmt.Errorf("no Hub in %s: 'strake-hub init' makes one: %w", p.data, err)
	}
	return hubdb.Open(ctx, filepath.Join(p.data, "hub.db"))
}

// with runs fn on the database as the server itself, which may do everything; a
// server that runs sees what it changes at once.
func (p *place) with(ctx context.Context, fn func(ctx context.Context, db *sqldb.DB) error) (err error) {
	db, err := p.open(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	return fn(system(ctx), db)
}

// system is a context of the server itself.
func system(ctx context.Context) context.Context {
	return auth.With(ctx, auth.Identity{System: true, Address: "strake-hub"})
}

// initialised reports whether the Hub has accounts, and so asks for logins.
func initialised(ctx context.Context, db *sqldb.DB) (bool, error) {
	n := 0
	err := db.Get(ctx, `SELECT count(*) FROM (SELECT 1 FROM accounts LIMIT 1) AS a`, nil, &n)
	if errors.Is(err, sql.ErrNoRows) {
		return false, nil
	}
	return n > 0, err
}

func (p *place) file(name string) string { return filepath.Join(p.data, "tls", name) }
