//go:build linux

package main

import (
	"context"
	"database/sql"
	"fmt"
	"strings"

	"strake/internal/sqldb"
)

// perRepository is how many generated images a repository has. One image of ten is in gen/big instead, which so has many.
const perRepository = 100

// generate makes the rows of the images with the numbers from, ..., to-1: an image is a manifest with a tag, a config and a layer of its own
// and the layer that all of its repository share. There are no bytes. Digests are spread as those of real bytes are, so that what is
// written and read together does not lie together in an index. Collections and the index of the catalogue have nothing to do after it.
func generate(ctx context.Context, db *sqldb.DB, from, to int) error {
	words := strings.NewReplacer(
		"NUMBERS", fmt.Sprintf("(WITH RECURSIVE n (i) AS (SELECT %d UNION ALL SELECT i + 1 FROM n WHERE i + 1 < %d) SELECT i FROM n)", from, to),
	)
	digest := func(number string) string {
		return fmt.Sprintf("printf('sha256:%%08x%%056x', (%s) * 2654435761 %% 4294967296, %s)", number, number)
	}
	if db.Dialect() == sqldb.PostgreSQL {
		words = strings.NewReplacer("NUMBERS", fmt.Sprintf("(SELECT i::bigint FROM generate_series(%d, %d) AS g (i))", from, to-1))
		digest = func(number string) string {
			return fmt.Sprintf("'sha256:' || lpad(to_hex((%s) * 2654435761 %% 4294967296), 8, '0') || lpad(to_hex(%s), 56, '0')", number, number)
		}
	}
	const (
		repository = `JOIN repositories r ON r.name = CASE WHEN n.i % 10 = 0 THEN 'gen/big' ELSE 'gen/r' || (n.i / 100) END`
		two        = `CROSS JOIN (SELECT 0 AS k UNION SELECT 1) AS t`
	)
	manifest, own, shared := digest("n.i"), digest("1000000000 + 2 * n.i + t.k"), digest("3100000000 + r.id")
	queries := []string{
		`INSERT INTO repositories (name, namespace, public, pushed) VALUES ('gen/big', 'gen', 1, 1) ON CONFLICT DO NOTHING`,
		fmt.Sprintf(`INSERT INTO repositories (name, namespace, public, pushed) SELECT DISTINCT 'gen/r' || (n.i / %d), 'gen', 1, 1 FROM NUMBERS AS n WHERE true ON CONFLICT DO NOTHING`, perRepository),
		`INSERT INTO manifests (repository, digest, size, media_type, pushed, pusher) SELECT r.id, ` + manifest + `, 500, 'application/vnd.oci.image.manifest.v1+json', 1, 'ann' FROM NUMBERS AS n ` + repository,
		`INSERT INTO blobs (repository, digest, size, linked) SELECT r.id, ` + own + `, 1000, 1 FROM NUMBERS AS n ` + two + ` ` + repository,
		`INSERT INTO blobs (repository, digest, size, linked) SELECT DISTINCT r.id, ` + shared + `, 30000000, 1 FROM NUMBERS AS n ` + repository + ` ON CONFLICT DO NOTHING`,
		`INSERT INTO refs (repository, manifest, child) SELECT r.id, ` + manifest + `, ` + own + ` FROM NUMBERS AS n ` + two + ` ` + repository,
		`INSERT INTO refs (repository, manifest, child) SELECT r.id, ` + manifest + `, ` + shared + ` FROM NUMBERS AS n ` + repository,
		`INSERT INTO tags (repository, name, digest, pushed, pusher) SELECT r.id, 'v' || n.i, ` + manifest + `, 1, 'ann' FROM NUMBERS AS n ` + repository,
		`INSERT INTO contents (digest, epoch, size, touched) SELECT ` + manifest + `, '', 500, 1 FROM NUMBERS AS n`,
		`INSERT INTO contents (digest, epoch, size, touched) SELECT ` + own + `, '', 1000, 1 FROM NUMBERS AS n ` + two,
		`INSERT INTO contents (digest, epoch, size, touched) SELECT DISTINCT ` + shared + `, '', 30000000, 1 FROM NUMBERS AS n ` + repository + ` ON CONFLICT DO NOTHING`,
		`DELETE FROM candidates`,
		`DELETE FROM stale`,
	}
	return execAll(ctx, db, func(query string) string { return words.Replace(query) }, queries)
}

// change deletes the images whose numbers end with 07, one of a hundred, so long ago that nothing can be restored.
func change(ctx context.Context, db *sqldb.DB) error {
	const gone = `FROM manifests WHERE (repository, digest) IN (SELECT repository, digest FROM tags WHERE name LIKE 'v%07')`
	return execAll(ctx, db, func(query string) string { return query }, []string{
		`INSERT INTO trash (repository, digest, size, media_type, subject, artifact_type, annotations, pushed, pusher, pulled, artifact, held, tags, deleted, actor)
			SELECT repository, digest, size, media_type, subject, artifact_type, annotations, pushed, pusher, pulled, artifact, held, '[]', 1, '' ` + gone,
		`INSERT INTO trash_refs (repository, manifest, child) SELECT f.repository, f.manifest, f.child FROM refs f JOIN trash t ON t.repository = f.repository AND t.digest = f.manifest`,
		`DELETE ` + gone,
		`DELETE FROM stale`,
	})
}

func execAll(ctx context.Context, db *sqldb.DB, word func(string) string, queries []string) error {
	if db.Dialect() == sqldb.SQLite { // rows come in no order of any index
		queries = append([]string{`PRAGMA cache_size = -2000000`}, queries...)
	}
	for _, query := range queries {
		err := db.Update(ctx, func(tx *sql.Tx) error {
			_, err := tx.ExecContext(ctx, word(query))
			return err
		})
		if err != nil {
			return fmt.Errorf("%.80s: %w", query, err)
		}
	}
	return nil
}
