package policy

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"strake/internal/auth"
	"strake/internal/fault"
	"strake/internal/image"
	"strake/internal/registry"
)

// PullRule stops the pulls of images with vulnerabilities. It looks at what the
// scans found; the rule of the narrowest scope that has one holds.
type PullRule struct {
	Scope     string `json:"scope"`
	Severity  string `json:"severity"`  // images that have one of it or above are not pulled: critical, high, medium, low; none lets all through
	Unscanned bool   `json:"unscanned"` // nor are images that nobody has matched with vulnerabilities yet
}

// severities are those of a PullRule, the worst first.
var severities = []string{"critical", "high", "medium", "low"}

// SetPullRule makes the rule of a scope, or changes it.
func (p *Policy) SetPullRule(ctx context.Context, r PullRule) error {
	if r.Severity != "none" && !slices.Contains(severities, r.Severity) {
		return fault.In("severity", fmt.Errorf("severity %q: not %s or none: %w", r.Severity, strings.Join(severities, ", "), errdefs.ErrInvalidArgument))
	}
	return p.db.Update(ctx, func(tx *sql.Tx) error {
		if err := NeedScope(ctx, tx, r.Scope, auth.Admin); err != nil {
			return err
		}
		unscanned := 0
		if r.Unscanned {
			unscanned = 1
		}
		if _, err := tx.ExecContext(ctx, `INSERT INTO pull_rules (scope, severity, unscanned) VALUES ($1, $2, $3)
			ON CONFLICT (scope) DO UPDATE SET severity = excluded.severity, unscanned = excluded.unscanned`, r.Scope, r.Severity, unscanned); err != nil {
			return fmt.Errorf("set the rule of pulls: %w", err)
		}
		return auth.Audit(ctx, tx, "pulls.set", r.Scope, r)
	})
}

// RemovePullRule takes the rule of a scope back. It fails with
// errdefs.ErrNotFound when there is none.
func (p *Policy) RemovePullRule(ctx context.Context, scope string) error {
	return p.db.Update(ctx, func(tx *sql.Tx) error {
		if err := NeedScope(ctx, tx, scope, auth.Admin); err != nil {
			return err
		}
		var severity string
		err := tx.QueryRowContext(ctx, `DELETE FROM pull_rules WHERE scope = $1 RETURNING severity`, scope).Scan(&severity)
		if errors.Is(err, sql.ErrNoRows) {
			return fmt.Errorf("rule of pulls of %s: %w", scope, errdefs.ErrNotFound)
		}
		if err != nil {
			return err
		}
		return auth.Audit(ctx, tx, "pulls.remove", scope, map[string]string{"severity": severity})
	})
}

// PullRules lists the rules of a scope and of the wider ones, the one that holds
// first. Who may write to the scope may read them.
func (p *Policy) PullRules(ctx context.Context, scope string) (list []PullRule, err error) {
	err = p.db.View(ctx, func(tx *sql.Tx) error {
		list = []PullRule{}
		if err := NeedScope(ctx, tx, scope, auth.Write); err != nil {
			return err
		}
		in := Scopes(scope)
		for _, s := range slices.Compact(in[:]) {
			r := PullRule{Scope: s}
			var unscanned int
			err := tx.QueryRowContext(ctx, `SELECT severity, unscanned FROM pull_rules WHERE scope = $1`, s).Scan(&r.Severity, &unscanned)
			if errors.Is(err, sql.ErrNoRows) {
				continue
			}
			if err != nil {
				return err
			}
			r.Unscanned = unscanned == 1
			list = append(list, r)
		}
		return nil
	})
	return list, err
}

// pullQuery finds the rule that holds for a repository in the scopes $1 to $3, and
// what the scan of the image $4 found.
const pullQuery = `SELECT p.scope, p.severity, p.unscanned, COALESCE(i.matched, 0),
	  COALESCE(i.critical, 0), COALESCE(i.high, 0), COALESCE(i.medium, 0), COALESCE(i.low, 0)
	FROM pull_rules p LEFT JOIN scan_images i ON i.image = $4 WHERE p.scope IN ($1, $2, $3)
	ORDER BY CASE p.scope WHEN $1 THEN 0 WHEN $2 THEN 1 ELSE 2 END LIMIT 1`

// MayPull is for registry.Options: it refuses, with DENIED, the image of a
// manifest that the rule of its repository stops, whoever asks.
func (p *Policy) MayPull(ctx context.Context, repo string, dgst digest.Digest) error {
	in := Scopes(repo)
	var scope, severity string
	var unscanned int
	var matched int64
	var found [4]int64
	err := p.db.Get(ctx, pullQuery, []any{in[0], in[1], in[2], dgst.String()}, &scope, &severity, &unscanned, &matched, &found[0], &found[1], &found[2], &found[3])
	if errors.Is(err, sql.ErrNoRows) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("rule of pulls: %w", err)
	}
	if matched == 0 {
		if unscanned == 0 {
			return nil
		}
		return p.mustBeScanned(ctx, repo, dgst, scope)
	}
	for i, s := range severities[:slices.Index(severities, severity)+1] {
		if found[i] > 0 {
			return registry.Errorf(registry.Denied, "%s@%s has %d vulnerabilities of severity %s; the rule of %s lets none of %s or above through", repo, dgst, found[i], s, scope, severity)
		}
	}
	return nil
}

// mustBeScanned refuses a manifest that was not scanned, if it is one of an image.
func (p *Policy) mustBeScanned(ctx context.Context, repo string, dgst digest.Digest, scope string) error {
	var kind string
	err := p.db.Get(ctx, `SELECT m.artifact_type FROM repositories r JOIN manifests m ON m.repository = r.id WHERE r.name = $1 AND m.digest = $2`,
		[]any{repo, dgst.String()}, &kind)
	if err != nil && !errors.Is(err, sql.ErrNoRows) {
		return fmt.Errorf("rule of pulls: %w", err)
	}
	if kind != ocispec.MediaTypeImageConfig && kind != image.MediaTypeDockerConfig {
		return nil
	}
	return registry.Errorf(registry.Denied, "%s@%s was not scanned for vulnerabilities yet, which the rule of %s asks for", repo, dgst, scope)
}
