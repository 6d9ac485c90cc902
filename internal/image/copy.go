package image

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Side tells the end of a Copy at which it failed.
type Side string

// The sides.
const (
	SideSource Side = "source"
	SideTarget Side = "target"
)

// CopyError is the error of a Copy: what failed, on which side.
type CopyError struct {
	Side Side
	Op   string // resolve, fetch, push, ...
	Desc ocispec.Descriptor
	Err  error
}

func (e *CopyError) Error() string {
	if e.Desc.Digest == "" {
		return fmt.Sprintf("%s: %v", e.Op, e.Err)
	}
	return fmt.Sprintf("%s %s: %v", e.Op, e.Desc.Digest, e.Err)
}

func (e *CopyError) Unwrap() error { return e.Err }

// Copy copies the graph that srcRef names from src to dst and tags it dstRef
// there (unless that is empty). It returns the root's descriptor.
func Copy(ctx context.Context, src Source, srcRef string, dst Target, dstRef string, opts CopyOptions) (ocispec.Descriptor, error) {
	root, err := src.Resolve(ctx, srcRef)
	if err != nil {
		return root, &CopyError{Side: SideSource, Op: "resolve", Err: err}
	}
	if err := CopyGraph(ctx, src, dst, root, opts); err != nil {
		return root, err
	}
	if dstRef == "" {
		return root, nil
	}
	if err := dst.Tag(ctx, root, dstRef); err != nil {
		return root, &CopyError{Side: SideTarget, Op: "tag", Desc: root, Err: err}
	}
	return root, nil
}

// CopyGraph copies root and all it refers to, children before parents, several
// at a time; what dst has is not read. After a failure the blobs that were
// finished stay in dst, and a second call takes up from there. The first
// failure is returned, as a *CopyError.
func CopyGraph(ctx context.Context, src Source, dst Target, root ocispec.Descriptor, opts CopyOptions) error {
	if opts.Concurrency <= 0 {
		opts.Concurrency = 4
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	c := &copier{
		src: src, dst: dst, opts: opts, cancel: cancel,
		slots: make(chan struct{}, opts.Concurrency),
		nodes: map[nodeKey]*node{},
	}
	err := c.copyNode(ctx, c.add(root), 0)
	if cause := context.Cause(ctx); err != nil && cause != nil {
		return cause // the first failure, not one that it brought about
	}
	return err
}

// copier is one CopyGraph.
type copier struct {
	src    Source
	dst    Target
	opts   CopyOptions
	cancel context.CancelCauseFunc
	slots  chan struct{} // held while bytes move, never while waiting for children

	mu    sync.Mutex // guards nodes and serialises Progress
	nodes map[nodeKey]*node
}

// nodeKey tells nodes apart: bytes that are named as a blob and as a manifest
// have to be copied as both.
type nodeKey struct {
	digest digest.Digest
	blob   bool
}

// node is one descriptor of the graph, copied once however many parents it has.
type node struct {
	desc  ocispec.Descriptor
	index int // how many came before
	once  sync.Once
	err   error
}

// add returns the node of desc, new ones after telling that they wait.
func (c *copier) add(desc ocispec.Descriptor) *node {
	key := nodeKey{desc.Digest, !IsManifest(desc.MediaType) && !IsIndex(desc.MediaType)}
	c.mu.Lock()
	n, ok := c.nodes[key]
	if !ok {
		n = &node{desc: desc, index: len(c.nodes)}
		c.nodes[key] = n
	}
	c.mu.Unlock()
	if !ok {
		c.tell(Event{Desc: desc, State: StateWaiting})
	}
	return n
}

func (c *copier) tell(e Event) {
	if c.opts.Progress == nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.opts.Progress(e)
}

// copyNode copies n's graph, or waits for whoever does.
func (c *copier) copyNode(ctx context.Context, n *node, depth int) error {
	n.once.Do(func() {
		if n.err = c.copy(ctx, n, depth); n.err != nil {
			c.cancel(n.err)
		}
	})
	return n.err
}

func (c *copier) copy(ctx context.Context, n *node, depth int) error {
	desc := n.desc
	if err := CheckDescriptor(desc); err != nil {
		return &CopyError{Side: SideSource, Op: "copy", Desc: desc, Err: err}
	}
	if depth > maxGraphDepth || n.index >= maxGraphNodes {
		err := fmt.Errorf("graph too deep or too big: %w", errdefs.ErrResourceExhausted)
		return &CopyError{Side: SideSource, Op: "copy", Desc: desc, Err: err}
	}
	if IsManifest(desc.MediaType) || IsIndex(desc.MediaType) {
		return c.copyManifest(ctx, desc, depth)
	}
	if err := c.acquire(ctx); err != nil {
		return err
	}
	defer c.release()
	return c.copyBlob(ctx, desc)
}

func (c *copier) acquire(ctx context.Context) error {
	select {
	case c.slots <- struct{}{}:
		return ctx.Err()
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (c *copier) release() { <-c.slots }

// copyManifest copies a manifest's or index's children and then itself.
func (c *copier) copyManifest(ctx context.Context, desc ocispec.Descriptor, depth int) error {
	exists, err := c.dst.Exists(ctx, desc)
	if err != nil {
		return &CopyError{Side: SideTarget, Op: "look for", Desc: desc, Err: err}
	}
	if exists && IsManifest(desc.MediaType) {
		c.tell(Event{Desc: desc, State: StateExists, Offset: desc.Size})
		return nil
	}
	b, children, err := c.readManifest(ctx, desc)
	if err != nil {
		return err
	}
	if c.opts.Admit != nil {
		if err := c.opts.Admit(ctx, children); err != nil {
			return &CopyError{Side: SideTarget, Op: "take in", Desc: desc, Err: err}
		}
	}
	if err := c.copyAll(ctx, children, depth+1); err != nil {
		return err
	}
	if exists {
		c.tell(Event{Desc: desc, State: StateExists, Offset: desc.Size})
		return nil
	}
	open := func(_ context.Context, offset int64) (io.ReadCloser, error) {
		if offset < 0 || offset > int64(len(b)) {
			return nil, fmt.Errorf("offset %d of %d: %w", offset, len(b), errdefs.ErrOutOfRange)
		}
		return io.NopCloser(bytes.NewReader(b[offset:])), nil
	}
	if err := c.dst.Push(ctx, desc, open); err != nil {
		return &CopyError{Side: SideTarget, Op: "push", Desc: desc, Err: err}
	}
	c.tell(Event{Desc: desc, State: StateDone, Offset: desc.Size})
	return nil
}

// readManifest reads desc and returns the children to copy.
func (c *copier) readManifest(ctx context.Context, desc ocispec.Descriptor) ([]byte, []ocispec.Descriptor, error) {
	if err := c.acquire(ctx); err != nil {
		return nil, nil, err
	}
	defer c.release()
	fail := func(op string, err error) ([]byte, []ocispec.Descriptor, error) {
		return nil, nil, &CopyError{Side: SideSource, Op: op, Desc: desc, Err: err}
	}
	b, err := ReadAll(ctx, c.src, desc, MaxManifestSize)
	if err != nil {
		return fail("fetch", err)
	}
	if c.opts.Select == nil || !IsIndex(desc.MediaType) {
		children, err := Children(desc.MediaType, b)
		if err != nil {
			return fail("parse", err)
		}
		return b, children, nil
	}
	index, err := ParseIndex(desc.MediaType, b)
	if err != nil {
		return fail("parse", err)
	}
	children, err := c.opts.Select(index)
	if err != nil {
		return fail("select from", err)
	}
	return b, children, nil
}

// copyAll copies descs at once.
func (c *copier) copyAll(ctx context.Context, descs []ocispec.Descriptor, depth int) error {
	nodes := make([]*node, len(descs))
	for i, d := range descs {
		nodes[i] = c.add(d)
	}
	errs := make([]error, len(descs))
	var wg sync.WaitGroup
	for i, n := range nodes {
		wg.Go(func() { errs[i] = c.copyNode(ctx, n, depth) })
	}
	wg.Wait()
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// copyBlob copies one blob, in the cheapest way that works.
func (c *copier) copyBlob(ctx context.Context, desc ocispec.Descriptor) error {
	exists, err := c.dst.Exists(ctx, desc)
	if err != nil {
		return &CopyError{Side: SideTarget, Op: "look for", Desc: desc, Err: err}
	}
	if exists {
		c.tell(Event{Desc: desc, State: StateExists, Offset: desc.Size})
		return nil
	}
	if mounter, ok := c.dst.(BlobMounter); ok && c.opts.MountFrom != nil {
		if from := c.opts.MountFrom(desc); len(from) > 0 {
			repo, ok, err := mounter.MountBlob(ctx, desc, from)
			if err != nil {
				return &CopyError{Side: SideTarget, Op: "mount", Desc: desc, Err: err}
			}
			if ok {
				c.tell(Event{Desc: desc, State: StateMounted, Offset: desc.Size, From: repo})
				return nil
			}
		}
	}
	open := func(ctx context.Context, offset int64) (io.ReadCloser, error) {
		rc, err := c.src.Fetch(ctx, desc, offset)
		if err != nil {
			return nil, &CopyError{Side: SideSource, Op: "fetch", Desc: desc, Err: err}
		}
		return &progressReader{ReadCloser: rc, c: c, desc: desc, offset: offset, told: offset}, nil
	}
	if err := c.push(ctx, desc, open); err != nil {
		return err
	}
	c.tell(Event{Desc: desc, State: StateDone, Offset: desc.Size})
	return nil
}

// push pushes a blob. Where the source gave wrong bytes and has others, those are
// asked for.
func (c *copier) push(ctx context.Context, desc ocispec.Descriptor, open Opener) error {
	for {
		err := c.dst.Push(ctx, desc, open)
		if err == nil {
			return nil
		}
		if _, ok := errors.AsType[*CopyError](err); ok {
			return err
		}
		again, err := doubt(c.src, desc, err)
		if !again {
			return &CopyError{Side: SideTarget, Op: "push", Desc: desc, Err: err}
		}
	}
}

// progressReader tells how far a blob is, every progressStep bytes.
type progressReader struct {
	io.ReadCloser
	c            *copier
	desc         ocispec.Descriptor
	offset, told int64
}

const progressStep = 512 << 10

func (r *progressReader) Read(p []byte) (int, error) {
	n, err := r.ReadCloser.Read(p)
	r.offset += int64(n)
	if r.offset-r.told >= progressStep || r.told == 0 && n > 0 {
		r.told = r.offset
		r.c.tell(Event{Desc: r.desc, State: StateCopying, Offset: r.offset})
	}
	if err != nil && !errors.Is(err, io.EOF) {
		err = &CopyError{Side: SideSource, Op: "fetch", Desc: r.desc, Err: err}
	}
	return n, err
}
