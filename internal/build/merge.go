package build

import "context"

// Merge puts the layers that its second input made on top of its parent. The
// second input starts from nothing, so that its layer is the same whatever the
// parent is: COPY --link.
type Merge struct{}

// Prepare is Op's.
func (Merge) Prepare(_ context.Context, w *Work) (Step, error) {
	top := w.Inputs[1]
	return Step{Done: &Result{Layers: extend(w.parent().Layers, top.Layers), Created: top.Created, Cached: top.Cached}}, nil
}
