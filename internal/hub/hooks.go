package hub

import (
	"context"
	"database/sql"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Kind says what a Change is.
type Kind string

// The kinds of changes. Of Incoming nothing was changed yet: bytes are about to
// be taken in.
const (
	Incoming         Kind = "blob.incoming"
	BlobLinked       Kind = "blob.link"
	BlobDeleted      Kind = "blob.delete" // by a client: what is collected no tag needs
	ManifestPut      Kind = "manifest.push"
	ManifestDeleted  Kind = "manifest.delete"
	ManifestRestored Kind = "manifest.restore"
	TagSet           Kind = "tag.set"
	TagDeleted       Kind = "tag.delete"
	TagPublished     Kind = "tag.publish" // a reviewer let it through
	ReviewReturned   Kind = "review.return"
	Scanned          Kind = "scan.end"              // of a manifest
	Visibility       Kind = "repository.visibility" // Public is new; or another kind of repository
)

// Change is something that happens in a repository.
type Change struct {
	Kind       Kind
	Repository string
	ID         int64              // row of the repository; 0: it does not exist yet
	Desc       ocispec.Descriptor // the blob, the manifest, or what the tag names now; of Incoming the digest may be empty and the size 0: unknown
	Tag        string             // of TagSet and TagDeleted
	Old        digest.Digest      // what the tag named before, for who writes
	Fresh      bool               // of ManifestPut: the repository did not hold it
	Held       bool               // of TagSet: readers do not see it yet
	OldHeld    bool               // of TagSet and TagDeleted: readers never saw what the tag named before
	Public     bool               // of Visibility
}

// Hook takes part in the Hub's changes. It is called in the transaction of a
// change after the change was made, with the caller's identity in ctx. Its error
// undoes the change and is what the client is told; an error that is no
// registry.Error is the server's own failure. It may run more than once for one
// change, when the database has the transaction repeated, so it does nothing
// that the transaction does not undo.
type Hook func(ctx context.Context, tx *sql.Tx, c Change) error

// Hooks are called in their order, until one fails.
type Hooks []Hook

// Call calls the hooks.
func (hooks Hooks) Call(ctx context.Context, tx *sql.Tx, c Change) error {
	for _, hook := range hooks {
		if err := hook(ctx, tx, c); err != nil {
			return err
		}
	}
	return nil
}

// Attach adds hooks to those of a Hub that nobody uses yet.
func Attach(h *Hub, hooks ...Hook) { h.hooks = append(h.hooks, hooks...) }

// HooksOf returns the hooks of a Hub, for who changes what is in it by themselves.
func HooksOf(h *Hub) Hooks { return h.hooks }
