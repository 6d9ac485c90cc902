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
	if err := makeInputs(t.Context(), dir, 1, 0.01, map[string]bool{inputImage: true, inputFiles: true}); err != nil {
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
	files, err := copied("files10k", "tree")(&session{in: in})
	if err != nil || len(files) != someFiles/100 {
		t.Errorf("%d files in a context: %v", len(files), err)
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

// A run of one group replaces that group's part of the report and no other; what has no code any more goes.
func TestKeep(t *testing.T) {
	report := filepath.Join(t.TempDir(), "docs", "b.md")
	r := func(group, version string, wall time.Duration) *record {
		return &record{
			Group: group, Tools: []toolRecord{{Name: "strake", Version: version}, {Name: "runc", Baseline: true}}, Steps: []stepRecord{{
				Name: "step-" + group, Title: "T", Goals: []verdict{{"under 1s", false}}, Results: []result{
					{Tool: "strake", Command: "strake x", Samples: []sample{{Wall: wall, Synced: wall}}},
					{Tool: "peer", Samples: []sample{{Wall: 4 * wall, Synced: 2 * wall}, {Wall: 3 * wall, Synced: 2 * wall}}},
					{Tool: "runc", Samples: []sample{{Wall: 1}}},
					{Tool: "slow", Failure: "it fell over"},
				},
			}},
		}
	}
	order := []string{"a", "b"}
	for _, one := range []*record{r("b", "b-one", time.Second), r("gone", "old", 1), r("a", "a-one", time.Second), r("b", "b-two", 2*time.Second)} {
		all, err := readRecords(results(report))
		if err == nil {
			_, err = keep(report, all, one, append(order, one.Group))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	b, err := os.ReadFile(report)
	if err != nil {
		t.Fatal(err)
	}
	text := string(b)
	for _, want := range []string{
		"| step-b | 2.00 s | peer 6.00 s | 3.0x | 2.0x | under 1s: **missed** |", "- strake: a-one\n", "- strake: b-two\n",
		"| peer | 2 | 6.00 s |", "slow failed: it fell over",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in\n%s", want, text)
		}
	}
	if strings.Contains(text, "b-one") || strings.Contains(text, "gone") || strings.Index(text, "## a") > strings.Index(text, "## b") {
		t.Errorf("report:\n%s", text)
	}
}

func TestOptions(t *testing.T) {
	for _, tt := range []struct {
		args []string
		want string
	}{
		{[]string{"-fresh"}, "docs/benchmarks.md"},
		{[]string{"-fresh", "-only", "push,run"}, "docs/benchmarks.md"},
		{[]string{"-fresh", "-tools", "strake"}, "bin/benchmarks.md"},
		{[]string{"-scale", "0.1", "-o", "x.md"}, "x.md"},
	} {
		if o, err := parseOptions(tt.args); err != nil || o.Output != tt.want {
			t.Errorf("%q: %q, %v", tt.args, o.Output, err)
		}
	}
	if _, err := parseOptions([]string{"-only", "nothing"}); err == nil {
		t.Error("an unknown group is taken")
	}
	if need := needed("push"); !need[inputBig] || need[inputImage] {
		t.Errorf("push needs %v", need)
	}
}
