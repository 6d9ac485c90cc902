package catalog_test

import (
	"database/sql"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"path/filepath"
	"testing"

	"strake/internal/catalog"
	"strake/internal/conformance"
	"strake/internal/sqldb"
)

// BenchmarkSearch searches 100,000 repositories, a tenth of them private. The
// processor's time is that of the test and of PostgreSQL's server.
func BenchmarkSearch(b *testing.B) {
	b.Run("sqlite", func(b *testing.B) { benchmarkSearch(b, openDB(b, filepath.Join(b.TempDir(), "hub.db"))) })
	b.Run("postgres", func(b *testing.B) { benchmarkSearch(b, openDB(b, conformance.PostgreSQL(b))) })
}

// queries are the kinds of searches.
var queries = []struct {
	name  string
	who   int64
	query catalog.Query
}{
	{"everything", 0, catalog.Query{}},
	{"rare word", 0, catalog.Query{Text: "zx1234"}},
	{"common word", 0, catalog.Query{Text: "server"}},
	{"word of all", 0, catalog.Query{Text: "image"}},
	{"two words", 0, catalog.Query{Text: "server proxy"}},
	{"no match", 0, catalog.Query{Text: "nothingatall"}},
	{"one letter", 0, catalog.Query{Text: "n"}},
	{"two letters", 0, catalog.Query{Text: "ng"}},
	{"digest", 0, catalog.Query{Text: "sha256:abcdef0"}},
	{"facets", 0, catalog.Query{Text: "image", Kind: "verified", Architecture: "riscv64"}},
	{"namespace", 0, catalog.Query{Namespace: "user17"}},
	{"user, common word", 7, catalog.Query{Text: "server"}},
	{"user, digest", 7, catalog.Query{Text: "sha256:abcdef0"}},
	{"user, everything", 7, catalog.Query{}},
}

func benchmarkSearch(b *testing.B, db *sqldb.DB) {
	c := catalog.New(db, nil, slog.New(slog.DiscardHandler))
	generate(b, db, 100_000)
	for _, q := range queries {
		b.Run(q.name, func(b *testing.B) {
			before := conformance.ProcessorTime(b, db)
			for b.Loop() {
				if _, err := c.Search(user(b.Context(), q.who), q.query); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64((conformance.ProcessorTime(b, db)-before).Microseconds())/1000/float64(b.N), "cpu-ms/op")
		})
	}
}

// generate fills the tables with n repositories and what Refresh derives of them.
func generate(b *testing.B, db *sqldb.DB, n int) {
	b.Helper()
	words := []string{"server", "proxy", "database", "cache", "queue", "nginx", "python", "node", "build", "test", "metrics", "gateway", "worker", "runtime", "shell", "web"}
	rnd := rand.New(rand.NewPCG(1, 2))
	err := db.Update(b.Context(), func(tx *sql.Tx) error {
		for i := range 1000 {
			if _, err := tx.ExecContext(b.Context(), `INSERT INTO accounts (id, name, created) VALUES ($1, $2, 1)`, i, fmt.Sprintf("user%d", i)); err != nil {
				return err
			}
		}
		for i := range n {
			word := func() string { return words[min(rnd.IntN(len(words)), rnd.IntN(len(words)))] }
			namespace, kind, public := fmt.Sprintf("user%d", i%1000), "community", 1
			if i%50 == 0 {
				kind = "verified"
			}
			if i%10 == 0 {
				public = 0
			}
			base := fmt.Sprintf("%s-%s-%d", word(), word(), i)
			description := fmt.Sprintf("An image of %s with %s, zx%d", word(), word(), i)
			_, err := tx.ExecContext(b.Context(), `INSERT INTO repositories (id, name, namespace, base, kind, public, description, pulls) VALUES ($1, $2, $3, $4, $5, $6, $7, $8)`,
				i+1, namespace+"/"+base, namespace, base, kind, public, description, rnd.Int64N(1<<rnd.IntN(30)))
			if err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		b.Fatal(err)
	}
	manifests(b, db)
	c := catalog.New(db, nil, slog.New(slog.DiscardHandler))
	for more := true; more; {
		if more, err = c.Refresh(b.Context()); err != nil {
			b.Fatal(err)
		}
	}
	exec(b, db, "ANALYZE") // as servers do by themselves
}

// manifests gives a third of the repositories a tagged image, of a few.
func manifests(b *testing.B, db *sqldb.DB) {
	b.Helper()
	exec(b, db,
		`INSERT INTO images (digest, config, os, architecture) VALUES ('sha256:abcdef01', 'c', 'linux', 'amd64'), ('sha256:abcdef02', 'c', 'linux', 'riscv64')`,
		`INSERT INTO manifests (repository, digest, size, media_type) SELECT id, CASE WHEN id % 2 = 0 THEN 'sha256:abcdef01' ELSE 'sha256:abcdef02' END, 1,
		  'application/vnd.oci.image.manifest.v1+json' FROM repositories WHERE id % 3 = 0`,
		`INSERT INTO tags (repository, name, digest) SELECT repository, 'latest', digest FROM manifests`)
}
