package store

import (
	"context"
	"database/sql"
	"fmt"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
)

// RemoveOptions say what to remove.
type RemoveOptions struct {
	Ref   string // name, name@digest, ID or prefix of an ID
	Force bool   // by ID: all names too
}

// RemoveResult says what was removed, in order.
type RemoveResult struct {
	Untagged []string // canonical names and repo digests
	Deleted  []digest.Digest
	Freed    int64 // bytes
}

// Remove removes a name, and with the last one the image, as docker rmi does;
// then it collects. It fails with errdefs.ErrNotFound, or errdefs.ErrConflict
// where Force would be needed.
func (s *Store) Remove(ctx context.Context, opts RemoveOptions) (RemoveResult, error) {
	var res RemoveResult
	err := s.db.Update(ctx, func(tx *sql.Tx) error {
		res = RemoveResult{}
		f, err := find(ctx, tx, opts.Ref)
		if err != nil {
			return err
		}
		img, _, err := lookUp(ctx, tx, f.id.String())
		if err != nil {
			return err
		}
		return remove(ctx, tx, img, f, opts, &res)
	})
	if err != nil {
		return RemoveResult{}, fmt.Errorf("remove %q: %w", opts.Ref, err)
	}
	if len(res.Deleted) == 0 {
		return res, nil
	}
	res.Freed, err = s.GC(ctx)
	return res, err
}

func remove(ctx context.Context, tx *sql.Tx, img Image, f found, opts RemoveOptions, res *RemoveResult) error {
	byID := f.name == "" && !strings.Contains(opts.Ref, "@")
	gone := img.Names
	switch {
	case byID:
		if !opts.Force && !singleReference(img) {
			return fmt.Errorf("unable to delete %s (must be forced) - image is referenced in multiple repositories: %w",
				shortID(img.ID), errdefs.ErrConflict)
		}
	case f.name != "" && len(img.Names) > 1:
		return untag(ctx, tx, img, f.name, res)
	case f.name == "" && len(img.Names) > 0: // by digest, of an image with a tag: docker drops the digest alone
		return dropRepoDigest(ctx, tx, img, opts.Ref, res)
	}
	res.Untagged = append(append(res.Untagged, gone...), img.RepoDigests...)
	res.Deleted = append(res.Deleted, img.ID)
	for _, q := range []string{
		"DELETE FROM names WHERE image_id = $1", "DELETE FROM repo_digests WHERE image_id = $1", "DELETE FROM images WHERE id = $1",
	} {
		if _, err := tx.ExecContext(ctx, q, img.ID.String()); err != nil {
			return err
		}
	}
	return nil
}

// untag removes one name of several, and the repo digests of its repository
// when no other name of that repository is left.
func untag(ctx context.Context, tx *sql.Tx, img Image, name string, res *RemoveResult) error {
	if _, err := tx.ExecContext(ctx, "DELETE FROM names WHERE name = $1", name); err != nil {
		return err
	}
	res.Untagged = append(res.Untagged, name)
	repository := repositoryOf(name)
	for _, other := range img.Names {
		if other != name && repositoryOf(other) == repository {
			return nil
		}
	}
	for _, d := range img.RepoDigests {
		if repositoryOf(d) == repository {
			if err := dropRepoDigest(ctx, tx, img, d, res); err != nil {
				return err
			}
		}
	}
	return nil
}

func dropRepoDigest(ctx context.Context, tx *sql.Tx, img Image, ref string, res *RemoveResult) error {
	named, err := reference.ParseNormalizedNamed(ref)
	if err != nil {
		return fmt.Errorf("%w: %w", errdefs.ErrInvalidArgument, err)
	}
	canonical, ok := named.(reference.Canonical)
	if !ok {
		return fmt.Errorf("%q has no digest: %w", ref, errdefs.ErrInvalidArgument)
	}
	_, err = tx.ExecContext(ctx, "DELETE FROM repo_digests WHERE repository = $1 AND digest = $2 AND image_id = $3",
		canonical.Name(), canonical.Digest().String(), img.ID.String())
	res.Untagged = append(res.Untagged, canonical.Name()+"@"+canonical.Digest().String())
	return err
}

// singleReference reports whether all that refers to the image is one name and
// digests of its repository: then removing the ID may remove them too.
func singleReference(img Image) bool {
	if len(img.Names) > 1 {
		return false
	}
	refs := append(append([]string{}, img.Names...), img.RepoDigests...)
	for _, r := range refs {
		if repositoryOf(r) != repositoryOf(refs[0]) {
			return false
		}
	}
	return true
}

// repositoryOf cuts the tag or digest off a canonical name.
func repositoryOf(name string) string {
	name, _, _ = strings.Cut(name, "@")
	if i := strings.LastIndexByte(name, ':'); i > strings.LastIndexByte(name, '/') {
		name = name[:i]
	}
	return name
}

func shortID(id digest.Digest) string { return id.Encoded()[:12] }
