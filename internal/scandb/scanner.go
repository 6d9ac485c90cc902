package scandb

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"strake/internal/image"
	"strake/internal/jobs"
	"strake/internal/registry"
	"strake/internal/scan"
	"strake/internal/sqldb"
	"strake/internal/vuln"
)

// Kinds of jobs.
const (
	ScanJob    = "scan"            // of an image: the key is its digest, the payload a Task
	MatchJob   = "match"           // of an image: the key is its digest
	RefreshJob = "vulnerabilities" // the key is refreshKey, the payload a Feed
	MissingJob = "scan-missing"    // the key is missingKey
)

const refreshKey = "osv"

// Scanner scans images of a registry. It is safe for concurrent use.
type Scanner struct {
	DB     *sqldb.DB
	Source registry.Reader
	// Done, when not nil, is called in the transaction that keeps a new report, or
	// one that was matched again (repo is "" then).
	Done func(ctx context.Context, tx *sql.Tx, repo string, r *Report) error
	// System, when not nil, gives a context the right to read every repository.
	System func(ctx context.Context) context.Context
}

// bounds of what is scanned.
const (
	maxLayers  = 512
	maxHistory = 2000
	scanFor    = 30 * time.Minute
)

// Handlers are the jobs that a Scanner does. Scans are few at once, for each takes
// a processor.
func (s *Scanner) Handlers() map[string]jobs.Handler {
	return map[string]jobs.Handler{
		ScanJob:    {Do: s.scanJob, Concurrency: 2, Timeout: scanFor, Attempts: 6},
		MatchJob:   {Do: s.matchJob, Concurrency: 2, Attempts: 6},
		MissingJob: {Do: s.missingJob, Attempts: 1 << 20, Backoff: time.Minute},
		RefreshJob: {Do: s.refreshJob, Timeout: 2 * time.Hour, Attempts: 1 << 20, Backoff: time.Minute},
	}
}

func (s *Scanner) scanJob(ctx context.Context, job jobs.Job) error {
	var task Task
	if err := json.Unmarshal([]byte(job.Payload), &task); err != nil {
		return fmt.Errorf("%w: %w", err, jobs.ErrGiveUp)
	}
	_, err := s.Scan(ctx, task)
	switch {
	case errdefs.IsNotFound(err):
		return nil // it was deleted meanwhile
	case errdefs.IsNotImplemented(err):
		return nil // no image
	}
	return err
}

// Scan scans an image and keeps the report. What is no image fails with the kind
// NotImplemented, an image that is not there any more with NotFound. A layer that
// cannot be read as one is a note of the report; other errors are to be tried again.
func (s *Scanner) Scan(ctx context.Context, task Task) (Report, error) {
	reading := ctx
	if s.System != nil {
		reading = s.System(ctx)
	}
	r, err := s.scan(reading, task)
	if err != nil {
		return Report{}, fmt.Errorf("scan %s: %w", task.Desc.Digest, err)
	}
	err = s.DB.Update(ctx, func(tx *sql.Tx) error {
		if err := r.match(ctx, tx); err != nil {
			return err
		}
		if err := r.save(ctx, tx); err != nil {
			return err
		}
		if s.Done != nil {
			return s.Done(ctx, tx, task.Repository, &r)
		}
		return nil
	})
	if err != nil {
		return Report{}, fmt.Errorf("keep the scan of %s: %w", task.Desc.Digest, err)
	}
	return r, nil
}

func (s *Scanner) scan(ctx context.Context, task Task) (Report, error) {
	m, err := s.Source.GetManifest(ctx, task.Repository, task.Desc.Digest.String())
	if err != nil {
		return Report{}, notFound(err)
	}
	if image.IsIndex(m.MediaType) {
		return Report{}, fmt.Errorf("an index: %w", errdefs.ErrNotImplemented)
	}
	manifest, err := image.ParseManifest(m.MediaType, m.Bytes)
	if err != nil {
		return Report{}, fmt.Errorf("%w: %w", err, jobs.ErrGiveUp)
	}
	if !image.IsConfig(manifest.Config.MediaType) || len(manifest.Layers) > maxLayers {
		return Report{}, fmt.Errorf("%s of %d layers is no image: %w", manifest.Config.MediaType, len(manifest.Layers), errdefs.ErrNotImplemented)
	}
	r := Report{Image: task.Desc.Digest, Scanned: time.Now(), Layers: []LayerFiles{}}
	secrets, err := s.config(ctx, task.Repository, manifest.Config)
	if err != nil {
		return Report{}, err
	}
	im, err := s.layers(ctx, task.Repository, manifest.Layers)
	if err != nil {
		return Report{}, err
	}
	r.Packages, r.Secrets, r.Notes = im.Packages, append(append([]scan.Secret{}, secrets...), im.Secrets...), im.Skipped
	if countable(manifest.Layers) {
		if r.Layers, err = s.count(ctx, manifest.Layers); err != nil {
			return Report{}, fmt.Errorf("count files: %w", err)
		}
	}
	for _, name := range im.RPM {
		r.Notes = append(r.Notes, "packages of rpm, in /"+name+", are not read")
	}
	if im.Release != nil {
		r.Distribution = im.Release.Name
	}
	return r, nil
}

// Look is Scan for who wants to know at once and keeps nothing but the layers'
// records: it does not look into the config. What is not known of layers is in im.Skipped.
func (s *Scanner) Look(ctx context.Context, repo string, manifest ocispec.Manifest) (im scan.Image, found vuln.Result, err error) {
	if len(manifest.Layers) > maxLayers {
		return im, found, fmt.Errorf("an image of %d layers: %w", len(manifest.Layers), errdefs.ErrResourceExhausted)
	}
	reading := ctx
	if s.System != nil {
		reading = s.System(ctx)
	}
	if im, err = s.layers(reading, repo, manifest.Layers); err == nil {
		found, err = vuln.Match(ctx, s.DB, im.Packages)
	}
	if err != nil {
		return scan.Image{}, vuln.Result{}, fmt.Errorf("scan: %w", err)
	}
	return im, found, nil
}

// layers merges the records of layers. One that is elsewhere, or is none, is a note in Skipped.
func (s *Scanner) layers(ctx context.Context, repo string, layers []ocispec.Descriptor) (scan.Image, error) {
	records := make([]scan.Record, len(layers))
	for i, l := range layers {
		if len(l.URLs) > 0 {
			records[i].Skipped = []string{fmt.Sprintf("layer %d is not in this registry", i+1)}
			continue
		}
		r, err := s.layer(ctx, repo, l)
		switch {
		case broken(err):
			r = scan.Record{Skipped: []string{fmt.Sprintf("layer %d: %v", i+1, err)}}
		case err != nil:
			return scan.Image{}, fmt.Errorf("layer %s: %w", l.Digest, err)
		}
		records[i] = r
	}
	return scan.Merge(records), nil
}

// notFound gives an error of the registry for what is not there the kind that it has elsewhere.
func notFound(err error) error {
	var e *registry.Error
	if errors.As(err, &e) && (e.Code == registry.ManifestUnknown || e.Code == registry.NameUnknown || e.Code == registry.BlobUnknown) {
		return fmt.Errorf("%w: %w", err, errdefs.ErrNotFound)
	}
	return err
}

// broken tells whether a layer itself is at fault.
func broken(err error) bool {
	return errdefs.IsDataLoss(err) || errdefs.IsInvalidArgument(err) || errdefs.IsResourceExhausted(err)
}

// config finds the secrets in an image's config.
func (s *Scanner) config(ctx context.Context, repo string, desc ocispec.Descriptor) (found []scan.Secret, err error) {
	blob, err := s.Source.OpenBlob(ctx, repo, desc.Digest, 0)
	if err != nil {
		return nil, notFound(err)
	}
	defer func() { err = errors.Join(err, blob.Close()) }()
	const most = 8 << 20
	var config struct {
		Config struct {
			Env    []string
			Labels map[string]string
		}
		History []struct {
			CreatedBy string `json:"created_by"`
		}
	}
	b, err := readAll(blob, most)
	if err != nil {
		return nil, err
	}
	if json.Unmarshal(b, &config) != nil {
		return nil, nil // it configures nothing that can be run
	}
	c := scan.Config{Env: config.Config.Env, Labels: config.Config.Labels}
	for _, h := range config.History[:min(len(config.History), maxHistory)] {
		c.History = append(c.History, h.CreatedBy)
	}
	return c.Secrets(), nil
}

func (s *Scanner) matchJob(ctx context.Context, job jobs.Job) error {
	dgst, err := digest.Parse(job.Key)
	if err != nil {
		return fmt.Errorf("%w: %w", err, jobs.ErrGiveUp)
	}
	_, err = s.Match(ctx, dgst)
	if errdefs.IsNotFound(err) {
		return nil // its image was deleted meanwhile
	}
	return err
}

// Match matches the packages of an image that was scanned with the vulnerabilities
// that are known now. It reads rows alone. An image that was not scanned fails with the kind NotFound.
func (s *Scanner) Match(ctx context.Context, dgst digest.Digest) (r Report, err error) {
	err = s.DB.Update(ctx, func(tx *sql.Tx) error {
		if r, err = find(ctx, tx, dgst); err != nil {
			return err
		}
		had := r.Findings
		if err := r.match(ctx, tx); err != nil {
			return err
		}
		if err := r.saveFindings(ctx, tx, had); err != nil {
			return err
		}
		if s.Done != nil {
			return s.Done(ctx, tx, "", &r)
		}
		return nil
	})
	if err != nil {
		return Report{}, fmt.Errorf("match %s: %w", dgst, err)
	}
	return r, nil
}

// match looks for the vulnerabilities of a report's packages.
func (r *Report) match(ctx context.Context, tx *sql.Tx) error {
	found, err := vuln.MatchIn(ctx, tx, r.Packages)
	if err != nil {
		return err
	}
	r.Findings, r.Generations, r.Matched = append([]vuln.Finding{}, found.Findings...), map[string]int64{}, time.Time{}
	for _, source := range found.Sources {
		r.Generations[source.Name] = source.Generation
		r.Matched = time.Now()
	}
	return nil
}
