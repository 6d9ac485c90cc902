package web_test

import (
	"compress/gzip"
	"crypto/rand"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"strings"
	"testing"
)

// mostBytes is what a page may have on the wire: a second on a line of 256 kbit/s.
const mostBytes = 30_000

// crowd gives the repositories more than a page shows.
func (w *world) crowd() {
	w.t.Helper()
	var tag, image string
	w.ok(w.db.Get(w.t.Context(), `SELECT t.digest FROM tags t JOIN repositories r ON r.id = t.repository WHERE r.name = 'org/site' AND t.name = 'latest'`, nil, &tag))
	w.ok(w.db.Get(w.t.Context(), `SELECT image FROM scan_images`, nil, &image))
	queries := []string{`DELETE FROM scan_packages`, `DELETE FROM scan_findings`}
	for i := range 500 {
		queries = append(queries,
			fmt.Sprintf(`INSERT INTO tags (repository, name, digest, pushed, pusher) SELECT id, 'build-%s', '%s', %d, 'ann' FROM repositories WHERE name = 'org/site'`, rand.Text(), tag, 1_790_000_000+i),
			fmt.Sprintf(`INSERT INTO audit (at, actor, address, action, object, detail) VALUES (%d, 'ann', '192.0.2.1:%d', 'tag.set', 'org/site:%s', '{"digest":"sha256:%s"}')`, 1_790_000_000+i, i, rand.Text(), rand.Text()),
			fmt.Sprintf(`INSERT INTO tag_history (repository, name, digest, previous, action, at, actor) SELECT id, 'build-%s', '', 'sha256:%s', 'delete', %d, 'ann' FROM repositories WHERE name = 'org/site'`, rand.Text(), strings.ToLower(rand.Text()), 1_790_000_000+i),
			fmt.Sprintf(`INSERT INTO scan_packages (image, number, type, name, version) VALUES ('%s', %d, 'deb', 'lib%s', '1.%d')`, image, i, rand.Text(), i),
			fmt.Sprintf(`INSERT INTO scan_findings (image, number, id, severity, fixed, summary, package) VALUES ('%s', %d, 'CVE-2026-%d', 4, '', 'A crafted input of %s runs code', %d)`, image, i, i, rand.Text(), i),
			fmt.Sprintf(`INSERT INTO repositories (name, namespace, base, public, description) VALUES ('org/app-%s', 'org', 'app', 1, 'What %s is for')`, strings.ToLower(rand.Text()), rand.Text()),
			fmt.Sprintf(`INSERT INTO accounts (name, created) VALUES ('user-%s', 1790000000)`, strings.ToLower(rand.Text())))
	}
	for range 100 {
		queries = append(queries, fmt.Sprintf(`INSERT INTO deliveries (id, webhook, event, payload, created, attempts, state, status, answer) SELECT '%s', id, 'push', '{"digest":"sha256:%s"}', 1790000000, 14, 'failed', 502, '%s'
			FROM webhooks WHERE scope = 'org/site'`, rand.Text(), rand.Text(), strings.Repeat(rand.Text(), 39)))
	}
	w.exec(queries...)
	w.refresh()
}

// TestLight asks for the pages that have most to show: none has more than a slow
// line takes in a second, and what they all need is kept by browsers for good.
func TestLight(t *testing.T) {
	w := newWorld(t)
	w.furnish()
	w.rules()
	w.ok(w.administer())
	w.crowd()
	c := w.session("root")
	c.Transport = &http.Transport{DisableCompression: true}
	get := func(path string) (http.Header, int, string) {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, w.server.URL+path, nil)
		w.ok(err)
		req.Header.Set("Accept-Encoding", "gzip")
		status, header, body := w.do(c, req)
		if status != http.StatusOK || header.Get("Content-Encoding") != "gzip" {
			t.Fatalf("%s: %d, encoding %q", path, status, header.Get("Content-Encoding"))
		}
		z, err := gzip.NewReader(strings.NewReader(body))
		w.ok(err)
		plain, err := io.ReadAll(z)
		w.ok(err)
		if len(body) > mostBytes {
			t.Errorf("%s has %d bytes on the wire, %d without gzip", path, len(body), len(plain))
		}
		t.Logf("%6d %7d %s", len(body), len(plain), path)
		return header, len(body), string(plain)
	}
	var page string
	for _, path := range []string{
		"/", "/explore", "/explore?q=app", "/n/org", "/n/org/rules", "/n/org/webhooks", "/orgs/org", "/r/org/site", "/r/org/site/-/tags", "/r/org/site/-/tags/latest",
		"/r/org/site/-/rules", "/r/org/site/-/rules/preview", "/r/org/site/-/trash", "/r/org/site/-/webhooks", "/r/org/site/-/webhooks/1", "/r/org/site/-/settings",
		"/audit", "/review", "/account", "/account/tokens", "/account/sessions", "/admin", "/admin/users", "/admin/rules", "/admin/webhooks", "/admin/registries",
		"/admin/storage", "/admin/vulnerabilities",
	} {
		_, _, page = get(path)
	}
	for _, asset := range regexp.MustCompile(`(?:href|src)="(/static/[^"]+-[0-9a-f]{12}\.(?:css|js))"`).FindAllStringSubmatch(page, -1) {
		if header, _, _ := get(asset[1]); header.Get("Cache-Control") != "public, max-age=31536000, immutable" {
			t.Errorf("%s: %q", asset[1], header.Get("Cache-Control"))
		}
	}
}
