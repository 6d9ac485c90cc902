package hub_test

import (
	"database/sql"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"strake/internal/auth"
	"strake/internal/hub"
	"strake/internal/registry"
)

func open(t *testing.T, dir string) *hub.Hub {
	t.Helper()
	h, err := hub.Open(t.Context(), hub.Options{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := h.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return h
}

// TestSparse pushes an index of which one manifest is not there: refused, unless
// the Hub is told to take such.
func TestSparse(t *testing.T) {
	const index = `{"schemaVersion":2,"mediaType":"` + ocispec.MediaTypeImageIndex + `","manifests":[{"mediaType":"` + ocispec.MediaTypeImageManifest +
		`","digest":"sha256:2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881","size":7}]}`
	ctx := auth.With(t.Context(), auth.Identity{System: true})
	m := registry.Manifest{MediaType: ocispec.MediaTypeImageIndex, Bytes: []byte(index)}
	for _, sparse := range []bool{false, true} {
		h := openWith(t, hub.Options{Dir: t.TempDir(), Sparse: sparse})
		_, err := h.PutManifest(ctx, "a", []string{"v1"}, m)
		if sparse != (err == nil) || !sparse && !registry.HasCode(err, registry.ManifestBlobUnknown) {
			t.Errorf("sparse %v: %v", sparse, err)
		}
	}
}

// TestUploadAcrossRestart resumes an upload in another Hub on the same data.
func TestUploadAcrossRestart(t *testing.T) {
	dir, ctx := t.TempDir(), auth.With(t.Context(), auth.Identity{System: true})
	first, err := hub.Open(t.Context(), hub.Options{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	up, err := first.StartUpload(ctx, "a")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := up.Write([]byte("before, ")); err != nil {
		t.Fatal(err)
	}
	if err := up.Close(); err != nil {
		t.Fatal(err)
	}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	second := open(t, dir)
	up, err = second.ResumeUpload(ctx, "a", up.ID())
	if err != nil {
		t.Fatal(err)
	}
	if up.Offset() != 8 {
		t.Errorf("offset %d, want 8", up.Offset())
	}
	if _, err := up.Write([]byte("after")); err != nil {
		t.Fatal(err)
	}
	if _, err := up.Commit(ctx, digest.FromString("before, after")); err != nil {
		t.Fatal(err)
	}
	if err := up.Close(); err != nil {
		t.Fatal(err)
	}
}

// TestUploadsOfOneAccount begins more uploads than an account may have: others are
// not held up.
func TestUploadsOfOneAccount(t *testing.T) {
	h := open(t, t.TempDir())
	err := hub.DB(h).Update(t.Context(), func(tx *sql.Tx) error {
		_, err := tx.ExecContext(t.Context(), `INSERT INTO accounts (id, name, created) VALUES (1, 'ann', 1), (2, 'bob', 1)`)
		for i := 0; err == nil && i < 999; i++ {
			_, err = tx.ExecContext(t.Context(), `INSERT INTO uploads (id, repository, created, account) VALUES ($1, 'ann/app', $2, 1)`, fmt.Sprint(i), time.Now().Unix())
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	ann := auth.With(t.Context(), auth.Identity{Account: 1, Name: "ann"})
	last, err := h.StartUpload(ann, "ann/app")
	if err != nil {
		t.Fatal(err)
	}
	_, err = h.StartUpload(ann, "ann/app")
	if e := registry.ErrorOf(err); e.Code != registry.TooManyRequests || e.RetryAfter == 0 {
		t.Errorf("one too many: %v", err)
	}
	up, err := h.StartUpload(auth.With(t.Context(), auth.Identity{Account: 2, Name: "bob"}), "bob/app")
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(up.Cancel(ann), last.Cancel(ann)); err != nil {
		t.Fatal(err)
	}
	again, err := h.StartUpload(ann, "ann/app")
	if err != nil {
		t.Fatal(err)
	}
	if err := again.Close(); err != nil {
		t.Error(err)
	}
}
