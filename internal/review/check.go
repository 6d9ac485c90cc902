package review

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"

	"github.com/containerd/errdefs"
	dockerspec "github.com/moby/docker-image-spec/specs-go/v1"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"strake/internal/auth"
	"strake/internal/image"
	"strake/internal/jobs"
	"strake/internal/registry"
	"strake/internal/sqldb"
)

// Verdict is what a check found.
type Verdict string

// The verdicts.
const (
	Pass Verdict = "pass"
	Warn Verdict = "warn" // for the reviewer to look at
	Fail Verdict = "fail" // not to be approved without an override
)

// Result is one finding of a check.
type Result struct {
	Check   string  `json:"check"`
	Verdict Verdict `json:"result"`
	Message string  `json:"message"`
}

// Check looks at an image that is to be published. Its findings are for the
// author and the reviewer. An error is of the check, not of the image: the run
// is tried again, and at last the review goes on with a warning instead.
type Check interface {
	Name() string
	Run(ctx context.Context, f *Facts) ([]Result, error)
}

// Facts are what a check may know of one image of a review.
type Facts struct {
	Repository  string
	Kind        string // community, official, verified
	Description string
	Readme      string
	Tag         string
	Platform    string // "" when the tag is no index
	Desc        ocispec.Descriptor
	Manifest    ocispec.Manifest
	Config      dockerspec.DockerOCIImage // zero unless the manifest is of an image
	IsImage     bool
	Known       []string // names of official, verified and well-known repositories
	Scan        Scan
}

// Scan is what was found in the layers of an image.
type Scan struct {
	Secrets         []Secret
	Vulnerabilities []Vulnerability
	Matched         bool     // there was vulnerability data to look into
	Skipped         []string // what was not looked at, and why
}

// Secret is a secret in a layer.
type Secret struct{ File, What string }

// Vulnerability is one of a package in the image.
type Vulnerability struct {
	ID       string
	Package  string
	Severity string // critical, high, medium, low, unknown
	Fixed    string // version; "": none
}

// Scanner finds what is in the layers of an image, of whose manifest desc is.
type Scanner func(ctx context.Context, repo string, desc ocispec.Descriptor) (Scan, error)

// Checker runs the checks of reviews.
type Checker struct {
	Board  *Board
	Source registry.Reader // the Hub
	Scan   Scanner         // nil: nothing is known of layers, and the checks say so
	Checks []Check         // nil: DefaultChecks
}

// bounds of what one review looks at.
const (
	maxImages  = 64 // of an index
	maxResults = 200
	maxConfig  = 4 << 20
	maxDepth   = 4
	attempts   = 6 // of checks that fail themselves
)

// Handlers are the jobs of the checks.
func (c *Checker) Handlers() map[string]jobs.Handler {
	return map[string]jobs.Handler{checkJob: {Do: c.do, Concurrency: 2}}
}

func (c *Checker) do(ctx context.Context, job jobs.Job) error {
	ctx = auth.With(ctx, auth.Identity{System: true})
	id, err := strconv.ParseInt(job.Key, 10, 64)
	if err != nil {
		return fmt.Errorf("review %q: %w: %w", job.Key, err, jobs.ErrGiveUp)
	}
	v, err := c.Board.Get(ctx, id)
	if errdefs.IsNotFound(err) || err == nil && v.State != Checking {
		return nil
	}
	if err != nil {
		return err
	}
	results, err := c.run(ctx, v)
	again := job.Attempts < attempts
	if registry.HasCode(err, registry.ManifestUnknown, registry.NameUnknown) {
		_, gone := c.Source.StatManifest(ctx, v.Repository, v.Digest.String())
		if registry.HasCode(gone, registry.ManifestUnknown, registry.NameUnknown) { // it was deleted meanwhile
			return nil
		}
		if gone != nil {
			return gone
		}
		again = false // an image of the index is elsewhere
	}
	if err != nil && again {
		return err
	}
	if err != nil {
		results = append(results, Result{"checks", Warn, "not all checks could run: " + err.Error()})
	}
	return c.Board.finish(ctx, v, results)
}

// finish writes down what the checks found, unless another image was pushed.
func (b *Board) finish(ctx context.Context, v Review, results []Result) error {
	return b.db.Update(ctx, func(tx *sql.Tx) error {
		res, err := tx.ExecContext(ctx, `UPDATE reviews SET state = 'waiting', changed = $3 WHERE id = $1 AND digest = $2 AND state = 'checking'`,
			v.ID, v.Digest.String(), b.now().Unix())
		if err != nil {
			return fmt.Errorf("end checks: %w", err)
		}
		if n, err := res.RowsAffected(); err != nil || n == 0 {
			return err
		}
		if _, err := tx.ExecContext(ctx, `DELETE FROM review_checks WHERE review = $1`, v.ID); err != nil {
			return err
		}
		for i, r := range results {
			if _, err := tx.ExecContext(ctx, `INSERT INTO review_checks (review, position, name, result, message) VALUES ($1, $2, $3, $4, $5)`,
				v.ID, i, r.Check, string(r.Verdict), r.Message); err != nil {
				return fmt.Errorf("keep checks: %w", err)
			}
		}
		return nil
	})
}

// run runs every check over every image of a review.
func (c *Checker) run(ctx context.Context, v Review) ([]Result, error) {
	base := Facts{Repository: v.Repository, Tag: v.Tag}
	err := c.Board.db.View(ctx, func(tx *sql.Tx) error {
		err := tx.QueryRowContext(ctx, `SELECT kind, description, readme FROM repositories WHERE name = $1`, v.Repository).Scan(&base.Kind, &base.Description, &base.Readme)
		if errors.Is(err, sql.ErrNoRows) {
			return registry.Errorf(registry.NameUnknown, "repository name not known to registry")
		}
		if err != nil {
			return err
		}
		base.Known, err = known(ctx, tx, v.Repository)
		return err
	})
	if err != nil {
		return nil, err
	}
	all, err := c.facts(ctx, base, v.Digest.String(), "", 0)
	if err != nil {
		return nil, err
	}
	checks := c.Checks
	if checks == nil {
		checks = DefaultChecks()
	}
	var results []Result
	var failed []error
	seen := map[Result]bool{}
	for _, check := range checks {
		for i := range all {
			found, err := check.Run(ctx, &all[i])
			if err != nil {
				failed = append(failed, fmt.Errorf("%s: %w", check.Name(), err))
				continue
			}
			for _, r := range found {
				r.Check = check.Name()
				if r.Message = clip(r.Message); !seen[r] && len(results) < maxResults {
					results = append(results, r)
				}
				seen[r] = true
			}
		}
	}
	return results, errors.Join(failed...)
}

// clip bounds a message, which quotes what images say.
func clip(s string) string {
	const most = 500
	if len(s) > most {
		return fmt.Sprintf("%.*q...", most, s)
	}
	return s
}

// facts reads the image that ref names, or those of an index.
func (c *Checker) facts(ctx context.Context, base Facts, ref, platform string, depth int) ([]Facts, error) {
	m, err := c.Source.GetManifest(ctx, base.Repository, ref)
	if err != nil {
		return nil, fmt.Errorf("read manifest: %w", err)
	}
	f := base
	f.Platform, f.Desc = platform, image.Bytes(m.MediaType, m.Bytes)
	if image.IsIndex(m.MediaType) {
		return c.indexFacts(ctx, f, m, depth)
	}
	if f.Manifest, err = image.ParseManifest(m.MediaType, m.Bytes); err != nil {
		return nil, err
	}
	if f.IsImage = image.IsConfig(f.Manifest.Config.MediaType); f.IsImage {
		if err := c.readConfig(ctx, &f); err != nil {
			return nil, err
		}
		if c.Scan != nil {
			if f.Scan, err = c.Scan(ctx, f.Repository, f.Desc); err != nil {
				return nil, fmt.Errorf("scan %s: %w", f.Desc.Digest, err)
			}
		}
	}
	return []Facts{f}, nil
}

// indexFacts are those of the images of an index; of one of blobs alone, such as build cache in
// BuildKit's older form, its own.
func (c *Checker) indexFacts(ctx context.Context, base Facts, m registry.Manifest, depth int) (all []Facts, err error) {
	index, err := image.ParseIndex(m.MediaType, m.Bytes)
	if err != nil {
		return nil, err
	}
	for _, d := range index.Manifests {
		if !image.IsManifest(d.MediaType) && !image.IsIndex(d.MediaType) {
			continue
		}
		if len(all) >= maxImages || depth >= maxDepth {
			return nil, fmt.Errorf("an index of more than %d images: %w", maxImages, errdefs.ErrResourceExhausted)
		}
		platform := ""
		if d.Platform != nil {
			platform = d.Platform.OS + "/" + d.Platform.Architecture
		}
		more, err := c.facts(ctx, base, d.Digest.String(), platform, depth+1)
		if err != nil {
			return nil, err
		}
		all = append(all, more...)
	}
	if len(all) == 0 {
		all = append(all, base)
	}
	return all, nil
}

func (c *Checker) readConfig(ctx context.Context, f *Facts) (err error) {
	blob, err := c.Source.OpenBlob(ctx, f.Repository, f.Manifest.Config.Digest, 0)
	if err != nil {
		return fmt.Errorf("read config: %w", err)
	}
	defer func() { err = errors.Join(err, blob.Close()) }()
	b, err := io.ReadAll(io.LimitReader(blob, maxConfig+1))
	if err != nil {
		return fmt.Errorf("read config: %w", err)
	}
	if len(b) > maxConfig {
		return fmt.Errorf("config of more than %d bytes: %w", maxConfig, errdefs.ErrResourceExhausted)
	}
	if err := json.Unmarshal(b, &f.Config); err != nil {
		return fmt.Errorf("read config: %w: %w", err, errdefs.ErrInvalidArgument)
	}
	return nil
}

// known are the names that a name may be mistaken for: of official and verified
// repositories, and of those that were pulled most, in other namespaces.
func known(ctx context.Context, tx *sql.Tx, repo string) (names []string, err error) {
	names = append(names, wellKnown...)
	err = sqldb.Each(ctx, tx, `
		SELECT r.name FROM repositories r WHERE r.namespace <> $1 AND r.public = 1 AND (r.kind <> 'community' OR r.pulls > 1000)
		ORDER BY CASE r.kind WHEN 'community' THEN 1 ELSE 0 END, r.pulls DESC LIMIT 2000`, []any{auth.Namespace(repo)}, func(rows *sql.Rows) error {
		var name string
		err := rows.Scan(&name)
		names = append(names, name)
		return err
	})
	return names, err
}
