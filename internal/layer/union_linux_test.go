package layer

import (
	"bytes"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"strake/internal/archive"
	"strake/internal/userns"
	"strake/internal/usertest"
)

// writeTar writes entries to a tar file. A file's content is its name.
func writeTar(t testing.TB, entries ...archive.Entry) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "layer.tar")
	var b bytes.Buffer
	w := archive.NewWriter(&b, archive.WriterOptions{})
	for _, e := range entries {
		if e.Mode&archive.TypeMask == 0 {
			e.Mode |= archive.TypeRegular
		}
		e.Size = int64(len(e.Name))
		if err := w.Write(&e, strings.NewReader(e.Name)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, b.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

// randomLayer makes entries with names from a small set, so that they collide.
func randomLayer(rnd *rand.Rand) (entries []archive.Entry) {
	steps := []string{"a", "b", "c", "d\xff"}
	name := func() string {
		var parts []string
		for range 1 + rnd.IntN(4) {
			parts = append(parts, steps[rnd.IntN(len(steps))])
		}
		return strings.Join(parts, "/")
	}
	var files []string
	for range 1 + rnd.IntN(12) {
		e := archive.Entry{
			Name: name(), Mode: uint32(rnd.IntN(0o1000)), UID: uint32(rnd.IntN(3)), GID: uint32(rnd.IntN(3)),
			ModTime: time.Unix(int64(1e9+rnd.IntN(1e9)), int64(rnd.IntN(1e9))),
		}
		switch k := rnd.IntN(12); {
		case k < 4:
			e.Mode |= archive.TypeDir
		case k < 6:
			files = append(files, e.Name)
		case k < 7:
			e.Mode, e.Linkname = archive.TypeSymlink, []string{"a", "/b", "../c", "b/a", "../../../a/b"}[rnd.IntN(5)]
		case k < 8 && len(files) > 0:
			e.HardLink, e.Linkname = true, files[rnd.IntN(len(files))]
		case k < 9:
			e.Name = archive.OpaqueName(filepath.Dir(e.Name))
		case k < 11:
			e.Name = archive.WhiteoutName(e.Name)
		default:
			e.Mode |= archive.TypeFifo
			e.Xattrs = nil
		}
		if rnd.IntN(4) == 0 && e.Mode&archive.TypeMask == archive.TypeDir {
			e.Xattrs = []archive.Xattr{{Name: "trusted.x", Value: e.Name}}
		}
		entries = append(entries, e)
	}
	return entries
}

// mountUnion mounts layers, and the directories on top of them, by overlayfs.
func mountUnion(t testing.TB, layers []*Layer) string {
	t.Helper()
	var lower []string
	visible, err := Visible(layers)
	if err != nil {
		t.Error(err)
	}
	for _, l := range visible {
		lower = append(lower, mountLayer(t, l.Files()))
	}
	var b bytes.Buffer
	n, err := WriteDirs(t.Context(), layers, &b)
	if err != nil {
		t.Error(err)
	}
	if n > 0 {
		files := Files{Index: filepath.Join(t.TempDir(), "dirs")}
		if err := os.WriteFile(files.Index, b.Bytes(), 0o600); err != nil {
			t.Error(err)
		}
		lower = append(lower, mountLayer(t, files))
	}
	slices.Reverse(lower)
	if len(lower) == 1 {
		lower = append(lower, t.TempDir())
	}
	dir := t.TempDir()
	if err := unix.Mount("overlay", dir, "overlay", unix.MS_RDONLY, "lowerdir="+strings.Join(lower, ":")); err != nil {
		t.Error("mount overlay", err)
	}
	return dir
}

// union looks at layers by all three ways and holds them equal.
func union(t *testing.T, tars []string) tree {
	t.Helper()
	var layers []*Layer
	for _, tar := range tars {
		files, _ := indexTar(t, tar)
		layers = append(layers, openLayer(t, files))
	}
	shown := dropLinks(walkFS(t, Union(layers)))
	same(t, "extracted", shown, dropLinks(walkDisk(t, extractTar(t, tars...))))
	inNamespace(t, func() {
		same(t, "mounted", shown, dropLinks(walkDisk(t, mountUnion(t, layers))))
	})
	return shown
}

// dropLinks forgets link counts: overlayfs does not add up those of directories,
// and a file keeps its layer's when some of its names are hidden.
func dropLinks(tr tree) tree {
	for name, l := range tr {
		if l.Nlink = 0; l.Same == name {
			l.Same = ""
		}
		tr[name] = l
	}
	return tr
}

// TestRandomUnions holds the union of random layers, by overlayfs, by Union and
// by extraction one over the other, equal.
func TestRandomUnions(t *testing.T) {
	needRoot(t)
	rounds := 150
	if testing.Short() {
		rounds = 40
	}
	skipped := 0
	for seed := range rounds {
		rnd := rand.New(rand.NewPCG(uint64(seed), 1))
		ok := t.Run(fmt.Sprint(seed), func(t *testing.T) {
			var tars []string
			for range 1 + rnd.IntN(4) {
				for {
					tar := writeTar(t, randomLayer(rnd)...)
					if indexable(t, tar) {
						tars = append(tars, tar)
						break
					}
					skipped++
				}
			}
			union(t, tars)
		})
		if !ok {
			break
		}
	}
	t.Logf("%d layers were refused", skipped)
}

// indexable tells whether a layer is accepted, and holds Extract to the same judgement.
func indexable(t *testing.T, tar string) bool {
	t.Helper()
	b, err := os.ReadFile(tar)
	if err != nil {
		t.Fatal(err)
	}
	_, err = WriteIndex(t.Context(), bytes.NewReader(b), &bytes.Buffer{}, nil)
	xerr := archive.Extract(t.Context(), bytes.NewReader(b), usertest.TempDir(t), archive.ExtractOptions{Squash: !userns.IsRoot()})
	if (err == nil) != (xerr == nil) {
		t.Fatalf("the index says %v, the extraction %v", err, xerr)
	}
	return err == nil
}

func dirEntryOf(name string, mode uint32, uid uint32) archive.Entry {
	return archive.Entry{Name: name, Mode: archive.TypeDir | mode, UID: uid, ModTime: time.Unix(1e9, 5)}
}

func file(name string) archive.Entry {
	return archive.Entry{Name: name, Mode: 0o644, ModTime: time.Unix(2e9, 7)}
}

func names(tr tree) (list []string) {
	for name := range tr {
		if name != "." {
			list = append(list, name)
		}
	}
	slices.Sort(list)
	return list
}

// TestUnion has the cases that matter by name.
func TestUnion(t *testing.T) {
	needRoot(t)
	base := writeTar(t, dirEntryOf("d", 0o750, 42), file("d/one"), file("d/two"), dirEntryOf("d/sub", 0o711, 43), file("d/sub/x"), file("top"))
	for _, c := range []struct {
		name  string
		upper []archive.Entry
		want  []string
	}{
		{"implied", []archive.Entry{file("d/sub/new")}, []string{"d", "d/one", "d/sub", "d/sub/new", "d/sub/x", "d/two", "top"}},
		{"whiteout", []archive.Entry{file("d/.wh.one")}, []string{"d", "d/sub", "d/sub/x", "d/two", "top"}},
		{"whiteout of a directory", []archive.Entry{file(".wh.d")}, []string{"top"}},
		{"opaque", []archive.Entry{file("d/new"), file("d/.wh..wh..opq")}, []string{"d", "d/new", "top"}},
		{"opaque first", []archive.Entry{file("d/.wh..wh..opq"), file("d/new")}, []string{"d", "d/new", "top"}},
		{"opaque root", []archive.Entry{file(".wh..wh..opq"), file("x")}, []string{"x"}},
		{"replaced by a directory", []archive.Entry{file(".wh.d"), dirEntryOf("d", 0o700, 1), file("d/y")}, []string{"d", "d/y", "top"}},
		{"whiteout after", []archive.Entry{dirEntryOf("d", 0o700, 1), file("d/y"), file(".wh.d")}, []string{"d", "d/y", "top"}},
		{"whiteout of its own file", []archive.Entry{file("top"), file(".wh.top")}, []string{"d", "d/one", "d/sub", "d/sub/x", "d/two", "top"}},
		{"whiteout of nothing", []archive.Entry{file(".wh.nothing"), file("e/.wh.nothing")}, []string{"d", "d/one", "d/sub", "d/sub/x", "d/two", "e", "top"}},
		{"file over directory", []archive.Entry{file("d")}, []string{"d", "top"}},
		{"directory over file", []archive.Entry{file("top/below")}, []string{"d", "d/one", "d/sub", "d/sub/x", "d/two", "top", "top/below"}},
		{"aufs", []archive.Entry{file(".wh..wh.aufs"), dirEntryOf(".wh..wh.plnk", 0o700, 0), file(".wh..wh.plnk/1.2")}, []string{"d", "d/one", "d/sub", "d/sub/x", "d/two", "top"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			shown := union(t, []string{base, writeTar(t, c.upper...)})
			if got := names(shown); !slices.Equal(got, c.want) {
				t.Errorf("got %q, want %q", got, c.want)
			}
			if c.name == "implied" && (shown["d"].UID != 42 || shown["d/sub"].UID != 43 || shown["d/sub"].MTime%1e9 != 5) {
				t.Errorf("implied directories look like %+v and %+v", shown["d"], shown["d/sub"])
			}
		})
	}
}

// TestUnionFollows resolves symlinks across layers, inside the root.
func TestUnionFollows(t *testing.T) {
	link := func(name, target string) archive.Entry {
		return archive.Entry{Name: name, Mode: archive.TypeSymlink, Linkname: target}
	}
	var layers []*Layer
	for _, tar := range []string{
		writeTar(t, file("usr/lib/a"), link("abs", "/usr/lib"), link("up", "../../../../usr/lib"), link("loop", "loop")),
		writeTar(t, link("lib", "abs"), file("usr/lib/b")),
	} {
		files, _ := indexTar(t, tar)
		layers = append(layers, openLayer(t, files))
	}
	f := Union(layers)
	for _, name := range []string{"lib/a", "lib/b", "up/b", "abs/a", "usr/lib/a"} {
		b, err := fs.ReadFile(f, name)
		if err != nil || !strings.HasSuffix(string(b), name[len(name)-1:]) {
			t.Errorf("%q: %q, %v", name, b, err)
		}
	}
	for _, name := range []string{"loop", "lib/none", "usr/lib/a/x", "../x", "/usr", "usr//lib", ""} {
		if _, err := f.Stat(name); err == nil {
			t.Errorf("%q is there", name)
		}
	}
}
