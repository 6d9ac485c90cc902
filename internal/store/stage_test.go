package store

import (
	"bytes"
	"io"
	"os"
	"testing"

	"github.com/containerd/errdefs"

	"strake/internal/layer"
)

// TestStageLayer: a staged layer is not in the store, and its files stay the same while it gets there, twice.
func TestStageLayer(t *testing.T) {
	s := open(t, t.TempDir())
	tar := make([]byte, 1024)
	read := func(files layer.Files) {
		t.Helper()
		if got, err := os.ReadFile(files.Tar); err != nil || !bytes.Equal(got, tar) {
			t.Errorf("the tar: %d bytes, %v", len(got), err)
		}
		l, err := layer.Open(files)
		if err != nil {
			t.Fatal(err)
		}
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	}
	var staged []layer.Staged
	for range 3 {
		l, err := s.StageLayer(t.Context(), func(w io.Writer) error { _, err := w.Write(tar); return err })
		if err != nil {
			t.Fatal(err)
		}
		staged = append(staged, l)
	}
	if _, err := s.Layer(t.Context(), staged[0].DiffID); !errdefs.IsNotFound(err) {
		t.Errorf("before the commit: %v", err)
	}
	for _, l := range staged[:2] {
		if err := l.Commit(t.Context()); err != nil {
			t.Fatal(err)
		}
		stored, err := s.Layer(t.Context(), l.DiffID)
		if err != nil || stored.Size != l.Size {
			t.Fatalf("stored: %+v, %v", stored, err)
		}
		for _, files := range []layer.Files{staged[0].Files, staged[1].Files, staged[2].Files, stored} {
			read(files)
		}
	}
	for _, l := range staged {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	}
}
