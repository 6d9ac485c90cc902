package store

import (
	"context"
	"database/sql"
	"fmt"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"strake/internal/sqldb"
)

// Free is how many bytes the file system of the store has left for this user.
func (s *Store) Free() (int64, error) {
	var stat unix.Statfs_t
	if err := unix.Statfs(s.root, &stat); err != nil {
		return 0, fmt.Errorf("free space of %s: %w", s.root, err)
	}
	return int64(stat.Bavail) * int64(stat.Bsize), nil
}

// Parts tells of blobs that an earlier try did not finish how many bytes are here.
func (s *Store) Parts(ctx context.Context) (map[digest.Digest]int64, error) {
	ingests, err := s.blobs.Ingests(ctx)
	if err != nil {
		return nil, err
	}
	parts := map[digest.Digest]int64{}
	for _, in := range ingests {
		parts[digest.Digest(in.Ref)] = in.Offset
	}
	return parts, nil
}

// Inventory lists the digests of all that the store has: blobs, layers and the
// compressed forms that its layers are known to have, sorted.
func (s *Store) Inventory(ctx context.Context) ([]digest.Digest, error) {
	var list []digest.Digest
	err := s.db.View(ctx, func(tx *sql.Tx) (err error) {
		list, err = sqldb.Collect(ctx, tx, `SELECT digest FROM blobs
			UNION SELECT c.digest FROM compressed c JOIN layers l ON l.diff_id = c.diff_id ORDER BY 1`, nil, func(rows *sql.Rows, d *digest.Digest) error {
			return rows.Scan(d)
		})
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("inventory: %w", err)
	}
	return list, nil
}
