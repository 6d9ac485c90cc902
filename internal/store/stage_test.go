package store

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"
	"time"

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
	if _, err := s.Layer(t.Context(), staged[0].Files().DiffID); !errdefs.IsNotFound(err) {
		t.Errorf("before the commit: %v", err)
	}
	for _, l := range staged[:2] {
		if err := s.CommitLayers(t.Context(), []layer.Commit{{Staged: l}}); err != nil {
			t.Fatal(err)
		}
		stored, err := s.Layer(t.Context(), l.Files().DiffID)
		if err != nil || stored.Size != l.Files().Size {
			t.Fatalf("stored: %+v, %v", stored, err)
		}
		for _, files := range []layer.Files{staged[0].Files(), staged[1].Files(), staged[2].Files(), stored} {
			read(files)
		}
	}
	for _, l := range staged {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	}
}

// TestStageLayerWaitsForWriter: what writes a layer that cannot be taken in has ended when that is told.
func TestStageLayerWaitsForWriter(t *testing.T) {
	s := open(t, t.TempDir())
	ended := false
	_, err := s.StageLayer(t.Context(), func(w io.Writer) error {
		var err error
		for err == nil {
			_, err = w.Write(bytes.Repeat([]byte("no tar"), 1000))
		}
		time.Sleep(50 * time.Millisecond)
		ended = true
		return err
	})
	if err == nil || !ended {
		t.Errorf("it ended: %v, %v", ended, err)
	}
}

// TestCommitLayers: a batch is committed whole with its records, or not at all, and keeps nothing open.
func TestCommitLayers(t *testing.T) {
	s := open(t, t.TempDir())
	var batch []layer.Commit
	for i := range 40 {
		l, err := s.StageLayer(t.Context(), func(w io.Writer) error { return writeFile(w, fmt.Sprint(i%39), "text") }) // two are equal
		if err != nil {
			t.Fatal(err)
		}
		batch = append(batch, layer.Commit{Staged: l, Records: []layer.Record{{Key: fmt.Sprint("key", i), Slot: "slot", Value: []byte{byte(i)}}}})
	}
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.CommitLayers(gone, batch); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	elsewhere := open(t, t.TempDir())
	if err := elsewhere.CommitLayers(t.Context(), batch); !errdefs.IsInvalidArgument(err) {
		t.Errorf("in another store: %v", err)
	}
	if _, err := s.LoadCache(t.Context(), "key0"); !errdefs.IsNotFound(err) {
		t.Errorf("nothing was committed, and there is a record: %v", err)
	}
	if err := s.CommitLayers(t.Context(), batch); err != nil {
		t.Fatal(err)
	}
	for i, c := range batch {
		if v, err := s.LoadCache(t.Context(), fmt.Sprint("key", i)); err != nil || v[0] != byte(i) {
			t.Errorf("record %d: %v, %v", i, v, err)
		}
		if _, err := s.Layer(t.Context(), c.Files().DiffID); err != nil {
			t.Errorf("layer %d: %v", i, err)
		}
	}
	if open := openBelow(t, s.Root(), "/tar", "/index", "/side"); len(open) > 0 {
		t.Errorf("open after the commit: %v", open)
	}
	for _, c := range batch {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	}
	if _, err := s.GC(t.Context()); err != nil {
		t.Error(err)
	}
	if result, err := s.Check(t.Context(), CheckOptions{}); err != nil || len(result.Findings) > 0 || result.Layers != 39 {
		t.Errorf("check: %+v, %v", result, err)
	}
}

// openBelow lists the files below a directory that this process has open and that have one of the endings.
func openBelow(t *testing.T, dir string, endings ...string) (open []string) {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Skip("needs /proc")
	}
	for _, e := range entries {
		path, err := os.Readlink("/proc/self/fd/" + e.Name())
		for _, end := range endings {
			if err == nil && strings.HasPrefix(path, dir) && strings.HasSuffix(path, end) {
				open = append(open, path)
			}
		}
	}
	return open
}

// writeFile writes the tar of one file.
func writeFile(w io.Writer, name, text string) error {
	tw := tar.NewWriter(w)
	err := tw.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(text))})
	if err == nil {
		_, err = io.WriteString(tw, text)
	}
	return errors.Join(err, tw.Close())
}
