package image

import (
	"context"
	"errors"
	"fmt"
	"io/fs"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Bounds on a graph.
const (
	maxGraphDepth = 8
	maxGraphNodes = 100_000
)

// Walk calls fn for root and then for all it refers to, parents first, each
// descriptor once, with the bytes of manifests and indexes (nil for others).
// When fn returns fs.SkipDir the children are left out; any other error ends
// the walk. Manifests that src does not hold fail with errdefs.ErrNotFound.
func Walk(ctx context.Context, src Source, root ocispec.Descriptor, fn func(desc ocispec.Descriptor, b []byte) error) error {
	w := walker{src: src, fn: fn, seen: map[digest.Digest]bool{}}
	return w.walk(ctx, root, 0)
}

type walker struct {
	src  Source
	fn   func(ocispec.Descriptor, []byte) error
	seen map[digest.Digest]bool
}

func (w *walker) walk(ctx context.Context, desc ocispec.Descriptor, depth int) error {
	if w.seen[desc.Digest] {
		return nil
	}
	w.seen[desc.Digest] = true
	if depth > maxGraphDepth || len(w.seen) > maxGraphNodes {
		return fmt.Errorf("walk %s: graph too deep or too big: %w", desc.Digest, errdefs.ErrResourceExhausted)
	}
	if !IsManifest(desc.MediaType) && !IsIndex(desc.MediaType) {
		if err := w.fn(desc, nil); err != nil && !errors.Is(err, fs.SkipDir) {
			return err
		}
		return nil
	}
	b, err := ReadAll(ctx, w.src, desc, MaxManifestSize)
	if err != nil {
		return err
	}
	children, err := Children(desc.MediaType, b)
	if err != nil {
		return err
	}
	if err := w.fn(desc, b); errors.Is(err, fs.SkipDir) {
		return nil
	} else if err != nil {
		return err
	}
	for _, c := range children {
		if err := w.walk(ctx, c, depth+1); err != nil {
			return err
		}
	}
	return nil
}
