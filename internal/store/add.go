package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"strake/internal/image"
)

// AddImageOptions say what becomes reachable.
type AddImageOptions struct {
	Root       ocispec.Descriptor // manifest or index that the names point to
	Manifest   ocispec.Descriptor // the image's manifest; zero: Root, or the one of Root for this machine
	Names      []string           // canonical, with a tag
	RepoDigest string             // repository@digest that holds Root; "" for none
}

// AddImage makes an image, whose blobs have been pushed, reachable, in one
// transaction. Adding what is there adds its names.
func (s *Store) AddImage(ctx context.Context, opts AddImageOptions) (Image, error) {
	m := opts.Manifest
	if m.Digest == "" {
		var err error
		if m, err = s.manifestOf(ctx, opts.Root); err != nil {
			return Image{}, err
		}
	}
	manifest, _, err := image.ReadManifest(ctx, s, m)
	if err != nil {
		return Image{}, err
	}
	config, _, err := image.ReadConfig(ctx, s, manifest.Config)
	if err != nil {
		return Image{}, err
	}
	id := manifest.Config.Digest
	if img, err := s.Image(ctx, id.String()); err == nil && opts.done(ctx, s, img, m) {
		return img, nil
	}
	err = s.db.Update(ctx, func(tx *sql.Tx) error {
		for _, d := range []digest.Digest{opts.Root.Digest, m.Digest, id} {
			if ok, err := exists(ctx, tx, "blobs WHERE digest = $1", d.String()); err != nil || !ok {
				return errors.Join(err, fmt.Errorf("%s: %w", d, errdefs.ErrNotFound))
			}
		}
		if err := recordImage(ctx, tx, m, id, config); err != nil {
			return err
		}
		for _, name := range opts.Names {
			if err := setName(ctx, tx, name, opts.Root, id); err != nil {
				return err
			}
		}
		if repository, dgst, ok := strings.Cut(opts.RepoDigest, "@"); ok {
			return recordRepoDigest(ctx, tx, repository, dgst, opts.Root, id)
		}
		return nil
	})
	if err != nil {
		return Image{}, fmt.Errorf("add image %s: %w", id, err)
	}
	return s.Image(ctx, id.String())
}

// done reports whether the image and all its names are as they are to be.
func (o AddImageOptions) done(ctx context.Context, s *Store, img Image, manifest ocispec.Descriptor) bool {
	if img.Manifest.Digest != manifest.Digest || o.RepoDigest != "" && !slices.Contains(img.RepoDigests, o.RepoDigest) {
		return false
	}
	for _, name := range o.Names {
		if root, err := s.Resolve(ctx, name); err != nil || root.Digest != o.Root.Digest || !slices.Contains(img.Names, name) {
			return false
		}
	}
	return true
}

// Tag implements image.Target: ref is a canonical name with its tag.
func (s *Store) Tag(ctx context.Context, desc ocispec.Descriptor, ref string) error {
	_, err := s.AddImage(ctx, AddImageOptions{Root: desc, Names: []string{ref}})
	return err
}

// RecordRepoDigest notes that repository holds the image as root, a manifest or
// index that the store holds too.
func (s *Store) RecordRepoDigest(ctx context.Context, id digest.Digest, repository string, root ocispec.Descriptor) error {
	return s.db.Update(ctx, func(tx *sql.Tx) error {
		return recordRepoDigest(ctx, tx, repository, root.Digest.String(), root, id)
	})
}

func recordRepoDigest(ctx context.Context, tx *sql.Tx, repository, dgst string, root ocispec.Descriptor, id digest.Digest) error {
	// An image that was removed meanwhile gets none: nothing would lead to it.
	_, err := tx.ExecContext(ctx, `INSERT INTO repo_digests (repository, digest, root_type, root_size, image_id)
		SELECT $1, $2, $3, $4, id FROM images WHERE id = $5 ON CONFLICT DO NOTHING`, repository, dgst, root.MediaType, root.Size, id.String())
	return err
}

// manifestOf chooses the manifest of root: itself, or the one of an index for
// this machine, or the only one that the store holds.
func (s *Store) manifestOf(ctx context.Context, root ocispec.Descriptor) (ocispec.Descriptor, error) {
	if !image.IsIndex(root.MediaType) {
		return root, nil
	}
	index, _, err := image.ReadIndex(ctx, s, root)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	var held []ocispec.Descriptor
	match := platforms.Default()
	for _, m := range index.Manifests {
		ok, err := s.Exists(ctx, m)
		if err != nil {
			return ocispec.Descriptor{}, err
		}
		if !ok || !image.IsManifest(m.MediaType) {
			continue
		}
		if m.Platform != nil && match.Match(*m.Platform) {
			return m, nil
		}
		held = append(held, m)
	}
	if len(held) == 0 {
		return ocispec.Descriptor{}, fmt.Errorf("index %s: no manifest of it is in the store: %w", root.Digest, errdefs.ErrNotFound)
	}
	return held[0], nil
}
