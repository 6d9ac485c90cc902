package catalog_test

import (
	"cmp"
	"database/sql"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"path"
	"slices"
	"strings"
	"testing"

	"strake/internal/auth"
	"strake/internal/catalog"
	"strake/internal/sqldb"
)

// listed is a repository as a search that reads all of them has it.
type listed struct {
	name, namespace, kind, description, platforms string
	public                                        bool
	popularity                                    int64
}

// TestRanking compares searches with what reading every repository finds.
func TestRanking(t *testing.T) {
	databases(t, func(t *testing.T, db *sqldb.DB) {
		rnd := rand.New(rand.NewPCG(3, 4))
		populate(t, db, rnd, 400)
		c := catalog.New(db, nil, slog.New(slog.DiscardHandler))
		refresh(t, c)
		all := list(t, db)
		found := 0
		for range 300 {
			q := catalog.Query{Text: randomText(rnd, all), Limit: 100}
			if rnd.IntN(4) == 0 {
				q.Kind = "verified"
			}
			if rnd.IntN(4) == 0 {
				q.Architecture = "arm64"
			}
			id := []auth.Identity{{}, {Account: 2}, {Admin: true}}[rnd.IntN(3)]
			r, err := c.Search(auth.With(t.Context(), id), q)
			if err != nil {
				t.Fatalf("%+v: %v", q, err)
			}
			want := ranked(all, q, func(l listed) bool { return l.public || id.Admin || id.Account == 2 && l.namespace == "ns1" })
			if got := names(r); got != strings.Join(want[:min(len(want), 100)], " ") || r.Total != len(want) || r.More {
				t.Fatalf("%+v by %+v:\n%d: %s, more %v\nwant\n%d: %s", q, id, r.Total, got, r.More, len(want), strings.Join(want, " "))
			}
			found += len(want)
		}
		if found < 1000 {
			t.Errorf("the queries found %d repositories in all: too few to say something", found)
		}
	})
}

// ranked is Search by its definition.
func ranked(all []listed, q catalog.Query, seen func(listed) bool) []string {
	words := strings.Fields(strings.ToLower(q.Text))
	fits := map[string]int{}
	var hits []listed
	for _, l := range all {
		if !seen(l) || q.Kind != "" && l.kind != q.Kind || q.Architecture != "" && !strings.Contains(l.platforms, "/"+q.Architecture+" ") {
			continue
		}
		if fits[l.name] = definedFit(l, words); fits[l.name] >= 0 {
			hits = append(hits, l)
		}
	}
	slices.SortFunc(hits, func(a, b listed) int {
		return cmp.Or(cmp.Compare(fits[a.name], fits[b.name]), cmp.Compare(b.popularity, a.popularity), cmp.Compare(a.name, b.name))
	})
	names := make([]string, len(hits))
	for i, l := range hits {
		names[i] = l.name
	}
	return names
}

// definedFit is how well a repository fits, -1 if it does not: called so, begins
// so, has parts that begin so, has it anywhere.
func definedFit(l listed, words []string) int {
	term, base, text := strings.Join(words, " "), path.Base(l.name), l.name+"\n"+strings.ToLower(l.description)
	is := len(words) == 0 || l.name == term || base == term
	starts := strings.HasPrefix(l.name, term) || strings.HasPrefix(base, term)
	parts := " " + strings.NewReplacer("/", " ", "-", " ").Replace(l.name)
	inParts, inText, long := true, true, 0
	for _, w := range words {
		inParts = inParts && strings.Contains(parts, " "+w)
		inText = inText && strings.Contains(text, w)
		long = max(long, len(w))
	}
	switch {
	case is:
		return 0
	case long < 3 && (len(words) > 1 || !starts), !inText: // too short to be looked up in texts
		return -1
	case starts:
		return 1
	case inParts:
		return 2
	}
	return 3
}

// randomText is something to search for: words and beginnings of words, some of them of one repository's name.
func randomText(rnd *rand.Rand, all []listed) string {
	name := all[rnd.IntN(len(all))].name
	parts := strings.FieldsFunc(name, func(r rune) bool { return r == '/' || r == '-' })
	switch rnd.IntN(6) {
	case 0:
		return name
	case 1:
		return path.Base(name)
	case 2:
		return name[:1+rnd.IntN(3)]
	case 3:
		return strings.ToUpper(parts[len(parts)-1])
	}
	var words []string
	for range 1 + rnd.IntN(3) {
		w := parts[rnd.IntN(len(parts))]
		words = append(words, w[:min(len(w), 1+rnd.IntN(6))])
	}
	return strings.Join(words, " ")
}

func populate(t *testing.T, db *sqldb.DB, rnd *rand.Rand, n int) {
	t.Helper()
	words := []string{"server", "proxy", "postgres", "post", "go", "nginx", "x", "node", "web", "Web-Shop", "serve"}
	err := db.Update(t.Context(), func(tx *sql.Tx) error {
		if _, err := tx.ExecContext(t.Context(), `INSERT INTO accounts (id, name, created) VALUES (1, 'ns0', 1), (2, 'ns1', 1), (3, 'ns2', 1)`); err != nil {
			return err
		}
		for i := range n {
			word := func() string { return words[rnd.IntN(len(words))] }
			namespace, kind := fmt.Sprintf("ns%d", rnd.IntN(3)), []string{"community", "verified", "official"}[rnd.IntN(3)]
			name := namespace + "/" + strings.ToLower(word())
			if rnd.IntN(10) > 0 {
				name += fmt.Sprintf("-%s-%d", strings.ToLower(word()), i)
			}
			_, err := tx.ExecContext(t.Context(), `INSERT INTO repositories (id, name, namespace, kind, public, description, pulls) VALUES ($1, $2, $3, $4, $5, $6, $7)
				ON CONFLICT (name) DO NOTHING`, int64(i+1), name, namespace, kind, rnd.IntN(2), "With "+word()+" and "+word(), rnd.Int64N(1<<rnd.IntN(20)))
			if err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	exec(t, db,
		`INSERT INTO images (digest, config, os, architecture) VALUES ('sha256:1', 'c', 'linux', 'amd64'), ('sha256:2', 'c', 'linux', 'arm64')`,
		`INSERT INTO manifests (repository, digest, size, media_type) SELECT id, CASE WHEN id % 2 = 0 THEN 'sha256:1' ELSE 'sha256:2' END, 1,
		  'application/vnd.oci.image.manifest.v1+json' FROM repositories`,
		`INSERT INTO tags (repository, name, digest) SELECT repository, 'latest', digest FROM manifests`)
}

// list reads every repository.
func list(t *testing.T, db *sqldb.DB) (all []listed) {
	t.Helper()
	err := db.View(t.Context(), func(tx *sql.Tx) error {
		return sqldb.Each(t.Context(), tx, `SELECT name, namespace, kind, description, platforms, public, popularity FROM repositories ORDER BY id`, nil, func(rows *sql.Rows) error {
			var l listed
			var public int
			err := rows.Scan(&l.name, &l.namespace, &l.kind, &l.description, &l.platforms, &public, &l.popularity)
			l.public = public == 1
			all = append(all, l)
			return err
		})
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// A private repository is found by its digests, by its owner alone.
func TestPrivateDigest(t *testing.T) {
	databases(t, func(t *testing.T, db *sqldb.DB) {
		exec(t, db, people, `INSERT INTO repositories (id, name, namespace, public) VALUES (1, 'ann/x', 'ann', 0)`,
			`INSERT INTO manifests (repository, digest, size, media_type) VALUES (1, 'sha256:abcdef12', 1, 'm')`)
		c := catalog.New(db, nil, slog.New(slog.DiscardHandler))
		for who, want := range map[int64]string{0: "", 1: "ann/x", 2: ""} {
			r, err := c.Search(user(t.Context(), who), catalog.Query{Text: "abcdef1", Kind: "community"})
			if err != nil || names(r) != want {
				t.Errorf("account %d: %q, %v, want %q", who, names(r), err, want)
			}
		}
	})
}
