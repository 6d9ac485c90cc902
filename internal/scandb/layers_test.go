package scandb_test

import (
	"database/sql"
	"encoding/json"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"strake/internal/jobs"
	"strake/internal/scandb"
	"strake/internal/sqldb"
)

// A layer is read once, however many replicas scan images with it at the same
// time, for its packages and for what is counted of its files.
func TestLayersOnce(t *testing.T) {
	databases(t, func(t *testing.T, db *sqldb.DB) {
		hub := newShelf()
		shared := map[string]string{"etc/os-release": "ID=debian\nVERSION_ID=12\n", "var/lib/dpkg/status": glibc, "usr/share/doc/x": "0123456789"}
		one := hub.image(t, "A=b", shared, map[string]string{"usr/share/doc/x": "01234", "usr/bin/one": "1"})
		two := hub.image(t, "A=b", shared, map[string]string{"usr/share/doc/.wh.x": "", "usr/bin/two": "22"})
		var scans sync.WaitGroup
		for range 2 {
			replica := &scandb.Scanner{DB: db, Source: hub}
			for _, task := range []scandb.Task{one, two} {
				scans.Go(func() {
					if _, err := replica.Scan(t.Context(), task); err != nil {
						t.Error(err)
					}
				})
			}
		}
		scans.Wait()
		for dgst, n := range hub.opened {
			if n > 1 && dgst != configOf(t, hub, one) {
				t.Errorf("%s was read %d times", dgst, n)
			}
		}
		for dgst, want := range map[digest.Digest][]scandb.LayerFiles{
			one.Desc.Digest: {{Bytes: int64(len(shared["etc/os-release"]) + len(glibc) + 10), Waste: 10, Added: 3}, {Bytes: 6, Added: 1, Changed: 1}},
			two.Desc.Digest: {{Bytes: int64(len(shared["etc/os-release"]) + len(glibc) + 10), Waste: 10, Added: 3}, {Bytes: 2, Added: 1, Deleted: 1}},
		} {
			r, err := scandb.Find(t.Context(), db, dgst)
			if err != nil || len(r.Packages) != 1 {
				t.Errorf("%+v %v", r, err)
			}
			if d := cmp.Diff(want, r.Layers); d != "" {
				t.Error(d)
			}
		}
	})
}

// configOf is the digest of the config that the images of hub share.
func configOf(t *testing.T, hub *shelf, task scandb.Task) digest.Digest {
	t.Helper()
	m, err := hub.GetManifest(t.Context(), "", task.Desc.Digest.String())
	if err != nil {
		t.Fatal(err)
	}
	return parse(t, m.Bytes).Config.Digest
}

// A layer that is none, or whose reader died, stands in nobody's way.
func TestBrokenLayers(t *testing.T) {
	databases(t, func(t *testing.T, db *sqldb.DB) {
		hub := newShelf()
		task := hub.image(t, "A=b", debian(glibc), nil)
		m := parse(t, hub.blobs[task.Desc.Digest])
		m.Layers = append(m.Layers, hub.put(ocispec.MediaTypeImageLayer, []byte("no tar at all, and longer than nothing")))
		task = hub.manifest(t, m, m.MediaType)
		dead := time.Now().Add(300 * time.Millisecond).UnixMilli()
		exec(t, db, `INSERT INTO scan_reading (layer, holder, until) VALUES ($1, 'dead', $2)`, m.Layers[0].Digest.String(), dead)
		s := &scandb.Scanner{DB: db, Source: hub}
		for range 2 {
			r, err := s.Scan(t.Context(), task)
			if err != nil || len(r.Packages) != 1 || len(r.Layers) != 0 || len(r.Notes) != 1 {
				t.Errorf("%+v %v", r, err)
			}
		}
		if n := hub.opened[m.Layers[0].Digest]; n != 1 {
			t.Errorf("a sound layer was read %d times", n)
		}
	})
}

// Images are scanned that nobody asked to scan, once, and indexes are not.
func TestMissing(t *testing.T) {
	databases(t, func(t *testing.T, db *sqldb.DB) {
		hub := newShelf()
		one, two := hub.image(t, "A=b", debian(glibc)), hub.image(t, "A=c", debian(glibc))
		index := hub.manifest(t, ocispec.Index{MediaType: ocispec.MediaTypeImageIndex, Manifests: []ocispec.Descriptor{one.Desc, two.Desc}}, ocispec.MediaTypeImageIndex)
		exec(t, db, `INSERT INTO repositories (id, name, namespace) VALUES (1, 'team/app', 'team'), (2, 'team/other', 'team')`)
		for _, task := range []scandb.Task{one, two, index} {
			exec(t, db, `INSERT INTO manifests (repository, digest, size, media_type) SELECT id, $1, $2, $3 FROM repositories`, task.Desc.Digest.String(), task.Desc.Size, task.Desc.MediaType)
		}
		if err := scandb.ScheduleMissing(t.Context(), db); err != nil {
			t.Fatal(err)
		}
		run(t, db, &scandb.Scanner{DB: db, Source: hub})
		unasked := func() (n int) {
			if err := db.Get(t.Context(), "SELECT count(*) FROM manifests WHERE scan_asked = 0", nil, &n); err != nil {
				t.Fatal(err)
			}
			return n
		}
		for deadline := time.Now().Add(30 * time.Second); unasked() > 0; time.Sleep(10 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatal("nobody asked")
			}
		}
		idle(t, db)
		for _, task := range []scandb.Task{one, two} {
			if r, err := scandb.Find(t.Context(), db, task.Desc.Digest); err != nil || len(r.Packages) != 1 {
				t.Errorf("%+v %v", r, err)
			}
		}
		list, err := jobs.List(t.Context(), db, scandb.MissingJob, 10)
		if err != nil || len(list) != 1 || time.Until(list[0].NotBefore) < time.Minute {
			t.Errorf("%+v %v, want that it is looked again later", list, err)
		}
	})
}

func exec(t *testing.T, db *sqldb.DB, query string, args ...any) {
	t.Helper()
	err := db.Update(t.Context(), func(tx *sql.Tx) error {
		_, err := tx.ExecContext(t.Context(), query, args...)
		return err
	})
	if err != nil {
		t.Fatalf("%s: %v", query, err)
	}
}

func parse(t *testing.T, b []byte) (m ocispec.Manifest) {
	t.Helper()
	if err := json.Unmarshal(b, &m); err != nil {
		t.Fatal(err)
	}
	return m
}
