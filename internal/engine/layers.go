package engine

import (
	"context"
	"time"

	"github.com/opencontainers/go-digest"

	imagespec "github.com/moby/docker-image-spec/specs-go/v1"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"strake/internal/layer"
)

// LayersOptions say whose layers to tell of.
type LayersOptions struct {
	LookOptions
	Files bool // every change of every layer
}

// FileChange is what a layer does to one name of those below it.
type FileChange = layer.Change

// Kinds of changes.
const (
	FileAdded   = layer.Added
	FileChanged = layer.Changed
	FileDeleted = layer.Deleted
)

// LayerInfo tells of one layer. Sizes are of files, as they say; a layer's tar
// is larger by the headers, and smaller where files have holes.
type LayerInfo struct {
	Number    int // from 1, at the bottom
	DiffID    digest.Digest
	CreatedBy string    // the instruction; "" when the image does not say
	Created   time.Time // zero when the image does not say
	TarSize   int64
	layer.Changes
}

// LayersResult tells of all layers, the bottom one first.
type LayersResult struct {
	ID     digest.Digest // the image's
	Layers []LayerInfo
	Size   int64 // bytes of the files of all layers
	Waste  int64 // of these, those that later layers hide
}

// Efficiency is the part of the bytes that is seen, from 0 to 1.
func (r *LayersResult) Efficiency() float64 {
	if r.Size == 0 {
		return 1
	}
	return float64(r.Size-r.Waste) / float64(r.Size)
}

// Layers tells what each layer of an image adds, changes, deletes and wastes.
func Layers(ctx context.Context, env *Env, opts LayersOptions) (result LayersResult, err error) {
	v, err := look(ctx, env, opts.LookOptions)
	if err != nil {
		return result, err
	}
	defer closing(&err, v.close)
	changes, err := layer.FindChanges(ctx, v.layers, layer.ChangesOptions{List: opts.Files})
	if err != nil {
		return result, err
	}
	result.ID = v.id
	steps := layerSteps(v.config)
	for i, c := range changes {
		files := v.layers[i].Files()
		l := LayerInfo{Number: i + 1, DiffID: files.DiffID, TarSize: files.Size, Changes: c}
		if i < len(steps) {
			l.CreatedBy = steps[i].CreatedBy
			if l.CreatedBy == "" {
				l.CreatedBy = steps[i].Comment
			}
			if steps[i].Created != nil {
				l.Created = *steps[i].Created
			}
		}
		result.Layers = append(result.Layers, l)
		result.Size += c.Size
		result.Waste += c.Waste
	}
	return result, nil
}

// layerSteps are the steps of an image's history that made layers. A history
// that has too few or too many of them is taken from the bottom as far as it goes.
func layerSteps(config imagespec.DockerOCIImage) []ocispec.History {
	var steps []ocispec.History
	for _, h := range config.History {
		if !h.EmptyLayer && len(steps) < len(config.RootFS.DiffIDs) {
			steps = append(steps, h)
		}
	}
	return steps
}
