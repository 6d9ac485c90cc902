package layer

import (
	"context"

	"github.com/opencontainers/go-digest"
)

// Files says where a layer's files are. They never change once written.
type Files struct {
	DiffID digest.Digest // sha256 of Tar
	Size   int64         // bytes of Tar
	Tar    string        // path of the uncompressed layer tar
	Index  string        // path of its EROFS index
	Side   string        // path of the data that the tar cannot serve in place; "" if none
}

// Staged is a layer that is whole and can be read and mounted, but is not in a
// store yet.
type Staged struct {
	Files // good until Close, whether it is committed or not

	// Commit puts the layer into the store, durably, or fails and leaves nothing.
	// It is called once.
	Commit func(ctx context.Context) error
	// Close releases the files, and drops a layer that was not committed.
	Close func() error
}
