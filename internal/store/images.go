package store

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Image is one image of the store.
type Image struct {
	ID           digest.Digest      // of the config
	Manifest     ocispec.Descriptor // the manifest that the image was made or pulled with
	Created      time.Time          // zero when the config does not say
	Size         int64              // bytes of its layers, uncompressed
	OS           string
	Architecture string
	Variant      string
	Labels       map[string]string
	Names        []string  // canonical, as docker.io/library/debian:bookworm; sorted
	RepoDigests  []string  // canonical, as docker.io/library/debian@sha256:...; sorted
	Tagged       time.Time // when it last got a name; zero: never
	Used         time.Time // when it was last made, pulled, pushed or run
}

const imageColumns = `i.id, i.manifest, i.manifest_type, i.manifest_size, i.created, i.size, i.os, i.architecture,
	i.variant, i.labels, i.tagged, i.used`

func scanImage(rows *sql.Rows) (*Image, error) {
	var img Image
	var created, tagged, used int64
	var labels string
	err := rows.Scan(&img.ID, &img.Manifest.Digest, &img.Manifest.MediaType, &img.Manifest.Size, &created, &img.Size,
		&img.OS, &img.Architecture, &img.Variant, &labels, &tagged, &used)
	if err != nil {
		return nil, err
	}
	img.Created, img.Used = fromNanos(created), fromNanos(used)
	if tagged > 0 {
		img.Tagged = fromNanos(tagged)
	}
	if labels != "null" {
		err = json.Unmarshal([]byte(labels), &img.Labels)
	}
	return &img, err
}

// Images lists the images, the newest first. It opens no blob.
func (s *Store) Images(ctx context.Context) ([]Image, error) {
	var list []Image
	err := s.db.View(ctx, func(tx *sql.Tx) error {
		var err error
		list, err = images(ctx, tx, "ORDER BY i.created DESC, i.id")
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("list images: %w", err)
	}
	return list, nil
}

// images reads the images that the rest of the query selects, with their names
// and repo digests.
func images(ctx context.Context, tx *sql.Tx, rest string, args ...any) ([]Image, error) {
	rows, err := tx.QueryContext(ctx, "SELECT "+imageColumns+" FROM images i "+rest, args...) //nolint:gosec // constants, all of it
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var list []Image
	at := map[string]int{}
	for rows.Next() {
		img, err := scanImage(rows)
		if err != nil {
			return nil, err
		}
		at[img.ID.String()] = len(list)
		list = append(list, *img)
	}
	if err := rows.Err(); err != nil || len(list) == 0 {
		return list, err
	}
	one, idArgs := "", []any{}
	if len(list) == 1 {
		one, idArgs = " WHERE image_id = $1", []any{list[0].ID.String()}
	}
	err = eachPair(ctx, tx, "SELECT image_id, name FROM names"+one+" ORDER BY name", idArgs, func(id, name string) {
		if i, ok := at[id]; ok {
			list[i].Names = append(list[i].Names, name)
		}
	})
	if err != nil {
		return nil, err
	}
	err = eachPair(ctx, tx, "SELECT image_id, repository || '@' || digest FROM repo_digests"+one+" ORDER BY 2", idArgs, func(id, name string) {
		if i, ok := at[id]; ok {
			list[i].RepoDigests = append(list[i].RepoDigests, name)
		}
	})
	return list, err
}

func eachPair(ctx context.Context, tx *sql.Tx, query string, args []any, fn func(a, b string)) error {
	rows, err := tx.QueryContext(ctx, query, args...)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		var a, b string
		if err := rows.Scan(&a, &b); err != nil {
			return err
		}
		fn(a, b)
	}
	return rows.Err()
}

// Image finds an image as docker does: by ID (with or without sha256:), by name
// (latest where no tag is given), by name@digest, by a unique prefix of the ID.
// It fails with errdefs.ErrNotFound, or errdefs.ErrInvalidArgument when ref is
// no reference or the prefix of several.
func (s *Store) Image(ctx context.Context, ref string) (Image, error) {
	var img Image
	err := s.db.View(ctx, func(tx *sql.Tx) error {
		var err error
		img, _, err = lookUp(ctx, tx, ref)
		return err
	})
	if err != nil {
		return Image{}, fmt.Errorf("image %q: %w", ref, err)
	}
	return img, nil
}

// Use finds an image as Image does, notes that it was used now, and leases it:
// until Close its layers stay, whoever removes it.
func (s *Store) Use(ctx context.Context, ref string) (Image, error) {
	l, err := s.acquire(ctx)
	if err != nil {
		return Image{}, err
	}
	var img Image
	err = s.db.Note(ctx, func(tx *sql.Tx) error {
		var root ocispec.Descriptor
		if img, root, err = lookUp(ctx, tx, ref); err != nil {
			return err
		}
		if _, err := tx.ExecContext(ctx, "UPDATE images SET used = $2 WHERE id = $1", img.ID.String(), now()); err != nil {
			return err
		}
		return insertLease(ctx, tx, l.id, []digest.Digest{root.Digest, img.Manifest.Digest})
	})
	if err != nil {
		return Image{}, fmt.Errorf("image %q: %w", ref, err)
	}
	return img, nil
}

// lookUp finds an image and what its name points to.
func lookUp(ctx context.Context, tx *sql.Tx, ref string) (Image, ocispec.Descriptor, error) {
	f, err := find(ctx, tx, ref)
	if err != nil {
		return Image{}, f.root, err
	}
	list, err := images(ctx, tx, "WHERE i.id = $1", f.id.String())
	if err != nil {
		return Image{}, f.root, err
	}
	if len(list) != 1 {
		return Image{}, f.root, errdefs.ErrNotFound
	}
	return list[0], f.root, nil
}

// found is what a reference led to.
type found struct {
	id   digest.Digest
	root ocispec.Descriptor // what the name points to, or the image's manifest
	name string             // the canonical name, when ref was one
}

var (
	fullID   = regexp.MustCompile(`^(sha256:)?[0-9a-f]{64}$`)
	idPrefix = regexp.MustCompile(`^(sha256:)?[0-9a-f]{1,64}$`)
)

func find(ctx context.Context, tx *sql.Tx, ref string) (found, error) {
	if fullID.MatchString(ref) {
		f, err := findByID(ctx, tx, "sha256:"+strings.TrimPrefix(ref, "sha256:"))
		if !errdefs.IsNotFound(err) {
			return f, err
		}
	}
	if named, err := reference.ParseNormalizedNamed(ref); err == nil {
		f, err := findByName(ctx, tx, named)
		if !errdefs.IsNotFound(err) {
			return f, err
		}
	} else if !idPrefix.MatchString(ref) {
		return found{}, fmt.Errorf("invalid reference format: %w", errdefs.ErrInvalidArgument)
	}
	if idPrefix.MatchString(ref) {
		return findByID(ctx, tx, "sha256:"+strings.TrimPrefix(ref, "sha256:"))
	}
	return found{}, errdefs.ErrNotFound
}

// findByID finds the one image whose ID has the prefix.
func findByID(ctx context.Context, tx *sql.Tx, prefix string) (found, error) {
	var list []found
	rows, err := tx.QueryContext(ctx, `SELECT id, manifest, manifest_type, manifest_size FROM images
		WHERE id >= $1 AND id < $2 LIMIT 2`, prefix, prefix+"g")
	if err != nil {
		return found{}, err
	}
	defer rows.Close()
	for rows.Next() {
		var f found
		if err := rows.Scan(&f.id, &f.root.Digest, &f.root.MediaType, &f.root.Size); err != nil {
			return found{}, err
		}
		list = append(list, f)
	}
	if err := rows.Err(); err != nil {
		return found{}, err
	}
	switch len(list) {
	case 0:
		return found{}, errdefs.ErrNotFound
	case 1:
		return list[0], nil
	}
	return found{}, fmt.Errorf("ambiguous image ID prefix: %w", errdefs.ErrInvalidArgument)
}

func findByName(ctx context.Context, tx *sql.Tx, named reference.Named) (found, error) {
	f := found{}
	var row *sql.Row
	if digested, ok := named.(reference.Digested); ok {
		row = tx.QueryRowContext(ctx, `SELECT image_id, digest, root_type, root_size FROM repo_digests
			WHERE repository = $1 AND digest = $2 LIMIT 1`, named.Name(), digested.Digest().String())
	} else {
		f.name = reference.TagNameOnly(named).String()
		row = tx.QueryRowContext(ctx, "SELECT image_id, root, root_type, root_size FROM names WHERE name = $1", f.name)
	}
	err := row.Scan(&f.id, &f.root.Digest, &f.root.MediaType, &f.root.Size)
	if errors.Is(err, sql.ErrNoRows) {
		return found{}, errdefs.ErrNotFound
	}
	return f, err
}

// Resolve implements image.Source: the root that a name points to, or the
// manifest of the image that ref names otherwise.
func (s *Store) Resolve(ctx context.Context, ref string) (ocispec.Descriptor, error) {
	var f found
	err := s.db.View(ctx, func(tx *sql.Tx) error {
		var err error
		f, err = find(ctx, tx, ref)
		return err
	})
	if err != nil {
		return ocispec.Descriptor{}, fmt.Errorf("image %q: %w", ref, err)
	}
	return f.root, nil
}

// SetName makes name (with its tag) name what ref names, as docker tag does.
// The image that had the name keeps its ID.
func (s *Store) SetName(ctx context.Context, name reference.NamedTagged, ref string) error {
	err := s.db.Update(ctx, func(tx *sql.Tx) error {
		f, err := find(ctx, tx, ref)
		if err != nil {
			return err
		}
		return setName(ctx, tx, name.String(), f.root, f.id)
	})
	if err != nil {
		return fmt.Errorf("tag %q: %w", ref, err)
	}
	return nil
}

func setName(ctx context.Context, tx *sql.Tx, name string, root ocispec.Descriptor, id digest.Digest) error {
	t := now()
	_, err := tx.ExecContext(ctx, `INSERT INTO names (name, root, root_type, root_size, image_id, tagged)
		VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT (name) DO UPDATE SET root = excluded.root,
		root_type = excluded.root_type, root_size = excluded.root_size, image_id = excluded.image_id, tagged = excluded.tagged`,
		name, root.Digest.String(), root.MediaType, root.Size, id.String(), t)
	if err != nil {
		return err
	}
	_, err = tx.ExecContext(ctx, "UPDATE images SET tagged = $2, used = $2 WHERE id = $1", id.String(), t)
	return err
}

// RecordSource notes that a repository (canonical name) holds blobs.
func (s *Store) RecordSource(ctx context.Context, repository string, digests ...digest.Digest) error {
	return s.db.Note(ctx, func(tx *sql.Tx) error {
		for _, d := range digests {
			if _, err := tx.ExecContext(ctx, "INSERT INTO sources (digest, repository) VALUES ($1, $2) ON CONFLICT DO NOTHING",
				d.String(), repository); err != nil {
				return fmt.Errorf("record source of %s: %w", d, err)
			}
		}
		return nil
	})
}

// Sources lists the repositories that are known to hold a blob, sorted.
func (s *Store) Sources(ctx context.Context, dgst digest.Digest) ([]string, error) {
	var list []string
	err := s.db.View(ctx, func(tx *sql.Tx) error {
		return eachPair(ctx, tx, "SELECT digest, repository FROM sources WHERE digest = $1", []any{dgst.String()},
			func(_, repository string) { list = append(list, repository) })
	})
	slices.Sort(list)
	return list, err
}
