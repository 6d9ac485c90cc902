package engine

import (
	"context"

	"github.com/containerd/errdefs"
)

// RemoveVolume removes a volume. It fails with errdefs.ErrConflict where a container uses it, and with errdefs.ErrNotFound, unless
// forced, where there is none.
func RemoveVolume(ctx context.Context, env *Env, name string, force bool) error {
	err := volumes(env).Remove(ctx, name)
	if force && errdefs.IsNotFound(err) {
		return nil
	}
	return err
}
