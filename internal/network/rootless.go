package network

import "github.com/containerd/errdefs"

// joinAsUser gives the container of an ordinary user a network.
func (s *Sandbox) joinAsUser() error {
	return refuse(errdefs.ErrNotImplemented, "containers of ordinary users have no network of their own: use --network host or none")
}
