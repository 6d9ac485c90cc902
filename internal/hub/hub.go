// Package hub is the registry server's registry.
//
// A Hub is a registry.Registry on a content store and a database. The content
// store holds each blob once; the database holds the links: which repository
// holds which blobs and manifests, and what its tags name. A blob is readable
// through a repository only where the link exists, whoever knows its digest.
// Every method asks what the caller, the auth.Identity in its context, may do;
// what they may not read does not exist for them.
// Bytes are written before the link to them, so a crash leaves bytes without a
// link at worst.
package hub

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"strake/internal/auth"
	"strake/internal/hubdb"
	"strake/internal/registry"
	"strake/internal/sqldb"
)

// octetStream is the media type of blobs, whose own nobody tells the registry.
const octetStream = "application/octet-stream"

// Options say where a Hub lives. With both a database and a storage of their own
// any number of Hubs share them.
type Options struct {
	Dir        string // of what has no place of its own below; made if it is not there
	Database   string // URL of a PostgreSQL database; empty: the SQLite file hub.db in Dir
	Storage    string // URL of a bucket, as s3.Open takes it; empty: files in Dir
	NoRedirect bool   // blobs go through the Hub even where clients could fetch them from the bucket
	Sparse     bool   // manifests are taken whose blobs and manifests are not here
	Hooks      Hooks
}

// Hub is a registry. It is safe for concurrent use.
type Hub struct {
	db      *sqldb.DB
	changes group
	storage
	hooks   Hooks
	sparse  bool
	recent  recent // manifests read and written last
	parking parking
}

var _ registry.Registry = (*Hub)(nil)

// Open opens a Hub.
func Open(ctx context.Context, opts Options) (*Hub, error) {
	store, err := openStorage(ctx, opts)
	if err != nil {
		return nil, fmt.Errorf("open hub: %w", err)
	}
	h := &Hub{storage: store, hooks: append(Hooks{audited}, opts.Hooks...), sparse: opts.Sparse, parking: parking{on: store.files != nil, writers: map[string]*parked{}}}
	if opts.Database == "" {
		opts.Database = filepath.Join(opts.Dir, "hub.db")
	}
	if h.db, err = hubdb.Open(ctx, opts.Database); err != nil {
		return nil, fmt.Errorf("open hub: %w", err)
	}
	h.changes.db = h.db
	if _, err := h.expireUploads(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("open hub: %w", err), h.Close())
	}
	return h, nil
}

// Close ends the Hub when no call is under way any more. Uploads stay.
func (h *Hub) Close() error {
	return errors.Join(h.parking.close(), h.db.Close())
}

// DB is h's database, which the parts of the server share.
func DB(h *Hub) *sqldb.DB { return h.db }

// repositoryID returns the row of repo, or fails with NAME_UNKNOWN.
func repositoryID(ctx context.Context, tx *sql.Tx, repo string) (int64, error) {
	var id int64
	err := tx.QueryRowContext(ctx, `SELECT id FROM repositories WHERE name = $1`, repo).Scan(&id)
	if errors.Is(err, sql.ErrNoRows) {
		return 0, registry.Errorf(registry.NameUnknown, "repository name not known to registry")
	}
	return id, err
}

// makeRepository returns the row of repo, a new one if need be.
func makeRepository(ctx context.Context, tx *sql.Tx, repo string) (int64, error) {
	id, err := repositoryID(ctx, tx, repo)
	if !registry.HasCode(err, registry.NameUnknown) {
		return id, err
	}
	err = tx.QueryRowContext(ctx, `INSERT INTO repositories (name, namespace, created) VALUES ($1, $2, $3) RETURNING id`,
		repo, auth.Namespace(repo), time.Now().Unix()).Scan(&id)
	return id, err
}

// linkBlob makes repo hold a blob whose bytes are stored.
func (hooks Hooks) linkBlob(ctx context.Context, tx *sql.Tx, repo string, desc ocispec.Descriptor) error {
	id, err := makeRepository(ctx, tx, repo)
	if err != nil {
		return err
	}
	_, err = tx.ExecContext(ctx, `
		INSERT INTO blobs (repository, digest, size, linked) VALUES ($1, $2, $3, $4)
		ON CONFLICT (repository, digest) DO UPDATE SET linked = excluded.linked`, id, desc.Digest.String(), desc.Size, time.Now().Unix())
	if err != nil {
		return err
	}
	return hooks.Call(ctx, tx, Change{Kind: BlobLinked, Repository: repo, ID: id, Desc: desc})
}

// allow fails unless the caller may do with repo what need says. It returns their
// role there, which may be more than their registry token was asked for. Nobody
// learns by it whether a repository exists.
func allow(ctx context.Context, tx *sql.Tx, repo string, need auth.Role) (auth.Role, error) {
	id := auth.From(ctx)
	role, err := auth.RoleOf(ctx, tx, id.Whole(), repo)
	if err != nil {
		return role, err
	}
	return role, enough(id, min(role, id.Limit(repo)), need)
}

// enough fails unless id, whose role is that, may do what need says.
func enough(id auth.Identity, role, need auth.Role) error {
	switch {
	case role >= need:
		return nil
	case id.Anonymous():
		return registry.Errorf(registry.Unauthorized, "authentication required")
	case need == auth.Read:
		return registry.Errorf(registry.NameUnknown, "repository name not known to registry")
	}
	return registry.Errorf(registry.Denied, "requested access to the resource is denied")
}

// readRow reads what the caller may read of repo by a query that yields one row at
// most; seeHeld is its parameter that tells whether the caller sees what is held
// for a review. It fails as allow does, and with sql.ErrNoRows. Both it asks are
// prepared, and in no transaction: a role that is lost meanwhile was there when
// the request came.
func readRow(ctx context.Context, db *sqldb.DB, repo, query string, args func(seeHeld int) []any, dest ...any) error {
	id := auth.From(ctx)
	role, err := auth.RoleNow(ctx, db, id.Whole(), repo)
	if err != nil {
		return err
	}
	if err := enough(id, min(role, id.Limit(repo)), auth.Read); err != nil {
		return err
	}
	return db.Get(ctx, query, args(maySeeHeld(role)), dest...)
}

// blobQuery is the size of the blob $2 of the repository $1, and 1 where it was
// linked before $4 and no manifest names it: it would go soon. Who may only read
// does not see blobs of which no manifest is published.
const blobQuery = `
		SELECT b.size, CASE WHEN b.linked < $4
		  AND NOT EXISTS (SELECT 1 FROM refs f WHERE f.repository = b.repository AND f.child = b.digest) THEN 1 ELSE 0 END
		FROM blobs b JOIN repositories r ON r.id = b.repository
		WHERE r.name = $1 AND b.digest = $2 AND ($3 = 1 OR EXISTS (
		  SELECT 1 FROM refs f JOIN manifests m ON m.repository = f.repository AND m.digest = f.manifest
		  WHERE f.repository = b.repository AND f.child = b.digest AND m.held = 0))`

// blobUnknown is err, of a query for a blob, as the API has it.
func blobUnknown(err error) error {
	if errors.Is(err, sql.ErrNoRows) {
		return errBlobUnknown()
	}
	return err
}

// findBlob describes a blob that repo holds.
func findBlob(ctx context.Context, tx *sql.Tx, repo string, dgst digest.Digest) (ocispec.Descriptor, error) {
	desc := ocispec.Descriptor{MediaType: octetStream, Digest: dgst}
	role, err := allow(ctx, tx, repo, auth.Read)
	if err != nil {
		return desc, err
	}
	var fading int
	err = tx.QueryRowContext(ctx, blobQuery, repo, dgst.String(), maySeeHeld(role), 0).Scan(&desc.Size, &fading)
	return desc, blobUnknown(err)
}

func errBlobUnknown() *registry.Error {
	return registry.Errorf(registry.BlobUnknown, "blob unknown to registry")
}

func errManifestUnknown() *registry.Error {
	return registry.Errorf(registry.ManifestUnknown, "manifest unknown")
}

// maySeeHeld is 1 for who may see manifests that are held for a review.
func maySeeHeld(role auth.Role) int {
	if role >= auth.Write {
		return 1
	}
	return 0
}

// The manifest that $2, a digest or a tag, names in the repository $1. Who may only
// read does not see what is held for a review.
const (
	manifestByDigest = `
		SELECT m.digest, m.size, m.media_type
		FROM repositories r JOIN manifests m ON m.repository = r.id
		WHERE r.name = $1 AND m.digest = $2 AND m.held <= $3`
	manifestByTag = `
		SELECT m.digest, m.size, m.media_type
		FROM repositories r JOIN tags t ON t.repository = r.id
		JOIN manifests m ON m.repository = t.repository
		AND m.digest = CASE WHEN $3 = 1 AND t.pending <> '' THEN t.pending ELSE t.digest END
		WHERE r.name = $1 AND t.name = $2 AND m.held <= $3`
)
