package build

import (
	"context"
	"errors"
	"sync"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
)

// errStale says that a layer that was found in the cache was removed before it
// was held.
var errStale = errors.New("a cached layer was removed")

// hits are the layers that were found in the cache. They are held from the first
// miss on, so that no other process removes them below a step that runs; a build
// that finds every step only reads.
type hits struct {
	mu      sync.Mutex
	found   []digest.Digest // before the first miss
	holding bool            // a step missed
	stale   bool            // one of found was gone when it was to be held
}

// add adds the layers of a hit. It fails with errdefs.ErrNotFound when one is
// gone and has to be held now.
func (h *hits) add(ctx context.Context, store LayerStore, layers []digest.Digest) error {
	h.mu.Lock()
	holding := h.holding
	if !holding {
		h.found = append(h.found, layers...)
	}
	h.mu.Unlock()
	if !holding {
		return nil
	}
	return store.HoldLayers(ctx, layers...)
}

// hold holds what was found until now, and has what is found later held. Where a
// layer is gone, the steps that build upon it are to be solved again: renew says so.
func (h *hits) hold(ctx context.Context, store LayerStore) error {
	h.mu.Lock()
	h.holding = true
	found := h.found
	h.mu.Unlock()
	if len(found) == 0 {
		return nil
	}
	err := store.HoldLayers(ctx, found...)
	if !errdefs.IsNotFound(err) {
		return err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.stale = true
	return nil
}

// current fails with errStale until renew has answered that a layer is gone.
func (h *hits) current() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.stale {
		return errStale
	}
	return nil
}

// renew reports, once, that a layer is gone.
func (h *hits) renew() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	stale := h.stale
	h.stale = false
	return stale
}
