package build

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"

	"strake/internal/layer"
)

const (
	commitAfter = time.Second // for which a layer waits for others to be committed with
	commitMost  = 64          // layers that wait at most; each has open files
)

// commits are the layers that steps made. The step that builds upon one begins
// when it is staged. Layers are committed with their cache records in batches, in
// the order in which the steps ended, as one waits for the disk about as long as
// many do: what a crash costs is what was finished in the second before. No solve
// returns before its layers are committed, so an image never refers to a layer
// that is not.
type commits struct {
	store LayerStore

	mu     sync.Mutex
	files  map[digest.Digest]layer.Files
	staged []layer.Staged
	queue  []queued
	err    error // of the first batch that failed; those after it are not tried

	batch sync.Mutex // held while one is committed
}

type queued struct {
	vertex  *Vertex
	commit  layer.Commit
	release func() error // lets other processes look for the record
}

// add has a layer committed soon, and waits for that when many are waiting.
func (c *commits) add(ctx context.Context, q queued) {
	ctx = context.WithoutCancel(ctx)
	files := q.commit.Files()
	c.mu.Lock()
	c.files[files.DiffID] = files
	c.staged = append(c.staged, q.commit.Staged)
	c.queue = append(c.queue, q)
	waiting := len(c.queue)
	c.mu.Unlock()
	if waiting == 1 {
		time.AfterFunc(commitAfter, func() { _ = c.flush(ctx) }) // the solve returns it
	}
	if waiting >= commitMost {
		_ = c.flush(ctx) // the next step returns it
	}
}

// flush commits what waits, and returns why that failed, or a batch before it.
func (c *commits) flush(ctx context.Context) error {
	c.batch.Lock()
	defer c.batch.Unlock()
	c.mu.Lock()
	batch := c.queue
	c.queue = nil
	c.mu.Unlock()
	if len(batch) == 0 {
		return c.failed()
	}
	err := c.failed()
	if err == nil {
		list := make([]layer.Commit, len(batch))
		for i, q := range batch {
			list[i] = q.commit
		}
		err = c.store.CommitLayers(ctx, list)
	}
	for _, q := range batch {
		err = errors.Join(err, q.release())
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if err != nil && c.err == nil {
		c.err = &VertexError{Vertex: batch[0].vertex, Err: err} // the first that is not kept
	}
	return c.err
}

// failed is why a commit failed, or nil.
func (c *commits) failed() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

// layer finds a layer that is staged or stored.
func (s *Solver) layer(ctx context.Context, id digest.Digest) (layer.Files, error) {
	s.commits.mu.Lock()
	f, ok := s.commits.files[id]
	s.commits.mu.Unlock()
	if ok {
		return f, nil
	}
	f, err := s.opts.Store.Layer(ctx, id)
	if err != nil {
		return f, fmt.Errorf("open the stage: %w", err)
	}
	return f, nil
}

// chainFiles finds all layers of a chain.
func chainFiles(ctx context.Context, s *Solver, chain []digest.Digest) ([]layer.Files, error) {
	list := make([]layer.Files, len(chain))
	for i, id := range chain {
		var err error
		if list[i], err = s.layer(ctx, id); err != nil {
			return nil, err
		}
	}
	return list, nil
}

// close gives up the staged layers, which nobody reads any more. Those that are
// not committed are lost.
func (c *commits) close() error {
	c.batch.Lock()
	defer c.batch.Unlock()
	c.mu.Lock()
	defer c.mu.Unlock()
	var err error
	for _, l := range c.staged {
		err = errors.Join(err, l.Close())
	}
	c.files, c.staged, c.queue = nil, nil, nil
	return err
}
