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
type elsewhere struct {
	db     *sqldb.DB
	leases *leases
}

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

// ClaimUpload returns where the upload of what key names to a repository goes
// on, "" when none was left unfinished, and makes it this process's. Nobody else
// gets it before SetUpload leaves it or the process ends.
func (s *elsewhere) ClaimUpload(ctx context.Context, repository, key string) (location string, err error) {
	own, err := s.leases.acquire(ctx)
	if err != nil {
		return "", err
	}
	err = s.db.Note(ctx, func(tx *sql.Tx) error {
		var holder string
		err := tx.QueryRowContext(ctx, "SELECT location, lease FROM uploads WHERE repository = $1 AND key = $2", repository, key).Scan(&location, &holder)
		if errors.Is(err, sql.ErrNoRows) {
			return nil
		}
		if err != nil {
			return err
		}
		alive, err := s.leases.alive(holder)
		if err != nil || alive {
			location = ""
			return err
		}
		_, err = tx.ExecContext(ctx, "UPDATE uploads SET lease = $1 WHERE repository = $2 AND key = $3", own.id, repository, key)
		return err
	})
	if err != nil {
		return "", fmt.Errorf("unfinished upload of %s: %w", key, err)
	}
	return location, nil
}

// SetUpload notes where an upload goes on that this process works on, or has
// left; "" forgets it, and with it those that are so old that no registry has
// them any more. One that another process has claimed stays as it is.
func (s *elsewhere) SetUpload(ctx context.Context, repository, key, location string, left bool) error {
	own, err := s.leases.acquire(ctx)
	if err != nil {
		return err
	}
	err = s.db.Note(ctx, func(tx *sql.Tx) error {
		if location == "" {
			_, err := tx.ExecContext(ctx, "DELETE FROM uploads WHERE repository = $1 AND key = $2 AND lease IN ('', $3) OR begun < $4",
				repository, key, own.id, now()-int64(partialAge))
			return err
		}
		holder := own.id
		if left {
			holder = ""
		}
		_, err := tx.ExecContext(ctx, `INSERT INTO uploads (repository, key, location, lease, begun) VALUES ($1, $2, $3, $4, $5)
			ON CONFLICT (repository, key) DO UPDATE SET location = excluded.location, lease = excluded.lease, begun = excluded.begun
			WHERE uploads.lease IN ('', $6)`,
			repository, key, location, holder, now(), own.id)
		return err
	})
	if err != nil {
		return fmt.Errorf("note unfinished upload of %s: %w", key, err)
	}
	return nil
}
