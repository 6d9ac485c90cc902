package build

import (
	"context"
	"testing"

	"github.com/opencontainers/go-digest"
)

// TestMerge copies onto two bases: the layer is made once, and through no
// symlink of the base.
func TestMerge(t *testing.T) {
	s := newDirStore(t)
	dir := t.TempDir()
	writeFiles(t, dir, "a data=1")
	c, err := LoadContext(t.Context(), ContextOptions{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	build := func(base digest.Digest) Result {
		t.Helper()
		op := &Copy{
			Sources: []Source{{Context: func(context.Context) (*Context, error) { return c, nil }, Path: "a"}},
			Dest:    "/x/", Instruction: "COPY /x/",
		}
		v := &Vertex{Op: Merge{}, Inputs: []*Vertex{
			{Op: &Base{Layers: []digest.Digest{base}}}, {Op: op, Inputs: []*Vertex{{Op: &Base{}}}, Name: "COPY"},
		}}
		res, err := NewSolver(Options{Store: s}).Solve(t.Context(), v)
		if err != nil {
			t.Fatal(err)
		}
		return res
	}
	one, two := tarOf(t, s, "x/ mode=0700"), tarOf(t, s, "elsewhere/", "x -> elsewhere")
	first, second := build(one), build(two)
	if first.Cached || !second.Cached || first.Created.IsZero() || !first.Created.Equal(second.Created) {
		t.Errorf("first %+v, second %+v", first, second)
	}
	if len(first.Layers) != 2 || len(second.Layers) != 2 || first.Layers[0] != one || second.Layers[0] != two || first.Layers[1] != second.Layers[1] {
		t.Fatalf("layers %v and %v", first.Layers, second.Layers)
	}
	if got := contents(t, s, second.Layers[1]); len(got) != 2 || got[0] != "x/ 755" || got[1] != "x/a 644 data=1" {
		t.Errorf("linked layer has %q", got)
	}
}
