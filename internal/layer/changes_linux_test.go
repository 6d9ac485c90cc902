package layer

import (
	"bytes"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"strake/internal/archive"
)

// openTars opens layers of entries; a file's content is its name.
func openTars(t testing.TB, layers ...[]archive.Entry) []*Layer {
	t.Helper()
	var list []*Layer
	for _, entries := range layers {
		files, _ := indexTar(t, writeTar(t, entries...))
		list = append(list, openLayer(t, files))
	}
	return list
}

func folder(name string) archive.Entry {
	return archive.Entry{Name: name, Mode: archive.TypeDir | 0o755, ModTime: time.Unix(1, 0)}
}

func whiteout(name string) archive.Entry { return file(archive.WhiteoutName(name)) }

func opaque(name string) archive.Entry { return file(archive.OpaqueName(name)) }

func hardLink(name, to string) archive.Entry {
	return archive.Entry{Name: name, Linkname: to, HardLink: true}
}

func TestChanges(t *testing.T) {
	type layer = []archive.Entry
	for name, c := range map[string]struct {
		layers []layer
		want   string // of each layer: size, waste, counts; then mark, path, size and who hides it
	}{
		"overwritten and deleted": {
			[]layer{{file("a"), file("dd/b"), file("dd/c")}, {file("a"), whiteout("dd/b")}},
			"9-5 +3~0-0 Aa:1>1 Add:0 Add/b:4>1 Add/c:4 | 1-0 +0~1-1 Ca:1 Ddd/b:4",
		},
		"a whole directory goes": {
			[]layer{{folder("d"), file("d/x"), file("d/e/y")}, {whiteout("d")}},
			"8-8 +2~0-0 Ad:0>1 Ad/e:0>1 Ad/e/y:5>1 Ad/x:3>1 | 0-0 +0~0-2 Dd:8",
		},
		"opaque": {
			[]layer{{folder("d"), folder("d/s"), file("d/x"), file("d/s/y"), file("d/s/z")}, {folder("d"), opaque("d"), folder("d/s"), file("d/s/y")}},
			"13-13 +3~0-0 Ad:0 Ad/s:0 Ad/s/y:5>1 Ad/s/z:5>1 Ad/x:3>1 | 5-0 +0~1-2 Cd/s/y:5 Dd/s/z:5 Dd/x:3",
		},
		"hard links": {
			[]layer{{file("a"), hardLink("b", "a")}, {whiteout("a")}, {whiteout("b")}},
			"1-1 +2~0-0 Aa:1>1 Ab:0>2 | 0-0 +0~0-1 Da:0 | 0-0 +0~0-1 Db:1",
		},
		"a directory in a file's place, and back": {
			[]layer{{file("x")}, {folder("x"), file("x/y")}, {file("x")}},
			"1-1 +1~0-0 Ax:1>1 | 3-3 +1~0-1 Cx:0>2 Ax/y:3>2 | 1-0 +1~0-1 Cx:1",
		},
		"implied directories and those named alike change nothing": {
			[]layer{{folder("d"), file("d/x")}, {file("d/y")}, {folder("d"), file("d/z")}, {{Name: "d", Mode: archive.TypeDir | 0o700, ModTime: time.Unix(1, 0)}}},
			"3-0 +1~0-0 Ad:0 Ad/x:3 | 3-0 +1~0-0 Ad/y:3 | 3-0 +1~0-0 Ad/z:3 | 0-0 +0~0-0 Cd:0",
		},
		"whiteouts of nothing": {
			[]layer{{whiteout("n"), file("a")}, {whiteout("n"), whiteout("no/n"), opaque("no")}},
			"1-0 +1~0-0 Aa:1 | 0-0 +0~0-0 Ano:0",
		},
		"no layers": {nil, ""},
	} {
		list, err := FindChanges(t.Context(), openTars(t, c.layers...), ChangesOptions{List: true})
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		var parts []string
		for _, l := range list {
			var b strings.Builder
			fmt.Fprintf(&b, "%d-%d +%d~%d-%d", l.Size, l.Waste, l.Added, l.Changed, l.Deleted)
			for _, ch := range l.List {
				fmt.Fprintf(&b, " %v%s:%d", ch.Kind, ch.Path, ch.Size)
				if ch.HiddenBy > 0 {
					fmt.Fprintf(&b, ">%d", ch.HiddenBy)
				}
			}
			parts = append(parts, b.String())
		}
		if diff := cmp.Diff(c.want, strings.Join(parts, " | ")); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}

// TestRandomChanges holds the changes of random layers against what Union shows
// of them: the sizes without the waste are the union's, and what a layer's list
// says is what came and went when it was laid on the others.
func TestRandomChanges(t *testing.T) {
	for seed := range uint64(120) {
		rnd := rand.New(rand.NewPCG(seed, 7))
		layers := randomLayers(t, rnd, 1+rnd.IntN(4))
		list, err := FindChanges(t.Context(), layers, ChangesOptions{List: true})
		if err != nil {
			t.Fatal(seed, err)
		}
		before := tree{}
		for i := range layers {
			after := walkFS(t, Union(layers[:i+1]))
			checkChanges(t, fmt.Sprintf("seed %d, layer %d", seed, i), before, after, list[i].List)
			before = after
			var sum int64
			again, err := FindChanges(t.Context(), layers[:i+1], ChangesOptions{})
			if err != nil {
				t.Fatal(seed, err)
			}
			for _, l := range again {
				sum += l.Size - l.Waste
			}
			if want := unionSize(t, Union(layers[:i+1])); sum != want {
				t.Errorf("seed %d: %d layers: sizes without waste are %d, the union has %d", seed, i+1, sum, want)
			}
		}
	}
}

// randomLayers opens n random layers.
func randomLayers(t *testing.T, rnd *rand.Rand, n int) (layers []*Layer) {
	t.Helper()
	for len(layers) < n {
		tar := writeTar(t, randomLayer(rnd)...)
		b, err := os.ReadFile(tar)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := WriteIndex(t.Context(), bytes.NewReader(b), io.Discard, nil); err == nil {
			files, _ := indexTar(t, tar)
			layers = append(layers, openLayer(t, files))
		}
	}
	return layers
}

// unionSize is the bytes of the files of a tree, each counted once.
func unionSize(t *testing.T, f *FS) (size int64) {
	t.Helper()
	seen := map[uint64]bool{}
	err := fs.WalkDir(f, ".", func(_ string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		info, err := d.Info()
		if err == nil && !seen[info.Sys().(*Stat).Ino] {
			seen[info.Sys().(*Stat).Ino] = true
			size += info.Size()
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return size
}

// checkChanges compares a list of changes with the tree before and after.
func checkChanges(t *testing.T, what string, before, after tree, list []Change) {
	t.Helper()
	marks := map[string]ChangeKind{}
	for _, c := range list {
		if _, ok := marks[c.Path]; ok {
			t.Errorf("%s: %q twice", what, c.Path)
		}
		marks[c.Path] = c.Kind
	}
	for name := range after {
		_, was := before[name]
		if mark := marks[name]; !was && mark != Added && name != "." {
			t.Errorf("%s: %q came, marked %q", what, name, mark)
		} else if was && mark != Changed && mark != 0 {
			t.Errorf("%s: %q stayed, marked %q", what, name, mark)
		}
		if l, b := after[name], before[name]; was && marks[name] == 0 && l.Mode&archive.TypeMask != archive.TypeDir {
			l.Nlink, b.Nlink, l.Same, b.Same = 0, 0, "", ""
			if l != b {
				t.Errorf("%s: %q changed, without a mark", what, name)
			}
		}
	}
	for name := range before {
		if _, is := after[name]; is {
			continue
		}
		ok := slices.ContainsFunc(list, func(c Change) bool {
			return c.Kind == Deleted && (name == c.Path || strings.HasPrefix(name, c.Path+"/")) ||
				c.Kind == Changed && strings.HasPrefix(name, c.Path+"/")
		})
		if !ok {
			t.Errorf("%s: %q went, without a mark", what, name)
		}
	}
}

func TestCompare(t *testing.T) {
	base := []archive.Entry{file("same"), file("gone"), folder("d"), file("d/x"), {Name: "l", Mode: archive.TypeSymlink, Linkname: "a"}}
	changed := []archive.Entry{
		{Name: "same", Mode: 0o600, UID: 7, ModTime: time.Unix(2e9, 7)},
		folder("d"),
		{Name: "d/x", Mode: archive.TypeDir | 0o755},
		file("d/x/y"),
		{Name: "l", Mode: archive.TypeSymlink, Linkname: "b"},
		{Name: "new", Mode: 0o644, ModTime: time.Unix(9, 0)},
	}
	a, b := openTars(t, base), openTars(t, changed)
	var got []string
	found := func(d Difference) error {
		got = append(got, fmt.Sprintf("%v %s %b", d.Kind, d.Path, d.What))
		return nil
	}
	if err := Compare(t.Context(), Union(a), Union(b), found); err != nil {
		t.Fatal(err)
	}
	want := []string{
		"C d/x " + fmt.Sprintf("%b", Type|Mode), "A d/x/y 0", "D gone 0", "C l " + fmt.Sprintf("%b", Content), "A new 0",
		"C same " + fmt.Sprintf("%b", Mode|Owner),
	}
	for i, line := range got { // whether times differ is the tars' business
		if strings.HasPrefix(line, "C d/x ") {
			got[i] = want[0]
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("differences (-want +got):\n%s", diff)
	}
	got = nil
	if err := Compare(t.Context(), Union(nil), Union(a), found); err != nil || len(got) != 6 {
		t.Errorf("nothing and a layer: %v, %v", got, err)
	}
}

// TestRandomCompare holds Compare against the trees that Union shows.
func TestRandomCompare(t *testing.T) {
	for seed := range uint64(80) {
		rnd := rand.New(rand.NewPCG(seed, 8))
		layers := randomLayers(t, rnd, 4)
		a, b := Union([]*Layer{layers[0], layers[1], layers[2]}), Union([]*Layer{layers[0], layers[1], layers[3]})
		x, y := walkFS(t, a), walkFS(t, b)
		got := map[string]ChangeKind{}
		err := Compare(t.Context(), a, b, func(d Difference) error {
			got[d.Path] = d.Kind
			return nil
		})
		if err != nil {
			t.Fatal(seed, err)
		}
		want := map[string]ChangeKind{}
		for name, l := range x {
			m, ok := y[name]
			l.Nlink, m.Nlink, l.Same, m.Same = 0, 0, "", ""
			if !ok {
				want[name] = Deleted
			} else if l != m {
				want[name] = Changed
			}
		}
		for name := range y {
			if _, ok := x[name]; !ok {
				want[name] = Added
			}
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("seed %d (-want +got):\n%s", seed, diff)
		}
	}
}
