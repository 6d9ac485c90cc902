package engine

import (
	"context"

	imagetypes "github.com/moby/moby/api/types/image"
)

// HistoryOptions say whose history to tell.
type HistoryOptions struct {
	Ref      string
	Platform string // which image of an index; "" is the one that stands for it
}

// History tells how an image was made, the last step first. Only the last has
// an ID, the image's.
func History(ctx context.Context, env *Env, opts HistoryOptions) ([]imagetypes.HistoryResponseItem, error) {
	img, err := find(ctx, env, opts.Ref, opts.Platform)
	if err != nil {
		return nil, err
	}
	config, err := readConfig(ctx, env, img)
	if err != nil {
		return nil, err
	}
	steps := make([]imagetypes.HistoryResponseItem, len(config.History))
	layers := config.RootFS.DiffIDs
	for i, h := range config.History {
		step := imagetypes.HistoryResponseItem{ID: "<missing>", CreatedBy: h.CreatedBy, Comment: h.Comment}
		if h.Created != nil {
			step.Created = h.Created.Unix()
		}
		if !h.EmptyLayer && len(layers) > 0 {
			files, err := env.Store.Layer(ctx, layers[0])
			if err != nil {
				return nil, err
			}
			step.Size, layers = files.Size, layers[1:]
		}
		steps[len(steps)-1-i] = step
	}
	if len(steps) > 0 {
		steps[0].ID, steps[0].Tags = img.ID.String(), FamiliarNames(img.Names)
	}
	return steps, nil
}
