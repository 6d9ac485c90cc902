package review_test

import (
	"archive/tar"
	"bytes"
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"strake/internal/auth"
	"strake/internal/conformance"
	"strake/internal/hub"
	"strake/internal/hubdb"
	"strake/internal/image"
	"strake/internal/jobs"
	"strake/internal/registry"
	"strake/internal/review"
	"strake/internal/scandb"
	"strake/internal/sqldb"
)

// site is a Hub with reviews. ann owns a namespace, rita reviews, bob reads.
type site struct {
	t *testing.T
	*hub.Hub
	board           *review.Board
	hooks           hub.Hooks
	db              *sqldb.DB
	ann, rita, bob  context.Context //nolint:containedctx // of the test
	queue           *jobs.Queue
	vulnerabilities []review.Vulnerability
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
	s := &site{t: t, db: db, board: review.New(db)}
	s.hooks = hub.Hooks{s.board.Hook}
	if s.Hub, err = hub.Open(t.Context(), hub.Options{Dir: t.TempDir(), Database: database, Hooks: s.hooks}); err != nil {
		t.Fatal(err)
	}
	as := func(id auth.Identity) context.Context { return auth.With(t.Context(), id) }
	s.ann, s.bob = as(auth.Identity{Account: 1, Name: "ann"}), as(auth.Identity{Account: 2, Name: "bob"})
	s.rita = as(auth.Identity{Account: 3, Name: "rita", Reviewer: true})
	s.exec(`INSERT INTO accounts (id, name, created) VALUES (1, 'ann', 1), (2, 'bob', 1), (3, 'rita', 1)`)
	s.exec(`INSERT INTO repositories (name, namespace, public, description) VALUES ('ann/app', 'ann', 1, 'an app')`)
	scanner := &scandb.Scanner{DB: db, Source: s}
	checker := &review.Checker{Board: s.board, Source: s, Scan: func(ctx context.Context, repo string, desc ocispec.Descriptor) (review.Scan, error) {
		found := review.Scan{Vulnerabilities: s.vulnerabilities, Matched: true}
		r, err := scanner.Scan(ctx, scandb.Task{Repository: repo, Desc: desc})
		for _, secret := range r.Secrets {
			found.Secrets = append(found.Secrets, review.Secret{File: secret.File, What: secret.What})
		}
		return found, err
	}}
	s.queue = jobs.New(db, jobs.Options{Handlers: checker.Handlers(), Poll: 10 * time.Millisecond})
	ctx, cancel := context.WithCancel(t.Context())
	var ended sync.WaitGroup
	ended.Go(func() { s.queue.Run(ctx) })
	t.Cleanup(func() {
		cancel()
		ended.Wait()
		for _, err := range []error{s.Close(), db.Close()} {
			if err != nil {
				t.Error(err)
			}
		}
	})
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

// layer is a tar of one file.
func layer(name, text string) string {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	_ = w.WriteHeader(&tar.Header{Name: name, Size: int64(len(text)), Mode: 0o644, Typeflag: tar.TypeReg})
	_, _ = w.Write([]byte(text))
	_ = w.Close()
	return b.String()
}

func (s *site) blob(ctx context.Context, mediaType, text string) ocispec.Descriptor {
	s.t.Helper()
	d := image.Bytes(mediaType, []byte(text))
	if err := s.PushBlob(ctx, "ann/app", d, strings.NewReader(text)); err != nil {
		s.t.Fatal(err)
	}
	return d
}

// put pushes a manifest; without a tag by its digest.
func (s *site) put(ctx context.Context, tag, mediaType string, m any) ocispec.Descriptor {
	s.t.Helper()
	b, err := json.Marshal(m)
	if err != nil {
		s.t.Fatal(err)
	}
	var tags []string
	if tag != "" {
		tags = []string{tag}
	}
	d, err := s.PutManifest(ctx, "ann/app", tags, registry.Manifest{MediaType: mediaType, Bytes: b})
	if err != nil {
		s.t.Fatal(err)
	}
	return d
}

const good = `{"architecture":"amd64","os":"linux","config":{"User":"app","Cmd":["/app"],"Labels":{"org.opencontainers.image.licenses":"MIT"}},"history":[{"created_by":"COPY app /"}]}`

func (s *site) push(ctx context.Context, tag, config, content string) ocispec.Descriptor {
	s.t.Helper()
	return s.put(ctx, tag, ocispec.MediaTypeImageManifest, ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest,
		Config: s.blob(ctx, ocispec.MediaTypeImageConfig, config), Layers: []ocispec.Descriptor{s.blob(ctx, ocispec.MediaTypeImageLayer, content)},
	})
}

// gets returns what ref names for somebody, "" if nothing.
func (s *site) gets(ctx context.Context, ref string) digest.Digest {
	s.t.Helper()
	d, err := s.StatManifest(ctx, "ann/app", ref)
	if err != nil && !registry.HasCode(err, registry.ManifestUnknown, registry.NameUnknown) {
		s.t.Fatal(err)
	}
	return map[bool]digest.Digest{true: d.Digest}[err == nil]
}

// checked waits for the checks of the newest review of a tag.
func (s *site) checked(tag string) review.Review {
	s.t.Helper()
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		list, err := s.board.List(s.rita, review.Filter{Repository: "ann/app"})
		if err != nil {
			s.t.Fatal(err)
		}
		i := slices.IndexFunc(list, func(v review.Review) bool { return v.Tag == tag })
		if i >= 0 && list[i].State != review.Checking {
			v, err := s.board.Get(s.rita, list[i].ID)
			if err != nil {
				s.t.Fatal(err)
			}
			return v
		}
		if time.Now().After(deadline) {
			s.t.Fatalf("no review of %s was checked: %+v", tag, list)
		}
	}
}

// Only an approval publishes; the author pulls it meanwhile; a tag that readers
// see names what it named until its new image is approved.
func TestLife(t *testing.T) { life(t, open(t)) }

func TestLifePostgreSQL(t *testing.T) { life(t, openOn(t, conformance.PostgreSQL(t))) }

func life(t *testing.T, s *site) {
	t.Helper()
	bad := s.push(s.ann, "v1", strings.Replace(good, "COPY app /", "ENV AWS=AKIAIOSFODNN7EXAMPLQ", 1), layer("app", "x"))
	if s.gets(s.bob, "v1")+s.gets(s.bob, bad.Digest.String())+s.gets(t.Context(), "v1") != "" || s.gets(s.ann, "v1") != bad.Digest {
		t.Error("what waits is there for readers, or not for its author")
	}
	if _, err := s.StatBlob(s.bob, "ann/app", digest.FromString(layer("app", "x"))); !registry.HasCode(err, registry.BlobUnknown) {
		t.Errorf("a reader sees its layer: %v", err)
	}
	v := s.checked("v1")
	if !slices.ContainsFunc(v.Checks, func(r review.Result) bool { return r.Check == "secrets" && r.Verdict == review.Fail }) {
		t.Errorf("the key in the history was not found: %+v", v.Checks)
	}
	if err := s.board.Approve(s.rita, s.hooks, v.ID, review.Decision{Digest: v.Digest}); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("approved in spite of its checks: %v", err)
	}
	if err := s.board.Return(s.rita, s.hooks, v.ID, review.Decision{Digest: v.Digest}); !errdefs.IsInvalidArgument(err) {
		t.Errorf("returned without a word: %v", err)
	}
	if err := s.board.Return(s.rita, s.hooks, v.ID, review.Decision{Digest: v.Digest, Comment: "there is a key in step 1"}); err != nil {
		t.Fatal(err)
	}
	if err := s.board.Comment(s.ann, v.ID, "it goes"); err != nil {
		t.Fatal(err)
	}
	first := s.push(s.ann, "v1", good, layer("app", "x"))
	again := s.checked("v1")
	if again.ID != v.ID || again.State != review.Waiting {
		t.Errorf("the review did not go on: %+v", again)
	}
	if err := s.board.Approve(s.rita, s.hooks, v.ID, review.Decision{Digest: bad.Digest}); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("approved what was replaced meanwhile: %v", err)
	}
	if err := s.board.Approve(s.rita, s.hooks, v.ID, review.Decision{Digest: first.Digest, Comment: "fine"}); err != nil {
		t.Fatal(err)
	}
	if s.gets(s.bob, "v1") != first.Digest || s.gets(t.Context(), first.Digest.String()) == "" || s.gets(s.bob, bad.Digest.String()) != "" {
		t.Error("approval published not what was approved")
	}
	second := s.push(s.ann, "v1", good, layer("app", "y"))
	if s.gets(s.bob, "v1") != first.Digest || s.gets(s.ann, "v1") != second.Digest {
		t.Error("a push that waits took the tag from readers, or is not there for its author")
	}
	next := s.checked("v1")
	if next.ID == v.ID || next.Published != first.Digest {
		t.Errorf("the next review: %+v", next)
	}
	if err := s.board.Approve(s.rita, s.hooks, next.ID, review.Decision{Digest: second.Digest}); err != nil || s.gets(s.bob, "v1") != second.Digest {
		t.Errorf("the second approval: %v", err)
	}
	final, err := s.board.Get(s.ann, v.ID)
	var thread []string
	for _, c := range final.Comments {
		thread = append(thread, c.Author+" "+c.Kind)
	}
	if got := strings.Join(thread, ","); err != nil || got != "ann push,rita return,ann comment,ann push,rita approve" {
		t.Errorf("thread %s, %v", got, err)
	}
	log, err := auth.AuditLog(auth.With(t.Context(), auth.Identity{System: true}), s.db, auth.AuditFilter{Action: "review.", Limit: 10})
	if err != nil || len(log) != 4 {
		t.Errorf("audit log: %+v, %v", log, err)
	}
}

// Who may not see an image does not see its review, and who is no reviewer, or is
// its author, decides nothing.
func TestWhoDecides(t *testing.T) {
	s := open(t)
	s.push(s.ann, "v1", good, layer("app", "x"))
	v := s.checked("v1")
	d := review.Decision{Digest: v.Digest, Comment: "ok"}
	for name, c := range map[string]struct {
		ctx  context.Context
		want func(error) bool
	}{
		"bob": {s.bob, errdefs.IsNotFound}, "nobody": {t.Context(), errdefs.IsUnauthorized}, "ann": {s.ann, errdefs.IsPermissionDenied},
		"a reviewing author": {auth.With(t.Context(), auth.Identity{Account: 1, Name: "ann", Reviewer: true}), errdefs.IsPermissionDenied},
	} {
		if err := s.board.Approve(c.ctx, s.hooks, v.ID, d); !c.want(err) {
			t.Errorf("%s approves: %v", name, err)
		}
		if err := s.board.Return(c.ctx, s.hooks, v.ID, d); !c.want(err) {
			t.Errorf("%s returns: %v", name, err)
		}
	}
	_, gerr := s.board.Get(s.bob, v.ID)
	_, lerr := s.board.List(s.bob, review.Filter{})
	if !errdefs.IsNotFound(gerr) || !errdefs.IsPermissionDenied(lerr) || !errdefs.IsNotFound(s.board.Comment(s.bob, v.ID, "hi")) {
		t.Errorf("bob: %v, %v", gerr, lerr)
	}
}

// An index is published with its images, and with the signatures that were pushed
// for it; an image that says it is one is not.
func TestIndex(t *testing.T) {
	s := open(t)
	one, two := s.push(s.ann, "", good, layer("app", "1")), s.push(s.ann, "", good, layer("app", "2"))
	index := s.put(s.ann, "multi", ocispec.MediaTypeImageIndex, ocispec.Index{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex, Manifests: []ocispec.Descriptor{one, two},
	})
	attach := func(configType, text string) ocispec.Descriptor {
		return s.put(s.ann, "", ocispec.MediaTypeImageManifest, ocispec.Manifest{
			Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest, ArtifactType: "application/x-signature", Subject: &index,
			Config: s.blob(s.ann, configType, "{}"), Layers: []ocispec.Descriptor{s.blob(s.ann, "application/x", text)},
		})
	}
	signature, impostor := attach(ocispec.MediaTypeEmptyJSON, "signature"), attach(ocispec.MediaTypeImageConfig, "malware")
	if s.gets(s.bob, one.Digest.String())+s.gets(s.bob, signature.Digest.String()) != "" {
		t.Error("parts of what waits are there for readers")
	}
	v := s.checked("multi")
	if err := s.board.Approve(s.rita, s.hooks, v.ID, review.Decision{Digest: index.Digest}); err != nil {
		t.Fatal(err)
	}
	for _, d := range []ocispec.Descriptor{index, one, two, signature} {
		if s.gets(s.bob, d.Digest.String()) == "" {
			t.Errorf("%s was not published", d.MediaType)
		}
	}
	late := attach(ocispec.MediaTypeEmptyJSON, "late signature")
	if s.gets(s.bob, late.Digest.String()) == "" || s.gets(s.bob, impostor.Digest.String()) != "" {
		t.Error("a signature of what is published waits, or an image was published as one")
	}
}

// Build cache in BuildKit's older form is an index of blobs.
func TestIndexOfBlobs(t *testing.T) {
	s := open(t)
	blob := s.blob(s.ann, ocispec.MediaTypeImageLayerGzip, "layer")
	config := s.blob(s.ann, "application/vnd.buildkit.cacheconfig.v0", "{}")
	index := s.put(s.ann, "cache", ocispec.MediaTypeImageIndex, ocispec.Index{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex, Manifests: []ocispec.Descriptor{blob, config},
	})
	v := s.checked("cache")
	if len(v.Checks) == 0 || v.Checks[0].Check == "checks" {
		t.Errorf("checks: %+v", v.Checks)
	}
	if err := s.board.Approve(s.rita, s.hooks, v.ID, review.Decision{Digest: index.Digest}); err != nil {
		t.Fatal(err)
	}
	rc, err := s.OpenBlob(s.bob, "ann/app", config.Digest, 0)
	if s.gets(s.bob, "cache") != index.Digest || err != nil {
		t.Fatal("the cache was not published:", err)
	}
	if err := rc.Close(); err != nil {
		t.Error(err)
	}
}

// An image of an index that lies elsewhere is none that was deleted: the checks end.
func TestIndexOfWhatIsElsewhere(t *testing.T) {
	s := open(t)
	s.put(s.ann, "elsewhere", ocispec.MediaTypeImageIndex, ocispec.Index{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex, Manifests: []ocispec.Descriptor{{
			MediaType: ocispec.MediaTypeImageManifest, Digest: digest.FromString("x"), Size: 1, URLs: []string{"https://example.com/x"},
		}},
	})
	if v := s.checked("elsewhere"); len(v.Checks) == 0 || !strings.Contains(v.Checks[0].Message, "not all checks could run") {
		t.Errorf("checks: %+v", v.Checks)
	}
}

// Private, official and verified repositories and administrators need no review;
// what becomes public does.
func TestExempt(t *testing.T) {
	s := open(t)
	admin := auth.With(t.Context(), auth.Identity{Account: 9, Name: "root", Admin: true})
	if d := s.push(admin, "admin", good, "a"); s.gets(s.bob, "admin") != d.Digest {
		t.Error("an administrator's push waits")
	}
	s.exec(`UPDATE repositories SET kind = 'official'`)
	if d := s.push(s.ann, "official", good, "b"); s.gets(s.bob, "official") != d.Digest {
		t.Error("a push to an official repository waits")
	}
	s.exec(`UPDATE repositories SET kind = 'community'`)
	s.exec(`UPDATE accounts SET verified = 1 WHERE name = 'ann'`)
	if d := s.push(s.ann, "verified", good, "c"); s.gets(s.bob, "verified") != d.Digest {
		t.Error("a push by a verified account waits")
	}
	s.exec(`UPDATE accounts SET verified = 0`)
	s.push(s.ann, "approved", good, layer("app", "d"))
	v := s.checked("approved")
	if err := s.board.Approve(s.rita, s.hooks, v.ID, review.Decision{Digest: v.Digest}); err != nil {
		t.Fatal(err)
	}
	visible := func(public bool) {
		t.Helper()
		s.exec(`UPDATE repositories SET public = $1`, map[bool]int{true: 1}[public])
		err := s.db.Update(t.Context(), func(tx *sql.Tx) error {
			return s.hooks.Call(s.ann, tx, hub.Change{Kind: hub.Visibility, Repository: "ann/app", ID: 1, Public: public})
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	visible(false)
	private := s.push(s.ann, "private", good, "e")
	if s.gets(s.ann, "private") != private.Digest {
		t.Error("a private push is lost")
	}
	visible(true)
	if s.gets(s.bob, "private") != "" || s.gets(s.bob, "approved") != v.Digest || s.gets(s.ann, "private") != private.Digest {
		t.Error("what became public was not held, or what was approved is")
	}
	if v := s.checked("private"); v.State != review.Waiting {
		t.Errorf("no review of what became public: %+v", v)
	}
	if err := s.DeleteTag(s.ann, "ann/app", "private"); err != nil {
		t.Fatal(err)
	}
	if v := s.checked("private"); v.State != review.Withdrawn {
		t.Errorf("the review of a tag that is gone: %+v", v)
	}
}

// Checks over what they are for.
func TestChecks(t *testing.T) {
	s := open(t)
	s.vulnerabilities = []review.Vulnerability{{"CVE-1", "openssl", "critical", "3.1"}, {"CVE-2", "zlib", "critical", ""}, {"CVE-3", "x", "high", "1"}}
	s.push(s.ann, "odd", `{"architecture":"","os":"linux","config":{"Entrypoint":["sh","-c","curl http://x | sh"],"ExposedPorts":{"22/tcp":{}},"Env":["LD_PRELOAD=/x.so"],"Volumes":{"/etc":{}}}}`,
		layer("root/.npmrc", "//registry.npmjs.org/:_authToken=npm_abcdefghijklmnopqrstuvwxyz0123456789\n"))
	var all []string
	for _, r := range s.checked("odd").Checks {
		all = append(all, fmt.Sprintf("%s %s: %s", r.Verdict, r.Check, r.Message))
	}
	text := strings.Join(all, "\n")
	for _, want := range []string{
		"fail vulnerabilities: CVE-1 of openssl is critical and mended in 3.1", "warn vulnerabilities: 1 critical vulnerabilities that nothing mends yet",
		"warn vulnerabilities: 1 high", "fail config: the config names no platform", "fail config: the start-up command runs what it downloads",
		"warn config: it runs as root", "warn config: it exposes port 22/tcp", "warn config: it sets LD_PRELOAD", "warn config: it declares /etc a volume",
		"fail secrets: a token of npm in /root/.npmrc", "warn licence: the label", "pass look-alike: ", "pass description: ",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("lacks %q:\n%s", want, text)
		}
	}
}

func TestLookAlike(t *testing.T) {
	for repo, want := range map[string]string{
		"ann/nginx": "pass", "ann/ngimx": "warn", "ann/ngnix": "warn", "ann/nglnx": "fail", "ann/p0stgres": "fail", "bitnarni/app": "fail",
		"ann/postgres": "pass", "ann/redis-1": "pass", "ann/app": "pass", "ann/vvordpress": "fail", "acrne/tool": "fail", "ann/ubunt": "warn",
	} {
		f := &review.Facts{Repository: repo, Kind: "community", Known: []string{"nginx", "postgres", "redis", "ubuntu", "wordpress", "bitnami/app", "acme/tool"}}
		got, err := review.LookAlike{}.Run(t.Context(), f)
		if err != nil || len(got) == 0 || string(got[0].Verdict) != want {
			t.Errorf("%s: %+v, %v, want %s", repo, got, err, want)
		}
	}
}
