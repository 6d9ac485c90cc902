package hub

import (
	"time"

	"strake/internal/content"
)

// CollectAt is Collect at another time.
var CollectAt = collectAt

// ContentOf is the content store of h.
func ContentOf(h *Hub) content.Store { return h.content }

// SetContent makes store the content store of h.
func SetContent(h *Hub, store content.Store) { h.content = store }

// RowsAfter is how many rows a transaction changes after one of so many that took so long.
func RowsAfter(rows int, took time.Duration) int {
	p := pace{rows: rows}
	p.note(took)
	return p.rows
}
