package engine

import (
	"context"

	volumetypes "github.com/moby/moby/api/types/volume"
)

// InspectVolume tells of a volume. It fails with errdefs.ErrNotFound where there is none.
func InspectVolume(ctx context.Context, env *Env, name string) (volumetypes.Volume, error) {
	v, err := volumes(env).Get(ctx, name)
	return v.API(env.Store.Root()), err
}
