package hub_test

import (
	"testing"

	"github.com/opencontainers/go-digest"

	"strake/internal/auth"
	"strake/internal/hub"
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
