package policy_test

import (
	"bytes"
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"strake/internal/auth"
	"strake/internal/conformance"
	"strake/internal/hub"
	"strake/internal/hubdb"
	"strake/internal/image"
	"strake/internal/policy"
	"strake/internal/registry"
	"strake/internal/sqldb"
)

// site is a Hub with rules. Its namespaces are ann's and bob's.
type site struct {
	t *testing.T
	*hub.Hub
	policy *policy.Policy
	hooks  hub.Hooks
	db     *sqldb.DB
	ctx    context.Context //nolint:containedctx // of the test
	repo   string
}

func open(t *testing.T) *site {
	t.Helper()
	return openOn(t, filepath.Join(t.TempDir(), "hub.db"))
}

// openOn is open on a database.
func openOn(t *testing.T, database string) *site {
	t.Helper()
	db, err := hubdb.Open(t.Context(), database)
	if err != nil {
		t.Fatal(err)
	}
	p := policy.New(db)
	hooks := hub.Hooks{p.Hook}
	h, err := hub.Open(t.Context(), hub.Options{Dir: t.TempDir(), Database: database, Hooks: hooks})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := h.Close(); err != nil {
			t.Error(err)
		}
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	s := &site{t: t, Hub: h, policy: p, hooks: hooks, db: db, repo: "ann/app", ctx: auth.With(t.Context(), auth.Identity{Account: 1, Name: "ann"})}
	s.exec(`INSERT INTO accounts (id, name, created) VALUES (1, 'ann', 1), (2, 'bob', 1)`)
	return s
}

func (s *site) exec(query string, args ...any) {
	s.t.Helper()
	err := s.db.Update(s.t.Context(), func(tx *sql.Tx) error {
		_, err := tx.ExecContext(s.t.Context(), query, args...)
		return err
	})
	if err != nil {
		s.t.Fatalf("%s: %v", query, err)
	}
}

// push pushes an image of one layer.
func (s *site) push(tag string, layer []byte) (ocispec.Descriptor, error) {
	m := ocispec.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest}
	for _, b := range [][]byte{[]byte(`{"architecture":"amd64","os":"linux"}`), layer} {
		desc := image.Bytes(ocispec.MediaTypeImageLayer, b)
		if err := s.PushBlob(s.ctx, s.repo, desc, bytes.NewReader(b)); err != nil {
			return desc, err
		}
		m.Layers = append(m.Layers, desc)
	}
	m.Config, m.Layers = m.Layers[0], m.Layers[1:]
	m.Config.MediaType = ocispec.MediaTypeImageConfig
	return s.put(tag, m.MediaType, m)
}

func (s *site) put(tag, mediaType string, m any) (ocispec.Descriptor, error) {
	b, err := json.Marshal(m)
	if err != nil {
		s.t.Fatal(err)
	}
	return s.PutManifest(s.ctx, s.repo, []string{tag}, registry.Manifest{MediaType: mediaType, Bytes: b})
}

func (s *site) mustPush(tag, layer string) ocispec.Descriptor {
	s.t.Helper()
	desc, err := s.push(tag, []byte(layer))
	if err != nil {
		s.t.Fatal(err)
	}
	return desc
}

func denied(t *testing.T, what string, err error) {
	t.Helper()
	if !registry.HasCode(err, registry.Denied) {
		t.Errorf("%s: %v, want DENIED", what, err)
	}
}

func TestImmutable(t *testing.T) { immutable(t, open(t)) }

func TestImmutablePostgreSQL(t *testing.T) { immutable(t, openOn(t, conformance.PostgreSQL(t))) }

func immutable(t *testing.T, s *site) {
	t.Helper()
	one := s.mustPush("v1", "one")
	s.mustPush("dev", "one")
	for _, pattern := range []string{"", "/(/", strings.Repeat("x", 300)} {
		if _, err := s.policy.AddImmutable(s.ctx, s.repo, pattern); !errdefs.IsInvalidArgument(err) {
			t.Errorf("pattern %.9q: %v", pattern, err)
		}
	}
	rule, err := s.policy.AddImmutable(s.ctx, "ann/*", "/v[0-9]+/")
	if err != nil {
		t.Fatal(err)
	}
	if again, err := s.policy.AddImmutable(s.ctx, "ann/*", "/v[0-9]+/"); err != nil || again.ID != rule.ID {
		t.Errorf("added twice: %v, %v", again, err)
	}
	s.mustPush("v1", "one") // the same again
	_, err = s.push("v1", []byte("two"))
	denied(t, "overwrite", err)
	if !strings.Contains(err.Error(), `tag v1 of ann/app is immutable: "/v[0-9]+/" of ann/* protects it`) {
		t.Errorf("told %q", err)
	}
	denied(t, "untag", s.DeleteTag(s.ctx, s.repo, "v1"))
	denied(t, "delete the manifest", s.DeleteManifest(s.ctx, s.repo, one.Digest))
	denied(t, "delete the layer", s.DeleteBlob(s.ctx, s.repo, digest.FromString("one")))
	s.mustPush("v1.1", "two") // the expression is of all the tag
	if err := s.DeleteTag(s.ctx, s.repo, "v1.1"); err != nil {
		t.Error(err)
	}
	if _, err := s.put("v2", ocispec.MediaTypeImageIndex, ocispec.Index{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex, Manifests: []ocispec.Descriptor{s.mustPush("tmp", "child")},
	}); err != nil {
		t.Fatal(err)
	}
	child, err := s.StatManifest(s.ctx, s.repo, "tmp")
	if err != nil {
		t.Fatal(err)
	}
	denied(t, "delete a part of an immutable index", s.DeleteManifest(s.ctx, s.repo, child.Digest))
	// A tag that only its author saw may be mended.
	s.exec(`UPDATE manifests SET held = 1 WHERE digest = $1`, one.Digest.String())
	s.mustPush("v1", "mended")
	if err := s.policy.RemoveImmutable(s.ctx, "ann/*", rule.ID); err != nil {
		t.Fatal(err)
	}
	if err := s.DeleteTag(s.ctx, s.repo, "v2"); err != nil {
		t.Error(err)
	}
}

// Rules are their scope's owner's.
func TestScopes(t *testing.T) {
	s := open(t)
	s.mustPush("v1", "one")
	bob, nobody := auth.With(t.Context(), auth.Identity{Account: 2, Name: "bob"}), t.Context()
	for scope, want := range map[string][2]func(error) bool{
		"ann/app":   {errdefs.IsNotFound, errdefs.IsUnauthorized},
		"ann/*":     {errdefs.IsPermissionDenied, errdefs.IsUnauthorized},
		"*":         {errdefs.IsPermissionDenied, errdefs.IsUnauthorized},
		"a/b/*":     {errdefs.IsInvalidArgument, errdefs.IsInvalidArgument},
		"../etc":    {errdefs.IsInvalidArgument, errdefs.IsInvalidArgument},
		"ann/app'/": {errdefs.IsInvalidArgument, errdefs.IsInvalidArgument},
	} {
		for i, ctx := range []context.Context{bob, nobody} {
			_, ierr := s.policy.AddImmutable(ctx, scope, "*")
			_, rerr := s.policy.AddRule(ctx, policy.Rule{Scope: scope, Pattern: "*", LastPushed: 1})
			_, lerr := s.policy.ListImmutable(ctx, scope)
			_, qerr := s.policy.ListRules(ctx, scope)
			for j, err := range []error{ierr, rerr, lerr, qerr, s.policy.RemoveImmutable(ctx, scope, 1), s.policy.RemoveRule(ctx, scope, 1)} {
				if !want[i](err) {
					t.Errorf("%s, caller %d, call %d: %v", scope, i, j, err)
				}
			}
		}
	}
	for _, ctx := range []context.Context{s.ctx, bob, nobody} {
		if err := s.policy.SetQuota(ctx, "ann", 1); err == nil {
			t.Error("a quota was set by who is no administrator")
		}
	}
	if _, err := s.policy.Usage(bob, "ann"); !errdefs.IsPermissionDenied(err) {
		t.Errorf("usage for others: %v", err)
	}
	if _, err := s.policy.Preview(bob, "ann/app"); !errdefs.IsNotFound(err) {
		t.Errorf("preview for others: %v", err)
	}
}

// What the rules say they do is what they do, and can be undone.
func TestRetention(t *testing.T) { retention(t, open(t)) }

func TestRetentionPostgreSQL(t *testing.T) { retention(t, openOn(t, conformance.PostgreSQL(t))) }

func retention(t *testing.T, s *site) {
	t.Helper()
	for i, tag := range []string{"v1", "v2", "v3", "nightly-1", "nightly-2", "nightly-3", "other"} {
		s.mustPush(tag, tag)
		s.exec(`UPDATE tags SET pushed = $1, pulled = $2 WHERE name = $3`, 1000+i, map[string]int{"nightly-1": 5000}[tag], tag)
	}
	for _, r := range []policy.Rule{
		{Scope: s.repo, Pattern: "*", LastPushed: 0},
		{Scope: s.repo, Pattern: "*", LastPushed: -1},
		{Scope: s.repo, Pattern: "", LastPushed: 1},
		{Scope: s.repo, Pattern: "/[/", LastPushed: 1},
	} {
		if _, err := s.policy.AddRule(s.ctx, r); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%+v: %v", r, err)
		}
	}
	plan, err := s.policy.Preview(s.ctx, s.repo)
	if err != nil || len(plan.Items) != 0 {
		t.Fatalf("without rules: %+v, %v", plan, err)
	}
	for _, r := range []policy.Rule{
		{Scope: "ann/*", Pattern: "*", LastPushed: 1}, // the repository's own count instead
		{Scope: s.repo, Pattern: "nightly-*", LastPushed: 1, LastPulled: 1},
		{Scope: s.repo, Pattern: "/v.*/", PushedDays: 10},
	} {
		if _, err := s.policy.AddRule(s.ctx, r); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := s.policy.AddImmutable(s.ctx, s.repo, "v2"); err != nil {
		t.Fatal(err)
	}
	preview, err := s.policy.Preview(s.ctx, s.repo)
	if err != nil {
		t.Fatal(err)
	}
	var said []string
	for _, i := range preview.Items {
		said = append(said, fmt.Sprintf("%s %v %s", i.Tag, i.Keep, i.Reason))
	}
	want := []string{
		"nightly-1 true among the last 1 pulled", "nightly-2 false no rule keeps it", "nightly-3 true among the last 1 pushed",
		"other true no rule speaks of it", "v1 false no rule keeps it", `v2 true immutable by "v2" of ann/app`, "v3 false no rule keeps it",
	}
	if diff := cmp.Diff(want, said); diff != "" {
		t.Error(diff)
	}
	done, err := s.policy.Retain(s.ctx, s.hooks, s.repo)
	if diff := cmp.Diff(preview.Removed(), done.Removed(), cmp.AllowUnexported(policy.Item{})); diff != "" || err != nil {
		t.Errorf("done is not what was told: %v\n%s", err, diff)
	}
	var left []string
	for tag, err := range s.Tags(s.ctx, s.repo, "") {
		if err != nil {
			t.Fatal(err)
		}
		left = append(left, tag)
	}
	if want := []string{"nightly-1", "nightly-3", "other", "v2"}; !slices.Equal(left, want) {
		t.Errorf("left %v, want %v", left, want)
	}
	if _, err := hub.NewJournal(s.Hub).RestoreTag(s.ctx, s.repo, "v3", ""); err != nil {
		t.Errorf("undo retention: %v", err)
	}
	// Manifests without a tag go when a rule says how old they may be.
	if _, err := s.policy.AddRule(s.ctx, policy.Rule{Scope: s.repo, PushedDays: 1}); err != nil {
		t.Fatal(err)
	}
	s.exec(`UPDATE manifests SET pushed = 1`)
	done, err = s.policy.Retain(s.ctx, s.hooks, s.repo)
	if removed := done.Removed(); err != nil || len(removed) != 2 || removed[0].Tag+removed[1].Tag != "" {
		t.Errorf("untagged: %+v, %v", removed, err)
	}
}

// recount counts a namespace's bytes another way: it asks for every row.
func (s *site) recount(namespace string) (n int64) {
	s.t.Helper()
	type key struct{ repository, digest string }
	sizes, live, dead := map[key]int64{}, map[key]bool{}, map[key]bool{}
	read := func(query string, row func(repo, dgst string, size int64)) {
		err := s.db.View(s.t.Context(), func(tx *sql.Tx) error {
			return sqldb.Each(s.t.Context(), tx, query, []any{namespace}, func(rows *sql.Rows) error {
				var repo, dgst string
				var size int64
				err := rows.Scan(&repo, &dgst, &size)
				row(repo, dgst, size)
				return err
			})
		})
		if err != nil {
			s.t.Fatal(err)
		}
	}
	const from = ` x JOIN repositories r ON r.id = x.repository WHERE r.namespace = $1`
	read(`SELECT r.name, x.digest, x.size FROM blobs`+from, func(r, d string, n int64) { sizes[key{r, d}] = n })
	read(`SELECT r.name, x.child, 0 FROM refs`+from, func(r, d string, _ int64) { live[key{r, d}] = true })
	read(`SELECT r.name, x.child, 0 FROM trash_refs`+from, func(r, d string, _ int64) { dead[key{r, d}] = true })
	unique := map[string]int64{}
	for k, size := range sizes {
		if !dead[k] || live[k] {
			unique[k.digest] = size
		}
	}
	read(`SELECT r.name, x.digest, x.size FROM manifests`+from, func(_, d string, n int64) { unique[d] = n })
	for _, size := range unique {
		n += size
	}
	return n
}

// Figures are exact whatever is pushed, shared, deleted and restored, and no push
// goes beyond the quota.
// refusesUploads sends uploads of which the first bytes tell that the quota is too
// small: they are refused before the rest is sent.
func (s *site) refusesUploads(limit int) {
	s.t.Helper()
	api := registry.NewHandler(s.Hub, registry.Options{})
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		api.ServeHTTP(w, r.WithContext(auth.With(r.Context(), auth.From(s.ctx)))) //nolint:contextcheck // who asks is the same each time
	}))
	defer server.Close()
	const huge = 1 << 40
	for name, c := range map[string]struct {
		method, query string
		length        int64
		read          int64 // bytes that may be read before the answer, and what sockets hold
	}{
		"POST":                         {http.MethodPost, "?digest=" + digest.FromString("huge").String(), huge, 0},
		"PATCH":                        {http.MethodPatch, "", huge, 0},
		"PATCH of unknown length":      {http.MethodPatch, "", -1, 20 << 20},
		"PUT":                          {http.MethodPut, "?digest=" + digest.FromString("huge").String(), huge, 0},
		"PUT of what is not to be had": {http.MethodPut, "?digest=" + digest.FromString("x").String(), huge, 0},
	} {
		at := "/v2/" + s.repo + "/blobs/uploads/"
		if c.method != http.MethodPost {
			up, err := s.StartUpload(s.ctx, s.repo)
			if err != nil {
				s.t.Fatal(err)
			}
			if err := up.Close(); err != nil {
				s.t.Fatal(err)
			}
			at += up.ID()
		}
		body := &zeros{}
		req, err := http.NewRequestWithContext(s.t.Context(), c.method, server.URL+at+c.query, body)
		if err != nil {
			s.t.Fatal(err)
		}
		req.ContentLength = c.length
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			s.t.Errorf("%s: %v", name, err)
			continue
		}
		text, err := io.ReadAll(resp.Body)
		if err := errors.Join(err, resp.Body.Close()); err != nil || resp.StatusCode != http.StatusForbidden || !strings.Contains(string(text), "DENIED") {
			s.t.Errorf("%s with a quota of %d: %s, %v: %s", name, limit, resp.Status, err, text)
		}
		if n := body.n.Load(); n > c.read+16<<20 {
			s.t.Errorf("%s: %d bytes were read", name, n)
		}
	}
}

// zeros is a body without an end.
type zeros struct{ n atomic.Int64 }

func (z *zeros) Read(p []byte) (int, error) {
	clear(p)
	z.n.Add(int64(len(p)))
	return len(p), nil
}

func TestQuota(t *testing.T) {
	s := open(t)
	const limit = 20_000
	admin := auth.With(t.Context(), auth.Identity{System: true})
	if err := s.policy.SetQuota(admin, "*", limit); err != nil {
		t.Fatal(err)
	}
	random, refused := rand.New(rand.NewPCG(1, 2)), 0
	journal := hub.NewJournal(s.Hub)
	for range 300 {
		s.repo = []string{"ann/app", "ann/web", "ann/api"}[random.IntN(3)]
		tag := fmt.Sprintf("t%d", random.IntN(6))
		var err error
		switch random.IntN(6) {
		case 0, 1, 2:
			_, err = s.push(tag, bytes.Repeat([]byte{byte('a' + random.IntN(12))}, 500+random.IntN(4)*1500))
		case 3:
			err = s.DeleteTag(s.ctx, s.repo, tag)
		case 4:
			if desc, serr := s.StatManifest(s.ctx, s.repo, tag); serr == nil {
				if err = s.DeleteManifest(s.ctx, s.repo, desc.Digest); err != nil {
					t.Fatalf("a delete was refused: %v", err)
				}
			}
		case 5:
			_, err = journal.RestoreTag(s.ctx, s.repo, tag, "")
		}
		if registry.HasCode(err, registry.Denied) {
			refused++
		} else if err != nil && !errdefs.IsNotFound(err) {
			t.Fatal(err)
		}
		u, err := s.policy.Usage(s.ctx, "ann")
		if want := s.recount("ann"); err != nil || u.Bytes != want || want > limit {
			t.Fatalf("usage %+v, %v, recounted %d", u, err, want)
		}
	}
	if refused == 0 {
		t.Error("nothing was ever refused")
	}
	// Bytes are refused before they are read.
	s.repo = "ann/app"
	big := bytes.Repeat([]byte("x"), limit)
	err := s.PushBlob(s.ctx, s.repo, image.Bytes("", big), unread{t})
	denied(t, "too big a blob", err)
	if !strings.Contains(err.Error(), "quota of ann exceeded: it may hold 19.53KiB") {
		t.Errorf("told %q", err)
	}
	s.refusesUploads(limit)
	for tag := range s.Tags(s.ctx, s.repo, "") {
		if err := s.DeleteTag(s.ctx, s.repo, tag); err != nil {
			t.Errorf("delete over quota: %v", err)
		}
	}
	if err := s.policy.SetQuota(admin, "ann", 0); err != nil {
		t.Fatal(err)
	}
	s.mustPush("big", string(big))
	if err := s.policy.SetQuota(admin, "ann", -1); err != nil {
		t.Fatal(err)
	}
	_, err = s.push("small", []byte("tiny"))
	denied(t, "push over quota", err)
}

// unread is a body that nobody may read.
type unread struct{ t *testing.T }

func (u unread) Read([]byte) (int, error) {
	u.t.Error("bytes were read that there is no room for")
	return 0, fmt.Errorf("read")
}
