package network

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"slices"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/network"
)

// Connect attaches a running container, which has joined others, to one more network.
// It returns what the container's files of names said, and what they are to say.
func (n *Networks) Connect(ctx context.Context, m Member, ref string, want *network.EndpointSettings) (before, after Names, err error) {
	return n.change(ctx, m, func(st *state, ns *os.File) error {
		nw, err := st.find(ref)
		if err != nil {
			return err
		}
		have := st.of(m.ID)
		if err := mayConnect(st, *nw, have, m); err != nil {
			return err
		}
		e, err := newEndpoint(st, *nw, m, want, have)
		if err != nil {
			return err
		}
		err = n.note(ctx, func(tx *sql.Tx) error {
			return errors.Join(insertEndpoint(ctx, tx, e), n.opts.Event(ctx, tx, "connect", *nw, m.ID))
		})
		if err != nil {
			return err
		}
		st.endpoints = append(st.endpoints, e)
		err = n.host(func() error { return n.plug(*nw, e, ns) })
		if err == nil {
			err = route(ns, st.of(m.ID), st)
		}
		if i := slices.IndexFunc(st.sandboxes, func(b sandbox) bool { return b.id == m.ID }); err == nil && needsNames([]endpoint{e}, st) {
			err = redirectNames(ns, st.sandboxes[i])
		}
		if err != nil {
			return errors.Join(err, n.unplug(e), n.dropEndpoint(context.WithoutCancel(ctx), e))
		}
		return nil
	})
}

// mayConnect refuses what docker refuses.
func mayConnect(st *state, nw network.Network, have []endpoint, m Member) error {
	if nw.Driver == driverHost {
		return refuse(errdefs.ErrInvalidArgument, "cannot connect container to host network - container must be created in host network mode")
	}
	for _, e := range have {
		other := st.byID(e.network)
		switch {
		case other == nil:
		case other.ID == nw.ID:
			return refuse(errdefs.ErrPermissionDenied, "endpoint with name %s already exists in network %s", m.Name, nw.Name)
		case other.Driver == driverHost:
			return refuse(errdefs.ErrInvalidArgument, "container sharing network namespace with another container or host cannot be connected to any other network")
		case other.Driver == driverNull || nw.Driver == driverNull:
			return refuse(errdefs.ErrInvalidArgument, "container cannot be connected to multiple networks with one of the networks in private (none) mode")
		}
	}
	return nil
}

// Disconnect detaches a running container from a network. It returns what Connect does.
func (n *Networks) Disconnect(ctx context.Context, m Member, ref string) (before, after Names, err error) {
	return n.change(ctx, m, func(st *state, ns *os.File) error {
		nw, err := st.find(ref)
		if err != nil {
			return err
		}
		i := slices.IndexFunc(st.endpoints, func(e endpoint) bool { return e.container == m.ID && e.network == nw.ID })
		if i < 0 {
			return refuse(errdefs.ErrPermissionDenied, "container %s is not connected to network %s", m.ID, nw.Name)
		}
		e := st.endpoints[i]
		if nw.Driver == driverHost {
			return refuse(errdefs.ErrPermissionDenied, "container cannot be disconnected from host network or connected to host network")
		}
		if e.link != "" {
			if err := n.unplug(e); err != nil {
				return fmt.Errorf("container %s failed to leave network %s: %w", m.ID, nw.Name, err)
			}
		}
		err = n.note(ctx, func(tx *sql.Tx) error {
			return errors.Join(deleteEndpoint(ctx, tx, e), n.opts.Event(ctx, tx, "disconnect", *nw, m.ID))
		})
		if err != nil {
			return err
		}
		st.endpoints = slices.Delete(st.endpoints, i, i+1)
		return route(ns, st.of(m.ID), st)
	})
}

// change calls fn with the lock, the state and the namespace of a container, and makes
// the rules follow.
func (n *Networks) change(ctx context.Context, m Member, fn func(st *state, ns *os.File) error) (before, after Names, err error) {
	err = n.locked(ctx, func(st *state) (err error) {
		if !slices.ContainsFunc(st.sandboxes, func(b sandbox) bool { return b.id == m.ID }) {
			return refuse(errdefs.ErrFailedPrecondition, "container %s is not running", m.ID)
		}
		ns, err := os.Open(m.Namespace)
		if err != nil {
			return fmt.Errorf("enter network namespace: %w", err)
		}
		defer func() { err = errors.Join(err, ns.Close()) }()
		if before, err = namesOf(m, st.of(m.ID), st); err != nil {
			return err
		}
		if err := fn(st, ns); err != nil {
			return err
		}
		if after, err = namesOf(m, st.of(m.ID), st); err != nil {
			return err
		}
		return n.enforceState(*st)
	})
	return before, after, err
}

// MayConnect fails where Connect would fail for a container that does not run, as far as
// can be told.
func (n *Networks) MayConnect(ctx context.Context, m Member, ref string, want *network.EndpointSettings) error {
	st, err := n.current(ctx)
	if err != nil {
		return err
	}
	nw, err := st.find(ref)
	if err != nil {
		return err
	}
	var have []endpoint
	for other := range m.Networks {
		if o, err := st.find(other); err == nil {
			have = append(have, endpoint{network: o.ID})
		}
	}
	if err := mayConnect(&st, *nw, have, m); err != nil || want == nil {
		return err
	}
	return validateEndpoint(*nw, want)
}

// Rename gives a running container another name, by which others find it, too.
func (n *Networks) Rename(ctx context.Context, id, name string) error {
	return n.locked(ctx, func(st *state) error {
		old := st.nameOf(id)
		if old == "" {
			return nil // it does not run
		}
		return n.note(ctx, func(tx *sql.Tx) error {
			if _, err := tx.ExecContext(ctx, "UPDATE sandboxes SET name = $2 WHERE container_id = $1", id, name); err != nil {
				return err
			}
			for _, e := range st.of(id) {
				if i := slices.Index(e.settings.DNSNames, old); i >= 0 {
					e.settings.DNSNames[i] = name
				}
				if err := errors.Join(deleteEndpoint(ctx, tx, e), insertEndpoint(ctx, tx, e)); err != nil {
					return err
				}
			}
			return nil
		})
	})
}
