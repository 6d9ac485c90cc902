package main

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"

	"strake/internal/auth"
	"strake/internal/hub"
	"strake/internal/hubdb"
	"strake/internal/sqldb"
)

// place is where a Hub lives.
type place struct {
	data     string // directory
	database string // URL of PostgreSQL
	storage  string // URL of a bucket
}

// What flags do not say these variables do: a URL may hold a password, which all
// users of a machine see on a command line.
const (
	databaseEnv = "STRAKE_HUB_DATABASE"
	storageEnv  = "STRAKE_HUB_STORAGE"
)

// define defines the flags that say where the Hub lives.
func (p *place) define(f *flag.FlagSet) {
	f.StringVar(&p.data, "data", "", "Directory that holds the registry, or what of it has no place of its own (required unless the two below are given)")
	f.StringVar(&p.database, "database", "", "`URL` of a PostgreSQL database, postgres://... (default $"+databaseEnv+", else a file in --data)")
	f.StringVar(&p.storage, "storage", "", "`URL` of an S3 bucket for blobs, s3://bucket?endpoint=... (default $"+storageEnv+", else files in --data)")
}

func (p *place) check() error {
	p.database = cmp.Or(p.database, os.Getenv(databaseEnv))
	p.storage = cmp.Or(p.storage, os.Getenv(storageEnv))
	if p.data == "" && (p.database == "" || p.storage == "") {
		return usageError{errors.New("--data is required")}
	}
	return nil
}

// hub are the options of the Hub that lives here.
func (p *place) hub() hub.Options {
	return hub.Options{Dir: p.data, Database: p.database, Storage: p.storage}
}

// databaseAt is the database as hubdb.Open takes it.
func (p *place) databaseAt() string {
	return cmp.Or(p.database, filepath.Join(p.data, "hub.db"))
}

// open opens the database.
func (p *place) open(ctx context.Context) (*sqldb.DB, error) {
	if err := p.check(); err != nil {
		return nil, err
	}
	if p.database == "" {
		if _, err := os.Stat(p.databaseAt()); err != nil {
			return nil, fmt.Errorf("no Hub in %s: 'strake-hub init' makes one: %w", p.data, err)
		}
	}
	return hubdb.Open(ctx, p.databaseAt())
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
