package store

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"strake/internal/content"
)

// flip changes one bit in the middle of a file.
func flip(t *testing.T, path string) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	b[len(b)/2] ^= 0x10
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
}

func remove1(t *testing.T, path string) {
	t.Helper()
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
}

func exec(t *testing.T, s *Store, query string, args ...any) {
	t.Helper()
	err := s.db.Update(t.Context(), func(tx *sql.Tx) error {
		_, err := tx.ExecContext(t.Context(), query, args...)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// find returns the kinds of what a check finds.
func findKinds(t *testing.T, s *Store, quick bool) ([]Kind, []Finding) {
	t.Helper()
	result, err := s.Check(t.Context(), CheckOptions{Quick: quick})
	if err != nil {
		t.Fatal(err)
	}
	var kinds []Kind
	for _, f := range result.Findings {
		if !slices.Contains(kinds, f.Kind) {
			kinds = append(kinds, f.Kind)
		}
	}
	slices.Sort(kinds)
	return kinds, result.Findings
}

// damageCase is one way to damage a store.
type damageCase struct {
	damage func(t *testing.T, s *Store, f *fixture)
	quick  bool // seen without reading layers too
	want   []Kind
	did    string
}

func damageCases() map[string]damageCase {
	return map[string]damageCase{
		"nothing":           {func(*testing.T, *Store, *fixture) {}, true, nil, ""},
		"bit of the tar":    {func(t *testing.T, s *Store, f *fixture) { flip(t, s.blobs.Path(f.diffID)) }, false, []Kind{KindLayer}, "made layer"},
		"bit of the gzip":   {func(t *testing.T, s *Store, f *fixture) { flip(t, s.blobs.Path(f.layer.Digest)) }, false, []Kind{KindBlob}, "fetched compressed layer"},
		"bit of the config": {func(t *testing.T, s *Store, f *fixture) { flip(t, s.blobs.Path(f.config.Digest)) }, false, []Kind{KindBlob}, "fetched config"},
		"bit of the manifest": {
			func(t *testing.T, s *Store, f *fixture) { flip(t, s.blobs.Path(f.root.Digest)) }, true, []Kind{KindBlob}, "fetched manifest",
		},
		"bit of the index": {func(t *testing.T, s *Store, f *fixture) { flip(t, s.indexPath(f.diffID)) }, false, []Kind{KindIndex}, "made the index"},
		"no tar":           {func(t *testing.T, s *Store, f *fixture) { remove1(t, s.blobs.Path(f.diffID)) }, true, []Kind{KindLayer}, "made layer"},
		"no gzip":          {func(t *testing.T, s *Store, f *fixture) { remove1(t, s.blobs.Path(f.layer.Digest)) }, true, []Kind{KindBlob}, "fetched compressed layer"},
		"no config":        {func(t *testing.T, s *Store, f *fixture) { remove1(t, s.blobs.Path(f.config.Digest)) }, true, []Kind{KindBlob}, "fetched config"},
		"no manifest":      {func(t *testing.T, s *Store, f *fixture) { remove1(t, s.blobs.Path(f.root.Digest)) }, true, []Kind{KindBlob}, "fetched manifest"},
		"no index":         {func(t *testing.T, s *Store, f *fixture) { remove1(t, s.indexPath(f.diffID)) }, true, []Kind{KindIndex}, "made the index"},
		"tar and gzip": {
			func(t *testing.T, s *Store, f *fixture) {
				flip(t, s.blobs.Path(f.diffID))
				flip(t, s.blobs.Path(f.layer.Digest))
			}, false, []Kind{KindBlob, KindLayer}, "fetched layer",
		},
		"all files": {
			func(t *testing.T, s *Store, f *fixture) {
				for _, d := range []digest.Digest{f.diffID, f.layer.Digest, f.config.Digest, f.root.Digest} {
					remove1(t, s.blobs.Path(d))
				}
				remove1(t, s.indexPath(f.diffID))
			}, true, []Kind{KindBlob, KindIndex, KindLayer}, "fetched layer",
		},
		"row of the config": {func(t *testing.T, s *Store, f *fixture) {
			exec(t, s, "DELETE FROM blobs WHERE digest = $1", f.config.Digest.String())
		}, true, []Kind{KindBlob, KindLeftover}, "fetched config"},
		"row of the layer": {func(t *testing.T, s *Store, f *fixture) {
			exec(t, s, "DELETE FROM layers")
		}, true, []Kind{KindLayer, KindLeftover}, "made layer"},
		"rows of all blobs": {func(t *testing.T, s *Store, _ *fixture) {
			exec(t, s, "DELETE FROM layers")
			exec(t, s, "DELETE FROM blobs")
		}, true, []Kind{KindBlob, KindLeftover}, "fetched manifest"},
		"rows of refs": {func(t *testing.T, s *Store, _ *fixture) { exec(t, s, "DELETE FROM refs") }, true, []Kind{KindRows}, "corrected refs"},
		"row of the image": {func(t *testing.T, s *Store, _ *fixture) {
			exec(t, s, "DELETE FROM images")
		}, true, []Kind{KindImage, KindRows}, "recorded image"},
		"a record of the cache": {func(t *testing.T, s *Store, _ *fixture) {
			if err := s.SaveCache(t.Context(), "key", "slot", []digest.Digest{digest.FromString("gone")}, []byte("value")); err != nil {
				t.Fatal(err)
			}
		}, true, []Kind{KindRows}, "corrected cache record"},
		"an orphan": {func(t *testing.T, s *Store, _ *fixture) {
			if err := content.WriteBlob(t.Context(), s.blobs, digest.FromString("orphan"), 6, strings.NewReader("orphan")); err != nil {
				t.Fatal(err)
			}
		}, true, []Kind{KindLeftover}, "removed blobs"},
		"a dead lease": {func(t *testing.T, s *Store, _ *fixture) {
			exec(t, s, "INSERT INTO leases (lease, digest) VALUES ('dead', 'sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa'), ('gone', 'sha256:bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb')")
			for _, path := range []string{"leases/dead", "work/dead/x/file", "work/gone/file"} {
				path = filepath.Join(s.root, path)
				if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(path, nil, 0o600); err != nil {
					t.Fatal(err)
				}
			}
		}, true, []Kind{KindLeftover}, "removed leases/dead"},
	}
}

// Every kind of damage is found, and a repair heals it with what the
// repository has.
func TestCheckRepair(t *testing.T) {
	for name, c := range damageCases() {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t, name)
			s := open(t, t.TempDir())
			pull(t, s, f, "docker.io/library/a:1")
			if err := s.RecordRepoDigest(t.Context(), f.config.Digest, "docker.io/library/a", f.root); err != nil {
				t.Fatal(err)
			}
			if err := s.close(); err != nil { // a lease keeps what it names
				t.Fatal(err)
			}
			c.damage(t, s, f)
			if got, found := findKinds(t, s, true); c.quick && !slices.Equal(got, c.want) || !c.quick && len(got) > 0 {
				t.Errorf("a quick check found %v, want %v", found, c.want)
			}
			got, found := findKinds(t, s, false)
			if !slices.Equal(got, c.want) {
				t.Fatalf("found %v, want %v", found, c.want)
			}
			var did []string
			repair := RepairOptions{Did: func(line string) { did = append(did, line) }}
			repair.Fetch = func(ctx context.Context, repository string, desc ocispec.Descriptor, offset int64) (io.ReadCloser, error) {
				if repository != "docker.io/library/a" {
					t.Errorf("fetched from %s", repository)
				}
				return f.Fetch(ctx, desc, offset)
			}
			for range 5 {
				if err := s.Repair(t.Context(), found, repair); err != nil {
					t.Fatal(err)
				}
				if _, found = findKinds(t, s, true); len(found) == 0 {
					break
				}
			}
			if _, found := findKinds(t, s, false); len(found) > 0 {
				t.Errorf("left: %v", found)
			}
			if text := strings.Join(did, "\n"); !strings.Contains(text, c.did) || (c.did == "") != (text == "") {
				t.Errorf("did %q, want %q", text, c.did)
			}
			for _, d := range []digest.Digest{f.root.Digest, f.config.Digest, f.layer.Digest} {
				b, err := content.ReadAll(t.Context(), s.blobs, d, 1<<20)
				if err != nil || !bytes.Equal(b, f.blobs[d]) {
					t.Errorf("%s: %v", d, err)
				}
			}
		})
	}
}

// What nobody has is set aside: the image stays listed, copying it in again
// heals it, and what was set aside goes.
func TestCheckLost(t *testing.T) {
	f := newFixture(t, "lost")
	s := open(t, t.TempDir())
	pull(t, s, f, "docker.io/library/a:1")
	if err := s.close(); err != nil {
		t.Fatal(err)
	}
	remove1(t, s.blobs.Path(f.layer.Digest))
	flip(t, s.blobs.Path(f.diffID))
	_, found := findKinds(t, s, false)
	if err := s.Repair(t.Context(), found, RepairOptions{}); err != nil {
		t.Fatal(err)
	}
	left, found := findKinds(t, s, false)
	if !slices.Equal(left, []Kind{KindLayer}) || !slices.Equal(found[0].Images, []string{"docker.io/library/a:1"}) {
		t.Errorf("left: %v", found)
	}
	if got := files(t, s, "damaged"); len(got) != 1 {
		t.Errorf("damaged/ holds %v", got)
	}
	if _, err := s.Image(t.Context(), "a:1"); err != nil {
		t.Error(err)
	}
	pull(t, s, f, "docker.io/library/a:1")
	if _, found := findKinds(t, s, false); len(found) > 0 {
		t.Errorf("after another pull: %v", found)
	}
}

// What only undo needs is dropped with the entry that needs it.
func TestCheckUndo(t *testing.T) {
	f := newFixture(t, "undo")
	s := open(t, t.TempDir())
	pull(t, s, f, "docker.io/library/a:1")
	if _, err := s.Remove(t.Context(), RemoveOptions{Ref: "a:1"}); err != nil {
		t.Fatal(err)
	}
	if err := s.close(); err != nil {
		t.Fatal(err)
	}
	if _, found := findKinds(t, s, false); len(found) > 0 {
		t.Fatalf("after a removal: %v", found)
	}
	for _, d := range []digest.Digest{f.diffID, f.layer.Digest} {
		flip(t, s.blobs.Path(d))
	}
	for range 3 {
		_, found := findKinds(t, s, false)
		if err := s.Repair(t.Context(), found, RepairOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	if _, found := findKinds(t, s, false); len(found) > 0 {
		t.Errorf("left: %v", found)
	}
	if entries, err := s.Journal(t.Context()); err != nil || len(entries) > 0 {
		t.Errorf("undo has %v, %v", entries, err)
	}
}

// What nothing needs is dropped, damaged or not.
func TestCheckUnreachable(t *testing.T) {
	f := newFixture(t, "unreachable")
	s := open(t, t.TempDir())
	pull(t, s, f, "docker.io/library/a:1")
	if err := s.close(); err != nil {
		t.Fatal(err)
	}
	for _, table := range []string{"names", "images"} {
		exec(t, s, "DELETE FROM "+table)
	}
	flip(t, s.blobs.Path(f.diffID))
	_, found := findKinds(t, s, false)
	if err := s.Repair(t.Context(), found, RepairOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, found := findKinds(t, s, false); len(found) > 0 {
		t.Errorf("left: %v", found)
	}
	if _, err := os.Lstat(s.blobs.Path(f.diffID)); err == nil {
		t.Error("the damaged tar is still there")
	}
}

// A row that names no digest is told, not followed.
func TestCheckBrokenRow(t *testing.T) {
	s := open(t, t.TempDir())
	exec(t, s, "INSERT INTO layers (diff_id, size, index_size, side_size) VALUES ('sha2', 1, 1, 0)")
	if _, err := s.Check(t.Context(), CheckOptions{}); !errdefs.IsDataLoss(err) || !strings.Contains(err.Error(), `"sha2" is no digest`) {
		t.Errorf("check: %v", err)
	}
}

// A damaged definition of a table is found before any row is read by it, and a
// repair mends it.
func TestCheckSchema(t *testing.T) {
	root := t.TempDir()
	s, err := Open(t.Context(), Options{Root: root})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(root, "strake.db")
	file, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, bytes.ReplaceAll(file, []byte("    variant       TEXT"), []byte("    variant       TEXV")), 0o600); err != nil {
		t.Fatal(err)
	}
	s = open(t, root)
	kinds, found := findKinds(t, s, false)
	if !slices.Equal(kinds, []Kind{KindSchema}) || found[0].What != "table images" {
		t.Fatalf("%v", found)
	}
	if err := s.Repair(t.Context(), found, RepairOptions{}); err != nil {
		t.Fatal(err)
	}
	if kinds, found := findKinds(t, s, false); len(kinds) > 0 {
		t.Errorf("after a repair: %v", found)
	}
}

// Whatever lies in a store and is not its own is named, and stays where it is.
func TestCheckStrangers(t *testing.T) {
	s := open(t, t.TempDir())
	makeImage(t, s, "a", []digest.Digest{makeLayer(t, s, 1, 10)}, "docker.io/library/a:1")
	tree := "rootfs/unpacked/" + digest.FromString("chain").Encoded() + ".partial"
	want := []string{tree}
	for _, name := range []string{"x", "blobs/x", "blobs/sha256/x", "indexes/x", "indexes/x.data", "ingest/x", "rootfs/unpacked/x"} {
		path := filepath.Join(s.Root(), name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, []byte("x"), 0o600)); err != nil {
			t.Fatal(err)
		}
		want = append(want, name)
	}
	if err := os.Mkdir(filepath.Join(s.Root(), tree), 0o700); err != nil {
		t.Fatal(err)
	}
	look := func() (names []string) {
		t.Helper()
		_, found := findKinds(t, s, false)
		if err := s.Repair(t.Context(), found, RepairOptions{}); err != nil {
			t.Fatal(err)
		}
		for _, f := range found {
			names = append(names, f.What)
		}
		slices.Sort(names)
		return names
	}
	slices.Sort(want)
	if diff := cmp.Diff(want, look()); diff != "" {
		t.Error(diff)
	}
	left := slices.DeleteFunc(want, func(name string) bool { return name == tree })
	if diff := cmp.Diff(left, look()); diff != "" {
		t.Errorf("after a repair: %s", diff)
	}
}

// What the row of an image repeats of its config is compared with that, and
// corrected.
func TestCheckImageRow(t *testing.T) {
	s := open(t, t.TempDir())
	makeImage(t, s, "a", []digest.Digest{makeLayer(t, s, 1, 10)}, "docker.io/library/a:1")
	for _, damage := range []string{"labels = '{]'", "os = 'linuy'", "size = size + 1", "created = 7", "architecture = ''", "variant = 'v9'"} {
		exec(t, s, "UPDATE images SET "+damage)
		kinds, found := findKinds(t, s, false)
		if !slices.Equal(kinds, []Kind{KindRows}) {
			t.Errorf("%s: %v", damage, found)
		}
		if err := s.Repair(t.Context(), found, RepairOptions{}); err != nil {
			t.Fatal(err)
		}
		if kinds, found := findKinds(t, s, false); len(kinds) > 0 {
			t.Errorf("%s, after a repair: %v", damage, found)
		}
	}
}
