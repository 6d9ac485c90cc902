package hub_test

import (
	"database/sql"
	"fmt"
	"testing"

	"strake/internal/auth"
	"strake/internal/hub"
)

// BenchmarkScale is how long requests take in a Hub with many manifests, of
// which the rows are generated: docs/operations.md has the figures.
func BenchmarkScale(b *testing.B) {
	h, err := hub.Open(b.Context(), hub.Options{Dir: b.TempDir()})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		if err := h.Close(); err != nil {
			b.Error(err)
		}
	})
	ctx := auth.With(b.Context(), auth.Identity{System: true})
	from := 0
	for _, to := range []int{1_000, 10_000, 100_000, 1_000_000} {
		generate(b, h, from, to)
		from = to
		img := newImage(b, fmt.Sprint(to), []byte("layer"))
		if err := img.push(ctx, h, "gen/r1", "gen/r2", "real"); err != nil {
			b.Fatal(err)
		}
		b.Run(fmt.Sprint("manifests=", to, "/get"), func(b *testing.B) {
			for b.Loop() {
				if _, err := h.GetManifest(ctx, "gen/r1", "real"); err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run(fmt.Sprint("manifests=", to, "/tags100"), func(b *testing.B) {
			for b.Loop() {
				n := 0
				for _, err := range h.Tags(ctx, "gen/r1", "") {
					if err != nil {
						b.Fatal(err)
					}
					if n++; n == 100 {
						break
					}
				}
			}
		})
		i := 0
		b.Run(fmt.Sprint("manifests=", to, "/push"), func(b *testing.B) {
			for b.Loop() {
				i++
				if err := newImage(b, fmt.Sprint(to, " ", i), []byte("layer")).push(ctx, h, "gen/r1", "gen/r2", "pushed"); err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run(fmt.Sprint("manifests=", to, "/gc"), func(b *testing.B) {
			for b.Loop() {
				if _, err := hub.Collect(ctx, h, hub.GCOptions{}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// generate makes the rows of the images number from to to, in 1,000 repositories.
func generate(b *testing.B, h *hub.Hub, from, to int) {
	b.Helper()
	ctx := b.Context()
	const numbers = `WITH RECURSIVE n (i) AS (SELECT $1 UNION ALL SELECT i + 1 FROM n WHERE i + 1 < $2) `
	for _, query := range []string{
		`INSERT INTO repositories (name, namespace) SELECT 'gen/r' || i, 'gen' FROM n WHERE i < 1000`,
		`INSERT INTO manifests (repository, digest, size, media_type, pushed) SELECT r.id, printf('sha256:%064x', i), 500, 'application/vnd.oci.image.manifest.v1+json', 1
			FROM n JOIN repositories r ON r.name = 'gen/r' || (i % 1000)`,
		`INSERT INTO blobs (repository, digest, size, linked) SELECT r.id, printf('sha256:%064x', 1000000000 + 2 * i + k), 1000, 1
			FROM n JOIN (SELECT 0 AS k UNION SELECT 1) JOIN repositories r ON r.name = 'gen/r' || (i % 1000)`,
		`INSERT INTO refs (repository, manifest, child) SELECT r.id, printf('sha256:%064x', i), printf('sha256:%064x', 1000000000 + 2 * i + k)
			FROM n JOIN (SELECT 0 AS k UNION SELECT 1) JOIN repositories r ON r.name = 'gen/r' || (i % 1000)`,
		`INSERT INTO tags (repository, name, digest) SELECT r.id, 'v' || i, printf('sha256:%064x', i) FROM n JOIN repositories r ON r.name = 'gen/r' || (i % 1000)`,
		`INSERT INTO contents (digest, epoch, size, touched) SELECT printf('sha256:%064x', i), '', 500, 1 FROM n`,
		`INSERT INTO contents (digest, epoch, size, touched) SELECT printf('sha256:%064x', 1000000000 + 2 * i + k), '', 1000, 1 FROM n JOIN (SELECT 0 AS k UNION SELECT 1)`,
	} {
		err := hub.DB(h).Update(ctx, func(tx *sql.Tx) error {
			_, err := tx.ExecContext(ctx, numbers+query, from, to)
			return err
		})
		if err != nil {
			b.Fatal(err)
		}
	}
}
