package store

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	dockerspec "github.com/moby/docker-image-spec/specs-go/v1"
	"github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"strake/internal/content"
	"strake/internal/flock"
	"strake/internal/image"
)

func open(t *testing.T, root string) *Store {
	t.Helper()
	s, err := Open(t.Context(), Options{Root: root})
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

// fixture is an image of one gzip layer, in memory.
type fixture struct {
	blobs    map[digest.Digest][]byte
	root     ocispec.Descriptor
	config   ocispec.Descriptor
	layer    ocispec.Descriptor
	diffID   digest.Digest
	requests []int64 // offsets at which the layer was opened
}

func newFixture(t *testing.T, text string) *fixture {
	t.Helper()
	return newFixtureFor(t, text, ocispec.Platform{OS: "linux", Architecture: "amd64"})
}

func newFixtureFor(t *testing.T, text string, platform ocispec.Platform) *fixture {
	t.Helper()
	var plain, zipped bytes.Buffer
	tw := tar.NewWriter(&plain)
	err := tw.WriteHeader(&tar.Header{Name: "file", Mode: 0o644, Size: int64(len(text)), Typeflag: tar.TypeReg})
	if err == nil {
		_, err = io.WriteString(tw, text)
	}
	if err := errors.Join(err, tw.Close()); err != nil {
		t.Fatal(err)
	}
	zw := gzip.NewWriter(&zipped)
	if _, err := zw.Write(plain.Bytes()); err != nil {
		t.Fatal(err)
	}
	if err := zw.Close(); err != nil {
		t.Fatal(err)
	}
	f := &fixture{blobs: map[digest.Digest][]byte{}, diffID: digest.FromBytes(plain.Bytes())}
	f.layer = f.put(ocispec.MediaTypeImageLayerGzip, zipped.Bytes())
	f.config = f.putJSON(t, ocispec.MediaTypeImageConfig, ocispec.Image{
		Created:  new(time.Unix(1700000000, 5).UTC()),
		Platform: platform,
		Config:   ocispec.ImageConfig{Labels: map[string]string{"text": text}},
		RootFS:   ocispec.RootFS{Type: "layers", DiffIDs: []digest.Digest{f.diffID}},
	})
	f.root = f.putJSON(t, ocispec.MediaTypeImageManifest, ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest,
		Config: f.config, Layers: []ocispec.Descriptor{f.layer},
	})
	return f
}

func (f *fixture) put(mediaType string, b []byte) ocispec.Descriptor {
	desc := image.Bytes(mediaType, b)
	f.blobs[desc.Digest] = b
	return desc
}

func (f *fixture) putJSON(t *testing.T, mediaType string, v any) ocispec.Descriptor {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return f.put(mediaType, b)
}

func (f *fixture) Resolve(context.Context, string) (ocispec.Descriptor, error) { return f.root, nil }

func (f *fixture) Fetch(_ context.Context, desc ocispec.Descriptor, offset int64) (io.ReadCloser, error) {
	if desc.Digest == f.layer.Digest {
		f.requests = append(f.requests, offset)
	}
	b, ok := f.blobs[desc.Digest]
	if !ok {
		return nil, errdefs.ErrNotFound
	}
	return io.NopCloser(bytes.NewReader(b[offset:])), nil
}

func pull(t *testing.T, s *Store, f *fixture, name string) Image {
	t.Helper()
	if _, err := image.Copy(t.Context(), f, "", s, name, image.CopyOptions{}); err != nil {
		t.Fatal(err)
	}
	img, err := s.Image(t.Context(), f.config.Digest.String())
	if err != nil {
		t.Fatal(err)
	}
	return img
}

// files lists the files of a directory of the store.
func files(t *testing.T, s *Store, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(filepath.Join(s.Root(), dir))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

func TestPullNameRemove(t *testing.T) {
	s := open(t, t.TempDir())
	f := newFixture(t, "one")
	img := pull(t, s, f, "docker.io/library/one:latest")
	if img.Names[0] != "docker.io/library/one:latest" || img.OS != "linux" || img.Labels()["text"] != "one" {
		t.Errorf("image %+v", img)
	}
	for _, ref := range []string{"one", "one:latest", "docker.io/library/one", img.ID.String(), img.ID.Encoded(), img.ID.Encoded()[:12], img.ID.Encoded()[:3]} {
		got, err := s.Image(t.Context(), ref)
		if err != nil || got.ID != img.ID {
			t.Errorf("Image(%q) = %s, %v", ref, got.ID, err)
		}
	}
	for ref, is := range map[string]func(error) bool{
		"two": errdefs.IsNotFound, "one:other": errdefs.IsNotFound, "UPPER": errdefs.IsInvalidArgument, "": errdefs.IsInvalidArgument,
	} {
		if _, err := s.Image(t.Context(), ref); !is(err) {
			t.Errorf("Image(%q): %v", ref, err)
		}
	}
	lay, err := s.Layer(t.Context(), f.diffID)
	if err != nil || lay.Size == 0 || lay.Side != "" {
		t.Errorf("layer %+v: %v", lay, err)
	}
	res, err := s.Remove(t.Context(), RemoveOptions{Ref: "one"})
	want := RemoveResult{Untagged: []string{"docker.io/library/one:latest"}, Deleted: []digest.Digest{img.ID, f.diffID}}
	if res.Freed = 0; err != nil || !cmp.Equal(res, want) {
		t.Errorf("Remove: %v %s", err, cmp.Diff(want, res))
	}
	if err := s.Close(); err != nil { // gives up the lease on what it pulled
		t.Fatal(err)
	}
	s = open(t, s.Root())
	if _, err := s.GC(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{"blobs/sha256", "indexes", "ingest", "leases", "work"} {
		if left := files(t, s, dir); len(left) > 0 {
			t.Errorf("%s holds %v", dir, left)
		}
	}
}

// A lease keeps GC off blobs that nothing names yet, until its owner dies.
func TestLease(t *testing.T) {
	s := open(t, t.TempDir())
	desc, err := s.PutBlob(t.Context(), ocispec.MediaTypeImageConfig, []byte("{}"))
	if err != nil {
		t.Fatal(err)
	}
	other := open(t, s.Root())
	if _, err := other.GC(t.Context()); err != nil {
		t.Fatal(err)
	}
	if left := files(t, other, "blobs/sha256"); !cmp.Equal(left, []string{desc.Digest.Encoded()}) {
		t.Fatalf("leased blob is gone: %v", left)
	}
	if err := s.own.file.Close(); err != nil { // as the death of the process would
		t.Fatal(err)
	}
	if _, err := other.GC(t.Context()); err != nil {
		t.Fatal(err)
	}
	if left := files(t, other, "blobs/sha256"); len(left) > 0 {
		t.Fatalf("blob of a dead lease is there still: %v", left)
	}
	s.own = nil
}

// A part that an earlier pull left is not fetched again.
func TestResume(t *testing.T) {
	s := open(t, t.TempDir())
	f := newFixture(t, "resumed, and resumed again")
	half := f.layer.Size / 2
	w, err := s.blobs.Writer(t.Context(), f.layer.Digest.String(), content.WriterOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(f.blobs[f.layer.Digest][:half]); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	pull(t, s, f, "docker.io/library/r:latest")
	if want := []int64{half}; !cmp.Equal(f.requests, want) {
		t.Errorf("layer fetched from offsets %v, want %v", f.requests, want)
	}
}

// broken is a source whose layers end early, with an error.
type broken struct {
	*fixture
	n int64
}

func (b *broken) Fetch(ctx context.Context, desc ocispec.Descriptor, offset int64) (io.ReadCloser, error) {
	r, err := b.fixture.Fetch(ctx, desc, offset)
	if err != nil || desc.Digest != b.layer.Digest {
		return r, err
	}
	return io.NopCloser(io.MultiReader(io.LimitReader(r, b.n), errReader{})), nil
}

type errReader struct{}

func (errReader) Read([]byte) (int, error) { return 0, errors.New("connection reset") }

// A download whose connection drops again and again goes on where it stopped.
func TestDroppedConnections(t *testing.T) {
	s := open(t, t.TempDir())
	f := newFixture(t, "dropped")
	if _, err := image.Copy(t.Context(), &broken{f, 16}, "", s, "docker.io/library/d:latest", image.CopyOptions{}); err != nil {
		t.Fatal(err)
	}
	if int64(len(f.requests)) < f.layer.Size/16 {
		t.Errorf("%d requests", len(f.requests))
	}
}

// Bytes that are not those of the descriptor never become visible.
func TestWrongBytes(t *testing.T) {
	s := open(t, t.TempDir())
	f := newFixture(t, "right")
	f.blobs[f.layer.Digest] = newFixture(t, "wrong").blobs[newFixture(t, "wrong").layer.Digest]
	if _, err := image.Copy(t.Context(), f, "", s, "docker.io/library/w:latest", image.CopyOptions{}); err == nil {
		t.Fatal("wrong bytes were taken")
	}
	if left := files(t, s, "blobs/sha256"); len(left) > 1 { // the config may have come
		t.Errorf("blobs: %v", left)
	}
}

// After wrong bytes the right ones are taken: nothing of the wrong is kept.
// A part that was damaged on the disk costs its bytes, not the pull.
func TestDamagedPart(t *testing.T) {
	for _, keep := range []int{1, 20, 60} { // bytes
		s := open(t, t.TempDir())
		f := newFixture(t, "part")
		right := f.blobs[f.layer.Digest]
		w, err := s.blobs.Writer(t.Context(), f.layer.Digest.String(), content.WriterOptions{Expected: f.layer.Digest, Size: f.layer.Size})
		if err != nil {
			t.Fatal(err)
		}
		part := bytes.Clone(right[:keep])
		part[keep/2] ^= 0x10
		if _, err := w.Write(part); err != nil {
			t.Fatal(err)
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		pull(t, s, f, "docker.io/library/w:latest")
		if last := f.requests[len(f.requests)-1]; last != 0 {
			t.Errorf("%d bytes: fetched again from %d", keep, last)
		}
	}
}

func TestWrongPartIsDropped(t *testing.T) {
	s := open(t, t.TempDir())
	f := newFixture(t, "right")
	right := f.blobs[f.layer.Digest]
	wrong := bytes.Clone(right)
	wrong[len(wrong)/2] ^= 0xff
	f.blobs[f.layer.Digest] = wrong
	if _, err := image.Copy(t.Context(), f, "", s, "docker.io/library/w:latest", image.CopyOptions{}); err == nil {
		t.Fatal("wrong bytes were taken")
	}
	f.blobs[f.layer.Digest] = right
	pull(t, s, f, "docker.io/library/w:latest")
}

// A manifest whose layers are not those of its config is refused.
// A file that has a blob's name and no row is taken for it only if it holds its
// bytes.
func TestAdoptVerifies(t *testing.T) {
	for name, damage := range map[string]func(b []byte) []byte{
		"whole": func(b []byte) []byte { return b }, "empty": func([]byte) []byte { return nil },
		"a byte": func(b []byte) []byte { return append([]byte{b[0] ^ 1}, b[1:]...) }, "short": func(b []byte) []byte { return b[1:] },
	} {
		f := newFixture(t, name)
		s := open(t, t.TempDir())
		for d, b := range f.blobs {
			if err := os.WriteFile(s.blobs.Path(d), damage(b), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		pull(t, s, f, "docker.io/library/a:1")
		if _, found := findKinds(t, s, false); len(found) > 0 {
			t.Errorf("%s: %v", name, found)
		}
	}
}

func TestManifestMustMatchConfig(t *testing.T) {
	s := open(t, t.TempDir())
	f, other := newFixture(t, "one"), newFixture(t, "two")
	for dgst, b := range other.blobs {
		f.blobs[dgst] = b
	}
	f.root = f.putJSON(t, ocispec.MediaTypeImageManifest, ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest,
		Config: f.config, Layers: []ocispec.Descriptor{other.layer},
	})
	_, err := image.Copy(t.Context(), f, "", s, "docker.io/library/x:latest", image.CopyOptions{})
	if !errdefs.IsInvalidArgument(err) {
		t.Errorf("error %v", err)
	}
	if list, err := s.Images(t.Context()); err != nil || len(list) > 0 {
		t.Errorf("images %v, %v", list, err)
	}
}

// A built layer is pushed in a compressed form that is the same every time, and
// what is pushed is what Source gives.
func TestPushManifest(t *testing.T) {
	s := open(t, t.TempDir())
	lay, err := s.WriteLayer(t.Context(), func(w io.Writer) error {
		tw := tar.NewWriter(w)
		if err := tw.WriteHeader(&tar.Header{Name: "dir/", Mode: 0o755, Typeflag: tar.TypeDir}); err != nil {
			return err
		}
		return tw.Close()
	})
	if err != nil {
		t.Fatal(err)
	}
	f := &fixture{blobs: map[digest.Digest][]byte{}}
	f.config = f.putJSON(t, ocispec.MediaTypeImageConfig, ocispec.Image{RootFS: ocispec.RootFS{Type: "layers", DiffIDs: []digest.Digest{lay.DiffID}}})
	f.root = f.putJSON(t, ocispec.MediaTypeImageManifest, ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest, Config: f.config,
		Layers: []ocispec.Descriptor{{MediaType: ocispec.MediaTypeImageLayer, Digest: lay.DiffID, Size: lay.Size}},
	})
	img := pull(t, s, f, "docker.io/library/built:latest")
	pushed, err := s.PushManifest(t.Context(), img, CompressOptions{})
	if err != nil || pushed.Digest == img.Manifest.Digest {
		t.Fatalf("pushed %s, %v", pushed.Digest, err)
	}
	again, err := s.PushManifest(t.Context(), img, CompressOptions{})
	if err != nil || again.Digest != pushed.Digest {
		t.Errorf("pushed again %s, %v", again.Digest, err)
	}
	if err := s.RecordRepoDigest(t.Context(), img.ID, "docker.io/library/built", pushed); err != nil {
		t.Fatal(err)
	}
	if got, err := s.Image(t.Context(), "built@"+pushed.Digest.String()); err != nil || got.ID != img.ID {
		t.Errorf("by digest: %s, %v", got.ID, err)
	}
	second := open(t, t.TempDir())
	if _, err := image.Copy(t.Context(), s, "built@"+pushed.Digest.String(), second, "docker.io/library/built:latest", image.CopyOptions{}); err != nil {
		t.Fatal(err)
	}
	if got, err := second.Image(t.Context(), "built"); err != nil || got.ID != img.ID {
		t.Errorf("copied: %s, %v", got.ID, err)
	}
}

// A layer whose writer fails leaves nothing.
func TestWriteLayerFails(t *testing.T) {
	s := open(t, t.TempDir())
	want := errors.New("cannot go on")
	if _, err := s.WriteLayer(t.Context(), func(w io.Writer) error { return want }); !errors.Is(err, want) {
		t.Errorf("error %v", err)
	}
	if left := files(t, s, "ingest"); len(left) > 0 {
		t.Errorf("ingest holds %v", left)
	}
}

func TestRemoveConflict(t *testing.T) {
	s := open(t, t.TempDir())
	img := pull(t, s, newFixture(t, "x"), "docker.io/library/a:1")
	if err := s.Tag(t.Context(), img.Manifest, "docker.io/library/b:1"); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Remove(t.Context(), RemoveOptions{Ref: img.ID.String()}); !errdefs.IsConflict(err) {
		t.Errorf("error %v", err)
	}
	res, err := s.Remove(t.Context(), RemoveOptions{Ref: "a:1"})
	if err != nil || len(res.Deleted) > 0 || !cmp.Equal(res.Untagged, []string{"docker.io/library/a:1"}) {
		t.Errorf("untag: %+v, %v", res, err)
	}
	if res, err = s.Remove(t.Context(), RemoveOptions{Ref: img.ID.Encoded()[:5]}); err != nil || len(res.Deleted) != 2 {
		t.Errorf("by prefix: %+v, %v", res, err)
	}
}

func TestCache(t *testing.T) {
	s := open(t, t.TempDir())
	if _, err := s.LoadCache(t.Context(), "k"); !errdefs.IsNotFound(err) {
		t.Errorf("error %v", err)
	}
	for i := range 3 {
		if err := s.SaveCache(t.Context(), fmt.Sprint("k", i), "slot", []digest.Digest{digest.FromString("x")}, []byte{byte(i)}); err != nil {
			t.Fatal(err)
		}
	}
	if v, err := s.LoadCache(t.Context(), "k1"); err != nil || !bytes.Equal(v, []byte{1}) {
		t.Errorf("value %v, %v", v, err)
	}
	if v, err := s.LastCache(t.Context(), "slot"); err != nil || !bytes.Equal(v, []byte{2}) {
		t.Errorf("last value %v, %v", v, err)
	}
	// What was used last goes last, whenever it was made.
	exec(t, s, "UPDATE cache SET used = used - $1", int64(2*useGrain))
	if _, err := s.LoadCache(t.Context(), "k0"); err != nil {
		t.Fatal(err)
	}
	var least string
	_, err := s.Prune(t.Context(), PruneOptions{DryRun: true, Cache: func(list []CacheRecord) []CacheRecord {
		if len(list) != 3 || list[2].ID != "k0" || !list[2].Used.After(list[2].Created) {
			t.Errorf("records %+v", list)
		}
		least = list[0].ID
		return nil
	}})
	if err != nil || least == "k0" {
		t.Errorf("least recently used: %s, %v", least, err)
	}
}

// TestImagesHostilePlatform lists an image whose config's platform has what
// ends lines and columns.
func TestImagesHostilePlatform(t *testing.T) {
	ctx := t.Context()
	s := open(t, t.TempDir())
	config := dockerspec.DockerOCIImage{}
	config.OS, config.Architecture, config.Variant = "li\nnux", "\tamd64", "v\x00\r1"
	config.Config.Labels = map[string]string{"a\tb": "c\nd"}
	id := digest.FromString("config")
	desc := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: digest.FromString("manifest"), Size: 1000}
	err := s.db.Update(ctx, func(tx *sql.Tx) error {
		for _, name := range []string{"docker.io/library/b:1", "docker.io/library/a:1"} {
			if err := errors.Join(recordImage(ctx, tx, desc, id, config), setName(ctx, tx, nil, name, desc, id)); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	list, err := s.Images(ctx)
	if err != nil || len(list) != 1 {
		t.Fatal(list, err)
	}
	got := list[0]
	if got.OS != "linux" || got.Architecture != "amd64" || got.Variant != "v\x001" || got.Labels()["a\tb"] != "c\nd" || got.Manifest.Digest != desc.Digest {
		t.Errorf("%+v", got)
	}
	if want := []string{"docker.io/library/a:1", "docker.io/library/b:1"}; !slices.Equal(got.Names, want) {
		t.Errorf("names %q, want %q", got.Names, want)
	}
}

// BenchmarkImages lists a store of 5,000 images, each with a name and a digest.
func BenchmarkImages(b *testing.B) {
	s, err := Open(b.Context(), Options{Root: b.TempDir()})
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close()
	err = s.db.Update(b.Context(), func(tx *sql.Tx) error {
		for i := range 5000 {
			id := digest.FromString(fmt.Sprint(i))
			desc := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: id, Size: 1000}
			if err := recordImage(b.Context(), tx, desc, id, dockerspec.DockerOCIImage{}); err != nil {
				return err
			}
			if err := setName(b.Context(), tx, nil, fmt.Sprintf("docker.io/library/image:%d", i), desc, id); err != nil {
				return err
			}
			if err := recordRepoDigest(b.Context(), tx, "docker.io/library/image", id.String(), desc, id, ""); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if list, err := s.Images(b.Context()); err != nil || len(list) != 5000 {
			b.Fatal(len(list), err)
		}
	}
}

// A file of wrong bytes is deleted, but not the right one that another process
// has put in its place since; and nobody waits at the gate who was told to stop.
func TestDropFile(t *testing.T) {
	s := open(t, t.TempDir())
	dgst := digest.FromString("right")
	path := s.blobs.Path(dgst)
	write := func(text string) fs.FileInfo {
		t.Helper()
		if err := os.WriteFile(path+".new", []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(path+".new", path); err != nil {
			t.Fatal(err)
		}
		info, err := os.Lstat(path)
		if err != nil {
			t.Fatal(err)
		}
		return info
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	wrong := write("wrong")
	held, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer held.Close()
	right := write("right")
	if err := dropFile(t.Context(), s.contents, dgst, wrong); !errors.Is(err, errBusy) {
		t.Error(err)
	}
	if _, err := os.Lstat(path); err != nil {
		t.Errorf("the right file is gone: %v", err)
	}
	if err := dropFile(t.Context(), s.contents, dgst, right); !errors.Is(err, errBusy) {
		t.Error(err)
	}
	if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the file is left: %v", err)
	}

	gate, err := openGate(t.Context(), s.Root(), flock.Shared)
	if err != nil {
		t.Fatal(err)
	}
	defer gate.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := s.GC(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("GC beside a commit: %v", err)
	}
}
