package catalog_test

import (
	"archive/tar"
	"bytes"
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"strake/internal/auth"
	"strake/internal/catalog"
	"strake/internal/conformance"
	"strake/internal/hub"
	"strake/internal/hubdb"
	"strake/internal/registry"
	"strake/internal/scandb"
	"strake/internal/sqldb"
)

// databases calls test with a SQLite and a PostgreSQL database.
func databases(t *testing.T, test func(t *testing.T, db *sqldb.DB)) {
	t.Run("sqlite", func(t *testing.T) { test(t, openDB(t, filepath.Join(t.TempDir(), "hub.db"))) })
	t.Run("postgres", func(t *testing.T) { test(t, openDB(t, conformance.PostgreSQL(t))) })
}

func openDB(t testing.TB, name string) *sqldb.DB {
	t.Helper()
	db, err := hubdb.Open(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	return db
}

func exec(t testing.TB, db *sqldb.DB, queries ...string) {
	t.Helper()
	err := db.Update(t.Context(), func(tx *sql.Tx) error {
		for _, q := range queries {
			if _, err := tx.ExecContext(t.Context(), q); err != nil {
				return fmt.Errorf("%s: %w", q, err)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func refresh(t testing.TB, c *catalog.Catalog) {
	t.Helper()
	for more := true; more; {
		var err error
		if more, err = c.Refresh(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
}

func user(ctx context.Context, n int64) context.Context {
	return auth.With(ctx, auth.Identity{Account: n})
}

// names are those of what was found.
func names(r catalog.Result) string {
	var list []string
	for _, f := range r.Repositories {
		list = append(list, f.Name)
	}
	return strings.Join(list, " ")
}

const people = `INSERT INTO accounts (id, name, organization, created) VALUES (1, 'ann', 0, 1), (2, 'bob', 0, 1), (3, 'org', 1, 1)`

// The index finds what the caller may read, and nothing else.
func TestSearch(t *testing.T) {
	databases(t, func(t *testing.T, db *sqldb.DB) {
		exec(t, db, people,
			`INSERT INTO members (organization, account, owner) VALUES (3, 1, 1), (3, 2, 0)`,
			`INSERT INTO repositories (id, name, namespace, public, kind, description, pulls) VALUES
			  (1, 'postgres', '', 1, 'official', 'The object-relational database', 5000),
			  (2, 'ann/postgres-backup', 'ann', 1, 'community', 'Nightly dumps', 10),
			  (3, 'ann/secret', 'ann', 0, 'community', 'postgres with my_data 100%', 0),
			  (4, 'org/site', 'org', 0, 'verified', 'Talks to POSTGRES', 3),
			  (5, 'bob/go', 'bob', 1, 'community', '', 0)`,
			`INSERT INTO teams (id, organization, name) VALUES (1, 3, 'web')`,
			`INSERT INTO team_members (team, account) VALUES (1, 2)`,
			`INSERT INTO grants (repository, team, role) VALUES (4, 1, 1)`)
		c := catalog.New(db, nil, slog.New(slog.DiscardHandler))
		refresh(t, c)
		const nobody, ann, bob, admin = 0, 1, 2, 9
		for _, q := range []struct {
			who   int64
			query catalog.Query
			want  string
		}{
			{nobody, catalog.Query{Text: "postgres"}, "postgres ann/postgres-backup"},
			{nobody, catalog.Query{Text: "POSTGRES"}, "postgres ann/postgres-backup"},
			{nobody, catalog.Query{Text: "nightly post"}, "ann/postgres-backup"},
			{nobody, catalog.Query{Text: "my_data"}, ""},
			{ann, catalog.Query{Text: "my_data"}, "ann/secret"},
			{ann, catalog.Query{Text: "100%"}, "ann/secret"},
			{ann, catalog.Query{Text: "postgres"}, "postgres ann/postgres-backup org/site ann/secret"},
			{bob, catalog.Query{Text: "postgres"}, "postgres ann/postgres-backup org/site"},
			{admin, catalog.Query{Text: "postgres"}, "postgres ann/postgres-backup org/site ann/secret"},
			{nobody, catalog.Query{Text: "postgres", Kind: "official"}, "postgres"},
			{ann, catalog.Query{Text: "postgres", Namespace: "ann"}, "ann/postgres-backup ann/secret"},
			{nobody, catalog.Query{Text: "go"}, "bob/go"},
			{nobody, catalog.Query{Text: "bob/go"}, "bob/go"},
			{nobody, catalog.Query{Text: "' OR 1=1 --"}, ""},
			{nobody, catalog.Query{Text: `"`}, ""},
			{nobody, catalog.Query{Text: "%%%"}, "postgres ann/postgres-backup bob/go"}, // no word: everything
			{nobody, catalog.Query{}, "postgres ann/postgres-backup bob/go"},
			{nobody, catalog.Query{Sort: "name"}, "ann/postgres-backup bob/go postgres"},
			{ann, catalog.Query{}, "postgres org/site ann/postgres-backup ann/secret bob/go"},
			{nobody, catalog.Query{Limit: 1, Offset: 1}, "ann/postgres-backup"},
			{nobody, catalog.Query{Offset: 99}, ""},
		} {
			ctx := auth.With(t.Context(), auth.Identity{Account: q.who, Admin: q.who == admin})
			r, err := c.Search(ctx, q.query)
			if err != nil || names(r) != q.want {
				t.Errorf("account %d, %+v: %q, %v, want %q", q.who, q.query, names(r), err, q.want)
			}
		}
		scoped := auth.With(t.Context(), auth.Identity{Account: ann, Scopes: []auth.Scope{{Repository: "ann/*", Role: auth.Read}, {Repository: "org/site", Role: auth.None}}})
		if r, err := c.Search(scoped, catalog.Query{Text: "postgres"}); err != nil || names(r) != "ann/postgres-backup ann/secret" {
			t.Errorf("by a token of ann/*: %q, %v", names(r), err)
		}
		docker, err := c.DockerSearch(t.Context(), "postgres", 1)
		want := registry.SearchResult{Name: "postgres", IsOfficial: true, Description: "The object-relational database"}
		if err != nil || len(docker) != 1 || docker[0] != want {
			t.Errorf("docker search: %+v, %v", docker, err)
		}
		exec(t, db, `UPDATE repositories SET description = 'Web shop' WHERE id = 4`, `DELETE FROM repositories WHERE id = 5`)
		refresh(t, c)
		for text, want := range map[string]string{"talks": "", "web shop": "org/site", "go": ""} {
			if r, err := c.Search(user(t.Context(), ann), catalog.Query{Text: text}); err != nil || names(r) != want {
				t.Errorf("after the change, %q: %q, %v, want %q", text, names(r), err, want)
			}
		}
	})
}

func TestStars(t *testing.T) {
	databases(t, func(t *testing.T, db *sqldb.DB) {
		exec(t, db, people, `INSERT INTO repositories (id, name, namespace, public) VALUES (1, 'ann/a', 'ann', 1), (2, 'ann/b', 'ann', 0)`)
		c := catalog.New(db, nil, slog.New(slog.DiscardHandler))
		for range 2 {
			if err := c.Star(user(t.Context(), 2), "ann/a", true); err != nil {
				t.Fatal(err)
			}
		}
		if err := c.Star(user(t.Context(), 2), "ann/b", true); !registry.HasCode(err, registry.NameUnknown) {
			t.Errorf("a star for what one may not see: %v", err)
		}
		refresh(t, c)
		r, err := c.Repository(user(t.Context(), 2), "ann/a")
		if err != nil || r.Stars != 1 || !r.Starred || r.Role != auth.Read {
			t.Errorf("%+v, %v", r, err)
		}
		if f, err := c.Search(user(t.Context(), 2), catalog.Query{Starred: true}); err != nil || names(f) != "ann/a" {
			t.Errorf("starred: %q, %v", names(f), err)
		}
		if err := c.Star(user(t.Context(), 2), "ann/a", false); err != nil {
			t.Fatal(err)
		}
		if r, err = c.Repository(user(t.Context(), 1), "ann/a"); err != nil || r.Stars != 0 || r.Starred || r.Role != auth.Admin {
			t.Errorf("%+v, %v", r, err)
		}
	})
}

// pushImage pushes an image of one layer and returns its manifest's digest.
func pushBlob(t *testing.T, h registry.Registry, repo, mediaType, text string) ocispec.Descriptor {
	t.Helper()
	d := ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromString(text), Size: int64(len(text))}
	if err := h.PushBlob(auth.With(t.Context(), auth.Identity{System: true}), repo, d, strings.NewReader(text)); err != nil {
		t.Fatal(err)
	}
	return d
}

func pushImage(t *testing.T, h registry.Registry, repo, tag, architecture string, layer []byte) ocispec.Descriptor {
	t.Helper()
	blob := func(mediaType string, b []byte) ocispec.Descriptor { return pushBlob(t, h, repo, mediaType, string(b)) }
	created := time.Unix(1700000000, 0).UTC()
	config, err := json.Marshal(ocispec.Image{
		Created: &created, Platform: ocispec.Platform{OS: "linux", Architecture: architecture},
		Config:  ocispec.ImageConfig{Labels: map[string]string{"org.example.team": "Albatross"}},
		RootFS:  ocispec.RootFS{Type: "layers", DiffIDs: []digest.Digest{digest.FromBytes(layer)}},
		History: []ocispec.History{{CreatedBy: "COPY . /"}, {CreatedBy: "CMD x", EmptyLayer: true}},
	})
	if err != nil {
		t.Fatal(err)
	}
	m := ocispec.Manifest{MediaType: ocispec.MediaTypeImageManifest, Config: blob(ocispec.MediaTypeImageConfig, config), Layers: []ocispec.Descriptor{blob(ocispec.MediaTypeImageLayer, layer)}}
	m.SchemaVersion = 2
	return put(t, h, repo, tag, m.MediaType, m)
}

func put(t *testing.T, h registry.Registry, repo, tag, mediaType string, v any) ocispec.Descriptor {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	var tags []string
	if tag != "" {
		tags = []string{tag}
	}
	d, err := h.PutManifest(auth.With(t.Context(), auth.Identity{System: true}), repo, tags, registry.Manifest{MediaType: mediaType, Bytes: b})
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// tarOf is a layer of files of 1000 bytes.
func tarOf(t *testing.T, names ...string) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, name := range names {
		if err := w.WriteHeader(&tar.Header{Name: name, Size: 1000, Mode: 0o644, Typeflag: tar.TypeReg}); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(make([]byte, 1000)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// Images are found by their labels and digests, and by their platforms.
func TestImages(t *testing.T) {
	dir := t.TempDir()
	h, err := hub.Open(t.Context(), hub.Options{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = h.Close() })
	db := openDB(t, filepath.Join(dir, "hub.db"))
	c := catalog.New(db, h, slog.New(slog.DiscardHandler))
	one := pushImage(t, h, "ann/app", "a", "amd64", tarOf(t, "bin/app", "lib/x"))
	two := pushImage(t, h, "ann/app", "b", "arm64", tarOf(t, "bin/app"))
	index := ocispec.Index{MediaType: ocispec.MediaTypeImageIndex, Manifests: []ocispec.Descriptor{one, two}}
	index.SchemaVersion = 2
	put(t, h, "ann/app", "1.0", index.MediaType, index)
	cache := index // build cache in BuildKit's older form
	cache.Manifests = []ocispec.Descriptor{pushBlob(t, h, "ann/app", ocispec.MediaTypeImageLayerGzip, "layer"), pushBlob(t, h, "ann/app", "application/vnd.buildkit.cacheconfig.v0", "{}")}
	cached := put(t, h, "ann/app", "cache", cache.MediaType, cache)
	pushImage(t, h, "ann/other", "latest", "riscv64", tarOf(t))
	exec(t, db, `UPDATE repositories SET public = 1`)
	refresh(t, c)
	exec(t, db, `UPDATE repositories SET description = 'Once more' WHERE name = 'ann/app'`) // with images that are known
	refresh(t, c)
	for _, q := range []catalog.Query{
		{Text: "albatross", Namespace: "ann", Architecture: "arm64"},
		{Architecture: "amd64"},
		{OS: "linux", Architecture: "arm64"},
		{Text: two.Digest.String()[:20]},
		{Text: one.Digest.Encoded()[:8]},
	} {
		if r, err := c.Search(t.Context(), q); err != nil || names(r) != "ann/app" {
			t.Errorf("%+v: %q, %v", q, names(r), err)
		}
	}
	tags, more, err := c.Tags(t.Context(), "ann/app", catalog.TagQuery{Name: "1."})
	if err != nil || more || len(tags) != 1 || len(tags[0].Images) != 2 {
		t.Fatalf("tags: %+v, %v", tags, err)
	}
	if v := tags[0].Images[1]; v.Platform != "linux/arm64" || v.Digest != two.Digest.String() || v.Size < 100 {
		t.Errorf("variant %+v", v)
	}
	for _, desc := range []ocispec.Descriptor{one, two} {
		if _, err := (&scandb.Scanner{DB: db, Source: h}).Scan(t.Context(), scandb.Task{Repository: "ann/app", Desc: desc}); err != nil {
			t.Fatal(err)
		}
	}
	im, err := c.Image(t.Context(), "ann/app", "1.0", "")
	if err != nil {
		t.Fatal(err)
	}
	if im.Platform != "linux/amd64" || im.Digest != one.Digest || im.Index == "" || len(im.Variants) != 2 || len(im.Steps) != 2 || !im.Counted {
		t.Errorf("image %+v", im)
	}
	if s := im.Steps[0]; s.Instruction != "COPY . /" || s.Bytes != 2000 || s.Added != 2 || im.Steps[1].Layer != "" {
		t.Errorf("steps %+v", im.Steps)
	}
	if im, err := c.Image(t.Context(), "ann/app", "cache", ""); err != nil || im.Digest != cached.Digest || im.Size != 7 || im.ArtifactType != "application/vnd.buildkit.cacheconfig.v0" {
		t.Errorf("a cache: %+v, %v", im, err)
	}
	if im, err = c.Image(t.Context(), "ann/app", "1.0", "linux/arm64"); err != nil || im.Digest != two.Digest {
		t.Errorf("for linux/arm64: %+v, %v", im, err)
	}
	if _, err = c.Image(t.Context(), "ann/app", "1.0", "linux/s390x"); !registry.HasCode(err, registry.ManifestUnknown) {
		t.Errorf("for a platform that is not there: %v", err)
	}
	// What waits for a review is found by nobody, and listed for who may write.
	exec(t, db, `UPDATE manifests SET held = 1`)
	refresh(t, c)
	if r, err := c.Search(t.Context(), catalog.Query{Text: "albatross"}); err != nil || names(r) != "" {
		t.Errorf("held, by its label: %q, %v", names(r), err)
	}
	if r, err := c.Search(t.Context(), catalog.Query{Text: one.Digest.Encoded()[:8]}); err != nil || names(r) != "" {
		t.Errorf("held, by its digest: %q, %v", names(r), err)
	}
	if tags, _, err := c.Tags(t.Context(), "ann/app", catalog.TagQuery{}); err != nil || len(tags) != 0 {
		t.Errorf("held tags: %+v, %v", tags, err)
	}
	if tags, _, err := c.Tags(auth.With(t.Context(), auth.Identity{System: true}), "ann/app", catalog.TagQuery{Name: "1."}); err != nil || len(tags) != 1 || !tags[0].Held {
		t.Errorf("held tags, for the owner: %+v, %v", tags, err)
	}
}
