package store

import (
	"context"
	"database/sql"
	"fmt"
	"slices"

	"github.com/opencontainers/go-digest"

	"strake/internal/sqldb"
)

// elsewhere is the part of a Store that knows what registries hold.
type elsewhere struct{ db *sqldb.DB }

// RecordSource notes that a repository (canonical name) holds blobs.
func (s *elsewhere) RecordSource(ctx context.Context, repository string, digests ...digest.Digest) error {
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
func (s *elsewhere) Sources(ctx context.Context, dgst digest.Digest) ([]string, error) {
	var list []string
	err := s.db.View(ctx, func(tx *sql.Tx) error {
		return eachPair(ctx, tx, "SELECT digest, repository FROM sources WHERE digest = $1", []any{dgst.String()},
			func(_, repository string) { list = append(list, repository) })
	})
	slices.Sort(list)
	return list, err
}

// Origins lists the repositories, with their hosts, that an image was pulled
// from, sorted.
func (s *elsewhere) Origins(ctx context.Context, id digest.Digest) ([]string, error) {
	var list []string
	err := s.db.View(ctx, func(tx *sql.Tx) error {
		return eachPair(ctx, tx, "SELECT DISTINCT image_id, source FROM repo_digests WHERE image_id = $1 AND source <> '' ORDER BY source",
			[]any{id.String()}, func(_, source string) { list = append(list, source) })
	})
	if err != nil {
		return nil, fmt.Errorf("origins of %s: %w", id, err)
	}
	return list, nil
}
