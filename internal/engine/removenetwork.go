package engine

import "context"

// RemoveNetwork removes a network that no running container is attached to.
func RemoveNetwork(ctx context.Context, env *Env, ref string) error {
	_, err := networks(env).Remove(ctx, ref)
	return err
}
