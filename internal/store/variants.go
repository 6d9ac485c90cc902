package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"

	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	dockerspec "github.com/moby/docker-image-spec/specs-go/v1"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"strake/internal/image"
	"strake/internal/sqldb"
)

// part is a manifest of a root that is here: the root itself, or what an index
// names.
type part struct {
	desc   ocispec.Descriptor
	rank   int           // its place among all that the index names, the best for this machine first
	known  bool          // an image already: nothing but its place under the root is new
	id     digest.Digest // of the image; "" for an attestation or an index in the index
	config dockerspec.DockerOCIImage
}

// adder finds out what an AddImage is to add.
type adder struct {
	*Store
	opts AddImageOptions
}

// maxIndexDepth bounds indexes in indexes.
const maxIndexDepth = 8

// parts lists what of the root is to be kept.
func (a *adder) parts(ctx context.Context) ([]part, error) {
	if !image.IsIndex(a.opts.Root.MediaType) {
		p, err := a.readPart(ctx, a.opts.Root, true)
		return []part{p}, err
	}
	var all []part
	if err := a.named(ctx, a.opts.Root, 0, &all); err != nil {
		return nil, err
	}
	match := platforms.Default()
	ordered := slices.Clone(all)
	slices.SortStableFunc(ordered, func(a, b part) int { return compareFit(match, a.desc.Platform, b.desc.Platform) })
	var kept []part
	for i, p := range ordered {
		if p.known, p.id = false, ""; !image.IsIndex(p.desc.MediaType) {
			keep, err := a.keeps(ctx, &p)
			if err != nil {
				return nil, err
			}
			if !keep {
				continue
			}
		}
		p.rank = i
		kept = append(kept, p)
	}
	if !slices.ContainsFunc(kept, func(p part) bool { return p.id != "" }) {
		return nil, fmt.Errorf("index %s: no image of it is in the store: %w", a.opts.Root.Digest, errdefs.ErrNotFound)
	}
	return kept, nil
}

// named adds all that an index names, and the indexes in it name, but those
// that are not here.
func (a *adder) named(ctx context.Context, root ocispec.Descriptor, depth int, list *[]part) error {
	if depth > maxIndexDepth {
		return fmt.Errorf("index %s: nested deeper than %d: %w", root.Digest, maxIndexDepth, errdefs.ErrInvalidArgument)
	}
	index, _, err := image.ReadIndex(ctx, a, root)
	if err != nil {
		return err
	}
	for _, m := range index.Manifests {
		if slices.ContainsFunc(*list, func(p part) bool { return p.desc.Digest == m.Digest }) {
			continue
		}
		switch {
		case image.IsIndex(m.MediaType):
			held, err := a.Exists(ctx, m)
			if err != nil {
				return err
			}
			if !held {
				continue
			}
			*list = append(*list, part{desc: m})
			if err := a.named(ctx, m, depth+1, list); err != nil {
				return err
			}
		case image.IsManifest(m.MediaType):
			*list = append(*list, part{desc: m})
		}
	}
	return nil
}

// keeps reports whether a manifest is one that the options name (or, where they name
// none, one that is here), or an image of the store, and completes p.
func (a *adder) keeps(ctx context.Context, p *part) (bool, error) {
	asked := slices.ContainsFunc(a.opts.Manifests, func(d ocispec.Descriptor) bool { return d.Digest == p.desc.Digest })
	if !asked && len(a.opts.Manifests) == 0 {
		held, err := a.Exists(ctx, p.desc)
		if err != nil {
			return false, err
		}
		asked = held
	}
	if !asked {
		if err := a.hold(ctx, p.desc.Digest); err != nil {
			return false, err
		}
		err := a.db.View(ctx, func(tx *sql.Tx) error {
			return tx.QueryRowContext(ctx, `SELECT id FROM images WHERE manifest = $1 UNION
				SELECT image_id FROM variants WHERE manifest = $1 AND image_id <> ''`, p.desc.Digest.String()).Scan(&p.id)
		})
		if errors.Is(err, sql.ErrNoRows) {
			return false, nil
		}
		p.known = true
		return err == nil, err
	}
	read, err := a.readPart(ctx, p.desc, false)
	p.id, p.config = read.id, read.config
	return true, err
}

// readPart reads which image a manifest is. Alone, anything with a config is one;
// beside others, what says so.
func (a *adder) readPart(ctx context.Context, desc ocispec.Descriptor, alone bool) (part, error) {
	manifest, _, err := image.ReadManifest(ctx, a, desc)
	if err != nil {
		return part{}, err
	}
	p := part{desc: desc}
	if !alone && (image.IsAttestation(desc) || !isImageConfig(manifest.Config.MediaType)) {
		return p, nil
	}
	p.id = manifest.Config.Digest
	p.config, _, err = image.ReadConfig(ctx, a, manifest.Config)
	return p, err
}

// compareFit orders platforms: those that match first, the best of them first;
// all others are alike.
func compareFit(match platforms.MatchComparer, a, b *ocispec.Platform) int {
	fits := func(p *ocispec.Platform) bool { return p != nil && match.Match(*p) }
	switch {
	case fits(a) && !fits(b), fits(a) && fits(b) && match.Less(*a, *b):
		return -1
	case fits(b) && !fits(a), fits(a) && fits(b) && match.Less(*b, *a):
		return 1
	}
	return 0
}

// addParts makes the rows of a root's parts, and returns the image that stands
// for the root.
func addParts(ctx context.Context, tx *sql.Tx, root ocispec.Descriptor, parts []part) (digest.Digest, error) {
	for _, p := range parts {
		if p.known {
			if ok, err := exists(ctx, tx, "images WHERE id = $1", p.id.String()); err != nil || !ok {
				if err != nil {
					return "", err
				}
				continue // removed meanwhile
			}
		} else if err := addPart(ctx, tx, p); err != nil {
			return "", err
		}
		if !image.IsIndex(root.MediaType) {
			return p.id, nil
		}
		_, err := tx.ExecContext(ctx, `INSERT INTO variants (root, manifest, manifest_type, manifest_size, image_id, rank, chosen)
			VALUES ($1, $2, $3, $4, $5, $6, 0) ON CONFLICT (root, manifest) DO UPDATE SET rank = excluded.rank`,
			root.Digest.String(), p.desc.Digest.String(), p.desc.MediaType, p.desc.Size, p.id.String(), p.rank)
		if err != nil {
			return "", err
		}
	}
	return choose(ctx, tx, root.Digest)
}

func addPart(ctx context.Context, tx *sql.Tx, p part) error {
	for _, d := range []digest.Digest{p.desc.Digest, p.id} {
		if d == "" {
			continue
		}
		if ok, err := exists(ctx, tx, "blobs WHERE digest = $1", d.String()); err != nil || !ok {
			return errors.Join(err, fmt.Errorf("%s: %w", d, errdefs.ErrNotFound))
		}
	}
	if p.id == "" {
		return nil
	}
	return recordImage(ctx, tx, p.desc, p.id, p.config)
}

// choose makes the image of the lowest rank stand for the index root, under all
// its names and digests. It fails with errdefs.ErrNotFound where no image of
// the index is left.
func choose(ctx context.Context, tx *sql.Tx, root digest.Digest) (digest.Digest, error) {
	var manifest string
	var id digest.Digest
	err := tx.QueryRowContext(ctx, `SELECT manifest, image_id FROM variants WHERE root = $1 AND image_id <> ''
		ORDER BY rank LIMIT 1`, root.String()).Scan(&manifest, &id)
	if errors.Is(err, sql.ErrNoRows) {
		return "", fmt.Errorf("index %s: no image of it is in the store: %w", root, errdefs.ErrNotFound)
	}
	if err != nil {
		return "", err
	}
	_, err = tx.ExecContext(ctx, "UPDATE variants SET chosen = CASE WHEN manifest = $2 THEN 1 ELSE 0 END WHERE root = $1",
		root.String(), manifest)
	if err != nil {
		return "", err
	}
	for _, q := range []string{
		"UPDATE names SET image_id = $2 WHERE root = $1", "UPDATE repo_digests SET image_id = $2 WHERE digest = $1",
	} {
		if _, err := tx.ExecContext(ctx, q, root.String(), id.String()); err != nil {
			return "", err
		}
	}
	return id, nil
}

// Variants lists the images of an index that are here, the one that stands for
// the index first. Each has the manifest that the index names. The root may be
// a manifest: then its image is the only one.
func (s *Store) Variants(ctx context.Context, root ocispec.Descriptor) ([]Image, error) {
	var list []Image
	err := s.db.View(ctx, func(tx *sql.Tx) error {
		var err error
		list, err = variants(ctx, tx, root)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("images of %s: %w", root.Digest, err)
	}
	return list, nil
}

func variants(ctx context.Context, tx *sql.Tx, root ocispec.Descriptor) ([]Image, error) {
	type row struct {
		id   string
		desc ocispec.Descriptor
	}
	found, err := sqldb.Collect(ctx, tx, `SELECT image_id, manifest, manifest_type, manifest_size FROM variants
		WHERE root = $1 AND image_id <> '' ORDER BY rank`, []any{root.Digest.String()}, func(rows *sql.Rows, r *row) error {
		return rows.Scan(&r.id, &r.desc.Digest, &r.desc.MediaType, &r.desc.Size)
	})
	if err != nil {
		return nil, err
	}
	if !image.IsIndex(root.MediaType) {
		return images(ctx, tx, "WHERE manifest = $1", root.Digest.String())
	}
	var list []Image
	for _, r := range found {
		one, err := images(ctx, tx, "WHERE id = $1", r.id)
		if err != nil {
			return nil, err
		}
		for _, img := range one {
			img.Manifest = r.desc
			list = append(list, img)
		}
	}
	return list, nil
}

// Held is the set of the manifests that an index names and the store keeps for
// it: images, attestations, and the indexes in it.
func (s *Store) Held(ctx context.Context, root digest.Digest) (map[digest.Digest]bool, error) {
	held := map[digest.Digest]bool{}
	err := s.db.View(ctx, func(tx *sql.Tx) error {
		return eachPair(ctx, tx, "SELECT manifest, image_id FROM variants WHERE root = $1", []any{root.String()},
			func(manifest, _ string) { held[digest.Digest(manifest)] = true })
	})
	return held, err
}
