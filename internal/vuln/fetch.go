package vuln

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/containerd/errdefs"

	"strake/internal/address"
)

// DefaultOrigin is where OSV publishes its dumps.
const DefaultOrigin = "https://osv-vulnerabilities.storage.googleapis.com"

// DefaultEcosystems are those of the packages that are found.
func DefaultEcosystems() []string {
	return []string{"Alpine", "Chainguard", "Debian", "Go", "Maven", "NuGet", "Packagist", "PyPI", "RubyGems", "Ubuntu", "Wolfi", "crates.io", "npm"}
}

// fetch imports a dump or a tree of dumps from a server.
func (im *importer) fetch(ctx context.Context, from string) error {
	at, err := url.Parse(from)
	if err != nil || at.Host == "" {
		return fmt.Errorf("URL %q: %w", from, errdefs.ErrInvalidArgument)
	}
	transport := address.Outbound(http.ProxyFromEnvironment)
	defer transport.CloseIdleConnections()
	client := &http.Client{Transport: transport, CheckRedirect: address.CheckRedirect}
	if strings.HasSuffix(at.Path, ".zip") {
		_, err := im.dump(ctx, client, at, "")
		return err
	}
	ecosystems := im.opts.Ecosystems
	if len(ecosystems) == 0 {
		ecosystems = DefaultEcosystems()
	}
	have := map[string]Source{}
	list, err := Sources(ctx, im.db)
	if err != nil {
		return err
	}
	for _, s := range list {
		have[s.Name] = s
	}
	only := im.opts.Ecosystems
	defer func() { im.opts.Ecosystems = only }()
	absent := 0
	for _, name := range ecosystems {
		im.opts.Ecosystems = []string{name} // its dump speaks of others too, but not of all there is
		tag := ""
		if old := have[name]; old.Origin == at.JoinPath(name, "all.zip").Redacted() {
			tag = old.tag
		}
		found, err := im.dump(ctx, client, at.JoinPath(name, "all.zip"), tag)
		if err != nil {
			return err
		}
		if !found {
			absent++
		}
	}
	if absent == len(ecosystems) {
		return fmt.Errorf("%s has no dump of %s: %w", at.Redacted(), strings.Join(ecosystems, ", "), errdefs.ErrNotFound)
	}
	return nil
}

// dump imports one dump, unless it is the one with that tag. One that is not there is not found.
func (im *importer) dump(ctx context.Context, client *http.Client, at *url.URL, tag string) (found bool, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, at.String(), nil)
	if err != nil {
		return false, err
	}
	if tag != "" {
		req.Header.Set("If-None-Match", tag)
	}
	im.origin = at.Redacted()
	if im.opts.Progress != nil {
		im.opts.Progress(im.origin, im.result.Records)
	}
	resp, err := client.Do(req)
	if err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, resp.Body.Close()) }()
	switch resp.StatusCode {
	case http.StatusOK:
	case http.StatusNotModified:
		im.result.Same = append(im.result.Same, im.opts.Ecosystems...)
		return true, im.same(ctx, im.opts.Ecosystems)
	case http.StatusNotFound:
		return false, nil
	default:
		return false, fmt.Errorf("%s: the server answered %s: %w", im.origin, resp.Status, errdefs.ErrUnavailable)
	}
	f, err := os.CreateTemp("", "strake-osv-")
	if err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, f.Close(), os.Remove(f.Name())) }()
	n, err := io.Copy(f, io.LimitReader(resp.Body, maxDump+1))
	if err == nil && resp.ContentLength >= 0 && n != resp.ContentLength {
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		return false, fmt.Errorf("%s: %w", im.origin, err)
	}
	for _, name := range im.opts.Ecosystems {
		im.tags[name] = resp.Header.Get("ETag")
	}
	return true, im.zip(ctx, f, n)
}

// same notes that sources were compared with their origin and are as they were.
func (im *importer) same(ctx context.Context, names []string) error {
	return im.db.Update(ctx, func(tx *sql.Tx) error {
		for _, name := range names {
			if _, err := tx.ExecContext(ctx, "UPDATE vuln_sources SET imported = $2 WHERE name = $1", name, time.Now().Unix()); err != nil {
				return err
			}
		}
		return nil
	})
}
