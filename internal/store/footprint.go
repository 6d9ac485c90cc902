package store

import (
	"context"
	"database/sql"
	"fmt"

	"github.com/opencontainers/go-digest"

	"strake/internal/sqldb"
)

// Footprint is what a set of manifests has in the store, each byte once.
type Footprint struct {
	Content int64 // bytes as the manifests name them: of a registry's compressed blobs, of manifests and configs
	Total   int64 // and of the tars and indexes of the layers
}

// Measure says what manifests and indexes, with all that the manifests need, take
// up in s.
func Measure(ctx context.Context, s *Store, manifests ...digest.Digest) (Footprint, error) {
	var f Footprint
	err := s.db.View(ctx, func(tx *sql.Tx) error {
		seen := map[digest.Digest]bool{}
		for _, m := range manifests {
			if err := f.add(ctx, tx, m, seen); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return Footprint{}, fmt.Errorf("measure: %w", err)
	}
	return f, nil
}

// add adds what of a manifest is not seen yet. A tar whose compressed form the
// manifest names is not content.
func (f *Footprint) add(ctx context.Context, tx *sql.Tx, manifest digest.Digest, seen map[digest.Digest]bool) error {
	return sqldb.Each(ctx, tx, `SELECT b.digest, b.size, COALESCE(l.index_size + l.side_size, 0),
		(SELECT COUNT(*) FROM compressed z JOIN refs r ON r.child = z.digest WHERE r.parent = $1 AND z.diff_id = b.digest)
		FROM blobs b LEFT JOIN layers l ON l.diff_id = b.digest
		WHERE b.digest = $1 OR b.digest IN (SELECT child FROM refs WHERE parent = $1)`, []any{manifest.String()}, func(rows *sql.Rows) error {
		var d digest.Digest
		var size, index, compressed int64
		if err := rows.Scan(&d, &size, &index, &compressed); err != nil {
			return err
		}
		if seen[d] {
			return nil
		}
		seen[d] = true
		f.Total += size + index
		if compressed == 0 {
			f.Content += size
		}
		return nil
	})
}
