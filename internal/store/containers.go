package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"path/filepath"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"

	"strake/internal/flock"
)

// Package container keeps its records in the store's database, and its files in containers/<id>. The store knows of them that they
// need images, and which directories are left over.

// Gate keeps GC from sweeping until what it returns is closed.
func (s *contents) Gate(ctx context.Context) (io.Closer, error) {
	return openGate(ctx, s.root, flock.Shared)
}

// deadContainers lists the directories of containers that have no row, of which rows are the IDs, and that nobody works on.
func (c *debris) deadContainers(rows map[string]bool) ([]stray, error) {
	dir := filepath.Join(c.files.root, "containers")
	entries, err := readDir(dir)
	if err != nil {
		return nil, err
	}
	var list []stray
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		if rows[e.Name()] {
			continue
		}
		held, err := flock.Held(path, flock.Shared)
		if err != nil || held {
			continue // gone since, or being made or removed
		}
		size, err := treeSize(path)
		if err != nil {
			return nil, err
		}
		list = append(list, stray{path: path, size: size, tree: true})
	}
	return list, nil
}

// user is a container that needs an image.
type user struct {
	id      string
	running bool
}

// userOf returns a container of an image, a running one if there is one; nil if there is none.
func userOf(ctx context.Context, tx *sql.Tx, id digest.Digest) (*user, error) {
	var u user
	err := tx.QueryRowContext(ctx, `SELECT id, status IN ('running', 'paused', 'restarting') AS up FROM containers
		WHERE image_id = $1 OR id IN (SELECT container_id FROM image_mounts WHERE image_id = $1) ORDER BY up DESC, created LIMIT 1`, id.String()).Scan(&u.id, &u.running)
	switch {
	case err == sql.ErrNoRows:
		return nil, nil
	case err != nil:
		return nil, err
	}
	return &u, nil
}

// unused fails with errdefs.ErrConflict where a container needs an image that is to be removed: in any case where it runs, and
// unless it is forced where it does not.
func (r *removal) unused(ctx context.Context, id digest.Digest) error {
	u, err := userOf(ctx, r.tx, id)
	switch {
	case err != nil || u == nil:
		return err
	case u.running:
		return fmt.Errorf("unable to delete %s (cannot be forced) - image is being used by running container %s: %w",
			shortID(id), u.id[:12], errdefs.ErrConflict)
	case !r.opts.Force:
		return fmt.Errorf("unable to delete %s (must be forced) - image is being used by stopped container %s: %w",
			shortID(id), u.id[:12], errdefs.ErrConflict)
	}
	return nil
}

// unusedName fails with errdefs.ErrConflict where the last name of an image is to go, without force, and a container needs it.
func (r *removal) unusedName(ctx context.Context, img Image) error {
	if r.opts.Force || !singleReference(img) {
		return nil
	}
	u, err := userOf(ctx, r.tx, img.ID)
	if err != nil || u == nil {
		return err
	}
	return fmt.Errorf("unable to remove repository reference %q (must force) - container %s is using its referenced image %s: %w",
		r.opts.Ref, u.id[:12], shortID(img.ID), errdefs.ErrConflict)
}

// MountImage notes, in the transaction that makes a container, that it mounts an image. It fails with errdefs.ErrNotFound where that is gone.
func MountImage(ctx context.Context, tx *sql.Tx, container string, id digest.Digest) error {
	res, err := tx.ExecContext(ctx, `INSERT INTO image_mounts (container_id, image_id, manifest) SELECT $1, id, manifest FROM images
		WHERE id = $2 ON CONFLICT DO UPDATE SET image_id = image_id`, container, id.String())
	if err != nil {
		return fmt.Errorf("record the images of a container: %w", err)
	}
	if n, err := res.RowsAffected(); err != nil || n == 0 {
		return errors.Join(err, fmt.Errorf("image %s: %w", id, errdefs.ErrNotFound))
	}
	return nil
}

// UnmountImages notes that a container is gone.
func UnmountImages(ctx context.Context, tx *sql.Tx, container string) error {
	if _, err := tx.ExecContext(ctx, "DELETE FROM image_mounts WHERE container_id = $1", container); err != nil {
		return fmt.Errorf("forget the images of a container: %w", err)
	}
	return nil
}

// LayerSize is how many bytes a layer's tar has.
func (s *contents) LayerSize(ctx context.Context, id digest.Digest) (size int64, err error) {
	if err := s.db.Get(ctx, "SELECT size FROM layers WHERE diff_id = $1", []any{id.String()}, &size); err != nil {
		return 0, fmt.Errorf("layer %s: %w", id, err)
	}
	return size, nil
}
