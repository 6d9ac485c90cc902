package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"strake/internal/content"
)

// partialAge is how long an unfinished download is kept for its next attempt.
const partialAge = 7 * 24 * time.Hour

// live is the set of digests that something reaches.
const live = `WITH RECURSIVE live (digest) AS (
	SELECT root FROM names UNION SELECT manifest FROM images UNION SELECT digest FROM repo_digests
	UNION SELECT root FROM variants UNION SELECT manifest FROM variants
	UNION SELECT diff_id FROM cache_layers UNION SELECT digest FROM leases
	UNION SELECT r.child FROM refs r JOIN live l ON r.parent = l.digest)
`

// GC removes what no name, image, cache record or live lease reaches, and
// returns the bytes that it freed. It first reaps the leases of dead
// processes. Work that runs at the same time is not disturbed.
func (s *Store) GC(ctx context.Context) (freed int64, err error) {
	if err := s.reap(ctx); err != nil {
		return 0, err
	}
	err = s.db.Update(ctx, func(tx *sql.Tx) error {
		for _, q := range []string{
			"DELETE FROM blobs WHERE digest NOT IN live",
			"DELETE FROM layers WHERE diff_id NOT IN live",
			"DELETE FROM compressed WHERE digest NOT IN live",
			"DELETE FROM refs WHERE parent NOT IN live",
			"DELETE FROM sources WHERE digest NOT IN live",
		} {
			if _, err := tx.ExecContext(ctx, live+q); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return 0, fmt.Errorf("collect: %w", err)
	}
	if freed, err = s.sweep(ctx); err != nil {
		return freed, fmt.Errorf("collect: %w", err)
	}
	n, err := s.dropIngests(ctx)
	return freed + n, err
}

// sweep removes the files that no row and no lease names: those whose rows are
// gone, and those that a process left when it died between file and row. The
// gate keeps commits out, which make files before rows.
func (s *Store) sweep(ctx context.Context) (freed int64, err error) {
	gate, err := openGate(s.root, unix.LOCK_EX)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, gate.Close()) }()
	blobs, err := s.column(ctx, "SELECT digest FROM blobs UNION SELECT digest FROM leases")
	if err != nil {
		return 0, err
	}
	indexes, err := s.column(ctx, "SELECT diff_id FROM layers UNION SELECT digest FROM leases")
	if err != nil {
		return 0, err
	}
	err = s.blobs.Walk(ctx, func(info content.Info) error {
		if blobs[info.Digest.String()] {
			return nil
		}
		freed += info.Size
		return s.blobs.Delete(ctx, info.Digest)
	})
	if err != nil {
		return freed, err
	}
	entries, err := os.ReadDir(filepath.Join(s.root, "indexes"))
	if err != nil {
		return freed, err
	}
	for _, e := range entries {
		if indexes[digest.NewDigestFromEncoded(digest.SHA256, strings.TrimSuffix(e.Name(), ".data")).String()] {
			continue
		}
		if info, err := e.Info(); err == nil && info.Mode().IsRegular() {
			freed += info.Size()
		}
		if err := os.RemoveAll(filepath.Join(s.root, "indexes", e.Name())); err != nil {
			return freed, err
		}
	}
	return freed, nil
}

// column reads the one column of a query as a set.
func (s *Store) column(ctx context.Context, query string) (map[string]bool, error) {
	set := map[string]bool{}
	err := s.db.View(ctx, func(tx *sql.Tx) error {
		rows, err := tx.QueryContext(ctx, query)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			var v string
			if err := rows.Scan(&v); err != nil {
				return err
			}
			set[v] = true
		}
		return rows.Err()
	})
	return set, err
}

// dropIngests drops the parts that nobody writes and nobody can use: tars that
// were being made, and downloads that were not taken up again for long.
func (s *Store) dropIngests(ctx context.Context) (freed int64, err error) {
	list, err := s.blobs.Ingests(ctx)
	if err != nil {
		return 0, fmt.Errorf("collect: %w", err)
	}
	for _, in := range list {
		if !made(in.Ref) && time.Since(in.ModTime) < partialAge {
			continue
		}
		err := s.blobs.Abort(ctx, in.Ref)
		switch {
		case err == nil:
			freed += in.Offset
		case !errdefs.IsNotFound(err) && !errdefs.IsUnavailable(err):
			return freed, fmt.Errorf("collect: %w", err)
		}
	}
	return freed, nil
}
