package engine

import "context"

// InspectNetwork returns the network of a name, an ID or the beginning of one.
func InspectNetwork(ctx context.Context, env *Env, ref string) (Network, error) {
	return networks(env).Find(ctx, ref)
}
