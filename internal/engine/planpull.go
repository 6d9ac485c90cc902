package engine

import (
	"context"
	"fmt"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"strake/internal/image"
	"strake/internal/reference"
)

// PullPlan says what a pull would do now.
type PullPlan struct {
	Name     reference.Named // with a tag or a digest
	Root     digest.Digest   // what the registry's name points to
	Layers   []PlannedLayer
	Total    int64 // bytes of all that the images are made of, as they are transferred
	Download int64 // bytes of it that are not here
	Disk     int64 // about how many bytes more the store would take
	Free     int64 // bytes that the disk has left
	Fits     error // why it cannot fit; nil where it may
}

// PlannedLayer is a layer of a PullPlan.
type PlannedLayer struct {
	Desc ocispec.Descriptor
	Here bool
	Part int64 // bytes that an earlier try brought
}

// inflation is about how much bigger a layer is than its compressed form.
const inflation = 3

// PlanPull finds out what Pull would do with the same options, without doing it.
func PlanPull(ctx context.Context, env *Env, opts PullOptions) (PullPlan, error) {
	named, err := ParseName(opts.Ref)
	if err != nil {
		return PullPlan{}, err
	}
	found, err := resolveRemote(ctx, env, named, opts.Platforms...)
	if opts.AllPlatforms && found.root.Digest != "" && errdefs.IsNotFound(err) {
		err = nil // this machine's platform may be missing among all
	}
	if err != nil {
		return PullPlan{}, err
	}
	plan := PullPlan{Name: named, Root: found.root.Digest}
	if plan.Free, err = env.Store.Free(); err != nil {
		return plan, err
	}
	parts, err := env.Store.Parts(ctx)
	if err != nil {
		return plan, err
	}
	roots := found.manifests
	if opts.AllPlatforms {
		roots = []ocispec.Descriptor{found.root}
	}
	var blobs []ocispec.Descriptor
	seen := map[digest.Digest]bool{}
	for _, root := range roots {
		err := image.Walk(ctx, found.repo, root, func(desc ocispec.Descriptor, b []byte) error {
			if b == nil && !seen[desc.Digest] {
				seen[desc.Digest] = true
				blobs = append(blobs, desc)
			}
			return nil
		})
		if err != nil {
			return plan, pullError(named, err)
		}
	}
	for _, desc := range blobs {
		here, err := env.Store.Exists(ctx, desc)
		if err != nil {
			return plan, err
		}
		plan.Total += desc.Size
		part := min(parts[desc.Digest], desc.Size)
		if !here {
			plan.Download += desc.Size - part
			plan.Disk += desc.Size - part
			if IsLayer(desc) && !isPlain(desc) {
				plan.Disk += inflation * desc.Size
			}
		}
		if IsLayer(desc) {
			plan.Layers = append(plan.Layers, PlannedLayer{desc, here, part})
		}
	}
	if plan.Fits = hasRoom(ctx, env, blobs); plan.Fits != nil && !errdefs.IsResourceExhausted(plan.Fits) {
		return plan, plan.Fits
	}
	return plan, nil
}

// isPlain reports whether a layer's blob is its tar.
func isPlain(desc ocispec.Descriptor) bool {
	return strings.HasSuffix(desc.MediaType, ".tar")
}

// hasRoom fails with errdefs.ErrResourceExhausted when the layers among blobs
// cannot fit on the disk: a layer's tar is no smaller than its compressed form,
// and both are kept.
func hasRoom(ctx context.Context, env *Env, blobs []ocispec.Descriptor) error {
	need := func(desc ocispec.Descriptor) int64 {
		if !IsLayer(desc) {
			return 0
		}
		if isPlain(desc) {
			return desc.Size
		}
		return 2 * desc.Size
	}
	var sum int64
	for _, desc := range blobs {
		sum += need(desc)
	}
	free, err := env.Store.Free()
	if err != nil || sum <= free {
		return err
	}
	parts, err := env.Store.Parts(ctx)
	if err != nil {
		return err
	}
	for _, desc := range blobs {
		here, err := env.Store.Exists(ctx, desc)
		if err != nil {
			return err
		}
		if here {
			sum -= need(desc)
		} else {
			sum -= min(parts[desc.Digest], need(desc))
		}
	}
	if sum <= free {
		return nil
	}
	return messageError{fmt.Sprintf("not enough space in %s: the missing layers take at least %.1f MB, %.1f MB are free",
		env.Store.Root(), float64(sum)/1e6, float64(free)/1e6), errdefs.ErrResourceExhausted}
}
