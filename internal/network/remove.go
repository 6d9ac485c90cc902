package network

import (
	"context"
	"database/sql"
	"fmt"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/network"
)

// Remove removes a network that no running container is attached to, and returns
// which it was.
func (n *Networks) Remove(ctx context.Context, ref string) (removed network.Network, err error) {
	err = n.locked(ctx, func(s *state) error {
		nw, err := s.find(ref)
		if err != nil {
			return err
		}
		if predefined(*nw) {
			return refuse(errdefs.ErrPermissionDenied, "%s is a pre-defined network and cannot be removed", nw.Name)
		}
		if active := s.active(nw.ID); len(active) > 0 {
			return refuse(errdefs.ErrPermissionDenied, "error while removing network: network %s has active endpoints (%s)",
				nw.Name, strings.Join(active, ", "))
		}
		removed = *nw
		return n.remove(ctx, []network.Network{removed})
	})
	return removed, err
}

// Prune removes the networks without endpoints that match accepts, and returns them.
func (n *Networks) Prune(ctx context.Context, match func(network.Network) bool) (removed []network.Network, err error) {
	err = n.locked(ctx, func(s *state) error {
		for _, nw := range s.networks {
			if !predefined(nw) && len(s.active(nw.ID)) == 0 && match(nw) {
				removed = append(removed, nw)
			}
		}
		return n.remove(ctx, removed)
	})
	return removed, err
}

// remove removes networks, rows and devices, under the lock.
func (n *Networks) remove(ctx context.Context, list []network.Network) error {
	if len(list) == 0 {
		return nil
	}
	err := writing(n.opts.DB.Update(ctx, func(tx *sql.Tx) error {
		for _, nw := range list {
			if _, err := tx.ExecContext(ctx, "DELETE FROM networks WHERE id = $1", nw.ID); err != nil {
				return err
			}
			if err := n.opts.Event(ctx, tx, "destroy", nw, ""); err != nil {
				return err
			}
		}
		return nil
	}))
	if err != nil {
		return err
	}
	for _, nw := range list {
		if err := n.host(func() error { return removeBridge(n.bridgeOf(nw)) }); err != nil {
			return fmt.Errorf("error while removing network: %w", err)
		}
	}
	return n.enforce(ctx)
}

// active tells of what is attached to a network, sorted.
func (s *state) active(id string) []string {
	var list []string
	for _, e := range s.endpoints {
		if e.network == id {
			list = append(list, fmt.Sprintf("name:%q id:%q", s.nameOf(e.container), short(e.settings.EndpointID)))
		}
	}
	slices.Sort(list)
	return list
}

func predefined(nw network.Network) bool {
	return nw.Name == nameBridge || nw.Name == nameHost || nw.Name == nameNone
}
