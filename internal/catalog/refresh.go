package catalog

import (
	"bytes"
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"path"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"strake/internal/registry"
)

// Bounds on what is derived of one repository.
const (
	batch        = 200      // repositories that one Refresh takes
	maxTagged    = 500      // of its newest tags
	maxText      = 64 << 10 // bytes that it is found by
	maxConfig    = 4 << 20  // bytes of an image's config
	maxScanned   = 20       // of its images, for the names of their packages
	maxPlatforms = 64
)

// stale is a repository to look at.
type stale struct {
	id, version int64
	name        string // "": it is gone
	kind        string
	description string
	public      bool
	stars       int64
	pulls       int64
	textRow     int64
}

// Refresh derives anew what changed, of some repositories at once; more tells
// that there may be others. An image that cannot be read is left out.
func (c *Catalog) Refresh(ctx context.Context) (more bool, err error) {
	var list []stale
	err = c.db.View(ctx, func(tx *sql.Tx) error {
		list = nil
		return scanAll(ctx, tx, `
			SELECT s.repository, s.version, COALESCE(r.name, ''), COALESCE(r.kind, ''), COALESCE(r.description, ''), COALESCE(r.public, 0),
			  COALESCE(r.stars, 0), COALESCE(r.pulls, 0), COALESCE(r.text_row, 0)
			FROM stale s LEFT JOIN repositories r ON r.id = s.repository ORDER BY s.repository LIMIT $1`, []any{batch}, func(rows *sql.Rows) error {
			var s stale
			var public int
			err := rows.Scan(&s.id, &s.version, &s.name, &s.kind, &s.description, &public, &s.stars, &s.pulls, &s.textRow)
			s.public = public == 1
			list = append(list, s)
			return err
		})
	})
	if err != nil {
		return false, err
	}
	derived := make([]derivation, 0, len(list))
	for _, s := range list {
		d := derivation{stale: s}
		if s.name != "" {
			if d.images, err = c.images(ctx, s); err != nil {
				return false, fmt.Errorf("repository %q: %w", s.name, err)
			}
		}
		derived = append(derived, d)
	}
	if len(list) == 0 {
		return false, nil
	}
	err = c.db.Update(ctx, func(tx *sql.Tx) error {
		for _, d := range derived {
			if err := d.store(ctx, tx); err != nil {
				return fmt.Errorf("repository %q: %w", d.name, err)
			}
		}
		return nil
	})
	return len(list) == batch, err
}

// derivation is what is derived of one repository.
type derivation struct {
	stale
	images []facts
}

// store writes what is derived, and that it is.
func (d derivation) store(ctx context.Context, tx *sql.Tx) error {
	for _, f := range d.images {
		if err := f.store(ctx, tx); err != nil {
			return err
		}
	}
	s := d.stale
	packages, err := packagesOf(ctx, tx, d.images)
	if err != nil {
		return err
	}
	platforms, text := describe(s, d.images, packages)
	if _, err := tx.ExecContext(ctx, `DELETE FROM stale WHERE repository = $1 AND version = $2`, s.id, s.version); err != nil {
		return err
	}
	if _, err := tx.ExecContext(ctx, `DELETE FROM repository_texts WHERE rowid = $1`, s.textRow); err != nil || s.name == "" {
		return err
	}
	score := popularity(s.kind, s.stars, s.pulls)
	row := textRow(s.public, score, s.id)
	if _, err := tx.ExecContext(ctx, `DELETE FROM repository_texts WHERE rowid = $1`, row); err != nil {
		return err
	}
	if _, err := tx.ExecContext(ctx, `INSERT INTO repository_texts (rowid, text) VALUES ($1, $2)`, row, text); err != nil {
		return err
	}
	_, err = tx.ExecContext(ctx, `UPDATE repositories SET base = $2, platforms = $3, popularity = $4, indexed = $5, text_row = $6 WHERE id = $1`,
		s.id, path.Base(s.name), platforms, score, s.pulls, row)
	return err
}

// popularity says how far up a repository is shown: official ones first by a
// little, a star counts as much as many pulls, and the second thousand of either
// less than the first. It is below 1<<20.
func popularity(kind string, stars, pulls int64) int64 {
	score := 100 * math.Log2(1+float64(max(pulls, 0))+50*float64(max(stars, 0)))
	switch kind {
	case Official:
		score += 2000
	case Verified:
		score += 1000
	}
	return int64(score)
}

// textRow is the row of repository_texts: public repositories before others, the
// popular ones first.
func textRow(public bool, popularity, id int64) int64 {
	row := (1<<20-1-min(popularity, 1<<20-1))<<40 | id&(1<<40-1)
	if !public {
		row |= privateRows
	}
	return row
}

// privateRows is the first row of what is not public.
const privateRows = 1 << 61

// describe returns the platforms of a repository and the text that it is found by.
func describe(s stale, images []facts, packages []string) (platforms, text string) {
	set, labels := map[string]bool{}, map[string]bool{}
	for _, f := range images {
		if p := f.os + "/" + f.architecture; f.os != "" && f.os != "unknown" && len(set) < maxPlatforms {
			set[p] = true
		}
		for k, v := range f.labels {
			labels[k+"="+v] = true
		}
	}
	if len(set) > 0 {
		platforms = " " + strings.Join(slices.Sorted(maps.Keys(set)), " ") + " "
	}
	var b strings.Builder
	for _, line := range slices.Concat([]string{s.name, s.description}, slices.Sorted(maps.Keys(labels)), packages) {
		if b.Len()+len(line) >= maxText {
			break
		}
		b.WriteString(strings.ToValidUTF8(strings.ReplaceAll(line, "\x00", ""), "") + "\n")
	}
	return platforms, strings.ToLower(b.String())
}

// packagesOf are the names of the packages that scans found in the newest images.
func packagesOf(ctx context.Context, tx *sql.Tx, images []facts) ([]string, error) {
	names := map[string]bool{}
	for _, f := range images[:min(len(images), maxScanned)] {
		err := scanAll(ctx, tx, `SELECT DISTINCT name FROM scan_packages WHERE image = $1 LIMIT 10000`, []any{f.digest}, func(rows *sql.Rows) error {
			var name string
			err := rows.Scan(&name)
			names[name] = true
			return err
		})
		if err != nil {
			return nil, err
		}
	}
	return slices.Sorted(maps.Keys(names)), nil
}

// facts are the row of an image.
type facts struct {
	digest, config            string
	os, architecture, variant string
	size, created             int64
	labels                    map[string]string
	known                     bool // the row is there
}

func (f facts) store(ctx context.Context, tx *sql.Tx) error {
	if f.known {
		return nil
	}
	labels, err := json.Marshal(f.labels)
	if err != nil {
		return err
	}
	_, err = tx.ExecContext(ctx, `
		INSERT INTO images (digest, config, os, architecture, variant, size, created, labels) VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
		ON CONFLICT (digest) DO NOTHING`, f.digest, f.config, f.os, f.architecture, f.variant, f.size, f.created, string(labels))
	return err
}

// images returns the facts of the images that the newest tags lead to, those
// held for a review left out.
func (c *Catalog) images(ctx context.Context, s stale) ([]facts, error) {
	var list []facts
	missing := map[string]bool{}
	err := c.db.View(ctx, func(tx *sql.Tx) error {
		list = nil
		return scanAll(ctx, tx, `
			WITH tagged AS (SELECT digest FROM tags WHERE repository = $1 ORDER BY pushed DESC LIMIT $2),
			  all_of_them AS (SELECT digest FROM tagged UNION SELECT f.child FROM tagged t JOIN refs f ON f.repository = $1 AND f.manifest = t.digest)
			SELECT m.digest, m.media_type, COALESCE(i.config, ''), COALESCE(i.os, ''), COALESCE(i.architecture, ''), COALESCE(i.labels, '{}')
			FROM all_of_them a JOIN manifests m ON m.repository = $1 AND m.digest = a.digest AND m.held = 0
			LEFT JOIN images i ON i.digest = m.digest`, []any{s.id, maxTagged}, func(rows *sql.Rows) error {
			var f facts
			var mediaType, labels string
			if err := rows.Scan(&f.digest, &mediaType, &f.config, &f.os, &f.architecture, &labels); err != nil {
				return err
			}
			if !isImage(mediaType) {
				return nil
			}
			if f.known = f.config != ""; !f.known {
				missing[f.digest] = true
			}
			err := json.Unmarshal([]byte(labels), &f.labels)
			list = append(list, f)
			return err
		})
	})
	if err != nil {
		return nil, err
	}
	for i := range list {
		if list[i].known {
			continue
		}
		f, err := c.readFacts(ctx, s.name, list[i].digest)
		switch {
		case ctx.Err() != nil:
			return nil, ctx.Err()
		case err != nil: // deleted meanwhile, or no image
			c.log.Debug("read image", "repository", s.name, "digest", list[i].digest, "error", err)
			list[i] = facts{known: true}
		default:
			list[i] = f
		}
	}
	return list, nil
}

// isImage tells whether a manifest of the type may be an image's.
func isImage(mediaType string) bool {
	return mediaType == ocispec.MediaTypeImageManifest || mediaType == mediaTypeDockerManifest
}

const (
	mediaTypeDockerManifest = "application/vnd.docker.distribution.manifest.v2+json"
	mediaTypeDockerConfig   = "application/vnd.docker.container.image.v1+json"
)

// readFacts reads a manifest and its config.
func (c *Catalog) readFacts(ctx context.Context, repo, dgst string) (facts, error) {
	_, manifest, config, err := c.readImage(system(ctx), repo, dgst)
	if err != nil {
		return facts{}, err
	}
	f := facts{
		digest: dgst, config: manifest.Config.Digest.String(), os: config.OS, architecture: config.Architecture, variant: config.Variant,
		size: manifest.Config.Size, labels: config.Config.Labels,
	}
	if config.Created != nil {
		f.created = config.Created.Unix()
	}
	for _, l := range manifest.Layers {
		f.size += max(l.Size, 0)
	}
	return f, nil
}

// readImage reads a manifest and its config, as the caller may. A config that is
// of no image is left empty.
func (c *Catalog) readImage(ctx context.Context, repo, ref string) (registry.Manifest, ocispec.Manifest, ocispec.Image, error) {
	var manifest ocispec.Manifest
	var config ocispec.Image
	raw, err := c.source.GetManifest(ctx, repo, ref)
	if err != nil {
		return raw, manifest, config, err
	}
	if err := json.Unmarshal(raw.Bytes, &manifest); err != nil {
		return raw, manifest, config, fmt.Errorf("manifest: %w", err)
	}
	if t := manifest.Config.MediaType; t != ocispec.MediaTypeImageConfig && t != mediaTypeDockerConfig {
		return raw, manifest, config, nil
	}
	b, err := c.readBlob(ctx, repo, manifest.Config.Digest, maxConfig)
	if err == nil {
		err = json.Unmarshal(b, &config)
	}
	return raw, manifest, config, err
}

// readBlob reads a blob that has at most limit bytes.
func (c *Catalog) readBlob(ctx context.Context, repo string, dgst digest.Digest, limit int64) ([]byte, error) {
	blob, err := c.source.OpenBlob(ctx, repo, dgst, 0)
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	_, err = io.Copy(&b, io.LimitReader(blob, limit+1))
	if err := errors.Join(err, blob.Close()); err != nil {
		return nil, fmt.Errorf("read blob %s: %w", dgst, err)
	}
	if int64(b.Len()) > limit {
		return nil, fmt.Errorf("blob %s has more than %d bytes", dgst, limit)
	}
	return b.Bytes(), nil
}
