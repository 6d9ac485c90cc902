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
	chainid "github.com/opencontainers/image-spec/identity"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"strake/internal/image"
	"strake/internal/sqldb"
)

// RemoveOptions say what to remove.
type RemoveOptions struct {
	Ref       string             // name, name@digest, ID or prefix of an ID
	Force     bool               // by ID: all names too; also a pinned image
	Now       bool               // keep nothing for undo
	Platforms []ocispec.Platform // only these of an index
}

// RemoveResult says what was removed, in order.
type RemoveResult struct {
	Untagged []string        // canonical names and repo digests
	Deleted  []digest.Digest // images, each before the chains of layers that only it had, topmost first
	Freed    int64           // bytes on disk
}

// Remove removes a name or a digest, and with the last one the image, as docker
// rmi does. What it needs stays until the journal gives it up; with Now, or where
// no journal is kept, it is freed at once. An index that loses its last name loses its
// images but those that another name or digest reaches. It fails with
// errdefs.ErrNotFound, or errdefs.ErrConflict where Force would be needed.
func (c *collector) Remove(ctx context.Context, opts RemoveOptions) (RemoveResult, error) {
	var r *removal
	change := func(tx *sql.Tx) error {
		f, err := find(ctx, tx, opts.Ref)
		if err != nil {
			return err
		}
		r = &removal{files: c.files, tx: tx, opts: opts, undo: c.journal.begin("rmi "+shortRef(opts.Ref), !opts.Now)}
		if len(opts.Platforms) > 0 {
			err = r.removePlatforms(ctx, f)
		} else {
			err = r.remove(ctx, f)
		}
		if err != nil {
			return err
		}
		return r.end(ctx)
	}
	var freed int64
	var err error
	if opts.Now || c.journal.window <= 0 {
		freed, err = c.freeScope(ctx, change, func() []digest.Digest { return r.undo.digests() })
	} else {
		err = c.files.db.Update(ctx, change)
	}
	if err != nil {
		return RemoveResult{}, fmt.Errorf("remove %q: %w", opts.Ref, err)
	}
	r.res.Freed = freed
	return r.res, nil
}

// removal is one change that removes names and images, inside its transaction.
type removal struct {
	files *contents
	tx    *sql.Tx
	opts  RemoveOptions
	res   RemoveResult
	undo  *entry // what goes
	event int64  // the last that was written

	deleted []digest.Digest                   // images
	chains  map[digest.Digest][]digest.Digest // layers of the images that were read
}

// end ends the change: the journal keeps what went, or forgets it with all that
// it kept of it before.
func (r *removal) end(ctx context.Context) error {
	if r.undo.keep {
		return r.undo.write(ctx, r.tx, r.event)
	}
	for _, id := range r.deleted {
		if err := forget(ctx, r.tx, "image_id = $1", id.String()); err != nil {
			return err
		}
	}
	return nil
}

// delete removes rows that concern an image.
func (r *removal) delete(ctx context.Context, id digest.Digest, table, where string, args ...any) error {
	if err := r.undo.save(ctx, r.tx, id, table, where, args...); err != nil {
		return err
	}
	_, err := r.tx.ExecContext(ctx, "DELETE FROM "+table+" WHERE "+where, args...) //nolint:gosec // constants
	return err
}

// remove follows docker's rules: a reference goes, and the digests of its
// repository with the last tag of that; the image goes when nothing refers to it
// any more. By ID, a single reference goes without being forced.
func (r *removal) remove(ctx context.Context, f found) error {
	img, err := r.image(ctx, f.id)
	if err != nil {
		return err
	}
	refs := references(img)
	byID := f.name == "" && f.digest == "" || strings.HasPrefix(f.id.Encoded(), r.opts.Ref)
	switch {
	case byID && len(refs) > 0:
		member, err := exists(ctx, r.tx, `variants WHERE image_id = $1 AND chosen = 0
			AND NOT EXISTS (SELECT 1 FROM names WHERE image_id = $1) AND NOT EXISTS (SELECT 1 FROM repo_digests WHERE image_id = $1)`, f.id.String())
		if err != nil {
			return err
		}
		if member {
			return r.removeMember(ctx, img)
		}
		if !r.opts.Force && !singleReference(img) {
			return fmt.Errorf("unable to delete %s (must be forced) - image is referenced in multiple repositories: %w",
				shortID(img.ID), errdefs.ErrConflict)
		}
		if err := r.unused(ctx, f.id); err != nil {
			return err
		}
		for _, ref := range refs {
			if err := r.untag(ctx, ref); err != nil {
				return err
			}
		}
	case !byID:
		if err := r.unusedName(ctx, img); err != nil {
			return err
		}
		if err := r.removeReference(ctx, f, refs); err != nil {
			return err
		}
		if img, err = r.image(ctx, f.id); err != nil {
			return err
		}
		if len(references(img)) > 0 {
			return r.dropRoot(ctx, f.root.Digest)
		}
		if u, err := userOf(ctx, r.tx, f.id); err != nil || u != nil && u.running {
			return err // as docker has it, it stays without a name
		}
		return r.dropImage(ctx, f.id)
	}
	if err := r.unused(ctx, f.id); err != nil {
		return err
	}
	return r.dropImage(ctx, f.id)
}

// removeReference removes the name or digest of f, and with the last tag of a
// repository its digests.
func (r *removal) removeReference(ctx context.Context, f found, refs []string) error {
	if f.digest != "" {
		return r.untag(ctx, f.digest)
	}
	if err := r.untag(ctx, f.name); err != nil {
		return err
	}
	repository := repositoryOf(f.name)
	var digests []string
	for _, ref := range refs {
		switch {
		case ref == f.name || repositoryOf(ref) != repository:
		case strings.Contains(ref, "@"):
			digests = append(digests, ref)
		default:
			return nil // another tag
		}
	}
	for _, ref := range digests {
		if err := r.untag(ctx, ref); err != nil {
			return err
		}
	}
	return nil
}

func (r *removal) image(ctx context.Context, id digest.Digest) (Image, error) {
	list, err := images(ctx, r.tx, "WHERE id = $1", id.String())
	if err != nil {
		return Image{}, err
	}
	if len(list) == 0 {
		return Image{}, errdefs.ErrNotFound
	}
	return list[0], nil
}

// references lists the names and digests of an image, in docker's order.
func references(img Image) []string {
	refs := slices.Concat(img.Names, img.RepoDigests)
	slices.Sort(refs)
	return refs
}

// untag removes a canonical name or a repository@digest.
func (r *removal) untag(ctx context.Context, ref string) error {
	table, where, args := "names", "name = $1", []any{ref}
	if repository, dgst, ok := strings.Cut(ref, "@"); ok {
		table, where, args = "repo_digests", "repository = $1 AND digest = $2", []any{repository, dgst}
	}
	var id digest.Digest
	err := r.tx.QueryRowContext(ctx, "SELECT image_id FROM "+table+" WHERE "+where, args...).Scan(&id)
	if errors.Is(err, sql.ErrNoRows) {
		return nil
	}
	if err == nil {
		err = r.undo.saveNamed(ctx, r.tx, id, table, where, args...)
	}
	if err == nil {
		_, err = r.tx.ExecContext(ctx, "DELETE FROM "+table+" WHERE "+where, args...) //nolint:gosec // constants
	}
	if err == nil {
		r.event, err = imageEvent(ctx, r.tx, "untag", id.String(), id.String(), id)
	}
	r.res.Untagged = append(r.res.Untagged, ref)
	return err
}

// dropImage removes an image that nothing refers to, and the indexes that it
// stands for.
func (r *removal) dropImage(ctx context.Context, id digest.Digest) error {
	roots, err := r.column(ctx, "SELECT root FROM variants WHERE image_id = $1 AND chosen = 1", id.String())
	if err != nil {
		return err
	}
	if pinned, err := exists(ctx, r.tx, "images WHERE id = $1 AND pinned = 1", id.String()); err != nil || pinned && !r.opts.Force {
		return errors.Join(err, fmt.Errorf("unable to delete %s (must be forced) - image is pinned: %w", shortID(id), errdefs.ErrConflict))
	}
	if err := r.delete(ctx, id, "variants", "image_id = $1", id.String()); err != nil {
		return err
	}
	chains, err := r.ownChains(ctx, id)
	if err != nil {
		return err
	}
	if err := r.delete(ctx, id, "images", "id = $1", id.String()); err != nil {
		return err
	}
	if r.event, err = imageEvent(ctx, r.tx, "delete", id.String(), id.String(), id); err != nil {
		return err
	}
	r.res.Deleted, r.deleted = append(append(r.res.Deleted, id), chains...), append(r.deleted, id)
	for _, root := range roots {
		if err := r.dropRoot(ctx, digest.Digest(root)); err != nil {
			return err
		}
	}
	return nil
}

// ownChains lists the chains of layers of an image that no other image has, the
// topmost first.
func (r *removal) ownChains(ctx context.Context, id digest.Digest) ([]digest.Digest, error) {
	layers := r.layers(ctx, id)
	shared := len(layers)
	for ; shared > 0; shared-- {
		others, err := r.column(ctx, `SELECT DISTINCT i.id FROM refs r JOIN images i ON i.manifest = r.parent
			WHERE r.child = $1 AND i.id <> $2`, layers[shared-1].String(), id.String())
		if err != nil {
			return nil, err
		}
		if slices.ContainsFunc(others, func(other string) bool {
			have := r.layers(ctx, digest.Digest(other))
			return len(have) >= shared && slices.Equal(have[:shared], layers[:shared])
		}) {
			break
		}
	}
	chains := chainid.ChainIDs(slices.Clone(layers))[shared:]
	slices.Reverse(chains)
	return chains, nil
}

// layers reads the diffIDs of an image; a config that cannot be read has none: a
// damaged image can be removed too.
func (r *removal) layers(ctx context.Context, id digest.Digest) []digest.Digest {
	if list, ok := r.chains[id]; ok {
		return list
	}
	desc := ocispec.Descriptor{Digest: id}
	if err := r.tx.QueryRowContext(ctx, "SELECT size FROM blobs WHERE digest = $1", id.String()).Scan(&desc.Size); err != nil {
		return nil
	}
	config, _, err := image.ReadConfig(ctx, r.files, desc)
	if err != nil {
		return nil
	}
	if r.chains == nil {
		r.chains = map[digest.Digest][]digest.Digest{}
	}
	r.chains[id] = config.RootFS.DiffIDs
	return config.RootFS.DiffIDs
}

// dropRoot removes the images of an index that has no name and no digest any
// more, but those that are reached in another way.
func (r *removal) dropRoot(ctx context.Context, root digest.Digest) error {
	for _, table := range []string{"names WHERE root = $1", "repo_digests WHERE digest = $1"} {
		if ok, err := exists(ctx, r.tx, table, root.String()); err != nil || ok {
			return err
		}
	}
	ids, err := r.column(ctx, "SELECT image_id FROM variants WHERE root = $1 AND image_id <> '' ORDER BY rank", root.String())
	if err != nil {
		return err
	}
	of := digest.Digest("")
	if len(ids) > 0 {
		of = digest.Digest(ids[0])
	}
	if err := r.delete(ctx, of, "variants", "root = $1", root.String()); err != nil {
		return err
	}
	for _, id := range ids {
		if err := r.dropUnreached(ctx, digest.Digest(id)); err != nil {
			return err
		}
	}
	return nil
}

// dropUnreached removes an image unless a name, a digest, an index or a
// container has it.
func (r *removal) dropUnreached(ctx context.Context, id digest.Digest) error {
	for _, table := range []string{"names", "repo_digests", "variants", "containers", "image_mounts"} {
		if ok, err := exists(ctx, r.tx, table+" WHERE image_id = $1", id.String()); err != nil || ok {
			return err
		}
	}
	if ok, err := exists(ctx, r.tx, "images WHERE id = $1", id.String()); err != nil || !ok {
		return err
	}
	return r.dropImage(ctx, id)
}

// removeMember takes an image out of the indexes that another one stands for.
func (r *removal) removeMember(ctx context.Context, img Image) error {
	roots, err := r.column(ctx, "SELECT root FROM variants WHERE image_id = $1", img.ID.String())
	if err != nil {
		return err
	}
	if len(roots) > 1 && !r.opts.Force {
		return fmt.Errorf("unable to delete %s (must be forced) - image is referenced in multiple repositories: %w",
			shortID(img.ID), errdefs.ErrConflict)
	}
	return r.dropImage(ctx, img.ID)
}

// removePlatforms takes the images for platforms out of every index that has
// them. An index that has no image left loses its names.
func (r *removal) removePlatforms(ctx context.Context, f found) error {
	list, err := variants(ctx, r.tx, f.root)
	if err != nil {
		return err
	}
	if len(list) == 0 {
		if list, err = images(ctx, r.tx, "WHERE id = $1", f.id.String()); err != nil {
			return err
		}
	}
	var chosen []Image
	for _, p := range r.opts.Platforms {
		at := slices.IndexFunc(list, func(img Image) bool { return platforms.OnlyStrict(p).Match(img.Platform()) })
		if at < 0 {
			return &PlatformError{ID: f.id, Platform: p}
		}
		chosen = append(chosen, list[at])
	}
	for _, img := range chosen {
		if err := r.removeManifest(ctx, f, img); err != nil {
			return err
		}
	}
	return nil
}

// removeManifest takes one image out of all indexes, or removes what refers to
// it where it is no part of one.
func (r *removal) removeManifest(ctx context.Context, f found, img Image) error {
	roots, err := r.column(ctx, "SELECT root FROM variants WHERE manifest = $1", img.Manifest.Digest.String())
	if err != nil {
		return err
	}
	if len(roots) == 0 {
		r.opts.Force = true
		return r.remove(ctx, f)
	}
	if err := r.delete(ctx, img.ID, "variants", "manifest = $1", img.Manifest.Digest.String()); err != nil {
		return err
	}
	if r.event, err = imageEvent(ctx, r.tx, "untag", img.ID.String(), img.ID.String(), img.ID); err != nil {
		return err
	}
	for _, root := range roots {
		_, err := choose(ctx, r.tx, digest.Digest(root))
		if errdefs.IsNotFound(err) {
			err = r.untagRoot(ctx, root)
		}
		if err != nil {
			return err
		}
	}
	return r.dropUnreached(ctx, img.ID)
}

// untagRoot removes an index that has no image left, with all its names.
func (r *removal) untagRoot(ctx context.Context, root string) error {
	refs, err := r.column(ctx, `SELECT name FROM names WHERE root = $1 UNION
		SELECT repository || '@' || digest FROM repo_digests WHERE digest = $1 ORDER BY 1`, root)
	if err != nil {
		return err
	}
	for _, ref := range refs {
		if err := r.untag(ctx, ref); err != nil {
			return err
		}
	}
	return r.dropRoot(ctx, digest.Digest(root))
}

// column reads the one column of a query.
func (r *removal) column(ctx context.Context, query string, args ...any) ([]string, error) {
	return sqldb.Collect(ctx, r.tx, query, args, func(rows *sql.Rows, v *string) error { return rows.Scan(v) })
}

// PlatformError says that an image is not here for a platform. It is an
// errdefs.ErrNotFound.
type PlatformError struct {
	ID       digest.Digest
	Platform ocispec.Platform
}

func (e *PlatformError) Error() string {
	return fmt.Sprintf("image %s does not provide the specified platform (%s)", e.ID, platforms.FormatAll(e.Platform))
}

func (e *PlatformError) Unwrap() error { return errdefs.ErrNotFound }

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

// shortRef is a reference as people read it: a full ID cut short.
func shortRef(ref string) string {
	if _, whole := isIDPrefix(ref); whole {
		return strings.TrimPrefix(ref, "sha256:")[:12]
	}
	return ref
}

func shortID(id digest.Digest) string { return id.Encoded()[:12] }
