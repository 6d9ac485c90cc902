package engine

import (
	"context"
	"fmt"
	"strings"

	"github.com/containerd/errdefs"

	"strake/internal/container"
)

// DisconnectNetworkOptions say what to disconnect from what.
type DisconnectNetworkOptions struct {
	Network, Container string
	Force              bool // the network may be gone
}

// DisconnectNetwork disconnects a container from a network, at once where it runs.
func DisconnectNetwork(ctx context.Context, env *Env, opts DisconnectNetworkOptions) error {
	table := containers(env)
	c, err := table.Get(ctx, opts.Container)
	if opts.Force && errdefs.IsNotFound(err) {
		return messageError{fmt.Sprintf("endpoint %s not found", opts.Container), errdefs.ErrNotFound} // what is gone is connected to nothing
	}
	if err != nil {
		return err
	}
	all := networks(env)
	nw, err := all.Find(ctx, opts.Network)
	gone := errdefs.IsNotFound(err) && (opts.Force || !c.State.Running())
	switch {
	case gone:
		nw.Name = opts.Network // a container that was to join it names it still
	case err != nil:
		return err
	}
	if c.State.Running() && !gone {
		m := memberOf(c)
		m.Namespace = namespaceOf(c)
		before, after, err := all.Disconnect(ctx, m, nw.ID)
		if err != nil {
			return err
		}
		if err := rewriteNames(table, c, before, after); err != nil {
			return err
		}
	}
	return table.SetSpec(ctx, c.ID, func(spec *container.Spec) error {
		spec.Endpoints = wantedNetworks(spec)
		spec.Detached = true
		found := false
		for ref := range spec.Endpoints {
			if ref == nw.Name || strings.HasPrefix(nw.ID, ref) {
				delete(spec.Endpoints, ref)
				found = true
			}
		}
		if !found {
			return messageError{fmt.Sprintf("container %s is not connected to the network %s", c.ID, nw.Name), errdefs.ErrPermissionDenied}
		}
		return nil
	})
}
