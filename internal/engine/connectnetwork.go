package engine

import (
	"context"

	"github.com/containerd/errdefs"
	networktypes "github.com/moby/moby/api/types/network"

	"strake/internal/container"
)

// ConnectNetworkOptions say what to connect with what.
type ConnectNetworkOptions struct {
	Network, Container string
	Endpoint           *networktypes.EndpointSettings // what is asked for; nil: nothing
}

// ConnectNetwork connects a container to a network: at once where it runs, and whenever it is started.
func ConnectNetwork(ctx context.Context, env *Env, opts ConnectNetworkOptions) error {
	table := containers(env)
	c, err := table.Get(ctx, opts.Container)
	if err != nil {
		return err
	}
	if !c.Spec.HostConfig.NetworkMode.IsPrivate() {
		return messageError{"container sharing network namespace with another container or host cannot be connected to any other network", errdefs.ErrInvalidArgument}
	}
	all := networks(env)
	nw, err := all.Find(ctx, opts.Network)
	if err != nil {
		return err
	}
	if c.State.Running() {
		m := memberOf(c)
		m.Namespace = namespaceOf(c)
		before, after, err := all.Connect(ctx, m, nw.ID, opts.Endpoint)
		if err != nil {
			return err
		}
		if err := rewriteNames(table, c, before, after); err != nil {
			return err
		}
	} else if err := all.MayConnect(ctx, memberOf(c), nw.ID, opts.Endpoint); err != nil {
		return err
	}
	want := opts.Endpoint
	if want == nil {
		want = &networktypes.EndpointSettings{}
	}
	return table.SetSpec(ctx, c.ID, func(spec *container.Spec) error {
		spec.Endpoints = wantedNetworks(spec)
		spec.Endpoints[nw.Name] = want
		return nil
	})
}
