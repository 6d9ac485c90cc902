package build

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"strake/internal/layer"
)

// Squashed is the definition of the same files with one layer above the base image
// in place of all that the steps made. The history keeps the steps.
func Squashed(def *Definition) *Definition {
	base := def.Root
	for len(base.Inputs) > 0 {
		base = base.Inputs[0]
	}
	if base == def.Root {
		return def
	}
	below := 0
	if op, ok := base.Op.(*Base); ok {
		below = len(op.Layers)
	}
	out := *def
	out.Root = &Vertex{Op: squash{}, Inputs: []*Vertex{base, def.Root}, Name: "squashing layers", Lines: def.Root.Lines}
	out.Config.History = slices.Clone(def.Config.History)
	layers := 0
	for i := range out.Config.History {
		h := &out.Config.History[i]
		if !h.EmptyLayer {
			layers++
		}
		h.EmptyLayer = h.EmptyLayer || layers > below
	}
	out.Config.History = append(out.Config.History, ocispec.History{CreatedBy: "squash", Comment: "the layers of the build as one"})
	return &out
}

// squash is an op: what its second input shows and its first, the parent, does not.
type squash struct{}

// Prepare is Op's.
func (squash) Prepare(_ context.Context, w *Work) (Step, error) {
	all := w.Inputs[1].Layers
	return Step{
		Inputs: []Input{{Name: "squash", Value: chainID(all).String()}},
		Make:   func(ctx context.Context, out io.Writer) error { return writeSquashed(ctx, w, out) },
	}, nil
}

func writeSquashed(ctx context.Context, w *Work, out io.Writer) error {
	base, err := w.solver.chain(ctx, w.Inputs[0].Layers)
	if err != nil {
		return err
	}
	all, err := w.solver.chain(ctx, w.Inputs[1].Layers)
	if err != nil {
		return err
	}
	below, above := base.(*chainTree), all.(*chainTree) //nolint:forcetypeassert,errcheck // what chain makes
	tw := newTarWriter(out, w.solver.opts.Epoch)
	links := map[uint64]string{}
	removed := "" // the directory whose removal is written
	err = layer.Compare(ctx, below.fs, above.fs, func(d layer.Difference) error {
		if d.New == nil {
			if removed != "" && strings.HasPrefix(d.Path, removed+"/") {
				return nil
			}
			removed = d.Path
			return tw.w.Whiteout(d.Path)
		}
		n, err := above.node(d.Path, d.New)
		if err != nil || d.Path == "." {
			return err
		}
		if n.ino != 0 {
			if first, ok := links[n.ino]; ok {
				n.link = first
			} else {
				links[n.ino] = n.path
			}
		}
		return tw.file(above, n)
	})
	if err != nil {
		return fmt.Errorf("squash the layers: %w", err)
	}
	return tw.Close()
}

// file writes a node of a tree, with its content.
func (t *tarWriter) file(from tree, n node) error {
	if !n.mode.IsRegular() || n.link != "" {
		return t.entry(n, nil)
	}
	r, err := from.open(n.path)
	if err != nil {
		return err
	}
	err = t.entry(n, r)
	if cerr := r.Close(); err == nil {
		err = cerr
	}
	return err
}
