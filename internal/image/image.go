// Package image reads, walks, selects and copies image graphs.
//
// An image graph is a tree of OCI descriptors: an index names manifests, a
// manifest names a config and layers. A Source holds graphs and a Target takes
// them in; Copy moves a graph from one to the other. Pull, push, save, load and
// mirroring are Copy between different Sources and Targets.
package image

import (
	"context"
	"io"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Source holds image graphs. Its methods are safe for concurrent use.
type Source interface {
	Fetcher

	// Resolve returns the root descriptor that ref (a tag or a digest, in the
	// source's own terms) names, or fails with errdefs.ErrNotFound.
	Resolve(ctx context.Context, ref string) (ocispec.Descriptor, error)
}

// Fetcher holds blobs. Its methods are safe for concurrent use.
type Fetcher interface {
	// Fetch opens the bytes of desc from offset on, unverified. It fails with
	// errdefs.ErrNotFound when the source does not hold them.
	Fetch(ctx context.Context, desc ocispec.Descriptor, offset int64) (io.ReadCloser, error)
}

// Doubter is a Fetcher that may have the same blob from several places.
type Doubter interface {
	// Doubt tells that what was fetched as desc are not its bytes. It returns
	// from where they came, "" when it is not known, and reports whether another
	// Fetch gets them from elsewhere.
	Doubt(desc ocispec.Descriptor) (from string, again bool)
}

// Opener opens the bytes of one blob from offset on. It may be called again
// after a failure.
type Opener func(ctx context.Context, offset int64) (io.ReadCloser, error)

// Target takes image graphs in. Its methods are safe for concurrent use.
type Target interface {
	// Exists reports whether the target holds desc. For a manifest that means
	// its config and layers too; for an index it says nothing of the children.
	Exists(ctx context.Context, desc ocispec.Descriptor) (bool, error)

	// Push takes the bytes of desc in: all verified, or nothing visible. It
	// calls open with the offset that it lacks from (0 unless an earlier try
	// left a part), and again to resume. Children come before their parents.
	// Pushing what is there succeeds.
	Push(ctx context.Context, desc ocispec.Descriptor, open Opener) error

	// Tag makes ref name desc, which has been pushed.
	Tag(ctx context.Context, desc ocispec.Descriptor, ref string) error
}

// BlobMounter is a Target that can take a blob from another repository beside
// it without its bytes (distribution-spec end-11).
type BlobMounter interface {
	// MountBlob reports whether desc is in the target now, taken from one of
	// the repositories, and from which.
	MountBlob(ctx context.Context, desc ocispec.Descriptor, from []string) (repository string, ok bool, err error)
}

// State is what Copy tells of one descriptor.
type State int

// States, in the order in which they come.
const (
	StateWaiting State = iota // found, not begun
	StateExists               // the target has it (final)
	StateMounted              // taken from another repository (final)
	StateCopying              // Offset of Size bytes moved
	StateDone                 // copied (final)
)

// Event is one step of a Copy.
type Event struct {
	Desc   ocispec.Descriptor
	State  State
	Offset int64  // bytes moved so far
	From   string // StateMounted: the repository
}

// CopyOptions say how to copy. The zero value copies everything, four blobs at
// a time.
type CopyOptions struct {
	// Select names the children of an index to copy; nil is all of them.
	Select func(index ocispec.Index) ([]ocispec.Descriptor, error)
	// Concurrency is how many blobs move at once; 0 is 4.
	Concurrency int
	// MountFrom lists repositories of the target that may hold desc.
	MountFrom func(desc ocispec.Descriptor) []string
	// Admit, when not nil, may refuse what a manifest or index names before any
	// of it is copied.
	Admit func(ctx context.Context, children []ocispec.Descriptor) error
	// Progress, when not nil, is told every step, from one goroutine at a time.
	Progress func(Event)
}
