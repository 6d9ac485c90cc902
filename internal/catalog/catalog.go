// Package catalog is what people see of the Hub's repositories: it finds them,
// shows their tags and images, and keeps their stars.
//
// What it shows beyond the registry's own rows is derived: the text by which a
// repository is found, the platforms of its images, what their configs and
// layers say. Triggers of the database note which repositories changed, and
// Refresh, which Run calls all the time, derives that anew. It lags behind a push
// by a second or so.
//
// Every method asks what the caller, the auth.Identity in its context, may read.
package catalog

import (
	"context"
	"database/sql"
	"log/slog"
	"time"

	"strake/internal/auth"
	"strake/internal/registry"
	"strake/internal/sqldb"
)

// Source is where manifests and blobs are read from.
type Source interface {
	registry.Reader
	registry.Lister
}

// Catalog shows repositories. It is safe for concurrent use.
type Catalog struct {
	db     *sqldb.DB
	source Source
	log    *slog.Logger
}

// New returns the catalog of the repositories in db, whose content source has.
func New(db *sqldb.DB, source Source, log *slog.Logger) *Catalog {
	return &Catalog{db: db, source: source, log: log}
}

// refreshEvery is how often Run looks for what changed.
const refreshEvery = time.Second

// Run keeps what is derived up to date until ctx ends. Any number of replicas may.
func (c *Catalog) Run(ctx context.Context) {
	tick := time.NewTicker(refreshEvery)
	defer tick.Stop()
	for {
		for more := true; more && ctx.Err() == nil; {
			var err error
			more, err = c.Refresh(ctx)
			if err != nil && ctx.Err() == nil {
				c.log.Error("refresh the catalog", "error", err)
				break
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// system is the identity under which content is read for what is derived.
func system(ctx context.Context) context.Context {
	return auth.With(ctx, auth.Identity{System: true})
}

// seen returns what the caller may do with repo, or fails as for one that does
// not exist unless they may read it.
func seen(ctx context.Context, tx *sql.Tx, repo string) (auth.Role, error) {
	role, err := auth.RoleOf(ctx, tx, auth.From(ctx), repo)
	if err == nil && role < auth.Read {
		err = unknown()
	}
	return role, err
}

func unknown() error {
	return registry.Errorf(registry.NameUnknown, "repository name not known to registry")
}

// scanAll reads the rows of a query.
func scanAll(ctx context.Context, tx *sql.Tx, query string, args []any, scan func(*sql.Rows) error) error {
	rows, err := tx.QueryContext(ctx, query, args...)
	if err != nil {
		return err
	}
	return sqldb.ScanAll(rows, func() error { return scan(rows) })
}

// unix is the time of a column; 0 is none.
func unix(seconds int64) time.Time {
	if seconds == 0 {
		return time.Time{}
	}
	return time.Unix(seconds, 0)
}

// platformText is a platform as people write it, linux/arm/v7.
func platformText(os, architecture, variant string) string {
	if os == "" && architecture == "" {
		return ""
	}
	text := os + "/" + architecture
	if variant != "" && (architecture != "arm64" || variant != "v8") {
		text += "/" + variant
	}
	return text
}
