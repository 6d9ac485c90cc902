package main

import (
	"context"
	"database/sql"
	"errors"
	"flag"
	"fmt"
	"strings"
	"time"

	"strake/internal/hub"
	"strake/internal/scandb"
	"strake/internal/sqldb"
	"strake/internal/vuln"
)

// scanHook has images scanned that are pushed, and forgets those that no repository has.
func scanHook(ctx context.Context, tx *sql.Tx, c hub.Change) error {
	switch c.Kind {
	case hub.ManifestPut, hub.ManifestRestored:
		if c.Kind == hub.ManifestPut && !c.Fresh {
			return nil // it was scanned, or is about to be
		}
		return scandb.Enqueue(ctx, tx, scandb.Task{Repository: c.Repository, Desc: c.Desc})
	case hub.ManifestDeleted:
		var n int
		if err := tx.QueryRowContext(ctx, "SELECT count(*) FROM manifests WHERE digest = $1", c.Desc.Digest.String()).Scan(&n); err != nil || n > 0 {
			return err
		}
		return scandb.Forget(ctx, tx, c.Desc.Digest)
	}
	return nil
}

// scanner scans the images of a Hub.
func scanner(h *hub.Hub) *scandb.Scanner {
	return &scandb.Scanner{DB: hub.DB(h), Source: h, System: system}
}

// refreshEvery is how often vulnerability data is read.
const refreshEvery = 24 * time.Hour

// feedOf is where from says that vulnerability data is; osv is OSV's own server.
func feedOf(from string) string {
	if from == "osv" {
		return vuln.DefaultOrigin
	}
	return from
}

func prepareVulnerabilities(f *flag.FlagSet) action {
	var p place
	var from string
	var ecosystems list
	p.define(f)
	f.StringVar(&from, "from", "osv", "Dump, directory, record or `URL` to read; osv is OSV's server")
	f.Var(&ecosystems, "ecosystem", "Read that of this `ecosystem` alone, as Debian or npm; may be given several times")
	return func(ctx context.Context, s streams, _ []string) error {
		return p.with(ctx, func(ctx context.Context, db *sqldb.DB) error {
			result, err := (&scandb.Scanner{DB: db}).Refresh(ctx, vuln.ImportOptions{From: feedOf(from), Ecosystems: ecosystems})
			if err != nil {
				return err
			}
			fmt.Fprintf(s.out, "Read %d records of %s, %d of them new, changed or gone\n", result.Records, sourcesText(result), result.Changed)
			if result.Unusable > 0 {
				fmt.Fprintf(s.err, "strake-hub: %d records could not be read\n", result.Unusable)
			}
			if len(result.Sources)+len(result.Same) == 0 {
				return errors.New("there was no record in it that says which packages it is about")
			}
			return nil
		})
	}
}

func sourcesText(result vuln.Imported) string {
	if names := append(result.Sources, result.Same...); len(names) > 0 {
		return strings.Join(names, ", ")
	}
	return "no ecosystem"
}
