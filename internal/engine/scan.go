package engine

import (
	"context"
	"errors"
	"os"
	"path/filepath"

	"github.com/containerd/errdefs"
	imagespec "github.com/moby/docker-image-spec/specs-go/v1"
	"github.com/opencontainers/go-digest"

	"strake/internal/layer"
	"strake/internal/scan"
	"strake/internal/scandb"
	"strake/internal/sqldb"
	"strake/internal/vuln"
)

// Package is a package that an image has installed.
type Package = scan.Package

// FoundSecret is a secret that is in an image.
type FoundSecret = scan.Secret

// Vulnerability is one that a package of an image has.
type Vulnerability = vuln.Finding

// VulnSource is what is known of the vulnerabilities of an ecosystem.
type VulnSource = vuln.Source

// Severity is how bad a vulnerability is.
type Severity = vuln.Severity

// Severities are all of them, the worst first.
func Severities() []Severity { return vuln.Severities() }

// ScanOptions say which image to scan.
type ScanOptions struct {
	LookOptions
	// Vulnerabilities are looked for: there has to be data of them then.
	Vulnerabilities bool
}

// ScanResult is what an image has.
type ScanResult struct {
	ID              digest.Digest
	Distribution    string // as it calls itself; "": it does not say
	Packages        []Package
	Secrets         []FoundSecret   // in the config first, then by layer
	Vulnerabilities []Vulnerability // the worst first
	Sources         []VulnSource    // data that they were found by
	Missing         []string        // ecosystems of packages of which there is no data
	Unknown         int             // packages that no data can be about
	Unread          error           // what could not be looked at; nil: nothing
	Skipped         []string        // single files of that kind
}

// Scan finds packages, secrets and vulnerabilities in an image. What a layer says
// is kept beside the store, so that each is read once. Without any data it fails with the
// kind FailedPrecondition when vulnerabilities are asked for.
func Scan(ctx context.Context, env *Env, opts ScanOptions) (result ScanResult, err error) {
	db, err := scandb.Open(ctx, scanPath(env))
	if err != nil {
		return result, err
	}
	defer closing(&err, db.Close)
	if opts.Vulnerabilities {
		if sources, err := vuln.Sources(ctx, db); err != nil {
			return result, err
		} else if len(sources) == 0 {
			return result, messageError{"no vulnerability data is here: 'strake scan --update' fetches it, with --from FILE it is read from a dump", errdefs.ErrFailedPrecondition}
		}
	}
	v, err := look(ctx, env, opts.LookOptions)
	if err != nil {
		return result, err
	}
	defer closing(&err, v.close)
	records := make([]scan.Record, len(v.layers))
	for i, l := range v.layers {
		if records[i], err = scanLayer(ctx, db, l); err != nil {
			return result, err
		}
	}
	im := scan.Merge(records)
	result = ScanResult{
		ID: v.id, Packages: im.Packages, Secrets: append(scanConfig(v.config).Secrets(), im.Secrets...), Unread: im.Unread(), Skipped: im.Skipped,
	}
	if im.Release != nil {
		result.Distribution = im.Release.Name
	}
	if opts.Vulnerabilities {
		found, err := vuln.Match(ctx, db, im.Packages)
		if err != nil {
			return result, err
		}
		result.Vulnerabilities, result.Sources, result.Missing, result.Unknown = found.Findings, found.Sources, found.Missing, found.Unknown
	}
	return result, nil
}

// scanPath is the database of scans: beside the store's, as it can be made anew.
func scanPath(env *Env) string { return filepath.Join(env.Store.Root(), "scan.db") }

// scanLayer finds the record of a layer, or makes it.
func scanLayer(ctx context.Context, db *sqldb.DB, l *layer.Layer) (r scan.Record, err error) {
	id := l.Files().DiffID
	r, found, err := scandb.Record(ctx, db, id)
	if err != nil || found {
		return r, err
	}
	f, err := os.Open(l.Files().Tar)
	if err != nil {
		return r, err
	}
	defer closing(&err, f.Close)
	if r, err = scan.Tar(ctx, f); err != nil {
		return r, err
	}
	return r, scandb.SaveRecord(ctx, db, id, &r)
}

// scanConfig is what of a config may hold secrets.
func scanConfig(c imagespec.DockerOCIImage) scan.Config {
	found := scan.Config{Env: c.Config.Env, Labels: c.Config.Labels}
	for _, h := range c.History {
		found.History = append(found.History, h.CreatedBy)
	}
	return found
}

// UpdateScanDataOptions say where vulnerability data is from.
type UpdateScanDataOptions struct {
	From       string   // see vuln.ImportOptions; "" is OSV's own
	Ecosystems []string // none: all
	Progress   func(what string, records int)
}

// UpdateScanDataResult is what came of it.
type UpdateScanDataResult struct {
	vuln.Imported
	All []VulnSource // that are here now
}

// UpdateScanData brings the vulnerability data up to date: all that changes counts at once.
func UpdateScanData(ctx context.Context, env *Env, opts UpdateScanDataOptions) (result UpdateScanDataResult, err error) {
	db, err := scandb.Open(ctx, scanPath(env))
	if err != nil {
		return result, err
	}
	defer closing(&err, db.Close)
	result.Imported, err = vuln.Import(ctx, db, vuln.ImportOptions{From: opts.From, Ecosystems: opts.Ecosystems, Progress: opts.Progress})
	if err != nil {
		return result, err
	}
	result.All, err = vuln.Sources(ctx, db)
	return result, err
}

// ScanData lists the vulnerability data that is here, by ecosystem.
func ScanData(ctx context.Context, env *Env) (list []VulnSource, err error) {
	if _, err := os.Stat(scanPath(env)); errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	db, err := scandb.Open(ctx, scanPath(env))
	if err != nil {
		return nil, err
	}
	defer closing(&err, db.Close)
	return vuln.Sources(ctx, db)
}
