package store

import (
	"context"
	"database/sql"
	"errors"
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

// Upload returns where the upload of what key names to a repository goes on, ""
// when none was left unfinished.
func (s *elsewhere) Upload(ctx context.Context, repository, key string) (location string, err error) {
	err = s.db.View(ctx, func(tx *sql.Tx) error {
		err := tx.QueryRowContext(ctx, "SELECT location FROM uploads WHERE repository = $1 AND key = $2", repository, key).Scan(&location)
		if errors.Is(err, sql.ErrNoRows) {
			return nil
		}
		return err
	})
	if err != nil {
		return "", fmt.Errorf("unfinished upload of %s: %w", key, err)
	}
	return location, nil
}

// SetUpload notes where an upload goes on; "" forgets it, and with it those that
// are so old that no registry has them any more.
func (s *elsewhere) SetUpload(ctx context.Context, repository, key, location string) error {
	err := s.db.Note(ctx, func(tx *sql.Tx) error {
		if location == "" {
			_, err := tx.ExecContext(ctx, "DELETE FROM uploads WHERE repository = $1 AND key = $2 OR begun < $3",
				repository, key, now()-int64(partialAge))
			return err
		}
		_, err := tx.ExecContext(ctx, `INSERT INTO uploads (repository, key, location, begun) VALUES ($1, $2, $3, $4)
			ON CONFLICT (repository, key) DO UPDATE SET location = excluded.location, begun = excluded.begun`,
			repository, key, location, now())
		return err
	})
	if err != nil {
		return fmt.Errorf("note unfinished upload of %s: %w", key, err)
	}
	return nil
}
