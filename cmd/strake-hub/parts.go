package main

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"github.com/containerd/errdefs"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"strake/internal/hub"
	"strake/internal/jobs"
	"strake/internal/policy"
	"strake/internal/proxy"
	"strake/internal/review"
	"strake/internal/scandb"
	"strake/internal/seal"
	"strake/internal/webhook"
)

// parts are what takes part in the Hub's changes: rules, reviews, webhooks, scans,
// other registries.
type parts struct {
	policy   *policy.Policy
	reviews  *review.Board
	webhooks *webhook.Book
	proxy    *proxy.Cache
	mirrors  *proxy.Mirrors
	queue    *jobs.Queue
}

// newParts makes the parts, and attaches them to the Hub.
func (s *site) newParts(ctx context.Context) (*parts, error) {
	spool := os.TempDir()
	if s.data != "" {
		spool = filepath.Join(s.data, "spool")
		if err := os.MkdirAll(spool, 0o700); err != nil { // --data with it, where all else lives elsewhere
			return nil, fmt.Errorf("make directory: %w", err)
		}
	}
	db, path := hub.DB(s.hub), s.keyFile
	if path == "" && s.data != "" {
		path = filepath.Join(s.data, "secret.key")
	}
	var key *seal.Key // none: nothing can be sealed, which is told to who tries
	if path != "" {
		var err error
		if key, err = seal.Load(path); err != nil {
			return nil, err
		}
	}
	allowed, err := networks("--webhook-networks", s.webhookNetworks)
	if err != nil {
		return nil, err
	}
	opts := proxy.Options{Key: key, Spool: spool, Log: s.log}
	p := &parts{
		policy: policy.New(db), reviews: review.New(db), webhooks: webhook.New(db, key),
		proxy: proxy.New(s.hub, opts), mirrors: proxy.NewMirrors(s.hub, opts),
	}
	scanner := scanner(s.hub)
	scanner.Done = s.scanned
	hub.Attach(s.hub, p.policy.Hook, p.reviews.Hook, p.webhooks.Hook)
	if err := p.policy.Schedule(ctx); err != nil {
		return nil, err
	}
	if err := scandb.ScheduleMissing(ctx, db); err != nil {
		return nil, err
	}
	handlers := map[string]jobs.Handler{}
	checker := &review.Checker{Board: p.reviews, Source: s.hub, Scan: reviewScan(scanner)}
	sender := &webhook.Sender{Book: p.webhooks, Allowed: allowed}
	for _, more := range []map[string]jobs.Handler{
		scanner.Handlers(), p.policy.Handlers(hub.HooksOf(s.hub)), checker.Handlers(), sender.Handlers(), p.mirrors.Handlers(),
		hub.CollectHandlers(s.hub, hub.GCOptions{Grace: s.gcGrace}, s.log),
	} {
		maps.Copy(handlers, more)
	}
	p.queue = jobs.New(db, jobs.Options{Handlers: handlers, Log: s.log})
	return p, nil
}

// networks reads a flag's list of networks in CIDR form.
func networks(flag, list string) (out []netip.Prefix, err error) {
	for _, s := range strings.FieldsFunc(list, func(r rune) bool { return r == ',' || r == ' ' }) {
		p, err := netip.ParsePrefix(s)
		if err != nil {
			return nil, usageError{fmt.Errorf("%s: %w", flag, err)}
		}
		out = append(out, p)
	}
	return out, nil
}

// scanned tells the hooks of a scan that ended.
func (s *site) scanned(ctx context.Context, tx *sql.Tx, repo string, r *scandb.Report) error {
	if repo == "" {
		return nil
	}
	var id int64
	err := tx.QueryRowContext(ctx, `SELECT id FROM repositories WHERE name = $1`, repo).Scan(&id)
	if errors.Is(err, sql.ErrNoRows) { // deleted meanwhile
		return nil
	}
	if err != nil {
		return err
	}
	return hub.HooksOf(s.hub).Call(system(ctx), tx, hub.Change{Kind: hub.Scanned, Repository: repo, ID: id, Desc: ocispec.Descriptor{Digest: r.Image}})
}

// reviewScan is what scans find as reviews want to know it.
func reviewScan(scanner *scandb.Scanner) review.Scanner {
	return func(ctx context.Context, repo string, desc ocispec.Descriptor) (found review.Scan, err error) {
		r, err := scandb.Find(ctx, scanner.DB, desc.Digest)
		if errdefs.IsNotFound(err) {
			r, err = scanner.Scan(ctx, scandb.Task{Repository: repo, Desc: desc})
		}
		if errdefs.IsNotImplemented(err) {
			return found, nil
		}
		if err != nil {
			return found, err
		}
		found.Matched, found.Skipped = !r.Matched.IsZero(), r.Notes
		for _, s := range r.Secrets {
			if s.Layer > 0 { // those of the config the check finds by itself
				found.Secrets = append(found.Secrets, review.Secret{File: s.File, What: s.What})
			}
		}
		for _, v := range r.Findings {
			found.Vulnerabilities = append(found.Vulnerabilities, review.Vulnerability{ID: v.ID, Package: v.Package.Name, Severity: v.Severity.String(), Fixed: v.Fixed})
		}
		return found, nil
	}
}
