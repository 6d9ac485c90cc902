// Package hubdb opens the Hub's database and holds its schema.
//
// The packages that make up the Hub share one database, so that a change that
// concerns several of them, as a tag that is set and its line in the audit log,
// is one transaction. Each file of migrations belongs to one part of the Hub; where
// a package has tables in other databases too, the file includes that package's.
package hubdb

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"io/fs"

	"strake/internal/jobs"
	"strake/internal/pgdb"
	"strake/internal/scandb"
	"strake/internal/sqldb"
	"strake/internal/vuln"
)

//go:embed migrations/*.sql
var migrations embed.FS

// Migrations make the Hub's tables.
func Migrations() fs.FS {
	return sqldb.Steps(migrations, map[string]fs.FS{"jobs": jobs.Migrations(), "vuln": vuln.Migrations(), "scandb": scandb.Migrations()})
}

// Open opens a database and brings it up to date: the SQLite file of that path,
// which is made if it is not there, or the PostgreSQL database of that URL.
func Open(ctx context.Context, database string) (*sqldb.DB, error) {
	var db *sqldb.DB
	var err error
	if pgdb.IsURL(database) {
		db, err = pgdb.Open(ctx, database)
	} else {
		db, err = sqldb.Open(ctx, sqldb.Options{Path: database})
	}
	if err != nil {
		return nil, err
	}
	if err := db.Migrate(ctx, Migrations()); err != nil {
		return nil, errors.Join(fmt.Errorf("open the Hub's database: %w", err), db.Close())
	}
	return db, nil
}
