package web_test

import (
	"context"
	"database/sql"
	_ "embed"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"strake/internal/auth"
	"strake/internal/hub"
	"strake/internal/policy"
	"strake/internal/proxy"
	"strake/internal/scandb"
	"strake/internal/webhook"
)

// look.js holds a page to rules that make it usable for everybody.
//
//go:embed testdata/look.js
var lookScript string

// browser is a real one. Its methods fail the test.
type browser struct {
	*world
	ctx context.Context

	mu       sync.Mutex
	messages []string // of its console: what the page was refused, errors of scripts
}

// startChromium starts it; its tabs are contexts of the one that is returned.
func startChromium(t *testing.T) context.Context {
	t.Helper()
	path, err := exec.LookPath("chromium")
	if err != nil {
		t.Skip("needs chromium")
	}
	ctx, cancel := chromedp.NewExecAllocator(t.Context(), chromedp.ExecPath(path), chromedp.Headless, chromedp.NoSandbox, chromedp.DisableGPU, chromedp.Flag("disable-dev-shm-usage", true))
	t.Cleanup(cancel)
	ctx, cancel = chromedp.NewContext(ctx)
	t.Cleanup(cancel)
	if err := chromedp.Do(ctx, chromedp.Navigate("about:blank")); err != nil { // starts it
		t.Fatal(err)
	}
	return ctx
}

// newBrowser opens a tab with cookies of its own.
func newBrowser(chromium context.Context, w *world) *browser {
	w.t.Helper()
	ctx, cancel := chromedp.NewContext(chromium, chromedp.WithNewBrowserContext())
	w.t.Cleanup(cancel)
	b := &browser{world: w, ctx: ctx}
	w.ok(chromedp.Do(ctx, chromedp.Navigate("about:blank")))
	w.ok(chromedp.Listen(ctx, func(event any) {
		b.mu.Lock()
		defer b.mu.Unlock()
		switch e := event.(type) {
		case *log.EventEntryAdded:
			if e.Entry.Source != "network" { // a page 404 says so there, too
				b.messages = append(b.messages, e.Entry.Text)
			}
		case *runtime.EventExceptionThrown:
			b.messages = append(b.messages, e.ExceptionDetails.Text)
		}
	}))
	_, err := chromedp.Call(ctx, log.Enable, cdp.Empty{})
	w.ok(err)
	_, err = chromedp.Call(ctx, emulation.SetFocusEmulationEnabled, emulation.SetFocusEmulationEnabledParams{Enabled: true})
	w.ok(err)
	return b
}

// TestBrowser uses the pages as people do, in one Chromium, in a tab for each of
// its parts. Nothing may be said on the console.
func TestBrowser(t *testing.T) {
	chromium := startChromium(t)
	for name, use := range map[string]func(*testing.T, *world, *browser){
		"People": browse, "Review": browseReview, "Admin": browseAdmin, "Rules": browseRules, "Keyboard": browseByKeyboard, "WithoutScript": browseWithoutScript,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t) //nolint:contextcheck // it has the test's
			b := newBrowser(chromium, w)
			use(t, w, b)
			for _, m := range b.messages {
				t.Errorf("the console says %s", m)
			}
		})
	}
}

// run does something, and fails the test when it takes long.
func (b *browser) run(actions ...chromedp.Action[chromedp.Void]) {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.ctx, 20*time.Second)
	defer cancel()
	if err := chromedp.Do(ctx, actions...); err != nil {
		b.t.Fatal(err)
	}
}

// eval returns the value of an expression.
func eval[T any](b *browser, expression string) T {
	b.t.Helper()
	v, err := chromedp.Run(b.ctx, chromedp.Evaluate[T](expression))
	if err != nil {
		b.t.Fatal(err)
	}
	return v
}

func (b *browser) open(path string) {
	b.t.Helper()
	b.run(chromedp.Navigate(b.server.URL + path))
}

// text is what the page shows.
func (b *browser) text() string {
	b.t.Helper()
	return eval[string](b, `document.body.innerText`)
}

func (b *browser) shows(want string) {
	b.t.Helper()
	if got := b.text(); !strings.Contains(got, want) {
		b.t.Errorf("the page does not show %q:\n%s", want, got)
	}
}

// press clicks a button or a link by its text and waits for the next page.
func (b *browser) press(text string) {
	b.t.Helper()
	b.leave(chromedp.Click(fmt.Sprintf(`//*[self::button or self::a][normalize-space()=%q]`, text), chromedp.NodeVisible))
}

// leave does what leads to another page, and waits for it.
func (b *browser) leave(action chromedp.Action[chromedp.Void]) {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.ctx, 20*time.Second)
	defer cancel()
	if _, err := chromedp.RunResponse(ctx, action); err != nil {
		b.t.Fatal(err)
	}
}

func (b *browser) fill(label, value string) {
	b.t.Helper()
	id := eval[string](b, fmt.Sprintf(`[...document.querySelectorAll("main label")].find(l => l.textContent.trim() === %q).htmlFor`, label))
	b.run(chromedp.SetValue("#"+id, value))
}

// look sets how the page is looked at.
func (b *browser) look(width int64, dark bool) {
	b.t.Helper()
	scheme := "light"
	if dark {
		scheme = "dark"
	}
	b.run(chromedp.EmulateViewport(width, 900))
	_, err := chromedp.Call(b.ctx, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{
		Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: scheme}},
	})
	b.ok(err)
}

// screenshot keeps a picture of the page for who wants to look at it.
func (b *browser) screenshot(name string) {
	b.t.Helper()
	dir := os.Getenv("STRAKE_SCREENSHOTS")
	if dir == "" {
		return
	}
	png, err := chromedp.Run(b.ctx, chromedp.FullScreenshot(100))
	b.ok(err)
	b.ok(os.WriteFile(filepath.Join(dir, name+".png"), png, 0o644))
}

// check holds the page to the rules, wide and narrow, light and dark.
func (b *browser) check(path, name string) {
	b.t.Helper()
	b.open(path)
	for _, dark := range []bool{false, true} {
		for _, width := range []int64{1280, 390} {
			b.look(width, dark)
			for _, f := range eval[[]string](b, lookScript) {
				b.t.Errorf("%s, %d wide, dark %v: %s", path, width, dark, f)
			}
			if width == 1280 || !dark {
				b.screenshot(fmt.Sprintf("%s-%d-%v", name, width, map[bool]string{false: "light", true: "dark"}[dark]))
			}
		}
	}
	b.look(1280, false)
}

// furnish fills the Hub with what people would have.
func (w *world) furnish() {
	base := step{"/bin/sh -c #(nop) ADD file:rootfs.tar in / ", map[string]int{"bin/sh": 90_000, "etc/os-release": 300, "usr/lib/libc.so": 400_000}}
	deps := step{"RUN /bin/sh -c apt-get update && apt-get install -y --no-install-recommends ca-certificates curl # buildkit", map[string]int{"usr/bin/curl": 220_000, "var/cache/apt/pkgcache.bin": 150_000}}
	clean := step{"RUN /bin/sh -c rm -rf /var/cache/apt # buildkit", map[string]int{"var/cache/.wh.apt": 0}}
	app := step{"COPY dist/ /srv/ # buildkit", map[string]int{"srv/app.js": 61_000, "srv/index.html": 2_000}}
	end := step{`ENTRYPOINT ["/usr/bin/app"]`, nil}
	one, two := w.push("org/site", "", "amd64", base, deps, clean, app, end), w.push("org/site", "", "arm64", base, deps, app, end)
	index := ocispec.Index{MediaType: ocispec.MediaTypeImageIndex, Manifests: []ocispec.Descriptor{one, two}}
	index.SchemaVersion = 2
	for _, tag := range []string{"2.3.1", "2.3", "latest"} {
		w.put("org/site", tag, index.MediaType, index)
	}
	w.push("org/site", "2.2.0", "amd64", base, app)
	subject := one
	subject.Platform = nil
	signature := ocispec.Manifest{MediaType: ocispec.MediaTypeImageManifest, ArtifactType: "application/vnd.dev.sigstore.bundle.v0.3+json", Config: ocispec.DescriptorEmptyJSON, Layers: []ocispec.Descriptor{ocispec.DescriptorEmptyJSON}, Subject: &subject}
	signature.SchemaVersion = 2
	w.ok(w.hub.PushBlob(w.system(), "org/site", ocispec.DescriptorEmptyJSON, strings.NewReader("{}")))
	w.put("org/site", "", signature.MediaType, signature)
	for name, description := range map[string]string{
		"postgres": "The world's most advanced open source relational database", "nginx": "Web server, reverse proxy and load balancer",
		"ann/dotfiles": "", "bob/prometheus-exporter": "Metrics of the coffee machine on the second floor, with alerts that know when it is Monday", "cid/minimal": "Ten kilobytes",
	} {
		w.push(name, "latest", "amd64", base, app)
		w.exec(`UPDATE repositories SET public = 1, description = '` + strings.ReplaceAll(description, "'", "''") + `' WHERE name = '` + name + `'`)
	}
	w.exec(`UPDATE repositories SET kind = 'official', pulls = 48213907, stars = 1204 WHERE name = 'postgres'`, `UPDATE repositories SET kind = 'official', pulls = 1827364, stars = 903 WHERE name = 'nginx'`,
		`UPDATE repositories SET kind = 'verified', pulls = 12345, stars = 31 WHERE name = 'org/site'`, `UPDATE tags SET pulls = 4113 WHERE name = 'latest'`)
	w.ok(w.hub.Describe(w.as("ann"), "org/site", "The organization's web site, with its server", readme, true))
	w.push("org/secret", "1.0", "amd64", app)
	d := one.Digest.String()
	w.exec(`INSERT INTO scan_images (image, scanned, matched, packages, distribution) VALUES ('`+d+`', 1795000000, 1795000000, 4, 'Debian GNU/Linux 13 (trixie)')`,
		`INSERT INTO scan_packages (image, number, type, name, version) VALUES ('`+d+`', 0, 'deb', 'curl', '8.14.1-2'), ('`+d+`', 1, 'deb', 'libc6', '2.41-12'),
		  ('`+d+`', 2, 'deb', 'openssl', '3.5.1-1'), ('`+d+`', 3, 'npm', 'express', '4.19.2')`,
		`INSERT INTO scan_findings (image, number, id, severity, fixed, summary, package) VALUES
		  ('`+d+`', 0, 'CVE-2026-1001', 5, '3.5.1-1+deb13u2', 'A crafted certificate runs code', 2), ('`+d+`', 1, 'CVE-2026-1002', 4, '', 'A long header is read past its end', 0),
		  ('`+d+`', 2, 'CVE-2026-1003', 3, '4.19.3', 'A path is followed out of the directory', 3), ('`+d+`', 3, 'CVE-2025-9', 2, '', '', 1)`)
	w.refresh()
}

const readme = "# The site\n\nServes the pages of **org** on port 8080. It needs no database.\n\n## Use\n\n```\ndocker run -p 8080:8080 hub.example.com/org/site\n```\n\n" +
	"| Variable | Default | What it does |\n|---|---|---|\n| `MODE` | `production` | `debug` prints more |\n| `THEME` | `auto` | light, dark or auto |\n\n" +
	"## Tags\n\n- `latest` and `2.3` move with each release\n- `2.3.1` stays\n\n> Images for other platforms come on [request](https://example.com/).\n"

// browse goes through the pages that everybody has, as a visitor and as ann.
func browse(_ *testing.T, w *world, b *browser) {
	b.check("/", "front-empty")
	w.furnish()
	b.check("/", "front")
	b.check("/explore?q=the", "explore")
	b.check("/explore?q=nothing-like-that", "explore-empty")
	b.check("/r/org/site", "repository")
	b.check("/r/org/site/-/tags", "tags")
	b.check("/r/org/site/-/tags/latest", "image")
	b.check("/r/org/none", "missing")
	b.check("/login", "login")

	b.open("/r/org/secret")
	b.press("Log in")
	b.fill("User name", "ann")
	b.fill("Password", "wrong password")
	b.leave(chromedp.Click("main button"))
	b.shows("Incorrect username or password")
	b.screenshot("login-failed")
	b.fill("Password", password)
	b.leave(chromedp.Click("main button"))
	b.shows("org/secret")

	b.open("/r/org/site")
	b.press("☆ Star 31")
	b.shows("★ Starred")
	b.open("/account/tokens")
	b.fill("Name", "ci")
	b.fill("Repositories", "org/*")
	b.press("Make it")
	b.shows("sth_")
	b.shows("docker login")
	b.screenshot("token-made")
	b.check("/account/tokens", "tokens")
	b.check("/account", "account")
	b.check("/r/org/site/-/settings", "settings")
	b.open("/r/org/site/-/tags/2.3")
	b.press("Delete the tag")
	b.shows("Delete the tag 2.3?")
	b.screenshot("untag")
	b.press("Delete the tag")
	b.shows("Deleted.")
	b.check("/orgs/org", "organization")
	b.check("/n/org", "namespace")
	b.check("/n/ann", "namespace-own")
	b.check("/audit?repository=org/site", "audit")
	b.check("/orgs/new", "organization-new")
	b.logOut()
}

func (b *browser) logOut() {
	b.t.Helper()
	b.open("/account")
	b.run(chromedp.Click("header summary"))
	b.press("Log out")
	b.shows("You are logged out")
}

func (b *browser) logIn(name string) {
	b.t.Helper()
	b.open("/login")
	b.fill("User name", name)
	b.fill("Password", password)
	b.leave(chromedp.Click("main button"))
}

// browseReview goes through a review as its author, as a reviewer and as a reader.
func browseReview(_ *testing.T, w *world, b *browser) {
	w.repositories()
	w.exec(`UPDATE reviews SET state = 'waiting'`, `INSERT INTO review_checks (review, position, name, result, message) VALUES
		(1, 0, 'secrets', 'pass', 'No secret in layers, history or configuration.'), (1, 1, 'licence', 'warn', 'No label says under which licence the image is.')`)
	b.logIn("ann")
	b.open("/r/org/site/-/tags")
	b.press("In review")
	b.press("org/site:2.0")
	b.fill("Comment", "The licence is in /LICENSE.")
	b.press("Comment")
	b.shows("The licence is in /LICENSE.")
	b.check("/review/1", "review-author")
	b.logOut()
	b.open("/r/org/site/-/tags/2.0")
	b.shows("Nothing here")
	b.logIn("root")
	b.open("/review")
	b.press("org/site:2.0")
	b.check("/review", "reviews")
	b.check("/review/1", "review-reviewer")
	b.press("Approve and publish")
	b.shows("Approved")
	b.logOut()
	b.open("/r/org/site/-/tags/2.0")
	b.shows("org/site:2.0")
}

// browseAdmin looks at what administrators have.
func browseAdmin(_ *testing.T, w *world, b *browser) {
	w.repositories()
	b.logIn("root")
	b.check("/admin", "admin")
	b.fillIn("/admin/users", "Name", "dora")
	b.press("Make the account")
	b.shows("dora can log in")
	b.screenshot("user-made")
	b.check("/admin/users", "users")
	b.run(chromedp.Click(`//tr[contains(., "dora")]//summary[contains(., "Change")]`), chromedp.Click(`//tr[contains(., "dora")]//summary[contains(., "Disable")]`))
	b.shows("dora is logged out everywhere")
	b.screenshot("users-confirm")
	b.press("Disable dora, really")
	b.shows("disabled")
	b.check("/audit", "audit-all")
	w.ok(w.administer())
	b.check("/admin/rules", "admin-rules")
	b.check("/admin/registries", "registries")
	b.run(chromedp.Click("main section:last-of-type summary.add"))
	b.fill("Repository here", "team/app")
	b.fill("Repository there", "quay.io/team/app:v1")
	b.press("Begin to copy")
	b.shows("not a repository with its registry")
	b.screenshot("registries-wrong")
	b.open("/admin/storage")
	b.press("Count what would go")
	b.shows("A collection would free")
	b.press("Collect now")
	b.shows("Started.")
	b.check("/admin/storage?count=1", "storage")
	b.check("/admin/vulnerabilities", "vulnerabilities")
	b.logInAgain("root")
	b.check("/account/sessions", "sessions")
	b.run(chromedp.Click("main > form summary"))
	b.shows("1 browser will have to log in again")
	b.screenshot("sessions-confirm")
	b.press("Log out everywhere else, really")
	b.shows("Logged out there.")
}

// administer gives the Hub what administrators look at.
func (w *world) administer() error {
	ctx := w.system()
	_, err := hub.Collect(ctx, w.hub, hub.GCOptions{})
	return errors.Join(err,
		w.proxies.Set(ctx, proxy.Proxy{Namespace: "dockerhub", Host: "docker.io", Public: true}),
		w.proxies.Set(ctx, proxy.Proxy{Namespace: "partner", Host: "registry.partner.example.com:5443", Prefix: "images", Username: "strake", Password: "secret", Insecure: true}),
		w.policy.SetQuota(ctx, "*", 20_000_000_000), w.policy.SetQuota(ctx, "org", 0),
		w.db.Update(ctx, func(tx *sql.Tx) error {
			for _, q := range []string{
				`INSERT INTO collections (began, error, bytes, blobs) VALUES (1795000000, 'collect garbage: the storage does not answer', 1200000, 7)`,
				`INSERT INTO mirrors (repository, source, pattern, every, ended, copied) VALUES ('team/debian', 'docker.io/library/debian', 'trixie*', 21600, 1795000000, 12)`,
				`INSERT INTO mirrors (repository, source, pattern, every, ended, error) VALUES ('team/app', 'quay.io/team/app', 'v*', 3600, 1795000000, 'pull quay.io/team/app: 401 Unauthorized')`,
				`INSERT INTO vuln_sources (name, generation, imported, modified, records, origin) VALUES ('Debian', 1, 1790000000, '2026-09-20T10:00:00Z', 48213, 'https://osv-vulnerabilities.storage.googleapis.com/Debian/all.zip')`,
			} {
				if _, err := tx.ExecContext(ctx, q); err != nil {
					return fmt.Errorf("%s: %w", q, err)
				}
			}
			return nil
		}),
		scandb.Schedule(ctx, w.db, scandb.Feed{From: "https://osv-vulnerabilities.storage.googleapis.com", Every: 24 * time.Hour}))
}

// logInAgain makes a session of another browser's.
func (b *browser) logInAgain(name string) {
	b.t.Helper()
	ctx := auth.With(b.t.Context(), auth.Identity{Address: "203.0.113.7:4711"})
	_, err := auth.StartSession(ctx, b.db, auth.From(b.as(name)), "Mozilla/5.0 (Windows NT 10.0; Win64; x64; rv:140.0) Gecko/20100101 Firefox/140.0")
	b.ok(err)
}

func (b *browser) fillIn(path, label, value string) {
	b.t.Helper()
	b.open(path)
	b.fill(label, value)
}

// rules gives org/site rules, webhooks with deliveries, and something to restore.
func (w *world) rules() {
	ann := w.as("ann")
	_, err := w.policy.AddImmutable(w.system(), "*", "release-*")
	w.ok(err)
	_, err = w.policy.AddImmutable(ann, "org/*", "v*")
	w.ok(err)
	_, err = w.policy.AddRule(ann, policy.Rule{Scope: "org/*", Pattern: "*", LastPushed: 1})
	w.ok(err)
	w.ok(w.policy.SetPullRule(ann, policy.PullRule{Scope: "org/*", Severity: "critical"}))
	w.ok(w.policy.SetQuota(w.system(), "org", 2_000_000))
	w.ok(w.policy.SetQuota(w.system(), "*", 20_000_000_000))
	made, err := w.hooks.Add(ann, webhook.Webhook{Scope: "org/site", URL: "https://chat.example.com/hooks/images?room=releases-of-the-whole-organization", Events: []string{"push", "scan"}})
	w.ok(err)
	w.push("org/site", "edge", "amd64", step{"COPY . /srv", map[string]int{"srv/edge": 1000}})
	w.push("org/site", "edge", "amd64", step{"COPY . /srv", map[string]int{"srv/edge": 1001}})
	w.ok(w.hub.DeleteTag(ann, "org/site", "2.2.0"))
	var manifest string
	w.ok(w.db.Get(w.t.Context(), `SELECT digest FROM tags WHERE name = 'edge'`, nil, &manifest))
	w.ok(w.hub.DeleteManifest(ann, "org/site", digest.Digest(manifest)))
	w.exec(fmt.Sprintf(`UPDATE deliveries SET state = 'delivered', status = 200, attempts = 1, answer = '{"ok":true}', finished = created WHERE id = (SELECT id FROM deliveries WHERE webhook = %d ORDER BY id LIMIT 1)`, made.ID),
		fmt.Sprintf(`UPDATE deliveries SET state = 'failed', status = 502, attempts = 14, answer = '<h1>Bad gateway</h1>', finished = created WHERE id = (SELECT id FROM deliveries WHERE webhook = %d ORDER BY id DESC LIMIT 1)`, made.ID),
		fmt.Sprintf(`UPDATE webhooks SET failing = created WHERE id = %d`, made.ID))
}

// browseRules makes rules and webhooks, and restores, as an owner.
func browseRules(t *testing.T, w *world, b *browser) {
	w.furnish()
	w.rules()
	b.logIn("ann")
	b.check("/r/org/site/-/rules", "rules")
	b.fill("Pattern of tags", "/(/")
	b.press("Protect these tags")
	b.shows("missing closing )")
	b.screenshot("rules-wrong")
	if !eval[bool](b, `document.activeElement && document.querySelector("#immutable").getAttribute("aria-invalid") === "true"`) {
		t.Error("the field is not marked")
	}
	b.fill("Pattern of tags", "stable")
	b.press("Protect these tags")
	b.shows("Added.")
	b.check("/r/org/site/-/rules/preview", "retention")
	b.run(chromedp.Click(".confirm summary"))
	b.screenshot("retention-confirm")
	b.press("Apply the rules now to org/site, really")
	b.shows("What went is in Deleted")
	b.check("/r/org/site/-/trash", "trash")
	b.run(chromedp.ScrollIntoView("button[value=manifest]"))
	b.leave(chromedp.Click("button[value=manifest]"))
	b.shows("Restored.")

	b.check("/r/org/site/-/webhooks", "webhooks")
	b.fill("URL", "https://ci.example.com/hooks")
	b.press("Add the webhook")
	b.shows("Copy the secret now")
	b.screenshot("webhook-made")
	b.press("https://chat.example.com/hooks/images?room=releases-of-the-whole-organization")
	b.shows("502 Bad Gateway")
	path := eval[string](b, `location.pathname`)
	b.check(path, "webhook")
	b.run(chromedp.Click(".deliveries li:last-child summary"))
	b.screenshot("webhook-delivery")
	b.press("Send a test")
	b.shows("to be sent")
	b.check("/n/org/rules", "namespace-rules")
	b.check("/n/org/webhooks", "namespace-webhooks")
}

// browseByKeyboard goes through a page without a mouse.
func browseByKeyboard(t *testing.T, w *world, b *browser) {
	w.repositories()
	b.open("/")
	focused := func() string {
		return eval[string](b, `(document.activeElement.textContent.trim() || document.activeElement.id)`)
	}
	var order []string
	for range 6 {
		b.run(chromedp.KeyEvent(kb.Tab))
		order = append(order, focused())
	}
	want := []string{"Skip to the content", "Strake Hub", "find", "Explore", "Log in", "q"}
	if fmt.Sprint(order) != fmt.Sprint(want) {
		t.Errorf("Tab leads to %q, want %q", order, want)
	}
	b.run(chromedp.KeyEvent("site"+kb.Enter), chromedp.WaitVisible(".rows"))
	b.shows("org/site")
	b.open("/")
	b.run(chromedp.KeyEvent(kb.Tab), chromedp.KeyEvent(kb.Enter), chromedp.KeyEvent(kb.Tab))
	if got := focused(); got != "q" {
		t.Errorf("after the skip link comes %q", got)
	}
}

// browseWithoutScript uses the pages with scripts switched off.
func browseWithoutScript(t *testing.T, w *world, b *browser) {
	w.repositories()
	_, err := chromedp.Call(b.ctx, emulation.SetScriptExecutionDisabled, emulation.SetScriptExecutionDisabledParams{Value: true})
	b.ok(err)
	b.open("/login")
	b.run(chromedp.SendKeys("#name", "ann"), chromedp.SendKeys("#password", password+kb.Enter), chromedp.WaitVisible(".hero"))
	b.open("/r/org/secret")
	html, err := chromedp.Run(b.ctx, chromedp.OuterHTML("main"))
	b.ok(err)
	if !strings.Contains(html, "docker pull") {
		t.Errorf("no command: %s", html)
	}
	b.run(chromedp.Click(".head button"), chromedp.WaitVisible(`button[aria-pressed="true"]`))
}
