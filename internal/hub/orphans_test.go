package hub_test

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"strake/internal/content"
	"strake/internal/hub"
	"strake/internal/image"
	"strake/internal/registry"
)

// Whatever a crash leaves is collected after its grace, and what lives is not.

var errInjected = errors.New("injected")

// stored counts the blobs and the ingests in the content store of h.
func stored(ctx context.Context, t *testing.T, h *hub.Hub) (blobs, ingests int) {
	t.Helper()
	if err := hub.ContentOf(h).Walk(ctx, func(content.Info) error { blobs++; return nil }); err != nil {
		t.Fatal(err)
	}
	infos, err := hub.ContentOf(h).Ingests(ctx)
	if err != nil {
		t.Fatal(err)
	}
	return blobs, len(infos)
}

// collectAfter collects as if so much time had passed, and wants that result and
// so many blobs and ingests to be left.
func collectAfter(ctx context.Context, t *testing.T, h *hub.Hub, after time.Duration, opts hub.GCOptions, want hub.GCResult, blobs, ingests int) {
	t.Helper()
	got, err := hub.CollectAt(ctx, h, opts, time.Now().Add(after))
	if err != nil || got != want {
		t.Errorf("after %v: %+v, want %+v: %v", after, got, want, err)
	}
	if b, i := stored(ctx, t, h); b != blobs || i != ingests {
		t.Errorf("after %v: %d blobs and %d ingests, want %d and %d", after, b, i, blobs, ingests)
	}
}

// exec changes the database by hand.
func exec(ctx context.Context, t *testing.T, h *hub.Hub, query string, args ...any) {
	t.Helper()
	err := hub.DB(h).Update(ctx, func(tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, query, args...)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

const (
	pastGrace       = hub.DefaultGrace + time.Minute
	pastReservation = time.Hour + time.Minute // of bytes, which are linked at once
)

// TestOrphanUpload loses the row of an upload, beside one that goes on.
func TestOrphanUpload(t *testing.T) {
	engines(t, func(t *testing.T, newOptions func(t *testing.T) hub.Options) {
		ctx, opts := system(t), newOptions(t)
		first, err := hub.Open(ctx, opts)
		if err != nil {
			t.Fatal(err)
		}
		var ids []string
		for range 2 {
			up, err := first.StartUpload(ctx, "a")
			if err != nil {
				t.Fatal(err)
			}
			_, err = up.Write([]byte("bytes"))
			if err := errors.Join(err, up.Close()); err != nil {
				t.Fatal(err)
			}
			ids = append(ids, up.ID())
		}
		if err := first.Close(); err != nil {
			t.Fatal(err)
		}
		h := openWith(t, opts)
		exec(ctx, t, h, `DELETE FROM uploads WHERE id = $1`, ids[0])
		collectAfter(ctx, t, h, 0, hub.GCOptions{}, hub.GCResult{}, 0, 2)
		collectAfter(ctx, t, h, pastGrace, hub.GCOptions{}, hub.GCResult{Uploads: 1}, 0, 1)
		up, err := h.ResumeUpload(ctx, "a", ids[1])
		if err != nil {
			t.Fatal(err)
		}
		if _, err := up.Commit(ctx, digest.FromString("bytes")); err != nil {
			t.Error(err)
		}
	})
}

// TestOrphanBytes ends pushes between the bytes and the row that names them.
func TestOrphanBytes(t *testing.T) {
	engines(t, func(t *testing.T, newOptions func(t *testing.T) hub.Options) {
		opts := newOptions(t)
		var at hub.Kind
		opts.Hooks = hub.Hooks{func(_ context.Context, _ *sql.Tx, c hub.Change) error {
			if c.Kind == at {
				return errInjected
			}
			return nil
		}}
		ctx, h := system(t), openWith(t, opts)
		kept := pushImage(ctx, t, h, "a", "kept", "layer")
		const manifest = `{"schemaVersion":2,"mediaType":"` + ocispec.MediaTypeImageIndex + `","manifests":[]}`
		at = hub.BlobLinked
		if err := h.PushBlob(ctx, "a", image.Bytes("", []byte("orphan")), strings.NewReader("orphan")); !errors.Is(err, errInjected) {
			t.Errorf("push: %v", err)
		}
		at = hub.ManifestPut
		if _, err := h.PutManifest(ctx, "a", nil, registry.Manifest{MediaType: ocispec.MediaTypeImageIndex, Bytes: []byte(manifest)}); !errors.Is(err, errInjected) {
			t.Errorf("put: %v", err)
		}
		at = ""
		collectAfter(ctx, t, h, 0, hub.GCOptions{}, hub.GCResult{}, 5, 0)
		collectAfter(ctx, t, h, pastReservation, hub.GCOptions{}, hub.GCResult{Blobs: 2, Bytes: int64(len("orphan") + len(manifest))}, 3, 0)
		if _, err := h.GetManifest(ctx, "a", kept.Digest.String()); err != nil {
			t.Error(err)
		}
		if err := h.PushBlob(ctx, "a", image.Bytes("", []byte("orphan")), strings.NewReader("orphan")); err != nil {
			t.Errorf("push again: %v", err)
		}
	})
}

// TestOrphansUnknown finds bytes of which the database knows nothing, by --orphans alone.
func TestOrphansUnknown(t *testing.T) {
	engines(t, func(t *testing.T, newOptions func(t *testing.T) hub.Options) {
		ctx, h := system(t), openWith(t, newOptions(t))
		pushImage(ctx, t, h, "a", "kept", "layer")
		for _, text := range []string{"one", "two."} {
			b := []byte(text)
			if err := content.WriteBlob(ctx, hub.ContentOf(h), digest.FromBytes(b), int64(len(b)), bytes.NewReader(b)); err != nil {
				t.Fatal(err)
			}
		}
		find := hub.GCOptions{Orphans: true}
		collectAfter(ctx, t, h, 2*pastGrace, hub.GCOptions{Full: true}, hub.GCResult{}, 5, 0)
		collectAfter(ctx, t, h, 0, find, hub.GCResult{}, 5, 0) // they may be of a push
		collectAfter(ctx, t, h, pastGrace, find, hub.GCResult{Orphans: 2}, 5, 0)
		collectAfter(ctx, t, h, pastGrace+pastReservation, find, hub.GCResult{Blobs: 2, Bytes: 7}, 3, 0)
	})
}

// TestSlowPush collects again and again while a blob comes in slowly.
func TestSlowPush(t *testing.T) {
	engines(t, func(t *testing.T, newOptions func(t *testing.T) hub.Options) {
		ctx, h := system(t), openWith(t, newOptions(t))
		in, out := io.Pipe()
		pushed := make(chan error)
		go func() { pushed <- h.PushBlob(ctx, "a", image.Bytes("", []byte("slow")), in) }()
		for _, s := range []string{"sl", "ow"} {
			if _, err := out.Write([]byte(s)); err != nil {
				t.Fatal(err)
			}
			collectAfter(ctx, t, h, pastGrace, hub.GCOptions{Orphans: true}, hub.GCResult{}, 0, 1)
		}
		if err := errors.Join(out.Close(), <-pushed); err != nil {
			t.Fatal(err)
		}
		collectAfter(ctx, t, h, 0, hub.GCOptions{Orphans: true}, hub.GCResult{}, 1, 0)
		collectAfter(ctx, t, h, pastGrace, hub.GCOptions{Orphans: true}, hub.GCResult{Links: 1, Blobs: 1, Bytes: 4}, 0, 0)
	})
}

// failing is a content store that removes, or not, and says that it failed.
type failing struct {
	content.Store
	removes bool
}

func (f failing) Delete(ctx context.Context, dgst digest.Digest) error {
	if !f.removes {
		return errInjected
	}
	return errors.Join(f.Store.Delete(ctx, dgst), errInjected)
}

// TestCollectorDies ends collections between the mark and the removal of bytes,
// and between that and their row: another one finishes.
func TestCollectorDies(t *testing.T) {
	engines(t, func(t *testing.T, newOptions func(t *testing.T) hub.Options) {
		for _, removes := range []bool{false, true} {
			ctx, h := system(t), openWith(t, newOptions(t))
			desc := image.Bytes("", []byte("blob"))
			push := func() error { return h.PushBlob(ctx, "a", desc, strings.NewReader("blob")) }
			if err := push(); err != nil {
				t.Fatal(err)
			}
			store := hub.ContentOf(h)
			hub.SetContent(h, failing{store, removes})
			if _, err := hub.CollectAt(ctx, h, hub.GCOptions{}, time.Now().Add(pastGrace)); !errors.Is(err, errInjected) {
				t.Errorf("Collect: %v", err)
			}
			hub.SetContent(h, store)
			waiting, cancel := context.WithTimeout(ctx, 100*time.Millisecond)
			if err := h.PushBlob(waiting, "a", desc, strings.NewReader("blob")); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("pushed what is being removed: %v", err)
			}
			cancel()
			left, want := 1, hub.GCResult{Blobs: 1, Bytes: 4}
			if removes {
				left, want = 0, hub.GCResult{}
			}
			collectAfter(ctx, t, h, pastGrace+time.Minute, hub.GCOptions{}, hub.GCResult{}, left, 0) // it may be at it still
			collectAfter(ctx, t, h, pastGrace+11*time.Minute, hub.GCOptions{}, want, 0, 0)
			if err := push(); err != nil {
				t.Errorf("push again: %v", err)
			}
		}
	})
}
