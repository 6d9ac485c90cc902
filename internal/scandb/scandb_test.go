package scandb_test

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"compress/gzip"
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"strake/internal/conformance"
	"strake/internal/hubdb"
	"strake/internal/jobs"
	"strake/internal/registry"
	"strake/internal/scandb"
	"strake/internal/sqldb"
	"strake/internal/vuln"
)

// databases calls test with the Hub's database in SQLite and in PostgreSQL.
func databases(t *testing.T, test func(t *testing.T, db *sqldb.DB)) {
	open := func(t *testing.T, name string) {
		db, err := hubdb.Open(t.Context(), name)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = db.Close() })
		test(t, db)
	}
	t.Run("sqlite", func(t *testing.T) { open(t, filepath.Join(t.TempDir(), "hub.db")) })
	t.Run("postgres", func(t *testing.T) { open(t, conformance.PostgreSQL(t)) })
}

// shelf is a registry of one repository in memory.
type shelf struct {
	registry.Reader
	mu        sync.Mutex
	manifests map[string]registry.Manifest
	blobs     map[digest.Digest][]byte
	opened    map[digest.Digest]int
}

func newShelf() *shelf {
	return &shelf{manifests: map[string]registry.Manifest{}, blobs: map[digest.Digest][]byte{}, opened: map[digest.Digest]int{}}
}

func (s *shelf) GetManifest(_ context.Context, _, ref string) (registry.Manifest, error) {
	if m, ok := s.manifests[ref]; ok {
		return m, nil
	}
	return registry.Manifest{}, registry.Errorf(registry.ManifestUnknown, "not here")
}

func (s *shelf) OpenBlob(_ context.Context, _ string, dgst digest.Digest, _ int64) (registry.Blob, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.opened[dgst]++
	b, ok := s.blobs[dgst]
	if !ok {
		return registry.Blob{}, registry.Errorf(registry.BlobUnknown, "not here")
	}
	return registry.Blob{ReadCloser: io.NopCloser(bytes.NewReader(b))}, nil
}

func (s *shelf) put(mediaType string, b []byte) ocispec.Descriptor {
	desc := ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(b), Size: int64(len(b))}
	s.blobs[desc.Digest] = b
	return desc
}

// image makes an image of layers, each of which is files by their names.
func (s *shelf) image(t *testing.T, env string, layers ...map[string]string) scandb.Task {
	t.Helper()
	m := ocispec.Manifest{MediaType: ocispec.MediaTypeImageManifest, Layers: []ocispec.Descriptor{}}
	m.SchemaVersion = 2
	m.Config = s.put(ocispec.MediaTypeImageConfig, []byte(`{"os": "linux", "config": {"Env": ["`+env+`"]}, "history": [{"created_by": "ENV `+env+`"}]}`))
	for _, files := range layers {
		var b bytes.Buffer
		z := gzip.NewWriter(&b)
		w := tar.NewWriter(z)
		for name, text := range files {
			if err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(text))}); err != nil {
				t.Fatal(err)
			}
			if _, err := io.WriteString(w, text); err != nil {
				t.Fatal(err)
			}
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		if err := z.Close(); err != nil {
			t.Fatal(err)
		}
		m.Layers = append(m.Layers, s.put(ocispec.MediaTypeImageLayerGzip, b.Bytes()))
	}
	return s.manifest(t, m, m.MediaType)
}

func (s *shelf) manifest(t *testing.T, m any, mediaType string) scandb.Task {
	t.Helper()
	b, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	desc := s.put(mediaType, b)
	s.manifests[desc.Digest.String()] = registry.Manifest{MediaType: mediaType, Bytes: b, Digest: desc.Digest}
	return scandb.Task{Repository: "team/app", Desc: desc}
}

func debian(packages string) map[string]string {
	return map[string]string{"etc/os-release": "PRETTY_NAME=\"Debian 12\"\nID=debian\nVERSION_ID=12\n", "var/lib/dpkg/status": packages}
}

const glibc = "Package: libc6\nArchitecture: amd64\nSource: glibc\nVersion: 2.36-9+deb12u1\n"

func record(id, ecosystem, name, fixed string) string {
	return fmt.Sprintf(`{"id": %q, "modified": "2024-01-01T00:00:00Z", "database_specific": {"severity": "HIGH"},
		"affected": [{"package": {"ecosystem": %q, "name": %q}, "ranges": [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": %q}]}]}]}`, id, ecosystem, name, fixed)
}

func dump(t *testing.T, records ...string) vuln.ImportOptions {
	t.Helper()
	var b bytes.Buffer
	z := zip.NewWriter(&b)
	for i, r := range records {
		w, err := z.Create(fmt.Sprint(i, ".json"))
		if err == nil {
			_, err = io.WriteString(w, r)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	name := filepath.Join(t.TempDir(), "all.zip")
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, b.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	return vuln.ImportOptions{From: name}
}

func ids(r *scandb.Report) string {
	list := []string{}
	for _, f := range r.Findings {
		list = append(list, f.ID+" "+f.Package.Name)
	}
	return strings.Join(list, "; ")
}

func TestScan(t *testing.T) {
	databases(t, func(t *testing.T, db *sqldb.DB) {
		hub := newShelf()
		base := debian(glibc)
		one := hub.image(t, "DB_PASSWORD=aB3dE5gH7jK9mN1p", base, map[string]string{"app/node_modules/lodash/package.json": `{"name": "lodash", "version": "4.17.20"}`, "root/.netrc": "machine x password y\n"})
		two := hub.image(t, "A=b", base)
		s := &scandb.Scanner{DB: db, Source: hub}
		if _, err := s.Refresh(t.Context(), dump(t, record("CVE-1", "Debian:12", "glibc", "2.36-9+deb12u3"), record("CVE-2", "npm", "lodash", "4.17.21"))); err != nil {
			t.Fatal(err)
		}
		for _, task := range []scandb.Task{one, two, one} {
			want, err := s.Scan(t.Context(), task)
			if err != nil {
				t.Fatal(err)
			}
			got, err := scandb.Find(t.Context(), db, task.Desc.Digest)
			if diff := cmp.Diff(want, got, cmp.Comparer(func(a, b time.Time) bool { return a.Unix() == b.Unix() }), cmp.Transformer("none", func(list []string) []string { return append([]string{}, list...) })); diff != "" || err != nil {
				t.Errorf("%v (-made +found):\n%s", err, diff)
			}
		}
		for dgst, n := range hub.opened {
			if mediaType := hub.blobs[dgst][:2]; bytes.Equal(mediaType, []byte{0x1f, 0x8b}) && n != 1 {
				t.Errorf("a layer was read %d times", n)
			}
		}
		var m ocispec.Manifest
		if err := json.Unmarshal(hub.manifests[one.Desc.Digest.String()].Bytes, &m); err != nil {
			t.Fatal(err)
		}
		if im, found, err := s.Look(t.Context(), one.Repository, m); err != nil || len(im.Packages) != 2 || len(im.Secrets) != 1 || len(found.Findings) != 2 {
			t.Errorf("%v %+v %+v", err, im, found)
		}
		r, err := scandb.Find(t.Context(), db, one.Desc.Digest)
		if err != nil || ids(&r) != "CVE-1 libc6; CVE-2 lodash" || r.Distribution != "Debian 12" || len(r.Secrets) != 2 || r.Secrets[0].Place != "environment DB_PASSWORD" || r.Secrets[1].Layer != 2 {
			t.Errorf("%v %q %+v", err, ids(&r), r.Secrets)
		}
		err = db.View(t.Context(), func(tx *sql.Tx) error {
			list, err := scandb.Summarize(t.Context(), tx, one.Desc.Digest, two.Desc.Digest, digest.FromString("nothing"))
			if err != nil {
				return err
			}
			if got := list[one.Desc.Digest]; len(list) != 2 || got.Packages != 2 || got.Secrets != 2 || got.Counts[vuln.High] != 2 || got.Fixable != 2 || got.Matched.IsZero() {
				t.Errorf("%+v", list)
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		if err := db.Update(t.Context(), func(tx *sql.Tx) error { return scandb.Forget(t.Context(), tx, one.Desc.Digest) }); err != nil {
			t.Fatal(err)
		}
		if _, err := scandb.Find(t.Context(), db, one.Desc.Digest); !errdefs.IsNotFound(err) {
			t.Errorf("after it was forgotten: %v", err)
		}
	})
}

// run does the scanner's jobs until the test ends.
func run(t *testing.T, db *sqldb.DB, s *scandb.Scanner) {
	t.Helper()
	q := jobs.New(db, jobs.Options{Handlers: s.Handlers(), Poll: 20 * time.Millisecond})
	ctx, cancel := context.WithCancel(t.Context())
	var ended sync.WaitGroup
	ended.Go(func() { q.Run(ctx) })
	t.Cleanup(func() { cancel(); ended.Wait() })
}

// idle waits until no image is to be scanned or matched.
func idle(t *testing.T, db *sqldb.DB) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		left := []jobs.State{}
		for _, kind := range []string{scandb.ScanJob, scandb.MatchJob} {
			list, err := jobs.List(t.Context(), db, kind, 10)
			if err != nil {
				t.Fatal(err)
			}
			left = append(left, list...)
		}
		if len(left) == 0 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%+v", left)
		}
	}
}

// New data has those images matched again that it is about, without a look at their layers.
func TestRefresh(t *testing.T) {
	databases(t, func(t *testing.T, db *sqldb.DB) {
		hub := newShelf()
		one := hub.image(t, "A=b", debian(glibc))
		two := hub.image(t, "A=b", debian("Package: tar\nVersion: 1.34\n"))
		var done atomic.Int64
		s := &scandb.Scanner{DB: db, Source: hub, Done: func(context.Context, *sql.Tx, string, *scandb.Report) error { done.Add(1); return nil }}
		for _, task := range []scandb.Task{one, two} {
			if err := db.Update(t.Context(), func(tx *sql.Tx) error { return scandb.Enqueue(t.Context(), tx, task) }); err != nil {
				t.Fatal(err)
			}
		}
		run(t, db, s)
		check := func(task scandb.Task, want string, matched bool) {
			t.Helper()
			r, err := scandb.Find(t.Context(), db, task.Desc.Digest)
			if err != nil || ids(&r) != want || r.Matched.IsZero() == matched {
				t.Errorf("%v %q at %v, want %q", err, ids(&r), r.Matched, want)
			}
		}
		idle(t, db)
		check(one, "", false)
		hub.mu.Lock()
		hub.blobs = nil // nobody needs them any more
		hub.mu.Unlock()
		refresh := func(records ...string) {
			t.Helper()
			if _, err := s.Refresh(t.Context(), dump(t, records...)); err != nil {
				t.Fatal(err)
			}
			idle(t, db)
		}
		a, b := record("CVE-1", "Debian:12", "glibc", "2.36-9+deb12u3"), record("CVE-2", "Debian", "tar", "1.35")
		refresh(a)
		check(one, "CVE-1 libc6", true)
		check(two, "", true)
		before := done.Load()
		refresh(a, b)
		check(two, "CVE-2 tar", true)
		if n := done.Load() - before; n != 1 {
			t.Errorf("%d images were matched again, want the one that it is about", n)
		}
		refresh(b)
		check(one, "", true)
	})
}

// The job that brings the data up to date does so, and comes again.
func TestSchedule(t *testing.T) {
	databases(t, func(t *testing.T, db *sqldb.DB) {
		hub := newShelf()
		one := hub.image(t, "A=b", debian(glibc))
		s := &scandb.Scanner{DB: db, Source: hub}
		if _, err := s.Refresh(t.Context(), dump(t, record("CVE-2", "Debian", "tar", "1.35"))); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Scan(t.Context(), one); err != nil {
			t.Fatal(err)
		}
		run(t, db, s)
		if err := scandb.RefreshSoon(t.Context(), db); !errdefs.IsFailedPrecondition(err) {
			t.Errorf("without a feed: %v", err)
		}
		feed := scandb.Feed{From: dump(t, record("CVE-1", "Debian:12", "glibc", "2.36-9+deb12u3")).From, Every: time.Hour}
		if err := scandb.Schedule(t.Context(), db, feed); err != nil {
			t.Fatal(err)
		}
		list, err := jobs.List(t.Context(), db, scandb.RefreshJob, 10)
		if err != nil || len(list) != 1 || list[0].NotBefore.Before(time.Now().Add(50*time.Minute)) {
			t.Fatalf("%+v %v: data that is new is not to be fetched at once", list, err)
		}
		stands, err := scandb.Stands(t.Context(), db)
		if err != nil || len(stands.Sources) != 1 || stands.Feed == nil || stands.Feed.From != feed.From || !stands.Next.Equal(list[0].NotBefore) ||
			stands.Reading || stands.Scanned != 1 || stands.Unknown != 0 || stands.Waiting+stands.GivenUp != 0 {
			t.Errorf("%+v, %v", stands, err)
		}
		if err := scandb.RefreshSoon(t.Context(), db); err != nil {
			t.Fatal(err)
		}
		for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(10 * time.Millisecond) {
			r, err := scandb.Find(t.Context(), db, one.Desc.Digest)
			if err != nil || time.Now().After(deadline) {
				t.Fatalf("%v %q", err, ids(&r))
			}
			if ids(&r) == "CVE-1 libc6" {
				break
			}
		}
		list, err = jobs.List(t.Context(), db, scandb.RefreshJob, 10)
		if err != nil || len(list) != 1 || list[0].NotBefore.Before(time.Now().Add(50*time.Minute)) {
			t.Errorf("%+v %v: not to be done again in an hour", list, err)
		}
	})
}

// What is no image, or a broken one, ends in a note or not at all, and not in a loop.
func TestScanOthers(t *testing.T) {
	databases(t, func(t *testing.T, db *sqldb.DB) {
		hub := newShelf()
		s := &scandb.Scanner{DB: db, Source: hub}
		index := hub.manifest(t, map[string]any{"schemaVersion": 2, "mediaType": ocispec.MediaTypeImageIndex, "manifests": []string{}}, ocispec.MediaTypeImageIndex)
		artifact := ocispec.Manifest{MediaType: ocispec.MediaTypeImageManifest, Config: hub.put("application/vnd.oci.empty.v1+json", []byte("{}")), Layers: []ocispec.Descriptor{hub.put("text/plain", []byte("x"))}}
		artifact.SchemaVersion = 2
		for _, task := range []scandb.Task{index, hub.manifest(t, artifact, artifact.MediaType)} {
			if _, err := s.Scan(t.Context(), task); !errdefs.IsNotImplemented(err) {
				t.Errorf("%v, want that it is no image", err)
			}
		}
		if _, err := s.Scan(t.Context(), scandb.Task{Desc: ocispec.Descriptor{Digest: digest.FromString("x")}}); !errdefs.IsNotFound(err) {
			t.Errorf("%v, want that it is not there", err)
		}
		broken := artifact
		broken.Config = hub.put(ocispec.MediaTypeImageConfig, []byte(`{"config": {"Env": "none"}}`))
		broken.Layers = []ocispec.Descriptor{
			hub.put(ocispec.MediaTypeImageLayerGzip, []byte("\x1f\x8b\x08 no gzip")), hub.put(ocispec.MediaTypeImageLayer, []byte(strings.Repeat("no tar", 200))),
			{MediaType: ocispec.MediaTypeImageLayer, Digest: digest.FromString("foreign"), URLs: []string{"http://169.254.169.254/"}},
		}
		r, err := s.Scan(t.Context(), hub.manifest(t, broken, broken.MediaType))
		if err != nil || len(r.Notes) != 3 || len(r.Packages) != 0 {
			t.Errorf("%v %q", err, r.Notes)
		}
		if hub.opened[digest.FromString("foreign")] > 0 {
			t.Error("a layer that is elsewhere was asked for") // CVE-2026-10517
		}
	})
}
