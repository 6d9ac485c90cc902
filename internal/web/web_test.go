package web_test

import (
	"net/http"
	"net/url"
	"strings"
	"testing"

	"strake/internal/auth"
	"strake/internal/webhook"
)

// repositories makes a public and a private one of org, which bob may write to,
// and ann's own private one.
func (w *world) repositories() {
	w.push("org/site", "1.0", "amd64", step{"COPY . /srv", map[string]int{"srv/index": 1000}})
	w.push("org/secret", "1.0", "amd64", step{"COPY . /srv", map[string]int{"srv/key": 1000}})
	w.push("ann/own", "1.0", "amd64", step{"COPY . /srv", map[string]int{"srv/own": 1000}})
	w.exec(`UPDATE repositories SET public = 1, description = 'The site' WHERE name = 'org/site'`,
		`INSERT INTO grants (repository, team, role) SELECT r.id, t.id, 2 FROM repositories r, teams t WHERE r.name = 'org/secret'`)
	w.pusher = w.as("ann")
	w.push("org/site", "2.0", "amd64", step{"COPY . /srv", map[string]int{"srv/index": 2000}}) // is reviewed
	w.pusher = nil
	for _, scope := range []string{"org/secret", "org/*", "*"} {
		_, err := w.hooks.Add(w.system(), webhook.Webhook{Scope: scope, URL: "https://ci.example.com/srv/" + scope, Events: []string{"push"}})
		w.ok(err)
	}
	w.refresh()
}

// TestRoles asks for every page as everybody.
func TestRoles(t *testing.T) {
	w := newWorld(t)
	w.repositories()
	for _, c := range pages {
		for i, name := range people {
			status, header, body := w.get(w.session(name), c.path)
			if status != c.want[i] {
				t.Errorf("%s as %q: %d, want %d", c.path, name, status, c.want[i])
			}
			if status == login && name == "" && !strings.HasPrefix(header.Get("Location"), "/login?next=") {
				t.Errorf("%s leads to %q", c.path, header.Get("Location"))
			}
			if status == 404 && (strings.Contains(body, "srv/") || strings.Contains(body, "The site")) {
				t.Errorf("%s as %q tells: %s", c.path, name, body)
			}
		}
	}
}

// TestForms sends every form as everybody. What is allowed is answered with a
// redirection.
func TestForms(t *testing.T) {
	w := newWorld(t)
	w.repositories()
	for _, c := range forms {
		form, err := url.ParseQuery(c.form)
		w.ok(err)
		for i, name := range people {
			if status, _, body := w.post(w.session(name), c.path, form); status != c.want[i] {
				t.Errorf("%s %s as %q: %d, want %d\n%s", c.path, c.form, name, status, c.want[i], alertOf(body))
			}
		}
	}
}

// alertOf is what a page says is wrong.
func alertOf(body string) string {
	_, after, _ := strings.Cut(body, `role="alert">`)
	text, _, _ := strings.Cut(after, "<")
	return text
}

// TestWrongFields fills in forms with one thing that is wrong: it is said beside
// its field, and the rest is still there.
func TestWrongFields(t *testing.T) {
	w := newWorld(t)
	w.repositories()
	long := strings.Repeat("x", 500)
	for _, c := range []struct{ who, path, form, field, says, kept string }{
		{"ann", "/account", "full_name=Ann+Other&email=nobody", "email", "no e-mail address", `value="Ann Other"`},
		{"ann", "/account/password", "old=wrong&new=correct+horse+battery", "old", "not right", ""},
		{"ann", "/account/password", "old=" + url.QueryEscape(password) + "&new=short", "new", "characters at least", ""},
		{"ann", "/account/tokens", "name=X&scope=ann/*&role=write&days=30", "name", "lower-case letters", `value="write" selected`},
		{"ann", "/account/tokens", "name=fine&scope=a%20b&role=write&days=30", "scope", "ends in /*", `value="fine"`},
		{"ann", "/account/tokens", "name=fine&days=9999", "days", "3650 days", `value="fine"`},
		{"ann", "/orgs/new", "name=org", "name", "is taken", `value="org"`},
		{"ann", "/orgs/org", "do=set-member&name=nobody&owner=1", "member", "not found", `value="1" selected`},
		{"ann", "/orgs/org", "do=add-team&team=T", "team", "lower-case letters", `value="T"`},
		{"ann", "/r/org/site/-/settings", "description=" + long + "&readme=Mine&public=1", "description", "one line", ">Mine</textarea>"},
		{"ann", "/r/org/site/-/settings", "description=Mine&readme=%00&public=1", "readme", "is text of", `value="Mine"`},
		{"ann", "/r/org/site/-/grants", "to=nobody&role=admin", "to", "not found", `value="admin" selected`},
		{"ann", "/r/org/site/-/untag", "tag=none", "tag", "no tag", `value="none"`},
		{"ann", "/r/org/site/-/webhooks", "url=https://example.com/x&secret=short&events=push", "secret", "16 to 200", `value="https://example.com/x"`},
		{"ann", "/r/org/site/-/webhooks", "url=ftp://example.com/x&events=push", "url", "http or https", ""},
		{"ann", "/r/org/site/-/rules", "do=add-immutable&immutable=/(/", "immutable", "missing closing", ""},
		{"ann", "/r/org/site/-/rules", "do=add-retention&pattern=/(/&last-pushed=3", "pattern", "missing closing", `value="3"`},
		{"ann", "/r/org/site/-/rules", "do=add-retention&untagged=1&last-pushed=3", "pushed-days", "days since the push alone", `value="3"`},
		{"ann", "/review/1", "do=comment&text=+", "text", "says something", ""},
		{"root", "/admin/users", "do=add&name=ann&full_name=Second", "name", "is taken", `value="Second"`},
		{"root", "/admin/registries", "do=set-proxy&namespace=a/b&host=quay.io", "namespace", "no slash", `value="quay.io"`},
		{"root", "/admin/registries", "do=set-proxy&namespace=quay&host=qu%20ay", "host", "qu ay", `value="quay"`},
		{"root", "/admin/registries", "do=add-mirror&repository=m/app&source=quay.io/t/app&pattern=v*&every=6&mirror-username=x", "mirror-password", "comes with a password", `value="m/app"`},
		{"root", "/admin/registries", "do=add-mirror&repository=M&source=quay.io/t/app&pattern=v*&every=6", "repository", "M", `value="quay.io/t/app"`},
	} {
		form, err := url.ParseQuery(c.form)
		w.ok(err)
		status, _, body := w.post(w.session(c.who), c.path, form)
		_, after, said := strings.Cut(body, `id="`+c.field+`-wrong">`)
		text, _, _ := strings.Cut(after, "<")
		if status < 400 || status >= 500 || !said || !strings.Contains(text, c.says) || strings.Count(body, `class="wrong"`) != 1 || !strings.Contains(body, `href="#`+c.field+`"`) {
			t.Errorf("%s %.80s: %d, beside %s: %q; above: %s", c.path, c.form, status, c.field, text, alertOf(body))
		}
		if !strings.Contains(body, c.kept) {
			t.Errorf("%s %.80s: not kept: %s", c.path, c.form, c.kept)
		}
	}
}

// A tag is deleted when it was said what that does, and by who may.
func TestUntagAsks(t *testing.T) {
	w := newWorld(t)
	w.repositories()
	c := w.session("ann")
	status, _, body := w.post(c, "/r/org/site/-/untag", url.Values{"tag": {"1.0"}})
	if status != 200 || !strings.Contains(body, "will fail from then on") || !strings.Contains(body, "sha256:") && !strings.Contains(body, "can be restored") {
		t.Errorf("asks: %d %s", status, body)
	}
	if status, _, _ := w.get(c, "/r/org/site/-/tags/1.0"); status != 200 {
		t.Errorf("the tag before: %d", status)
	}
	if status, _, _ := w.post(c, "/r/org/site/-/untag", url.Values{"tag": {"1.0"}, "sure": {"1"}}); status != 303 {
		t.Errorf("deletes: %d", status)
	}
	if status, _, _ := w.get(c, "/r/org/site/-/tags/1.0"); status != 404 {
		t.Errorf("the tag afterwards: %d", status)
	}
}

// TestCVE_2025_32019_StoredXSS shows hostile texts wherever people's texts are shown.
func TestCVE_2025_32019_StoredXSS(t *testing.T) {
	w := newWorld(t)
	const evil = `"><script>alert(1)</script><img src=x onerror=alert(1)>`
	readme := evil + "\n\n[x](javascript:alert(1)) [y](data:text/html,x) ![p](https://tracker.example/p.png)\n\n<svg onload=alert(1)>\n\n" +
		"<a href=\"java\tscript:alert(1)\">z</a> `<script>` [ok](https://example.com/)\n\n# Title {onclick=alert(1)}\n\n|a|\n|-|\n|<b onmouseover=x>|\n"
	w.push("ann/app", "1.0", "amd64", step{evil, map[string]int{"x": 10}})
	w.ok(w.hub.Describe(w.as("ann"), "ann/app", evil, readme, true))
	full := evil
	w.ok(changeName(w, full))
	w.refresh()
	c := w.session("ann")
	for _, path := range []string{
		"/", "/explore?q=" + url.QueryEscape(evil), "/explore?kind=" + url.QueryEscape(evil), "/explore?sort=" + url.QueryEscape(evil), "/r/ann/app", "/r/ann/app/-/tags?name=" + url.QueryEscape(evil), "/r/ann/app/-/tags/1.0",
		"/r/ann/app/-/settings", "/n/ann", "/account", "/audit?repository=ann/app&actor=" + url.QueryEscape(evil), "/r/" + url.PathEscape(evil), "/login?next=" + url.QueryEscape(evil), "/account?done=" + url.QueryEscape(evil),
	} {
		_, header, body := w.get(c, path)
		lower := strings.ToLower(body)
		for _, bad := range []string{"<script>alert", "<img", "onerror=alert(1)>", "<svg onload", `href="javascript`, `href="data:`, "<b ", "onclick=\""} {
			if strings.Contains(strings.ReplaceAll(lower, "&gt;", ""), bad) && !strings.Contains(bad, "onerror") || strings.Contains(lower, "<img src=x") {
				t.Errorf("%s has %q", path, bad)
			}
		}
		if csp := header.Get("Content-Security-Policy"); path != "/login" && (!strings.Contains(csp, "default-src 'none'") || strings.Contains(csp, "unsafe")) {
			t.Errorf("%s: policy %q", path, csp)
		}
	}
	if _, _, body := w.get(c, "/r/ann/app"); !strings.Contains(body, `<a href="https://example.com/" rel="nofollow noreferrer">ok</a>`) || !strings.Contains(body, "<h2>Title") {
		t.Error("the harmless parts of the read-me are not there")
	}
}

// TestCVE_2019_19025_CSRF sends forms from other sites.
func TestCVE_2019_19025_CSRF(t *testing.T) {
	w := newWorld(t)
	w.repositories()
	c := w.session("ann")
	for _, header := range []http.Header{
		{"Sec-Fetch-Site": {"cross-site"}}, {"Sec-Fetch-Site": {"same-site"}}, {"Origin": {"https://evil.example"}}, {"Origin": {"null"}},
	} {
		for _, path := range []string{"/r/org/site/-/settings", "/account/tokens", "/orgs/org", "/logout", "/login", "/account/password"} {
			req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, w.server.URL+path, strings.NewReader("do=add-team&team=evil&name=evil"))
			w.ok(err)
			req.Header = header.Clone()
			req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
			if status, _, _ := w.do(c, req); status != http.StatusForbidden {
				t.Errorf("%s with %v: %d", path, header, status)
			}
		}
	}
	if status, _, _ := w.get(c, "/logout"); status != http.StatusNotFound && status != http.StatusMethodNotAllowed {
		t.Errorf("a link logs out: %d", status)
	}
}

// TestCVE_2024_22244_OpenRedirect lets links to the login lead elsewhere.
func TestCVE_2024_22244_OpenRedirect(t *testing.T) {
	w := newWorld(t)
	for _, next := range []string{"https://evil.example/", "//evil.example", "/\\evil.example", "\\\\evil.example", "/\t/evil.example", "javascript:alert(1)", "///evil.example", "http:evil.example", "/%0d%0aX: y"} {
		c := w.client("")
		_, header, _ := w.post(c, "/login", url.Values{"name": {"ann"}, "password": {password}, "next": {next}})
		to := header.Get("Location")
		u, err := url.Parse(to)
		if err != nil || u.Host != "" || !strings.HasPrefix(to, "/") || strings.HasPrefix(to, "//") || strings.Contains(to, "\\") {
			t.Errorf("next=%q leads to %q", next, to)
		}
	}
}

// TestHeaders holds answers to what keeps them out of frames and caches.
func TestHeaders(t *testing.T) {
	w := newWorld(t)
	w.repositories()
	c := w.session("ann")
	_, h, body := w.get(c, "/r/org/site")
	if h.Get("X-Frame-Options") != "DENY" || h.Get("X-Content-Type-Options") != "nosniff" || !strings.HasPrefix(h.Get("Cache-Control"), "private") {
		t.Errorf("headers %v", h)
	}
	if len(body) > 30<<10 {
		t.Errorf("the page has %d bytes", len(body))
	}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, w.server.URL+"/r/org/site", nil)
	w.ok(err)
	req.Header.Set("If-None-Match", h.Get("ETag"))
	if status, _, _ := w.do(c, req); status != http.StatusNotModified {
		t.Errorf("the same page again: %d", status)
	}
	_, h, body = w.post(c, "/account/tokens", url.Values{"name": {"ci"}, "scope": {"ann/*"}, "role": {"read"}})
	if !strings.Contains(body, "sth_") || h.Get("Cache-Control") != "no-store" {
		t.Errorf("a token's page: %v", h)
	}
	if _, _, again := w.get(c, "/account/tokens"); strings.Contains(again, "sth_") || !strings.Contains(again, "ann/*") {
		t.Error("the token is shown again, or not listed")
	}
	if cookie := h.Get("Set-Cookie"); cookie != "" {
		t.Errorf("cookie %q", cookie)
	}
	_, h, _ = w.post(w.client(""), "/login", url.Values{"name": {"ann"}, "password": {password}})
	for _, want := range []string{"HttpOnly", "SameSite=Lax", "Path=/"} {
		if !strings.Contains(h.Get("Set-Cookie"), want) {
			t.Errorf("cookie %q lacks %s", h.Get("Set-Cookie"), want)
		}
	}
}

// changeName gives ann a full name.
func changeName(w *world, name string) error {
	return auth.ChangeAccount(w.as("ann"), w.db, "ann", auth.AccountChange{FullName: &name})
}

// TestScan shows what a scan found: the secrets to who may push alone.
func TestScan(t *testing.T) {
	w := newWorld(t)
	w.repositories()
	var digest string
	w.ok(w.db.Get(t.Context(), `SELECT t.digest FROM tags t JOIN repositories r ON r.id = t.repository WHERE r.name = 'org/site' AND t.name = '1.0'`, nil, &digest))
	w.exec(`DELETE FROM scan_images WHERE image = '`+digest+`'`,
		`INSERT INTO scan_images (image, scanned, matched, packages, secrets, distribution) VALUES ('`+digest+`', 1, 1700000000, 1, 1, 'Debian 13')`,
		`INSERT INTO scan_packages (image, number, type, name, version) VALUES ('`+digest+`', 0, 'deb', 'libalbatross', '1.2-3')`,
		`INSERT INTO scan_findings (image, number, id, severity, fixed, summary, package) VALUES ('`+digest+`', 0, 'CVE-2099-1', 5, '1.2-4', 'It flies away', 0)`,
		`INSERT INTO scan_secrets (image, number, rule, what, file) VALUES ('`+digest+`', 0, 'key', 'A private key', 'srv/id_rsa')`)
	w.refresh()
	for name, secret := range map[string]bool{"": false, "cid": false, "ann": true} {
		_, _, body := w.get(w.session(name), "/r/org/site/-/tags/1.0")
		for _, want := range []string{"CVE-2099-1", "1.2-4", "It flies away", "1 critical", "libalbatross", "Debian 13"} {
			if !strings.Contains(body, want) {
				t.Errorf("as %q: no %s", name, want)
			}
		}
		if strings.Contains(body, "id_rsa") != secret {
			t.Errorf("as %q: the secret is shown: %v", name, !secret)
		}
	}
	if _, _, body := w.get(w.session(""), "/explore?q=albatross"); !strings.Contains(body, "/r/org/site") {
		t.Error("not found by its package")
	}
}
