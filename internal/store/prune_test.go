package store

import (
	"archive/tar"
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	osexec "os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"strake/internal/content"
	"strake/internal/flock"
	"strake/internal/reference"
)

// openWith opens a store for one test with options.
func openWith(t *testing.T, opts Options) *Store {
	t.Helper()
	s, err := Open(t.Context(), opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// again closes a store, which gives up its lease, and opens it.
func again(t *testing.T, s *Store, opts Options) *Store {
	t.Helper()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	opts.Root = s.Root()
	return openWith(t, opts)
}

// makeLayer makes a layer of size bytes that follow from seed.
func makeLayer(t *testing.T, s *Store, seed, size int) digest.Digest {
	t.Helper()
	files, err := s.WriteLayer(t.Context(), func(w io.Writer) error {
		tw := tar.NewWriter(w)
		err := tw.WriteHeader(&tar.Header{Name: "file", Mode: 0o644, Size: int64(size), Typeflag: tar.TypeReg})
		if err == nil {
			_, err = tw.Write(bytes.Repeat([]byte{byte(seed)}, size))
		}
		return errors.Join(err, tw.Close())
	})
	if err != nil {
		t.Fatal(err)
	}
	return files.DiffID
}

// makeImage makes an image of layers, with names.
func makeImage(t *testing.T, s *Store, comment string, layers []digest.Digest, names ...string) digest.Digest {
	t.Helper()
	put := func(mediaType string, v any) ocispec.Descriptor {
		f := &fixture{blobs: map[digest.Digest][]byte{}}
		desc := f.putJSON(t, mediaType, v)
		if _, err := s.PutBlob(t.Context(), mediaType, f.blobs[desc.Digest]); err != nil {
			t.Fatal(err)
		}
		return desc
	}
	m := ocispec.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest}
	m.Config = put(ocispec.MediaTypeImageConfig, ocispec.Image{
		Author: comment, Platform: ocispec.Platform{OS: "linux", Architecture: "amd64"},
		RootFS: ocispec.RootFS{Type: "layers", DiffIDs: layers},
	})
	for _, d := range layers {
		lay, err := s.Layer(t.Context(), d)
		if err != nil {
			t.Fatal(err)
		}
		m.Layers = append(m.Layers, ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayer, Digest: d, Size: lay.Size})
	}
	img, err := s.AddImage(t.Context(), AddImageOptions{Action: "build", Root: put(ocispec.MediaTypeImageManifest, m), Names: names})
	if err != nil {
		t.Fatal(err)
	}
	return img.ID
}

// onDisk is how many bytes on disk the store takes, without its database and
// the directories, whose size depends on what they held before.
func onDisk(t *testing.T, s *Store) int64 {
	t.Helper()
	sizes, err := walkSizes(s.Root(), func(path string, info fs.FileInfo) string {
		if info.IsDir() || strings.HasPrefix(filepath.Base(path), "strake.db") {
			return "not counted"
		}
		return ""
	})
	if err != nil {
		t.Fatal(err)
	}
	return sizes[""]
}

// randomStore makes images that share layers, some under the same names, some
// cache records, and leftovers of what a crash left.
func randomStore(t *testing.T, s *Store, r *rand.Rand) {
	t.Helper()
	var layers []digest.Digest
	for i := range 12 {
		layers = append(layers, makeLayer(t, s, i, 1+r.IntN(60_000)))
	}
	for i := range 20 {
		chain := slices.Clone(layers[:1+r.IntN(3)])
		for range r.IntN(3) {
			chain = append(chain, layers[3+r.IntN(7)])
		}
		var names []string
		for range r.IntN(3) {
			names = append(names, fmt.Sprintf("docker.io/library/app%d:%d", r.IntN(3), r.IntN(6)))
		}
		makeImage(t, s, fmt.Sprint(i), chain, names...)
	}
	for i := range 6 {
		key := fmt.Sprintf("step:%d", i)
		if err := s.SaveCache(t.Context(), key, "slot", []digest.Digest{layers[r.IntN(len(layers))]}, []byte("x")); err != nil {
			t.Fatal(err)
		}
	}
	w, err := s.blobs.Writer(t.Context(), refUnpack+"dead", content.WriterOptions{})
	if err == nil {
		_, err = w.Write(make([]byte, 10_000))
	}
	if err := errors.Join(err, w.Close()); err != nil {
		t.Fatal(err)
	}
}

// A dry run lists what the real one removes, and the bytes it tells are those
// that the file system gets back, to the block.
func TestPruneDryRun(t *testing.T) {
	for seed := range uint64(5) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			r := rand.New(rand.NewPCG(seed, 1))
			s := open(t, t.TempDir())
			randomStore(t, s, r)
			s = again(t, s, Options{})
			some := func(img Image) bool { return len(img.Names) == 0 || img.ID[10]%3 == 0 }
			opts := PruneOptions{
				Images: func(list []Image) []Image { return slices.DeleteFunc(list, func(i Image) bool { return !some(i) }) },
				Cache:  func(list []CacheRecord) []CacheRecord { return list[:len(list)/2] },
				DryRun: true,
			}
			before := onDisk(t, s)
			dry, err := s.Prune(t.Context(), opts)
			if err != nil {
				t.Fatal(err)
			}
			if now := onDisk(t, s); now != before {
				t.Fatalf("a dry run freed %d bytes", before-now)
			}
			opts.DryRun = false
			got, err := s.Prune(t.Context(), opts)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(dry, got); diff != "" {
				t.Errorf("dry run (-) and real run (+) differ:\n%s", diff)
			}
			if freed := before - onDisk(t, s); freed != got.Freed || freed == 0 {
				t.Errorf("said it freed %d bytes, freed %d", got.Freed, freed)
			}
			again, err := s.Prune(t.Context(), PruneOptions{})
			if err != nil || again.Freed != 0 {
				t.Errorf("left %d bytes over: %v", again.Freed, err)
			}
			left, err := s.Check(t.Context(), CheckOptions{})
			if err != nil || len(left.Findings) > 0 {
				t.Errorf("check: %+v, %v", left.Findings, err)
			}
		})
	}
}

// A dry run waits for no commit and keeps none waiting; it reaps no lease, and tells what the real one frees that does.
func TestPruneDryRunAlone(t *testing.T) {
	s := open(t, t.TempDir())
	desc, err := s.PutBlob(t.Context(), "text/plain", make([]byte, 10_000))
	if err != nil {
		t.Fatal(err)
	}
	s = again(t, s, Options{})
	err = s.db.Note(t.Context(), func(tx *sql.Tx) error { return insertLease(t.Context(), tx, "dead", []digest.Digest{desc.Digest}) })
	lease := filepath.Join(s.Root(), "leases", "dead")
	if err := errors.Join(err, os.WriteFile(lease, nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	gate, err := openGate(t.Context(), s.Root(), flock.Shared)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	dry, err := s.Prune(ctx, PruneOptions{DryRun: true})
	if err := errors.Join(err, gate.Close()); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(lease); err != nil {
		t.Errorf("the dry run reaped: %v", err)
	}
	got, err := s.Prune(t.Context(), PruneOptions{})
	if err != nil || dry.Freed == 0 || dry.Freed != got.Freed {
		t.Errorf("dry run: %d bytes, real run: %d, %v", dry.Freed, got.Freed, err)
	}
}

// What is removed stays for undo and comes back as it was; with it gone for
// good, the disk has exactly what was said to be held.
func TestPruneUndo(t *testing.T) {
	opts := Options{Root: t.TempDir(), UndoWindow: time.Hour}
	s := openWith(t, opts)
	randomStore(t, s, rand.New(rand.NewPCG(7, 7)))
	s = again(t, s, opts)
	if _, err := s.Prune(t.Context(), PruneOptions{Undo: true}); err != nil {
		t.Fatal(err)
	}
	ids := func() (list []string) {
		images, err := s.Images(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, img := range images {
			list = append(list, fmt.Sprint(img.ID, img.Names))
		}
		return list
	}
	all, before := ids(), onDisk(t, s)
	every := func(list []Image) []Image { return list }
	res, err := s.Prune(t.Context(), PruneOptions{What: "image prune", Images: every})
	if err != nil || len(ids()) > 0 || res.Freed != 0 || res.Held == 0 || onDisk(t, s) != before {
		t.Fatalf("pruned %+v, %v; left %v", res, err, ids())
	}
	list, err := s.Journal(t.Context())
	if err != nil || len(list) != 1 || list[0].Held != res.Held || list[0].What != "image prune" {
		t.Errorf("journal %+v, %v; held %d", list, err, res.Held)
	}
	if _, err := s.Undo(t.Context(), 0); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(all, ids()); diff != "" {
		t.Errorf("undo: %s", diff)
	}
	if res, err = s.Prune(t.Context(), PruneOptions{What: "image prune", Images: every, Now: true}); err != nil {
		t.Fatal(err)
	}
	if freed := before - onDisk(t, s); freed != res.Freed || res.Held != 0 {
		t.Errorf("freed %d, said %+v", freed, res)
	}
	if _, err := s.Undo(t.Context(), 0); !errdefs.IsNotFound(err) {
		t.Errorf("undo after --now: %v", err)
	}
}

// A name that every build moves leaves no more entries than are kept, and none
// that is too old.
func TestJournalBounds(t *testing.T) {
	opts := Options{Root: t.TempDir(), UndoWindow: time.Hour}
	s := openWith(t, opts)
	s.nearlyFull = func(string) bool { return false }
	lay := makeLayer(t, s, 1, 10)
	ids := []digest.Digest{makeImage(t, s, "a", []digest.Digest{lay}), makeImage(t, s, "b", []digest.Digest{lay})}
	named, err := reference.Parse("app")
	if err != nil {
		t.Fatal(err)
	}
	name, err := named.WithTag("latest")
	if err != nil {
		t.Fatal(err)
	}
	for i := range maxJournal + 6 {
		if err := s.SetName(t.Context(), name, ids[i%2].String()); err != nil {
			t.Fatal(err)
		}
	}
	count := func() int {
		list, err := s.Journal(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return len(list)
	}
	if n := count(); n != maxJournal {
		t.Errorf("%d entries", n)
	}
	// Each holds what it names; who adds to the store collects what is too much.
	if _, err := s.Settle(t.Context()); err != nil || count() != lowJournal {
		t.Errorf("%d entries, %v", count(), err)
	}
	// A clock that was behind for a while expires nothing before its time.
	exec(t, s, "UPDATE journal SET at = 1 WHERE id = (SELECT MAX(id) FROM journal)")
	if _, err := s.Settle(t.Context()); err != nil || count() != lowJournal {
		t.Errorf("%d entries, %v", count(), err)
	}
	exec(t, s, "UPDATE journal SET at = 1 WHERE id = (SELECT MIN(id) FROM journal)")
	if _, err := s.Settle(t.Context()); err != nil || count() != lowJournal-1 {
		t.Errorf("%d entries, %v", count(), err)
	}
	s = again(t, s, Options{UndoWindow: time.Nanosecond})
	s.nearlyFull = func(string) bool { return false }
	if _, err := s.Settle(t.Context()); err != nil || count() != 0 {
		t.Errorf("%d entries, %v", count(), err)
	}
}

// Undo holds nothing where others need the room.
func TestJournalNearlyFull(t *testing.T) {
	s := open(t, t.TempDir())
	makeImage(t, s, "gone", []digest.Digest{makeLayer(t, s, 1, 1<<20)}, "docker.io/library/gone:1")
	s = again(t, s, Options{UndoWindow: time.Hour}) // what was leased is not any more
	before := onDisk(t, s)
	if _, err := s.Remove(t.Context(), RemoveOptions{Ref: "gone:1"}); err != nil {
		t.Fatal(err)
	}
	for _, full := range []bool{false, true} {
		s.nearlyFull = func(string) bool { return full }
		freed, err := s.Settle(t.Context())
		if err != nil || full != (freed >= 1<<20) || before-onDisk(t, s) != freed {
			t.Errorf("nearly full %t: freed %d, %d on disk before, %d after, %v", full, freed, before, onDisk(t, s), err)
		}
	}
}

// An image that is removed at once leaves another one whole that has its layer.
func TestRemoveNowShared(t *testing.T) {
	s := open(t, t.TempDir())
	lay := makeLayer(t, s, 1, 10)
	makeImage(t, s, "gone", []digest.Digest{lay}, "docker.io/library/gone:1")
	kept := makeImage(t, s, "kept", []digest.Digest{lay}, "docker.io/library/kept:1")
	s = again(t, s, Options{}) // what was leased is not any more
	if _, err := s.Remove(t.Context(), RemoveOptions{Ref: "gone:1", Now: true}); err != nil {
		t.Fatal(err)
	}
	if res, err := s.Check(t.Context(), CheckOptions{}); err != nil || len(res.Findings) > 0 {
		t.Errorf("check: %+v, %v", res.Findings, err)
	}
	if list := listed(t, s); len(list) != 1 || list["docker.io/library/kept:1"] != kept {
		t.Errorf("left %v", list)
	}
}

// squeeze gives a store a budget of one byte less than it takes.
func squeeze(t *testing.T, s *Store) {
	t.Helper()
	size, err := treeSize(s.Root())
	if err != nil {
		t.Fatal(err)
	}
	for budget, want := range map[int64]bool{2 * size: true, size - 1: false} {
		s.maxSize = budget
		if far, err := s.farBelow(t.Context()); err != nil || far != want {
			t.Errorf("%d bytes are far below %d: %t, %v", size, budget, far, err)
		}
	}
	s.maxSize = size - 1
}

// The budget takes what undo keeps first, then compressed layers, extracted
// chains, the build cache, and images, each the least recently used first, and no more than it
// has to; never what is pinned or leased.
func TestBudget(t *testing.T) {
	s := openWith(t, Options{Root: t.TempDir(), UndoWindow: time.Hour})
	name := func(n string) string { return "docker.io/library/" + n + ":1" }
	const size = 400_000
	for i, n := range []string{"undo", "old", "pinned", "new"} {
		makeImage(t, s, n, []digest.Digest{makeLayer(t, s, i, size)}, name(n))
	}
	cached := makeLayer(t, s, 9, size)
	if err := s.SaveCache(t.Context(), "step:1", "", []digest.Digest{cached}, []byte("x")); err != nil {
		t.Fatal(err)
	}
	f := newFixture(t, strings.Repeat("random", 50_000))
	pull(t, s, f, name("pulled"))
	if err := s.Pin(t.Context(), "pinned:1", true); err != nil {
		t.Fatal(err)
	}
	tree := filepath.Join(s.unpackedDir(), digest.FromString("chain").Encoded())
	if err := errors.Join(os.MkdirAll(tree, 0o700), os.WriteFile(filepath.Join(tree, "f"), make([]byte, size), 0o600)); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Remove(t.Context(), RemoveOptions{Ref: "undo:1"}); err != nil {
		t.Fatal(err)
	}
	state := func() string {
		var has []string
		list, err := s.Journal(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if len(list) > 0 {
			has = append(has, "undo")
		}
		if _, err := s.blobs.Stat(t.Context(), f.layer.Digest); err == nil {
			has = append(has, "compressed")
		}
		if _, err := os.Stat(tree); err == nil {
			has = append(has, "tree")
		}
		if _, err := s.LoadCache(t.Context(), "step:1"); err == nil {
			has = append(has, "cache")
		}
		for _, n := range []string{"old", "pinned", "new", "pulled"} {
			if _, err := s.Image(t.Context(), n+":1"); err == nil {
				has = append(has, n)
			}
		}
		return strings.Join(has, " ")
	}
	for _, want := range []string{
		"undo compressed tree cache old pinned new pulled", "compressed tree cache old pinned new pulled", "tree cache old pinned new pulled",
		"cache old pinned new pulled",
		"old pinned new pulled", "pinned new pulled", "pinned pulled", "pinned",
	} {
		if got := state(); got != want {
			t.Fatalf("the store has %q, want %q", got, want)
		}
		s = again(t, s, Options{UndoWindow: time.Hour})
		squeeze(t, s)
		if want == "pinned new pulled" { // somebody works on the one that was used least recently
			other := open(t, s.Root())
			if _, err := other.Use(t.Context(), "new:1"); err != nil {
				t.Fatal(err)
			}
			if _, err := s.Settle(t.Context()); err != nil {
				t.Fatal(err)
			}
			if got := state(); got != "pinned new" {
				t.Fatalf("with new:1 in use the store has %q", got)
			}
			return
		}
		if _, err := s.Settle(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
}

// Every byte under the root is attributed to one thing, whatever was done: the
// sum is what du tells.
func TestUsage(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 3))
	opts := Options{Root: t.TempDir(), UndoWindow: time.Hour}
	s := openWith(t, opts)
	check := func(step string) Usage {
		t.Helper()
		u, err := s.Usage(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		out, err := osexec.CommandContext(t.Context(), "du", "-s", "--block-size=1", s.Root()).Output()
		if err != nil {
			t.Fatal(err)
		}
		var du int64
		if _, err := fmt.Sscan(string(out), &du); err != nil {
			t.Fatal(err)
		}
		if sum := u.Images + u.Containers + u.Volumes + u.Cache + u.Undo + u.Other; sum != du {
			t.Errorf("%s: %+v: the sum is %d, du says %d", step, u, sum, du)
		}
		return u
	}
	check("empty")
	randomStore(t, s, r)
	if u := check("filled"); u.Images == 0 || u.Cache == 0 || u.Other == 0 || u.Undo > 0 && u.Entries == 0 {
		t.Errorf("filled: %+v", u)
	}
	f := newFixture(t, "cut off")
	w, err := s.blobs.Writer(t.Context(), f.layer.Digest.String(), content.WriterOptions{Expected: f.layer.Digest, Size: f.layer.Size})
	if err == nil {
		_, err = w.Write(f.blobs[f.layer.Digest][:100])
	}
	if err := errors.Join(err, w.Close()); err != nil {
		t.Fatal(err)
	}
	check("interrupted pull")
	pull(t, s, f, "docker.io/library/pulled:1")
	check("pulled")
	s = again(t, s, opts)
	images, err := s.Images(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for i, img := range images {
		if i%2 == 0 {
			if _, err := s.Remove(t.Context(), RemoveOptions{Ref: img.ID.String(), Force: true}); err != nil {
				t.Fatal(err)
			}
		}
	}
	if u := check("rmi"); u.Undo == 0 || len(u.PerImage) != len(images)/2 {
		t.Errorf("rmi: %+v", u)
	}
	all := func(list []Image) []Image { return list }
	res, err := s.Prune(t.Context(), PruneOptions{Images: all, Cache: func(list []CacheRecord) []CacheRecord { return list }, Undo: true})
	if err != nil || res.Freed == 0 {
		t.Fatalf("%+v, %v", res, err)
	}
	if u := check("pruned"); u.Images+u.Cache+u.Undo > 0 {
		t.Errorf("pruned: %+v", u)
	}
}

// The history of builds counts as build cache; the budget takes it before anything else, the oldest first, and a prune takes all.
func TestBuildsAreCache(t *testing.T) {
	s := open(t, t.TempDir())
	before, err := s.Usage(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	id := makeImage(t, s, "image", []digest.Digest{makeLayer(t, s, 1, 10_000)}, "docker.io/library/image:1")
	for i, ref := range []string{"old", "new"} {
		err := s.SaveBuild(t.Context(), ref, []byte("{}"), make([]byte, 100_000))
		at := time.Now().Add(time.Duration(i-2) * time.Minute)
		if err := errors.Join(err, os.Chtimes(filepath.Join(s.Root(), "builds", ref+".json"), at, at)); err != nil {
			t.Fatal(err)
		}
	}
	s = again(t, s, Options{})
	du, err := treeSize(s.Root())
	if err != nil {
		t.Fatal(err)
	}
	u, err := s.Usage(t.Context())
	if err != nil || u.Cache < before.Cache+200_000 || u.Images+u.Containers+u.Cache+u.Undo+u.Other != du {
		t.Errorf("usage: %+v of %d, %v", u, du, err)
	}
	left := func() (refs []string) {
		list, err := s.collector.builds().finished()
		if err != nil {
			t.Fatal(err)
		}
		for _, k := range list {
			refs = append(refs, k.id)
		}
		return refs
	}
	squeeze(t, s)
	if _, err := s.Settle(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := left(); !slices.Equal(got, []string{"new"}) {
		t.Errorf("the budget left %v", got)
	}
	if listed(t, s)["docker.io/library/image:1"] != id {
		t.Error("the budget took the image")
	}
	size := onDisk(t, s)
	res, err := s.Prune(t.Context(), PruneOptions{Builds: true})
	if err != nil || len(left()) != 0 || res.Freed < 100_000 || size-onDisk(t, s) != res.Freed {
		t.Errorf("pruned %+v of %d bytes, left %v: %v", res, size, left(), err)
	}
}
