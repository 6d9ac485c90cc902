package store

import (
	"cmp"
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"strake/internal/reference"
	"strake/internal/sqldb"
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
	Names        []string  // canonical, as docker.io/library/debian:bookworm; sorted
	RepoDigests  []string  // canonical, as docker.io/library/debian@sha256:...; sorted
	Tagged       time.Time // when it last got a name; zero: never
	Used         time.Time // when it was last made, pulled, pushed or run
	Pinned       bool      // no prune and no budget removes it

	labels string // a JSON object, or null
}

// Labels are the labels of the image. They are read when they are asked for: a
// list of thousands of images shows none.
func (i *Image) Labels() map[string]string {
	var labels map[string]string
	if err := json.Unmarshal([]byte(i.labels), &labels); err != nil {
		return nil // the zero Image has none; those of a store are valid
	}
	return labels
}

// Platform is what the image runs on.
func (i *Image) Platform() ocispec.Platform {
	return ocispec.Platform{OS: i.OS, Architecture: i.Architecture, Variant: i.Variant}
}

// The columns of an image: all, and those that an overview shows, which are in
// the index images_overview.
const (
	overviewColumns = "id, created, size"
	imageColumns    = overviewColumns + ", manifest, manifest_type, manifest_size, tagged, used, pinned, os, architecture, variant, labels"
)

// imageScanner returns what reads a row of overviewColumns or, where whole, of
// imageColumns.
func imageScanner(whole bool) func(rows *sql.Rows, img *Image) error {
	var row Image
	var created, tagged, used int64
	places := []any{(*string)(&row.ID), &created, &row.Size}
	if whole {
		places = append(places, (*string)(&row.Manifest.Digest), &row.Manifest.MediaType, &row.Manifest.Size, &tagged, &used, &row.Pinned,
			&row.OS, &row.Architecture, &row.Variant, &row.labels)
	}
	return func(rows *sql.Rows, img *Image) error {
		if err := rows.Scan(places...); err != nil {
			return err
		}
		if row.Created = fromNanos(created); whole {
			row.Used, row.Tagged = fromNanos(used), time.Time{}
			if tagged > 0 {
				row.Tagged = fromNanos(tagged)
			}
			if !json.Valid([]byte(row.labels)) {
				return fmt.Errorf("labels of image %s: %w", row.ID, errdefs.ErrDataLoss)
			}
		}
		*img = row
		return nil
	}
}

// Images lists the images, the newest first: of an index with names or none the
// one that stands for it. It opens no blob.
func (s *Store) Images(ctx context.Context) ([]Image, error) { return viewImages(ctx, s.db, true) }

// Overview is Images with no more of each image than ID, Created, Size, Names
// and RepoDigests: of thousands, it takes half the time.
func (s *Store) Overview(ctx context.Context) ([]Image, error) { return viewImages(ctx, s.db, false) }

func viewImages(ctx context.Context, db *sqldb.DB, whole bool) ([]Image, error) {
	var list []Image
	err := db.View(ctx, func(tx *sql.Tx) (err error) {
		list, err = listImages(ctx, tx, whole)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("list images: %w", err)
	}
	return list, nil
}

func listImages(ctx context.Context, tx *sql.Tx, whole bool) ([]Image, error) {
	columns := overviewColumns
	if whole {
		columns = imageColumns
	}
	var n int
	if err := tx.QueryRowContext(ctx, "SELECT COUNT(*) FROM images").Scan(&n); err != nil {
		return nil, err
	}
	list, scan := make([]Image, 0, n), imageScanner(whole) // they are large: none is moved
	err := sqldb.Each(ctx, tx, "SELECT "+columns+" FROM images", nil, func(rows *sql.Rows) error {
		list = append(list, Image{})
		return scan(rows, &list[len(list)-1])
	})
	if err == nil {
		err = addNames(ctx, tx, list)
	}
	if err != nil {
		return nil, err
	}
	others := map[string]bool{}
	err = eachPair(ctx, tx, "SELECT image_id, root FROM variants WHERE chosen = 0 AND image_id <> ''", nil,
		func(id, _ string) { others[id] = true })
	if len(others) > 0 {
		list = slices.DeleteFunc(list, func(img Image) bool {
			return others[img.ID.String()] && len(img.Names) == 0 && len(img.RepoDigests) == 0
		})
	}
	return newestFirst(list), err
}

// newestFirst sorts images. It moves each once, for they are large, and none
// where they are in order already.
func newestFirst(list []Image) []Image {
	type place struct {
		created int64
		at      int
	}
	places := make([]place, len(list))
	for i := range list {
		places[i] = place{nanos(list[i].Created), i}
	}
	order := func(a, b place) int {
		if a.created != b.created {
			return cmp.Compare(b.created, a.created)
		}
		return strings.Compare(list[a.at].ID.String(), list[b.at].ID.String())
	}
	if slices.IsSortedFunc(places, order) { // as they come from an index
		return list
	}
	slices.SortFunc(places, order)
	sorted := make([]Image, len(list))
	for i, p := range places {
		sorted[i] = list[p.at]
	}
	return sorted
}

// images reads the images that the rest of the query selects, with their names
// and repo digests. One image alone has also those that an index gives it which
// another image stands for.
func images(ctx context.Context, tx *sql.Tx, rest string, args ...any) ([]Image, error) {
	list, err := sqldb.Collect(ctx, tx, "SELECT "+imageColumns+" FROM images "+rest, args, imageScanner(true))
	if err != nil {
		return nil, err
	}
	return list, addNames(ctx, tx, list)
}

// addNames reads the names and repo digests of images.
func addNames(ctx context.Context, tx *sql.Tx, list []Image) error {
	at := make(map[string]int, len(list))
	for i := range list {
		at[list[i].ID.String()] = i
	}
	names, digests, idArgs := "SELECT image_id, name FROM names", "SELECT image_id, repository || '@' || digest FROM repo_digests", []any{}
	if len(list) == 1 {
		idArgs = []any{list[0].ID.String()}
		names += ` WHERE image_id = $1 UNION
			SELECT v.image_id, n.name FROM variants v JOIN names n ON n.root = v.root WHERE v.image_id = $1`
		digests += ` WHERE image_id = $1 UNION SELECT v.image_id, d.repository || '@' || d.digest
			FROM variants v JOIN repo_digests d ON d.digest = v.root WHERE v.image_id = $1`
	}
	err := eachPair(ctx, tx, names, idArgs, func(id, name string) {
		if i, ok := at[id]; ok {
			list[i].Names = append(list[i].Names, name)
		}
	})
	if err != nil {
		return err
	}
	err = eachPair(ctx, tx, digests, idArgs, func(id, name string) {
		if i, ok := at[id]; ok {
			list[i].RepoDigests = append(list[i].RepoDigests, name)
		}
	})
	for i := range list {
		slices.Sort(list[i].Names)
		slices.Sort(list[i].RepoDigests)
	}
	return err
}

// eachPair calls fn for each row of a query of two columns, in its order.
func eachPair(ctx context.Context, tx *sql.Tx, query string, args []any, fn func(a, b string)) error {
	var a, b string
	places := []any{&a, &b}
	return sqldb.Each(ctx, tx, query, args, func(rows *sql.Rows) error {
		if err := rows.Scan(places...); err != nil {
			return err
		}
		fn(a, b)
		return nil
	})
}

// Image finds an image as docker does: by ID (with or without sha256:), by name
// (latest where no tag is given), by name@digest, by a unique prefix of the ID.
// It fails with errdefs.ErrNotFound, of the prefix of several too, or with
// errdefs.ErrInvalidArgument when ref is no reference.
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
		held := []digest.Digest{root.Digest, img.Manifest.Digest}
		err := eachPair(ctx, tx, "SELECT manifest, root FROM variants WHERE root = $1", []any{root.Digest.String()},
			func(manifest, _ string) { held = append(held, digest.Digest(manifest)) })
		if err != nil {
			return err
		}
		return insertLease(ctx, tx, l.id, held)
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
	list, err := images(ctx, tx, "WHERE id = $1", f.id.String())
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
	id     digest.Digest
	root   ocispec.Descriptor // what the name points to; by ID, the index that the image stands for, or its manifest
	name   string             // the canonical name, when ref was one with a tag
	digest string             // repository@digest, when ref was that
}

// isIDPrefix reports whether ref may be the beginning of an image ID, with or
// without sha256:, and whether it is a whole one.
func isIDPrefix(ref string) (prefix, whole bool) {
	ref = strings.TrimPrefix(ref, "sha256:")
	hex := strings.Trim(ref, "0123456789abcdef") == ""
	return hex && ref != "" && len(ref) <= 64, hex && len(ref) == 64
}

func find(ctx context.Context, tx *sql.Tx, ref string) (found, error) {
	id := "sha256:" + strings.TrimPrefix(ref, "sha256:")
	prefix, whole := isIDPrefix(ref)
	if whole {
		f, err := findByID(ctx, tx, id)
		if !errdefs.IsNotFound(err) {
			return f, err
		}
		f, err = findByDigest(ctx, tx, id)
		if !errdefs.IsNotFound(err) {
			return f, err
		}
	}
	if named, err := reference.Parse(ref); err == nil {
		f, err := findByName(ctx, tx, named)
		if !errdefs.IsNotFound(err) {
			return f, err
		}
	} else if !prefix {
		return found{}, fmt.Errorf("invalid reference format: %w", errdefs.ErrInvalidArgument)
	}
	if prefix {
		return findByID(ctx, tx, id)
	}
	return found{}, errdefs.ErrNotFound
}

// findByID finds the one image whose ID has the prefix, and the index that it
// stands for.
func findByID(ctx context.Context, tx *sql.Tx, prefix string) (found, error) {
	list, err := findAll(ctx, tx, `SELECT id, manifest, manifest_type, manifest_size FROM images
		WHERE id >= $1 AND id < $2 LIMIT 2`, prefix, prefix+"g")
	if err != nil {
		return found{}, err
	}
	switch len(list) {
	case 0:
		return found{}, errdefs.ErrNotFound
	case 1:
	default:
		return found{}, fmt.Errorf("ambiguous image ID prefix: %w", errdefs.ErrNotFound) // as docker has it
	}
	indexes, err := findAll(ctx, tx, `SELECT n.image_id, n.root, n.root_type, n.root_size FROM variants v
		JOIN names n ON n.root = v.root WHERE v.image_id = $1 AND v.chosen = 1 UNION ALL
		SELECT d.image_id, d.digest, d.root_type, d.root_size FROM variants v
		JOIN repo_digests d ON d.digest = v.root WHERE v.image_id = $1 AND v.chosen = 1 LIMIT 1`, list[0].id.String())
	if err != nil || len(indexes) == 0 {
		return list[0], err
	}
	return indexes[0], nil
}

// findByDigest finds what is named by the digest of a manifest or an index.
func findByDigest(ctx context.Context, tx *sql.Tx, dgst string) (found, error) {
	list, err := findAll(ctx, tx, `SELECT image_id, root, root_type, root_size FROM names WHERE root = $1 UNION ALL
		SELECT image_id, digest, root_type, root_size FROM repo_digests WHERE digest = $1 UNION ALL
		SELECT image_id, manifest, manifest_type, manifest_size FROM variants WHERE manifest = $1 AND image_id <> '' UNION ALL
		SELECT id, manifest, manifest_type, manifest_size FROM images WHERE manifest = $1 LIMIT 1`, dgst)
	if err != nil {
		return found{}, err
	}
	if len(list) == 0 {
		return found{}, errdefs.ErrNotFound
	}
	return list[0], nil
}

func findAll(ctx context.Context, tx *sql.Tx, query string, args ...any) ([]found, error) {
	return sqldb.Collect(ctx, tx, query, args, func(rows *sql.Rows, f *found) error {
		return rows.Scan(&f.id, &f.root.Digest, &f.root.MediaType, &f.root.Size)
	})
}

func findByName(ctx context.Context, tx *sql.Tx, named reference.Named) (f found, err error) {
	var list []found
	name, dgst := "", ""
	if named.Digest() != "" {
		dgst = named.Name() + "@" + named.Digest().String()
		list, err = findAll(ctx, tx, `SELECT image_id, digest, root_type, root_size FROM repo_digests
			WHERE repository = $1 AND digest = $2`, named.Name(), named.Digest().String())
	} else {
		name = named.OrLatest().String()
		list, err = findAll(ctx, tx, "SELECT image_id, root, root_type, root_size FROM names WHERE name = $1", name)
	}
	if err != nil {
		return found{}, err
	}
	if len(list) == 0 {
		return found{}, errdefs.ErrNotFound
	}
	f = list[0]
	f.name, f.digest = name, dgst
	return f, nil
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
func (s *Store) SetName(ctx context.Context, name reference.Named, ref string) error {
	err := s.db.Update(ctx, func(tx *sql.Tx) error {
		f, err := find(ctx, tx, ref)
		if err != nil {
			return err
		}
		undo := s.begin("tag "+familiar(name.String()), true)
		if err := setName(ctx, tx, undo, name.String(), f.root, f.id); err != nil {
			return err
		}
		event, err := imageEvent(ctx, tx, "tag", f.id.String(), familiar(name.String()), f.id)
		if err != nil {
			return err
		}
		return undo.write(ctx, tx, event)
	})
	if err != nil {
		return fmt.Errorf("tag %q: %w", ref, err)
	}
	return nil
}

// setName makes name name root, and keeps in undo what it named.
func setName(ctx context.Context, tx *sql.Tx, undo *entry, name string, root ocispec.Descriptor, id digest.Digest) error {
	if _, err := undo.saveName(ctx, tx, name, root.Digest); err != nil {
		return err
	}
	t := now()
	_, err := tx.ExecContext(ctx, `INSERT INTO names (name, root, root_type, root_size, image_id, tagged)
		VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT (name) DO UPDATE SET root = excluded.root,
		root_type = excluded.root_type, root_size = excluded.root_size, image_id = excluded.image_id, tagged = excluded.tagged`,
		name, root.Digest.String(), root.MediaType, root.Size, id.String(), t)
	if err == nil {
		_, err = tx.ExecContext(ctx, "UPDATE images SET tagged = $2, used = $2 WHERE id = $1", id.String(), t)
	}
	return err
}
