package hubapi

import (
	"database/sql"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"strake/internal/catalog"
	"strake/internal/conformance"
	"strake/internal/hub"
	"strake/internal/policy"
	"strake/internal/proxy"
	"strake/internal/registry"
	"strake/internal/review"
	"strake/internal/scandb"
	"strake/internal/seal"
	"strake/internal/webhook"
)

// What the fixture has of the parts of the Hub, each with the number 1.
var (
	trashed = digest.FromString("trashed").String()
	held    = digest.FromString("held").String()
	browser = digest.FromString("browser").Encoded()[:16]
	scoped  = []string{"scope", "org%2Fapp", "rule", "1", "webhook", "1", "delivery", "first", "review", "1", "mirror", "1", "namespace", "org"}
	// A review is for reviewers and for who may write; for others it is not there.
	reviewed = with(writes, class{"reader": 404, "robot": 404, "reviewer": ok})
)

// addParts makes the parts of the Hub that is in a.
func addParts(t *testing.T, a *API, dir string) {
	t.Helper()
	key, err := seal.Load(filepath.Join(dir, "secret.key"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(dir, "spool"), 0o700); err != nil {
		t.Fatal(err)
	}
	a.Policy, a.Reviews, a.Webhooks = policy.New(a.DB), review.New(a.DB), webhook.New(a.DB, key)
	opts := proxy.Options{Key: key, Spool: filepath.Join(dir, "spool")}
	a.Proxy, a.Mirrors = proxy.New(a.Hub, opts), proxy.NewMirrors(a.Hub, opts)
	hub.Attach(a.Hub, a.Policy.Hook, a.Reviews.Hook, a.Webhooks.Hook)
}

// fill gives the fixture one of each thing.
func (w world) fill() {
	w.Helper()
	ctx := system(w.Context())
	var row int64
	w.must(w.api.DB.Get(ctx, `SELECT id FROM repositories WHERE name = 'org/app'`, nil, &row))
	w.push("org/app", "gone")
	w.must(w.api.Hub.DeleteTag(ctx, "org/app", "gone"))
	_, err := w.api.Policy.AddImmutable(ctx, "org/app", "fixed-*")
	w.must(err)
	_, err = w.api.Policy.AddRule(ctx, policy.Rule{Scope: "org/app", Pattern: "nightly-*", LastPushed: 1})
	w.must(err)
	w.must(w.api.Policy.SetPullRule(ctx, policy.PullRule{Scope: "org/app", Severity: "none"}))
	_, err = w.api.Webhooks.Add(ctx, webhook.Webhook{Scope: "org/app", URL: "https://example.com/", Events: []string{"push"}})
	w.must(err)
	w.must(w.api.Proxy.Set(ctx, proxy.Proxy{Namespace: "dockerhub", Host: "docker.io", Public: true}))
	_, err = w.api.Mirrors.Add(ctx, proxy.Mirror{Repository: "org/mirror", Source: "quay.io/org/mirror", Pattern: "*", Every: 3600})
	w.must(err)
	w.must(scandb.Schedule(ctx, w.api.DB, scandb.Feed{From: "https://ann:password@osv.example.com/all.zip?key=1", Every: time.Hour}))
	w.scanned(row)
	w.must(w.api.DB.Update(ctx, func(tx *sql.Tx) error {
		for _, q := range []string{
			`INSERT INTO trash (repository, digest, size, media_type, subject, artifact_type, annotations, pushed, pusher, pulled, artifact, held, tags, deleted, actor)
				VALUES ($1, '` + trashed + `', 1, 'm', '', '', '', 1, '', 0, 0, 0, '[]', 1, '')`,
			`INSERT INTO manifests (repository, digest, size, media_type, held) VALUES ($1, '` + held + `', 1, 'application/vnd.oci.image.manifest.v1+json', 1)`,
			`INSERT INTO reviews (repository, tag, digest, state, author, opened, changed) VALUES ($1, 'next', '` + held + `', 'waiting', 'writer', 1, 1)`,
			`INSERT INTO sessions (hash, account, created, expires) SELECT '` + digest.FromString("browser").Encoded() + `', id, 1, 9999999999 FROM accounts WHERE name = 'writer' AND $1 > 0`,
			`INSERT INTO deliveries (id, webhook, event, payload, created) SELECT 'first', 1, 'push', '{}', $1`,
		} {
			if _, err := tx.ExecContext(ctx, q, row); err != nil {
				return fmt.Errorf("%s: %w", q, err)
			}
		}
		return nil
	}))
}

// scanned makes org/app:1, of the repository's row, an image that was scanned.
func (w world) scanned(row int64) {
	w.Helper()
	w.must(w.api.DB.Update(w.Context(), func(tx *sql.Tx) error {
		const image = `(SELECT digest FROM tags WHERE repository = $1 AND name = '1')`
		for _, q := range []string{
			`INSERT INTO scan_images (image, scanned, matched, distribution) VALUES (` + image + `, 1, 1, 'Debian 13')`,
			`INSERT INTO scan_packages (image, number, type, name, version) VALUES (` + image + `, 0, 'deb', 'openssl', '3.0.1')`,
			`INSERT INTO scan_findings (image, number, id, severity, package) VALUES (` + image + `, 0, 'CVE-2026-1', 5, 0)`,
			`INSERT INTO scan_secrets (image, number, rule, what) VALUES (` + image + `, 0, 'aws', 'a key of AWS')`,
		} {
			if _, err := tx.ExecContext(w.Context(), q, row); err != nil {
				return fmt.Errorf("%s: %w", q, err)
			}
		}
		return nil
	}))
}

// What a scan found is for who may read the image, its secrets for who may push;
// the data's origin is told without what its URL has of secrets.
func TestScanByAPI(t *testing.T) {
	f := build(t)
	w := start(t, f.copied(t))
	const scan = "/repositories/org%2Fapp/manifests/1/scan"
	for role, secrets := range map[string]bool{"reader": false, "writer": true} {
		status, body := w.call("GET", scan, f.auth[role], "")
		if status != 200 || !strings.Contains(body, "CVE-2026-1") || !strings.Contains(body, `"critical":1`) || !strings.Contains(body, "openssl") || strings.Contains(body, "AWS") != secrets {
			t.Errorf("%s: %d %s", role, status, body)
		}
	}
	w.push("org/app", "2")
	w.must(w.api.DB.Update(t.Context(), func(tx *sql.Tx) error {
		_, err := tx.ExecContext(t.Context(), `DELETE FROM scan_images`)
		return err
	}))
	if status, body := w.call("GET", scan, f.auth["reader"], ""); status != 404 || !strings.Contains(body, "not scanned") {
		t.Errorf("not scanned: %d %s", status, body)
	}
	w.must(w.api.DB.Update(t.Context(), func(tx *sql.Tx) error {
		_, err := tx.ExecContext(t.Context(), `INSERT INTO vuln_sources (name, origin, imported) VALUES ('osv', 'https://ann:hidden@osv.example.com/all.zip?key=hidden', 1)`)
		return err
	}))
	if status, body := w.call("GET", "/vulnerability-data", f.auth["sysop"], ""); status != 200 || !strings.Contains(body, `"https://osv.example.com/all.zip"`) || strings.Contains(body, "hidden") {
		t.Errorf("data: %d %s", status, body)
	}
}

// The tags with a vulnerability or a package are those that one may read: what is
// private is for who may, what waits for a review for nobody, and an index has what
// its images have.
func TestTaggedByAPI(t *testing.T) {
	t.Run("SQLite", func(t *testing.T) { testTagged(t, build(t)) })
	t.Run("PostgreSQL", func(t *testing.T) { testTagged(t, buildOn(t, conformance.PostgreSQL(t))) })
}

func testTagged(t *testing.T, f fixture) {
	t.Helper()
	w := start(t, f.copied(t))
	w.push("stranger/pub", "1") // the same image
	index := `{"schemaVersion":2,"mediaType":"` + ocispec.MediaTypeImageIndex + `","manifests":[{"mediaType":"` + ocispec.MediaTypeImageManifest + `","digest":"` + f.digest + `","size":` + w.sizeOf("org/app", f.digest) + `}]}`
	_, err := w.api.Hub.PutManifest(system(t.Context()), "org/app", []string{"all"}, registry.Manifest{MediaType: ocispec.MediaTypeImageIndex, Bytes: []byte(index)})
	w.must(err)
	w.must(w.api.DB.Update(t.Context(), func(tx *sql.Tx) error {
		for _, q := range []string{
			`UPDATE repositories SET public = 1 WHERE name = 'stranger/pub'`,
			`INSERT INTO tags (repository, name, digest) SELECT id, 'next', '` + held + `' FROM repositories WHERE name = 'org/app'`,
			`INSERT INTO scan_images (image, scanned, matched, distribution) VALUES ('` + held + `', 1, 1, '')`,
			`INSERT INTO scan_packages (image, number, type, name, version) VALUES ('` + held + `', 0, 'deb', 'openssl', '3.0.1')`,
			`INSERT INTO scan_findings (image, number, id, severity, package) VALUES ('` + held + `', 0, 'CVE-2026-1', 5, 0)`,
		} {
			if _, err := tx.ExecContext(t.Context(), q); err != nil {
				return fmt.Errorf("%s: %w", q, err)
			}
		}
		return nil
	}))
	list := func(role, query string) (tags []string, next string) {
		t.Helper()
		status, body := w.call("GET", "/tags?"+query, f.auth[role], "")
		var page Page[catalog.Tagged]
		if err := json.Unmarshal([]byte(body), &page); err != nil || status != 200 || page.Items == nil {
			t.Fatalf("%s: %s: %d %v %s", role, query, status, err, body)
		}
		for _, item := range page.Items {
			if item.Image.String() != f.digest {
				t.Errorf("%s: %+v", role, item)
			}
			tags = append(tags, item.Repository+":"+item.Tag)
		}
		return tags, page.Next
	}
	public, private := []string{"stranger/pub:1"}, []string{"org/app:1", "org/app:all"}
	both := slices.Concat(private, public)
	for role, want := range map[string][]string{
		"anonymous": public, "stranger": public, "member": public, "reviewer": public, "robot": private, "limited": nil,
		"reader": both, "writer": both, "admin": both, "owner": both, "sysop": both,
	} {
		for _, query := range []string{"vulnerability=CVE-2026-1", "package=openssl", "package=openssl&version=3.0.1&vulnerability=CVE-2026-1"} {
			if got, _ := list(role, query); !slices.Equal(got, want) {
				t.Errorf("%s: %s: %q, want %q", role, query, got, want)
			}
		}
	}
	for _, query := range []string{"vulnerability=CVE-2026-2", "package=openssl&version=3", "package=bash&vulnerability=CVE-2026-1"} {
		if got, _ := list("sysop", query); got != nil {
			t.Errorf("%s: %q", query, got)
		}
	}
	var paged []string
	for after := "0"; after != ""; {
		some, next := list("reader", "package=openssl&limit=1&after="+after)
		paged, after = append(paged, some...), next
	}
	if !slices.Equal(paged, both) {
		t.Errorf("by pages: %q, want %q", paged, both)
	}
}

// sizeOf is the size of a manifest.
func (w world) sizeOf(repo, ref string) string {
	w.Helper()
	desc, err := w.api.Hub.StatManifest(system(w.Context()), repo, ref)
	w.must(err)
	return strconv.FormatInt(desc.Size, 10)
}

// A collection that was asked for is in the list, by its number.
func TestCollectionByAPI(t *testing.T) {
	f := build(t)
	w := start(t, f.copied(t))
	status, asked := w.call("POST", "/collections", f.auth["sysop"], "")
	if status != 202 || !strings.Contains(asked, `"state":"waiting"`) {
		t.Fatalf("%d %s", status, asked)
	}
	if _, list := w.call("GET", "/collections", f.auth["sysop"], ""); !strings.Contains(list, strings.TrimSpace(asked)) {
		t.Errorf("asked for %s, listed: %s", asked, list)
	}
}

// A review by the API: who pushes sees what is found and answers, and readers see
// the image when it is approved.
func TestReviewByAPI(t *testing.T) {
	f := build(t)
	w := start(t, f.copied(t))
	status, body := w.call("POST", "/reviews/1/approve", f.auth["reviewer"], `{"digest":"`+f.digest+`"}`)
	if status != 409 || !strings.Contains(body, "by now") {
		t.Errorf("a decision about another image: %d %s", status, body)
	}
	for _, step := range []struct {
		role, path, body string
		status           int
	}{
		{"reviewer", "/reviews/1/return", `{"digest":"` + held + `"}`, 400},
		{"reviewer", "/reviews/1/return", `{"digest":"` + held + `","comment":"why root?"}`, 204},
		{"writer", "/reviews/1/comments", `{"text":"it binds to port 80"}`, 204},
		{"writer", "/reviews/1/comments", `{"text":" "}`, 400},
		{"reviewer", "/reviews/1/approve", `{"digest":"` + held + `","comment":"fine"}`, 204},
		{"reviewer", "/reviews/1/approve", `{"digest":"` + held + `"}`, 409},
	} {
		if status, body := w.call("POST", step.path, f.auth[step.role], step.body); status != step.status {
			t.Errorf("%s %s %s: %d %s", step.role, step.path, step.body, status, body)
		}
	}
	_, body = w.call("GET", "/reviews/1", f.auth["writer"], "")
	for _, want := range []string{`"state":"approved"`, `"text":"why root?"`, `"author":"writer"`, `"reviewer":"reviewer"`} {
		if !strings.Contains(body, want) {
			t.Errorf("lacks %s: %s", want, body)
		}
	}
}
