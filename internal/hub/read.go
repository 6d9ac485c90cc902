package hub

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"strake/internal/auth"
	"strake/internal/content"
	"strake/internal/registry"
	"strake/internal/sqldb"
)

// A list is read so many rows a query: few at first, for most callers want few,
// and ever more, for the others want all.
const (
	firstPage = 128 // a page of 100 is looked one further
	pageSize  = 10_000

	referrersPage = 16 // each may have annotations as large as a manifest
)

// fadeAfter is when a blob that no manifest names is linked anew for who asks for
// it: they may be about to push a manifest, and would not push the blob again.
const fadeAfter = DefaultGrace / 4

// StatBlob implements registry.Reader.
func (h *Hub) StatBlob(ctx context.Context, repo string, dgst digest.Digest) (desc ocispec.Descriptor, err error) {
	if err := errors.Join(registry.CheckName(repo), registry.CheckDigest(dgst)); err != nil {
		return desc, err
	}
	desc = ocispec.Descriptor{MediaType: octetStream, Digest: dgst}
	now, fading := time.Now(), 0
	err = readRow(ctx, h.db, repo, blobQuery, func(seeHeld int) []any {
		return []any{repo, dgst.String(), seeHeld, now.Add(-fadeAfter).Unix()}
	}, &desc.Size, &fading)
	if err == nil && fading > 0 {
		err = h.db.Note(ctx, func(tx *sql.Tx) error {
			_, err := tx.ExecContext(ctx, `UPDATE blobs SET linked = $3 WHERE digest = $2 AND repository = (SELECT id FROM repositories WHERE name = $1)`,
				repo, dgst.String(), now.Unix())
			return err
		})
	}
	return desc, blobUnknown(err)
}

// StatManifest implements registry.Reader.
func (h *Hub) StatManifest(ctx context.Context, repo, ref string) (desc ocispec.Descriptor, err error) {
	if err := errors.Join(registry.CheckName(repo), registry.CheckReference(ref)); err != nil {
		return desc, err
	}
	query := manifestByTag
	if registry.IsDigest(ref) {
		query = manifestByDigest
	}
	err = readRow(ctx, h.db, repo, query, func(seeHeld int) []any { return []any{repo, ref, seeHeld} }, &desc.Digest, &desc.Size, &desc.MediaType)
	if errors.Is(err, sql.ErrNoRows) {
		return desc, errManifestUnknown()
	}
	return desc, err
}

// GetManifest implements registry.Reader. What ref names is read from the
// database each time, for another Hub on the same data may change it; the bytes of
// a digest never change.
func (h *Hub) GetManifest(ctx context.Context, repo, ref string) (registry.Manifest, error) {
	desc, err := h.StatManifest(ctx, repo, ref)
	if err != nil {
		return registry.Manifest{}, err
	}
	b := h.recent.get(desc.Digest)
	if b == nil {
		if b, err = content.ReadAll(ctx, h.content, desc.Digest, registry.MaxManifestSize); err != nil {
			return registry.Manifest{}, fmt.Errorf("manifest %s: %w", ref, hide(err))
		}
		h.recent.put(desc.Digest, b)
	}
	return registry.Manifest{MediaType: desc.MediaType, Bytes: b, Digest: desc.Digest}, nil
}

// hide takes its kind off an error about the content store: that bytes lack
// whose link is there is no answer to the client but the server's defect.
func hide(err error) error { return fmt.Errorf("content: %v", err) } //nolint:errorlint // on purpose

// pages lists what read yields: names after last, in order, at most limit.
func (h *Hub) pages(ctx context.Context, last string, read func(tx *sql.Tx, last string, limit int) (*sql.Rows, error)) iter.Seq2[string, error] {
	return func(yield func(string, error) bool) {
		for limit := firstPage; ; limit = min(8*limit, pageSize) {
			var names []string
			err := h.db.View(ctx, func(tx *sql.Tx) error {
				rows, err := read(tx, last, limit) //nolint:sqlclosecheck // ScanAll closes them
				if err != nil {
					return err
				}
				return sqldb.ScanAll(rows, func() error {
					var name string
					err := rows.Scan(&name)
					names = append(names, name)
					return err
				})
			})
			if err != nil {
				yield("", err)
				return
			}
			for _, name := range names {
				if !yield(name, nil) {
					return
				}
				last = name
			}
			if len(names) < limit {
				return
			}
		}
	}
}

// Repositories implements registry.Lister. It lists what the caller may read,
// and no more than their token is for.
func (h *Hub) Repositories(ctx context.Context, last string) iter.Seq2[string, error] {
	id := auth.From(ctx)
	names := h.pages(ctx, last, func(tx *sql.Tx, last string, limit int) (*sql.Rows, error) {
		if !id.System && !id.Admin {
			return tx.QueryContext(ctx, `SELECT r.name FROM repositories r WHERE r.name > $2 AND `+auth.Readable+` ORDER BY r.name LIMIT $3`,
				id.Account, last, limit)
		}
		return tx.QueryContext(ctx, `SELECT name FROM repositories WHERE name > $1 ORDER BY name LIMIT $2`, last, limit)
	})
	return func(yield func(string, error) bool) {
		for name, err := range names {
			if err == nil && id.Limit(name) < auth.Read {
				continue
			}
			if !yield(name, err) {
				return
			}
		}
	}
}

// Tags implements registry.Lister.
func (h *Hub) Tags(ctx context.Context, repo, last string) iter.Seq2[string, error] {
	return h.pages(ctx, last, func(tx *sql.Tx, last string, limit int) (*sql.Rows, error) {
		if err := registry.CheckName(repo); err != nil {
			return nil, err
		}
		role, err := allow(ctx, tx, repo, auth.Read)
		if err != nil {
			return nil, err
		}
		id, err := repositoryID(ctx, tx, repo)
		if err != nil {
			return nil, err
		}
		// SQLite finds where to begin in the index by one column alone.
		if maySeeHeld(role) == 1 { // all: the index tells them
			return tx.QueryContext(ctx, `
				SELECT name FROM tags WHERE repository = $1 AND lower(name) >= lower($2) AND (lower(name), name) > (lower($2), $2)
				ORDER BY lower(name), name LIMIT $3`, id, last, limit)
		}
		return tx.QueryContext(ctx, `
			SELECT t.name FROM tags t JOIN manifests m ON m.repository = t.repository AND m.digest = t.digest
			WHERE t.repository = $1 AND lower(t.name) >= lower($2) AND (lower(t.name), t.name) > (lower($2), $2) AND m.held = 0
			ORDER BY lower(t.name), t.name LIMIT $3`, id, last, limit)
	})
}

// Referrers implements registry.Lister, in the order of the digests.
func (h *Hub) Referrers(ctx context.Context, repo string, dgst digest.Digest, artifactType string, last digest.Digest) iter.Seq2[ocispec.Descriptor, error] {
	return func(yield func(ocispec.Descriptor, error) bool) {
		if err := errors.Join(registry.CheckName(repo), registry.CheckDigest(dgst)); err != nil {
			yield(ocispec.Descriptor{}, err)
			return
		}
		for {
			descs, err := h.referrers(ctx, repo, dgst, artifactType, last, referrersPage)
			if err != nil {
				yield(ocispec.Descriptor{}, err)
				return
			}
			for _, d := range descs {
				if !yield(d, nil) {
					return
				}
				last = d.Digest
			}
			if len(descs) < referrersPage {
				return
			}
		}
	}
}

func (h *Hub) referrers(ctx context.Context, repo string, dgst digest.Digest, artifactType string, last digest.Digest, limit int) (descs []ocispec.Descriptor, err error) {
	err = h.db.View(ctx, func(tx *sql.Tx) error {
		descs = nil
		role, err := allow(ctx, tx, repo, auth.Read)
		if err != nil {
			return err
		}
		rows, err := tx.QueryContext(ctx, `
			SELECT m.digest, m.size, m.media_type, m.artifact_type, m.annotations
			FROM repositories r JOIN manifests m ON m.repository = r.id
			WHERE r.name = $1 AND m.subject = $2 AND m.subject <> '' AND ($3 = '' OR m.artifact_type = $3) AND m.held <= $4
			AND m.digest > $5 ORDER BY m.digest LIMIT $6`, repo, dgst.String(), artifactType, maySeeHeld(role), last.String(), limit)
		if err != nil {
			return err
		}
		return sqldb.ScanAll(rows, func() error {
			var d ocispec.Descriptor
			var annotations string
			if err := rows.Scan(&d.Digest, &d.Size, &d.MediaType, &d.ArtifactType, &annotations); err != nil {
				return err
			}
			if annotations != "" {
				if err := json.Unmarshal([]byte(annotations), &d.Annotations); err != nil {
					return fmt.Errorf("annotations of %s: %w", d.Digest, err)
				}
			}
			descs = append(descs, d)
			return nil
		})
	})
	return descs, err
}
