package engine

import (
	"context"

	containertypes "github.com/moby/moby/api/types/container"

	"strake/internal/layer"
)

// DiffContainer lists what a container added to the files of its image, changed and deleted, sorted by path.
func DiffContainer(ctx context.Context, env *Env, ref string) (changes []containertypes.FilesystemChange, err error) {
	c, err := containers(env).Get(ctx, ref)
	if err != nil {
		return nil, err
	}
	w, err := openWritable(ctx, env, c)
	if err != nil {
		return nil, err
	}
	defer closing(&err, w.close)
	list, err := w.changes(ctx)
	if err != nil {
		return nil, err
	}
	kinds := map[layer.ChangeKind]containertypes.ChangeType{
		layer.Added: containertypes.ChangeAdd, layer.Changed: containertypes.ChangeModify, layer.Deleted: containertypes.ChangeDelete,
	}
	for _, change := range list {
		if change.Path == mountedIn && change.Kind == layer.Added && change.IsDir() {
			change.Kind = layer.Changed
		}
		changes = append(changes, containertypes.FilesystemChange{Kind: kinds[change.Kind], Path: "/" + change.Path})
	}
	return changes, nil
}
