package hub

import "strake/internal/content"

// CollectAt is Collect at another time.
var CollectAt = collectAt

// ContentOf is the content store of h.
func ContentOf(h *Hub) content.Store { return h.content }

// SetContent makes store the content store of h.
func SetContent(h *Hub, store content.Store) { h.content = store }
