package build

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/opencontainers/go-digest"

	"strake/internal/layer"
)

// commits are the layers that steps made. The step that builds upon one begins
// when it is staged, while it and its cache record are still being committed,
// one after the other in the order in which the steps ended: what a crash leaves
// is what was finished a moment before. No solve returns before its layers are
// committed, so an image never refers to a layer that is not.
type commits struct {
	mu     sync.Mutex
	staged map[digest.Digest]layer.Files
	close  []func() error
	last   chan struct{} // closed when the last commit begun has ended; nil: there is none
	err    error         // of the first that failed; those after it are not tried
}

// commit begins to commit a layer, and to record it by save after that.
func (c *commits) commit(ctx context.Context, v *Vertex, l layer.Staged, save func(context.Context) error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.staged == nil {
		c.staged = map[digest.Digest]layer.Files{}
	}
	c.staged[l.DiffID] = l.Files
	c.close = append(c.close, l.Close)
	before, done := c.last, make(chan struct{})
	c.last = done
	// What is finished is kept, whatever becomes of the rest of the build.
	ctx = context.WithoutCancel(ctx)
	go func() {
		defer close(done)
		if before != nil {
			<-before
		}
		if c.failed() != nil {
			return
		}
		err := l.Commit(ctx)
		if err == nil {
			err = save(ctx)
		}
		if err != nil {
			c.mu.Lock()
			c.err = &VertexError{Vertex: v, Err: err}
			c.mu.Unlock()
		}
	}()
}

// failed is why a commit failed, or nil.
func (c *commits) failed() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

// wait waits for all commits and returns why one failed.
func (c *commits) wait() error {
	c.mu.Lock()
	last := c.last
	c.mu.Unlock()
	if last != nil {
		<-last
	}
	return c.failed()
}

// layer finds a layer that is staged or stored.
func (s *Solver) layer(ctx context.Context, id digest.Digest) (layer.Files, error) {
	s.commits.mu.Lock()
	f, ok := s.commits.staged[id]
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

// release releases the staged layers, which nobody reads any more.
func (c *commits) release() error {
	_ = c.wait() // its solve returned it
	c.mu.Lock()
	defer c.mu.Unlock()
	var err error
	for _, f := range c.close {
		err = errors.Join(err, f())
	}
	c.staged, c.close = nil, nil
	return err
}
