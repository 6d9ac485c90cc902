package layer

import (
	"fmt"
	"io/fs"
	"math/rand/v2"
	"testing"

	"strake/internal/archive"
)

// walkGaps finds the gaps of a layer by walking all of it.
func walkGaps(t *testing.T, l *Layer) (g Gaps) {
	t.Helper()
	err := fs.WalkDir(l, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		if st := info.Sys().(*Stat); name == "." {
			g.ImpliesRoot, g.OpaqueRoot = st.Implied, st.Opaque
		} else if st.Implied || st.Whiteout() {
			g.Inside = true
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return g
}

func TestFindGaps(t *testing.T) {
	null := archive.Entry{Name: "null", Mode: archive.TypeChar | 0o666, Major: 1, Minor: 3}
	root := dirEntryOf(".", 0o755, 0)
	var crowd []archive.Entry // more than a block of a directory holds
	for i := range 300 {
		crowd = append(crowd, file(fmt.Sprint("a/", i)))
	}
	for _, c := range []struct {
		what    string
		entries []archive.Entry
		want    Gaps
	}{
		{"nothing", nil, Gaps{ImpliesRoot: true}},
		{"all are named", append([]archive.Entry{root, folder("a"), folder("a/b"), file("a/b/c"), null}, crowd...), Gaps{}},
		{"no root", []archive.Entry{folder("a"), file("a/b")}, Gaps{ImpliesRoot: true}},
		{"deep below", []archive.Entry{root, folder("a"), file("a/b/c")}, Gaps{Inside: true}},
		{"a whiteout", []archive.Entry{root, folder("a"), whiteout("a/b")}, Gaps{Inside: true}},
		{"an opaque directory", []archive.Entry{root, folder("a"), opaque("a")}, Gaps{}},
		{"an opaque root", []archive.Entry{root, opaque("."), file("a")}, Gaps{OpaqueRoot: true}},
	} {
		files, _ := indexTar(t, writeTar(t, c.entries...))
		l := openLayer(t, files)
		if got, err := FindGaps(files.Index); err != nil || got != c.want || got != walkGaps(t, l) {
			t.Errorf("%s: %+v, %v; want %+v, by a walk %+v", c.what, got, err, c.want, walkGaps(t, l))
		}
	}
	rnd := rand.New(rand.NewPCG(5, 6))
	for range 60 {
		tar := writeTar(t, randomLayer(rnd)...)
		if !indexable(t, tar) {
			continue
		}
		files, _ := indexTar(t, tar)
		if got, err := FindGaps(files.Index); err != nil || got != walkGaps(t, openLayer(t, files)) {
			t.Fatalf("%s: %+v, %v", tar, got, err)
		}
	}
}
