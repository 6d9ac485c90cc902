package web_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"strake/internal/auth"
	"strake/internal/catalog"
	"strake/internal/hub"
	"strake/internal/hubdb"
	"strake/internal/policy"
	"strake/internal/proxy"
	"strake/internal/registry"
	"strake/internal/review"
	"strake/internal/scandb"
	"strake/internal/seal"
	"strake/internal/sqldb"
	"strake/internal/web"
	"strake/internal/webhook"
)

// password is everybody's.
const password = "correct horse battery"

// world is a Hub with people and repositories, and its pages.
type world struct {
	t       *testing.T
	db      *sqldb.DB
	hub     *hub.Hub
	cat     *catalog.Catalog
	board   *review.Board
	policy  *policy.Policy
	hooks   *webhook.Book
	proxies *proxy.Cache
	server  *httptest.Server
	pusher  context.Context //nolint:containedctx // whoever pushes; nil: the server itself
}

// newWorld makes ann, who owns org and administers nothing else; bob, a member of
// org's team web; cid, a stranger; and root, an administrator.
func newWorld(t *testing.T) *world {
	t.Helper()
	dir := t.TempDir()
	db, err := hubdb.Open(t.Context(), filepath.Join(dir, "hub.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	key, err := seal.Load(filepath.Join(dir, "secret.key"))
	if err != nil {
		t.Fatal(err)
	}
	board, rules, hooks := review.New(db), policy.New(db), webhook.New(db, key)
	h, err := hub.Open(t.Context(), hub.Options{Dir: dir, Hooks: hub.Hooks{rules.Hook, board.Hook, hooks.Hook}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = h.Close() })
	others := proxy.Options{Key: key, Spool: t.TempDir()}
	proxies := proxy.New(h, others)
	w := &world{t: t, db: db, proxies: proxies, hub: h, board: board, policy: rules, hooks: hooks, cat: catalog.New(db, h, slog.New(slog.DiscardHandler))}
	pages, err := web.NewHandler(web.Options{DB: db, Catalog: w.cat, Hub: h, Reviews: board, Policy: rules, Webhooks: hooks, Proxy: proxies, Mirrors: proxy.NewMirrors(h, others), Log: slog.New(slog.NewTextHandler(t.Output(), nil))})
	if err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	mux.Handle("/v2/", auth.Open(registry.NewHandler(h, registry.Options{})))
	mux.Handle("/", pages)
	w.server = httptest.NewServer(mux)
	t.Cleanup(w.server.Close)
	w.people()
	return w
}

func (w *world) ok(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

// people makes the accounts. One password is hashed for all of them: that is
// slow on purpose.
func (w *world) people() {
	w.t.Helper()
	system := w.system()
	w.ok(auth.AddUser(system, w.db, auth.NewUser{Name: "ann", FullName: "Ann Archer", Password: password}))
	w.exec(`INSERT INTO accounts (name, password, created) SELECT 'bob', password, created FROM accounts WHERE name = 'ann'`,
		`INSERT INTO accounts (name, password, created) SELECT 'cid', password, created FROM accounts WHERE name = 'ann'`,
		`INSERT INTO accounts (name, password, created, admin) SELECT 'root', password, created, 1 FROM accounts WHERE name = 'ann'`)
	ann := w.as("ann")
	w.ok(auth.AddOrganization(ann, w.db, "org", "The Organization"))
	w.ok(auth.SetMember(ann, w.db, "org", "bob", false))
	w.ok(auth.AddTeam(ann, w.db, "org", "web"))
	w.ok(auth.AddTeamMember(ann, w.db, "org", "web", "bob"))
}

func (w *world) exec(queries ...string) {
	w.t.Helper()
	w.ok(w.db.Update(w.t.Context(), func(tx *sql.Tx) error {
		for _, q := range queries {
			if _, err := tx.ExecContext(w.t.Context(), q); err != nil {
				return fmt.Errorf("%s: %w", q, err)
			}
		}
		return nil
	}))
}

func (w *world) system() context.Context {
	return auth.With(w.t.Context(), auth.Identity{System: true})
}

// who pushes.
func (w *world) who() context.Context {
	if w.pusher != nil {
		return w.pusher
	}
	return w.system()
}

// as is a context of somebody's.
func (w *world) as(name string) context.Context {
	w.t.Helper()
	var id int64
	w.ok(w.db.Get(w.t.Context(), `SELECT id FROM accounts WHERE name = $1`, []any{name}, &id))
	return auth.With(w.t.Context(), auth.Identity{Account: id, Name: name})
}

// refresh derives what the pages show.
func (w *world) refresh() {
	w.t.Helper()
	for more := true; more; {
		var err error
		more, err = w.cat.Refresh(w.t.Context())
		w.ok(err)
	}
	var unscanned []scandb.Task
	scanner := &scandb.Scanner{DB: w.db, Source: w.hub, System: func(context.Context) context.Context { return w.system() }}
	w.ok(w.db.View(w.t.Context(), func(tx *sql.Tx) error {
		unscanned = nil
		return sqldb.Each(w.t.Context(), tx, `SELECT r.name, m.digest, m.media_type FROM manifests m JOIN repositories r ON r.id = m.repository
			WHERE NOT EXISTS (SELECT 1 FROM scan_images s WHERE s.image = m.digest)`, nil, func(rows *sql.Rows) error {
			var task scandb.Task
			unscanned = append(unscanned, task)
			t := &unscanned[len(unscanned)-1]
			return rows.Scan(&t.Repository, &t.Desc.Digest, &t.Desc.MediaType)
		})
	}))
	for _, task := range unscanned {
		if _, err := scanner.Scan(w.t.Context(), task); !errdefs.IsNotImplemented(err) { // which is what others than images are
			w.ok(err)
		}
	}
}

// client is a browser without a script, logged in unless name is empty. It
// follows no redirection.
func (w *world) client(name string) *http.Client {
	w.t.Helper()
	jar, err := cookiejar.New(nil)
	w.ok(err)
	c := &http.Client{Jar: jar, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	if name != "" {
		status, _, body := w.post(c, "/login", url.Values{"name": {name}, "password": {password}})
		if status != http.StatusSeeOther {
			w.t.Fatalf("login as %s: %d\n%s", name, status, body)
		}
	}
	return c
}

// session is a client whose session is made without the slow password.
func (w *world) session(name string) *http.Client {
	w.t.Helper()
	c := w.client("")
	if name == "" {
		return c
	}
	cookie, err := auth.StartSession(w.as(name), w.db, auth.From(w.as(name)), "test")
	w.ok(err)
	u, err := url.Parse(w.server.URL)
	w.ok(err)
	c.Jar.SetCookies(u, []*http.Cookie{{Name: "strake", Value: cookie}})
	return c
}

func (w *world) get(c *http.Client, path string) (int, http.Header, string) {
	w.t.Helper()
	req, err := http.NewRequestWithContext(w.t.Context(), http.MethodGet, w.server.URL+path, nil)
	w.ok(err)
	return w.do(c, req)
}

func (w *world) post(c *http.Client, path string, form url.Values) (int, http.Header, string) {
	w.t.Helper()
	req, err := http.NewRequestWithContext(w.t.Context(), http.MethodPost, w.server.URL+path, strings.NewReader(form.Encode()))
	w.ok(err)
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	req.Header.Set("Sec-Fetch-Site", "same-origin")
	return w.do(c, req)
}

func (w *world) do(c *http.Client, req *http.Request) (int, http.Header, string) {
	w.t.Helper()
	resp, err := c.Do(req)
	w.ok(err)
	b, err := io.ReadAll(resp.Body)
	w.ok(err)
	w.ok(resp.Body.Close())
	return resp.StatusCode, resp.Header, string(b)
}

// step is a layer of an image that push makes, or a step without one.
type step struct {
	text  string
	files map[string]int // sizes; nil: no layer
}

// push pushes an image for a platform and returns its descriptor.
func (w *world) push(repo, tag, architecture string, steps ...step) ocispec.Descriptor {
	w.t.Helper()
	blob := func(mediaType string, b []byte) ocispec.Descriptor {
		d := ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(b), Size: int64(len(b))}
		w.ok(w.hub.PushBlob(w.who(), repo, d, bytes.NewReader(b)))
		return d
	}
	at := time.Now().Add(-26 * time.Hour).UTC()
	config := ocispec.Image{
		Created: &at, Platform: ocispec.Platform{OS: "linux", Architecture: architecture}, RootFS: ocispec.RootFS{Type: "layers"},
		Config: ocispec.ImageConfig{
			Entrypoint: []string{"/usr/bin/app"}, Cmd: []string{"serve", "--port=8080"}, Env: []string{"PATH=/usr/local/bin:/usr/bin:/bin", "MODE=production"},
			ExposedPorts: map[string]struct{}{"8080/tcp": {}}, WorkingDir: "/srv", User: "app",
			Labels: map[string]string{"org.opencontainers.image.source": "https://example.com/" + repo},
		},
	}
	m := ocispec.Manifest{MediaType: ocispec.MediaTypeImageManifest}
	m.SchemaVersion = 2
	for _, s := range steps {
		config.History = append(config.History, ocispec.History{Created: &at, CreatedBy: s.text, EmptyLayer: s.files == nil})
		if s.files != nil {
			b, diff := layerOf(w.t, s.files)
			config.RootFS.DiffIDs = append(config.RootFS.DiffIDs, diff)
			m.Layers = append(m.Layers, blob(ocispec.MediaTypeImageLayerGzip, b))
		}
	}
	b, err := json.Marshal(config)
	w.ok(err)
	m.Config = blob(ocispec.MediaTypeImageConfig, b)
	d := w.put(repo, tag, m.MediaType, m)
	d.Platform = &config.Platform
	return d
}

func (w *world) put(repo, tag, mediaType string, v any) ocispec.Descriptor {
	w.t.Helper()
	b, err := json.Marshal(v)
	w.ok(err)
	var tags []string
	if tag != "" {
		tags = []string{tag}
	}
	d, err := w.hub.PutManifest(w.who(), repo, tags, registry.Manifest{MediaType: mediaType, Bytes: b})
	w.ok(err)
	return d
}

// layerOf is a layer in gzip, and its diffID.
func layerOf(t *testing.T, files map[string]int) ([]byte, digest.Digest) {
	t.Helper()
	var plain, zipped bytes.Buffer
	tw := tar.NewWriter(&plain)
	for name, n := range files {
		if err := tw.WriteHeader(&tar.Header{Name: name, Size: int64(n), Mode: 0o644, Typeflag: tar.TypeReg}); err != nil {
			t.Fatal(err)
		}
		if _, err := tw.Write(bytes.Repeat([]byte(name), n/len(name)+1)[:n]); err != nil {
			t.Fatal(err)
		}
	}
	z := gzip.NewWriter(&zipped)
	if err := tw.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := z.Write(plain.Bytes()); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return zipped.Bytes(), digest.FromBytes(plain.Bytes())
}
