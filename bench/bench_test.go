//go:build linux

package main

import (
	"bytes"
	"compress/gzip"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestTreeIsReproducibleAndCompressesLikeARootFS(t *testing.T) {
	const size = 4 << 20
	tree := func(seed uint64) []byte {
		var b bytes.Buffer
		if err := writeTar(&b, func(s sink) error { return writeTree(s, seed, "top", size) }); err != nil {
			t.Fatal(err)
		}
		return b.Bytes()
	}
	a, b := tree(1), tree(1)
	if !bytes.Equal(a, b) {
		t.Error("the same seed gave two trees")
	}
	if bytes.Equal(a, tree(2)) {
		t.Error("two seeds gave the same tree")
	}
	var packed bytes.Buffer
	z := gzip.NewWriter(&packed)
	if _, err := z.Write(a); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	if ratio := float64(packed.Len()) / float64(len(a)); ratio < 0.3 || ratio > 0.5 {
		t.Errorf("compresses to %.2f", ratio)
	}
}

func TestArchiveOfTheInputsIsTheImage(t *testing.T) {
	if _, err := os.Stat("/bin/busybox"); err != nil {
		t.Skip("needs busybox-static")
	}
	dir := t.TempDir()
	if err := makeInputs(t.Context(), dir, 1, 0.01); err != nil {
		t.Fatal(err)
	}
	in, err := readInputs(dir)
	if err != nil {
		t.Fatal(err)
	}
	got, err := readSaved(in.path("archive.tar"), true)
	if err != nil {
		t.Fatal(err)
	}
	want := []string{in.Layers[0].DiffID, in.Layers[1].DiffID}
	if diff := cmp.Diff(want, got.DiffIDs); diff != "" {
		t.Errorf("diffIDs: %s", diff)
	}
	if got.ID != in.imageID() {
		t.Errorf("image %s, want %s", got.ID, in.imageID())
	}
	if len(got.Files) < 20 {
		t.Errorf("%d files", len(got.Files))
	}
}

// An archive with a layer that is not the config's is refused: a faster wrong image must not count.
func TestWrongArchiveIsRefused(t *testing.T) {
	name := filepath.Join(t.TempDir(), "a.tar")
	var b bytes.Buffer
	err := writeTar(&b, func(s sink) error {
		return errors.Join(
			s.File("c.json", 0o644, []byte(`{"rootfs":{"diff_ids":["sha256:00"]}}`)),
			s.File("l.tar", 0o644, bytes.Repeat([]byte{0}, 1024)),
			s.File("manifest.json", 0o644, []byte(`[{"Config":"c.json","Layers":["l.tar"]}]`)))
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, b.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := readSaved(name, false); err == nil || !strings.Contains(err.Error(), "are not the config's") {
		t.Errorf("error %v", err)
	}
}

func TestGoals(t *testing.T) {
	c := comparison{in: &inputs{}}
	c.strake.Wall, c.fastest.Wall = 2*time.Second, 3*time.Second
	for _, tt := range []struct {
		goal goal
		want bool
	}{
		{ratioGoal(1.5), true},
		{ratioGoal(1.6), false},
		{timeGoal(3 * time.Second), true},
		{timeGoal(2 * time.Second), false},
		{diskGoal(1.02), true},
	} {
		if got := tt.goal.met(c); got != tt.want {
			t.Errorf("%s: met %t, want %t", tt.goal.text, got, tt.want)
		}
	}
	if ratioGoal(1).met(comparison{strake: c.strake}) {
		t.Error("a ratio to no peer counts as met")
	}
}

func TestMedian(t *testing.T) {
	all := []sample{{Wall: 3}, {Wall: 1}, {Wall: 2}}
	if m := medianSample(all); m.Wall != 2 {
		t.Errorf("median %d, want 2", m.Wall)
	}
	if m := medianSample(nil); m != (sample{}) {
		t.Errorf("median of nothing: %v", m)
	}
}
