// Package hub is the registry server's registry.
//
// A Hub is a registry.Registry on a content store and a database. The content
// store holds each blob once; the database holds the links: which repository
// holds which blobs and manifests, and what its tags name. A blob is readable
// through a repository only where the link exists, whoever knows its digest.
// Bytes are written before the link to them, so a crash leaves bytes without a
// link at worst.
package hub

import (
	"context"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"sync"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"strake/internal/content"
	"strake/internal/registry"
	"strake/internal/sqldb"
)

//go:embed migrations/*.sql
var migrations embed.FS

// octetStream is the media type of blobs, whose own nobody tells the registry.
const octetStream = "application/octet-stream"

// Options say where a Hub lives.
type Options struct {
	Dir string // of the database and the content; made if it is not there
}

// Hub is a registry. It is safe for concurrent use.
type Hub struct {
	db      *sqldb.DB
	content *content.Dir

	mu     sync.Mutex
	parked map[string]*parked // writers between two requests, by upload ID
	closed bool
}

var _ registry.Registry = (*Hub)(nil)

// Open opens the Hub in opts.Dir.
func Open(ctx context.Context, opts Options) (*Hub, error) {
	store, err := content.NewDir(opts.Dir)
	if err != nil {
		return nil, fmt.Errorf("open hub: %w", err)
	}
	db, err := sqldb.Open(ctx, sqldb.Options{Path: filepath.Join(opts.Dir, "hub.db")})
	if err != nil {
		return nil, fmt.Errorf("open hub: %w", err)
	}
	steps, err := fs.Sub(migrations, "migrations")
	if err == nil {
		err = db.Migrate(ctx, steps)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open hub: %w", err), db.Close())
	}
	h := &Hub{db: db, content: store, parked: map[string]*parked{}}
	if err := h.expireUploads(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("open hub: %w", err), h.Close())
	}
	return h, nil
}

// Close ends the Hub when no call is under way any more. Uploads stay.
func (h *Hub) Close() error {
	return errors.Join(h.closeParked(), h.db.Close())
}

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
	err = tx.QueryRowContext(ctx, `INSERT INTO repositories (name) VALUES ($1) RETURNING id`, repo).Scan(&id)
	return id, err
}

// linkBlob makes repo hold a blob whose bytes are stored.
func linkBlob(ctx context.Context, tx *sql.Tx, repo string, desc ocispec.Descriptor) error {
	id, err := makeRepository(ctx, tx, repo)
	if err != nil {
		return err
	}
	_, err = tx.ExecContext(ctx, `INSERT INTO blobs (repository, digest, size) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING`,
		id, desc.Digest.String(), desc.Size)
	return err
}

// findBlob describes a blob that repo holds.
func findBlob(ctx context.Context, tx *sql.Tx, repo string, dgst digest.Digest) (ocispec.Descriptor, error) {
	desc := ocispec.Descriptor{MediaType: octetStream, Digest: dgst}
	err := tx.QueryRowContext(ctx, `
		SELECT b.size FROM blobs b JOIN repositories r ON r.id = b.repository
		WHERE r.name = $1 AND b.digest = $2`, repo, dgst.String()).Scan(&desc.Size)
	if errors.Is(err, sql.ErrNoRows) {
		return desc, registry.Errorf(registry.BlobUnknown, "blob unknown to registry")
	}
	return desc, err
}

// manifestRow is a manifest and how it is known.
type manifestRow struct {
	repository int64
	desc       ocispec.Descriptor
}

// findManifest finds the manifest that ref, a tag or a digest, names in repo.
func findManifest(ctx context.Context, tx *sql.Tx, repo, ref string) (manifestRow, error) {
	query := `
		SELECT m.repository, m.digest, m.size, m.media_type
		FROM repositories r JOIN manifests m ON m.repository = r.id
		WHERE r.name = $1 AND m.digest = $2`
	if !registry.IsDigest(ref) {
		query = `
		SELECT m.repository, m.digest, m.size, m.media_type
		FROM repositories r JOIN tags t ON t.repository = r.id
		JOIN manifests m ON m.repository = t.repository AND m.digest = t.digest
		WHERE r.name = $1 AND t.name = $2`
	}
	var row manifestRow
	err := tx.QueryRowContext(ctx, query, repo, ref).
		Scan(&row.repository, &row.desc.Digest, &row.desc.Size, &row.desc.MediaType)
	if errors.Is(err, sql.ErrNoRows) {
		return row, registry.Errorf(registry.ManifestUnknown, "manifest unknown")
	}
	return row, err
}
