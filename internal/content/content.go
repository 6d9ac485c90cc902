// Package content stores blobs by digest.
//
// A blob is an immutable run of bytes named by its digest. An ingest is a blob
// that is not finished: it is named by a ref (a caller's string that is the
// same on every attempt, such as the expected digest), survives the process and
// the machine, and is resumed where it stopped. Committing an ingest verifies
// it and makes it a blob, atomically.
package content

import (
	"context"
	"io"
	"time"

	"github.com/opencontainers/go-digest"
)

// Info describes one blob.
type Info struct {
	Digest  digest.Digest
	Size    int64 // bytes
	ModTime time.Time
}

// IngestInfo describes one unfinished blob.
type IngestInfo struct {
	Ref     string
	Offset  int64 // bytes written so far
	ModTime time.Time
	Held    bool // a Writer holds it
}

// ReaderAt reads one blob at random; the caller closes it.
type ReaderAt interface {
	io.ReaderAt
	io.Closer
	Size() int64
}

// Provider reads blobs. Its methods are safe for concurrent use.
type Provider interface {
	// Stat describes the blob, or fails with errdefs.ErrNotFound.
	Stat(ctx context.Context, dgst digest.Digest) (Info, error)

	// Open opens the blob, or fails with errdefs.ErrNotFound. The bytes are
	// not verified on the way: NewReader and ReadAll do that.
	Open(ctx context.Context, dgst digest.Digest) (ReaderAt, error)
}

// WriterOptions say what is known of a blob before it is written.
type WriterOptions struct {
	Expected digest.Digest // empty: not known
	Size     int64         // bytes; 0: not known
}

// Ingester takes blobs in.
type Ingester interface {
	// Writer begins or resumes the ingest named ref, which one Writer holds at
	// a time (across processes): a second one fails with errdefs.ErrUnavailable.
	// It fails with errdefs.ErrAlreadyExists when opts.Expected is stored.
	Writer(ctx context.Context, ref string, opts WriterOptions) (Writer, error)
}

// Writer writes one ingest. It is not safe for concurrent use.
type Writer interface {
	io.Writer

	// ReadAt reads the bytes held: what an earlier attempt left need not be
	// fetched to be looked at.
	io.ReaderAt

	// Offset is the count of bytes held, those of earlier attempts included.
	// The next byte that Write takes is the one at Offset.
	Offset() int64

	// Digest is the sha256 of the bytes held.
	Digest() digest.Digest

	// Truncate forgets all bytes from offset on. (Offset 0 starts again.)
	Truncate(offset int64) error

	// Commit verifies size (unless 0) and expected (unless empty) and makes
	// the ingest a blob: durable and visible, or nothing. When the blob exists
	// already Commit drops the ingest and succeeds. On a mismatch it fails with
	// errdefs.ErrFailedPrecondition and drops the ingest.
	Commit(ctx context.Context, size int64, expected digest.Digest) error

	// Close releases the ingest and keeps its bytes for a later Writer. After
	// Commit it does nothing.
	Close() error
}

// Manager lists and removes.
type Manager interface {
	// Walk calls fn for every blob, in no order, until fn fails.
	Walk(ctx context.Context, fn func(Info) error) error
	// Delete removes a blob, or fails with errdefs.ErrNotFound.
	Delete(ctx context.Context, dgst digest.Digest) error
	// Ingests lists the unfinished blobs.
	Ingests(ctx context.Context) ([]IngestInfo, error)
	// Abort drops an ingest, or fails with errdefs.ErrNotFound, or with
	// errdefs.ErrUnavailable while a Writer holds it.
	Abort(ctx context.Context, ref string) error
}

// Store is all of it.
type Store interface {
	Provider
	Ingester
	Manager
}
