package hub_test

import (
	"bytes"
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"strake/internal/hub"
	"strake/internal/registry"
)

// atOnce makes everything that nothing names garbage at once, pushes under way
// included: what they do then is to fail, or to hold.
var atOnce = hub.GCOptions{Grace: time.Nanosecond, Window: time.Nanosecond}

// testImage is an image of layers.
type testImage struct {
	manifest []byte
	blobs    map[digest.Digest][]byte
}

func newImage(t testing.TB, name string, layers ...[]byte) testImage {
	t.Helper()
	img := testImage{blobs: map[digest.Digest][]byte{}}
	add := func(mediaType string, b []byte) ocispec.Descriptor {
		dgst := digest.FromBytes(b)
		img.blobs[dgst] = b
		return ocispec.Descriptor{MediaType: mediaType, Digest: dgst, Size: int64(len(b))}
	}
	m := ocispec.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest}
	m.Config = add(ocispec.MediaTypeImageConfig, fmt.Appendf(nil, `{"os":"linux","author":%q}`, name))
	for _, b := range layers {
		m.Layers = append(m.Layers, add(ocispec.MediaTypeImageLayerGzip, b))
	}
	var err error
	if img.manifest, err = json.Marshal(m); err != nil {
		t.Fatal(err)
	}
	return img
}

// push pushes an image, as a client does that begins anew where it is told to.
func (img testImage) push(ctx context.Context, h *hub.Hub, repo, from, tag string) (err error) {
	for range 100 {
		if err = img.pushOnce(ctx, h, repo, from, tag); err == nil || !errdefs.IsUnavailable(err) && !registry.HasCode(err, registry.ManifestBlobUnknown) {
			return err
		}
	}
	return err
}

func (img testImage) pushOnce(ctx context.Context, h *hub.Hub, repo, from, tag string) error {
	for dgst, b := range img.blobs {
		if _, err := h.StatBlob(ctx, repo, dgst); err == nil {
			continue
		}
		if _, err := h.MountBlob(ctx, repo, from, dgst); err == nil {
			continue
		}
		up, err := h.StartUpload(ctx, repo)
		if err != nil {
			return err
		}
		if _, err := up.Write(b); err != nil {
			return errors.Join(err, up.Close())
		}
		_, err = up.Commit(ctx, dgst)
		if err := errors.Join(err, up.Close()); err != nil {
			return err
		}
	}
	_, err := h.PutManifest(ctx, repo, []string{tag}, registry.Manifest{MediaType: ocispec.MediaTypeImageManifest, Bytes: img.manifest})
	return err
}

// pull checks that a tag is the image, byte for byte.
func (img testImage) pull(ctx context.Context, h *hub.Hub, repo, tag string) error {
	m, err := h.GetManifest(ctx, repo, tag)
	if err != nil || !bytes.Equal(m.Bytes, img.manifest) {
		return fmt.Errorf("manifest of %s:%s: %d bytes: %w", repo, tag, len(m.Bytes), err)
	}
	for dgst, b := range img.blobs {
		blob, err := h.OpenBlob(ctx, repo, dgst, 0)
		if err != nil {
			return fmt.Errorf("blob of %s:%s: %w", repo, tag, err)
		}
		got, err := io.ReadAll(blob)
		if err := errors.Join(err, blob.Close()); err != nil || !bytes.Equal(got, b) {
			return fmt.Errorf("blob of %s:%s: %d bytes: %w", repo, tag, len(got), err)
		}
	}
	return nil
}

// TestConcurrentCollect pushes, mounts, tags, deletes and collects at once, in two Hubs
// on the same data: every tag that was acknowledged can be pulled.
func TestConcurrentCollect(t *testing.T) {
	const workers, rounds = 4, 12
	engines(t, func(t *testing.T, newOptions func(t *testing.T) hub.Options) {
		opts := newOptions(t)
		hubs := []*hub.Hub{openWith(t, opts), openWith(t, opts)}
		var layers [][]byte
		for i := range 6 {
			layers = append(layers, bytes.Repeat([]byte{byte(i), 1}, 500<<i))
		}
		ctx, cancel := context.WithCancel(system(t))
		var collecting, working sync.WaitGroup
		for _, h := range hubs {
			collecting.Go(func() {
				for ctx.Err() == nil {
					if _, err := hub.Collect(ctx, h, atOnce); err != nil && ctx.Err() == nil {
						t.Error(err)
					}
				}
			})
		}
		for w := range workers {
			working.Go(func() {
				r := rand.New(rand.NewPCG(uint64(w), 7))
				kept := map[[2]string]testImage{}
				for i := range rounds {
					h := hubs[r.IntN(len(hubs))]
					repo, from, tag := fmt.Sprint("team/r", r.IntN(3)), fmt.Sprint("team/r", r.IntN(3)), fmt.Sprintf("w%d-%d", w, r.IntN(4))
					img := newImage(t, fmt.Sprint(w, i), layers[r.IntN(len(layers))], layers[r.IntN(len(layers))])
					if err := img.push(ctx, h, repo, from, tag); err != nil {
						t.Errorf("push: %v", err)
						return
					}
					kept[[2]string{repo, tag}] = img
					for name, img := range kept {
						h := hubs[r.IntN(len(hubs))]
						if r.IntN(4) > 0 {
							if err := img.pull(ctx, h, name[0], name[1]); err != nil {
								t.Error(err)
							}
							continue
						}
						err := h.DeleteManifest(ctx, name[0], digest.FromBytes(img.manifest))
						if r.IntN(2) > 0 && err == nil {
							err = img.push(ctx, h, name[0], from, name[1])
						} else {
							delete(kept, name)
						}
						if err != nil {
							t.Errorf("delete, push: %v", err)
						}
					}
				}
				for name, img := range kept {
					if err := img.pull(ctx, hubs[0], name[0], name[1]); err != nil {
						t.Errorf("at the end: %v", err)
					}
				}
			})
		}
		working.Wait()
		cancel()
		collecting.Wait()
		noGarbageLeft(t, hubs[0])
	})
}

// noGarbageLeft collects what changes left, and finds nothing then in all that
// there is: no change was missed.
func noGarbageLeft(t *testing.T, h *hub.Hub) {
	t.Helper()
	ctx, soon := system(t), time.Now().Add(2*time.Second) // times are whole seconds
	if _, err := hub.CollectAt(ctx, h, atOnce, soon); err != nil {
		t.Fatal(err)
	}
	dry := atOnce
	dry.DryRun, dry.Full = true, true
	if left, err := hub.CollectAt(ctx, h, dry, soon); err != nil || left != (hub.GCResult{}) {
		t.Errorf("garbage that no change told of: %+v, %v", left, err)
	}
	var rows int
	if err := hub.DB(h).Get(ctx, `SELECT count(*) FROM candidates`, nil, &rows); err != nil || rows != 0 {
		t.Errorf("%d candidates wait still: %v", rows, err)
	}
}

// TestCollectFull finds garbage that no candidate tells of: by request, and in a
// database from before there were any.
func TestCollectFull(t *testing.T) {
	engines(t, func(t *testing.T, newOptions func(t *testing.T) hub.Options) {
		ctx := system(t)
		h := openWith(t, newOptions(t))
		kept := newImage(t, "kept", []byte("layer"))
		if err := kept.push(ctx, h, "a", "b", "1"); err != nil {
			t.Fatal(err)
		}
		full := atOnce
		full.Full = true
		for _, test := range []struct {
			forget string
			opts   hub.GCOptions
			want   hub.GCResult
		}{
			{`DELETE FROM candidates`, atOnce, hub.GCResult{}},
			{`DELETE FROM candidates`, full, hub.GCResult{Links: 1, Blobs: 1, Bytes: 5}},
			{`DELETE FROM settings WHERE name = 'gc-full'`, atOnce, hub.GCResult{Links: 1, Blobs: 1, Bytes: 5}},
			{`DELETE FROM candidates`, atOnce, hub.GCResult{}}, // once
		} {
			pushBlob(ctx, t, h, "a", "", "loose")
			err := hub.DB(h).Update(ctx, func(tx *sql.Tx) error {
				for _, query := range []string{`DELETE FROM candidates`, test.forget} {
					if _, err := tx.ExecContext(ctx, query); err != nil {
						return err
					}
				}
				return nil
			})
			if err != nil {
				t.Fatal(err)
			}
			if got, err := hub.CollectAt(ctx, h, test.opts, time.Now().Add(2*time.Second)); err != nil || got != test.want {
				t.Errorf("Collect %+v: %+v, want %+v: %v", test.opts, got, test.want, err)
			}
		}
		if err := kept.pull(ctx, h, "a", "1"); err != nil {
			t.Error(err)
		}
	})
}

// TestCollect removes what nothing needs, after its grace and its window, and says
// before what it will be.
func TestCollect(t *testing.T) {
	engines(t, func(t *testing.T, newOptions func(t *testing.T) hub.Options) {
		ctx := system(t)
		h := openWith(t, newOptions(t))
		shared := bytes.Repeat([]byte("shared"), 1000)
		one, two := newImage(t, "one", shared, []byte("layer of one")), newImage(t, "two", shared)
		for i, err := range []error{one.push(ctx, h, "a", "b", "1"), two.push(ctx, h, "b", "a", "2")} {
			if err != nil {
				t.Fatal(i, err)
			}
		}
		up, err := h.StartUpload(ctx, "a")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := up.Write([]byte("unfinished")); err != nil {
			t.Fatal(err)
		}
		if err := up.Close(); err != nil {
			t.Fatal(err)
		}
		if err := h.DeleteManifest(ctx, "a", digest.FromBytes(one.manifest)); err != nil {
			t.Fatal(err)
		}
		collect := func(opts hub.GCOptions, want hub.GCResult) {
			t.Helper()
			got, err := hub.CollectAt(ctx, h, opts, time.Now().Add(2*time.Second)) // times are whole seconds
			if err != nil || got != want {
				t.Errorf("Collect %+v: %+v, want %+v: %v", opts, got, want, err)
			}
		}
		collect(hub.GCOptions{}, hub.GCResult{})
		collect(hub.GCOptions{Grace: time.Nanosecond}, hub.GCResult{}) // it can be restored still
		dry := atOnce
		dry.DryRun = true
		size := int64(len(one.manifest))
		for dgst, b := range one.blobs {
			if _, ok := two.blobs[dgst]; !ok {
				size += int64(len(b))
			}
		}
		want := hub.GCResult{Manifests: 1, Links: 3, Blobs: 3, Bytes: size}
		full := dry
		full.Full = true
		for _, opts := range []hub.GCOptions{dry, full, dry, atOnce} {
			collect(opts, want)
		}
		collect(atOnce, hub.GCResult{})
		if err := two.pull(ctx, h, "b", "2"); err != nil {
			t.Error(err)
		}
		if err := one.push(ctx, h, "a", "b", "1"); err != nil {
			t.Fatal(err)
		}
		if err := one.pull(ctx, h, "a", "1"); err != nil {
			t.Error(err)
		}
		if up, err = h.ResumeUpload(ctx, "a", up.ID()); err != nil || up.Offset() != 10 {
			t.Fatalf("the upload is gone: %v", err)
		}
		if _, err := up.Commit(ctx, digest.FromString("unfinished")); err != nil {
			t.Error(err)
		}
	})
}

// TestCollectMany collects what takes many transactions, some of whose candidates
// are needed, or new.
func TestCollectMany(t *testing.T) {
	const blobs = 1000
	engines(t, func(t *testing.T, newOptions func(t *testing.T) hub.Options) {
		ctx, h := system(t), openWith(t, newOptions(t))
		for _, name := range []string{"a", "b"} {
			if err := newImage(t, name).push(ctx, h, name, "none", "1"); err != nil {
				t.Fatal(err)
			}
		}
		err := hub.DB(h).Update(ctx, func(tx *sql.Tx) error { return leaveBlobs(ctx, tx, blobs) })
		if err != nil {
			t.Fatal(err)
		}
		for _, want := range []struct{ links, blobs, left, known int64 }{
			{blobs / 2, blobs / 4, 3*blobs/4 + 2, 3*blobs/4 + 4}, // and the two images
			{0, 0, 3*blobs/4 + 2, 3*blobs/4 + 4},
		} {
			would, err := hub.Collect(ctx, h, hub.GCOptions{DryRun: true})
			if err != nil || would.Links != want.links || would.Blobs != want.blobs {
				t.Errorf("would collect %+v, want %d links and %d blobs: %v", would, want.links, want.blobs, err)
			}
			result, err := hub.Collect(ctx, h, hub.GCOptions{})
			if err != nil || result.Links != want.links {
				t.Fatalf("Collect: %+v, want %d links: %v", result, want.links, err)
			}
			var left, known int64
			err = hub.DB(h).Get(ctx, `SELECT (SELECT count(*) FROM blobs), (SELECT count(*) FROM contents)`, nil, &left, &known)
			if err != nil || left != want.left || known != want.known {
				t.Errorf("%d links and %d contents are left, want %d and %d: %v", left, known, want.left, want.known, err)
			}
		}
		result, err := hub.CollectAt(ctx, h, hub.GCOptions{}, time.Now().Add(pastGrace))
		if err != nil || result.Links != blobs/2 {
			t.Errorf("Collect after the grace: %+v, want %d links: %v", result, blobs/2, err)
		}
	})
}

// leaveBlobs makes n blobs known, of which the repository a links one of four
// lately, and the others long ago; one of them is named by a manifest, and one by
// the repository b lately.
func leaveBlobs(ctx context.Context, tx *sql.Tx, n int) error {
	link := `INSERT INTO blobs (repository, digest, size, linked) SELECT id, $1, 1, $2 FROM repositories WHERE name = $3`
	name := `INSERT INTO refs (repository, manifest, child) SELECT t.repository, t.digest, $1 FROM tags t JOIN repositories r ON r.id = t.repository WHERE r.name = 'a'`
	now := time.Now().Unix()
	for i := range n {
		dgst, linked := digest.FromString(fmt.Sprint(i)).String(), int64(1)
		if i%4 == 0 {
			linked = now
		}
		_, err := tx.ExecContext(ctx, `INSERT INTO contents (digest, epoch, size, touched) VALUES ($1, '', 1, 1)`, dgst)
		if err == nil {
			_, err = tx.ExecContext(ctx, link, dgst, linked, "a")
		}
		switch {
		case err != nil:
		case i%4 == 1:
			_, err = tx.ExecContext(ctx, name, dgst)
		case i%4 == 2:
			_, err = tx.ExecContext(ctx, link, dgst, now, "b")
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// TestPace makes transactions smaller that take long, and larger where that is
// cheap, within bounds.
func TestPace(t *testing.T) {
	for _, test := range []struct {
		rows int
		took time.Duration
		want int
	}{
		{100, time.Millisecond, 200},
		{100, 15 * time.Millisecond, 100},
		{100, time.Second, 50},
		{400, time.Millisecond, 400},
		{25, time.Second, 25},
	} {
		if got := hub.RowsAfter(test.rows, test.took); got != test.want {
			t.Errorf("after %v for %d rows: %d, want %d", test.took, test.rows, got, test.want)
		}
	}
}
