package engine

import (
	"context"

	networktypes "github.com/moby/moby/api/types/network"
)

// CreateNetworkOptions say what a network is to be, as docker's API has it.
type CreateNetworkOptions = networktypes.CreateRequest

// CreateNetwork makes a network and returns its ID.
func CreateNetwork(ctx context.Context, env *Env, opts CreateNetworkOptions) (id string, err error) {
	return networks(env).Create(ctx, opts)
}
