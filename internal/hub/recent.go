package hub

import (
	"container/list"
	"sync"

	"github.com/opencontainers/go-digest"
)

// recentBytes is how much of manifests is kept in memory.
const recentBytes = 64 << 20

// recent keeps the bytes that were used last, by their digests. It is safe for
// concurrent use; its zero value is empty.
type recent struct {
	mu    sync.Mutex
	size  int64
	items map[digest.Digest]*list.Element
	order list.List // of item, the one used last in front
}

type item struct {
	dgst  digest.Digest
	bytes []byte
}

// cost is what an item takes, its place in map and list estimated.
func (i item) cost() int64 { return int64(len(i.bytes)) + 512 }

// get returns the bytes of dgst, which nobody may change, or nil.
func (r *recent) get(dgst digest.Digest) []byte {
	r.mu.Lock()
	defer r.mu.Unlock()
	e, ok := r.items[dgst]
	if !ok {
		return nil
	}
	r.order.MoveToFront(e)
	it, _ := e.Value.(item)
	return it.bytes
}

// put keeps b, the bytes of dgst, and forgets what was not used for longest.
func (r *recent) put(dgst digest.Digest, b []byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, ok := r.items[dgst]; ok {
		return
	}
	if r.items == nil {
		r.items = map[digest.Digest]*list.Element{}
	}
	it := item{dgst, b}
	r.items[dgst] = r.order.PushFront(it)
	for r.size += it.cost(); r.size > recentBytes; {
		last, _ := r.order.Remove(r.order.Back()).(item)
		delete(r.items, last.dgst)
		r.size -= last.cost()
	}
}
