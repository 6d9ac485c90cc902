package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"strake/internal/archive"
	"strake/internal/content"
	"strake/internal/flock"
	"strake/internal/image"
)

// streamBuffer is how many bytes move at a time between the stages of an
// ingest: big enough that the hand-over costs nothing.
const streamBuffer = 256 << 10

// Prefixes of the refs of ingests that are made here, not fetched: their parts
// are of no use to a later process.
const (
	refUnpack = "unpack-"
	refRepair = "repair-"
	refStep   = "step-" // a lock, no part
)

// pollInterval is how often a blob that another process is taking in is looked
// at again.
const pollInterval = 50 * time.Millisecond

// Push implements image.Target. A layer, in whatever compression, is inflated,
// hashed and indexed in the one pass that writes it; its compressed form is
// kept too. When another process is taking the same blob in, Push waits for it.
func (s *contents) Push(ctx context.Context, desc ocispec.Descriptor, open image.Opener) error {
	if err := desc.Digest.Validate(); err != nil {
		return fmt.Errorf("store %q: %w: %w", desc.Digest, errdefs.ErrInvalidArgument, err)
	}
	for {
		ok, err := s.Exists(ctx, desc)
		if err != nil || ok {
			return err
		}
		err = s.take(ctx, desc, open)
		if !errors.Is(err, errBusy) {
			return err
		}
		if err := sleep(ctx, pollInterval); err != nil {
			return err
		}
	}
}

// errBusy says that another process makes what is to be made.
var errBusy = errors.New("another process is taking it in")

// take is one attempt of Push. It fails with errBusy while another process
// makes the same blob.
func (s *contents) take(ctx context.Context, desc ocispec.Descriptor, open image.Opener) error {
	w, err := s.blobs.Writer(ctx, desc.Digest.String(), content.WriterOptions{Expected: desc.Digest, Size: desc.Size})
	switch {
	case errdefs.IsAlreadyExists(err):
		// The file is there but no row: a commit that is under way, or one
		// that died before its transaction.
		err = adopt(ctx, s, desc)
		if errors.Is(err, errBusy) {
			return err
		}
	case errdefs.IsUnavailable(err):
		return errBusy
	case err == nil:
		resumed := w.Offset() > 0
		src := resume(ctx, open, w.Offset(), desc.Size)
		err = s.ingest(ctx, desc, w, src)
		if closeErr := errors.Join(src.Close(), w.Close()); err == nil {
			err = closeErr
		}
		if resumed && !src.failed && (errdefs.IsFailedPrecondition(err) || errdefs.IsDataLoss(err) || errdefs.IsInvalidArgument(err)) {
			return errBusy // the part that lay here may be what is wrong; it was dropped
		}
	}
	if err != nil {
		return fmt.Errorf("store %s: %w", desc.Digest, err)
	}
	return nil
}

func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}

func (s *contents) ingest(ctx context.Context, desc ocispec.Descriptor, w content.Writer, src *resuming) error {
	if isLayer(desc.MediaType) {
		return s.ingestLayer(ctx, desc, w, src)
	}
	if _, err := io.Copy(w, io.LimitReader(src, desc.Size+1-w.Offset())); err != nil {
		return err
	}
	return s.commitBlob(ctx, desc, func() error { return w.Commit(ctx, desc.Size, desc.Digest) })
}

// commitBlob commits a blob that is no layer; a manifest becomes visible only
// with all that it needs.
func (s *contents) commitBlob(ctx context.Context, desc ocispec.Descriptor, files func() error) error {
	if !image.IsManifest(desc.MediaType) && !image.IsIndex(desc.MediaType) {
		return s.commit(ctx, files, func(tx *sql.Tx) error { return recordBlob(ctx, tx, desc) })
	}
	return s.commit(ctx, files, func(tx *sql.Tx) error { return s.recordGraph(ctx, tx, desc) })
}

// adopt makes the row of a blob whose file is in place already, as its writer
// may have died before it did. A file of other bytes goes away instead, and
// errBusy says to try again.
func adopt(ctx context.Context, s *contents, desc ocispec.Descriptor) error {
	if err := verifyFile(ctx, s, desc); err != nil {
		return err
	}
	if isLayer(desc.MediaType) {
		return s.adoptLayer(ctx, desc)
	}
	return s.commitBlob(ctx, desc, present(ctx, s.blobs, desc.Digest))
}

// verifyFile reads the file of a blob. One of other bytes is deleted.
func verifyFile(ctx context.Context, s *contents, desc ocispec.Descriptor) (err error) {
	info, err := os.Lstat(s.blobs.Path(desc.Digest))
	if errors.Is(err, fs.ErrNotExist) {
		return errBusy
	}
	if err != nil {
		return err
	}
	f, err := s.blobs.Open(ctx, desc.Digest)
	if errdefs.IsNotFound(err) {
		return errBusy
	}
	if err != nil {
		return err
	}
	defer closing(&err, f.Close) // until then no other file gets its inode
	src := cancellable(ctx, io.NewSectionReader(f, 0, f.Size()))
	_, err = io.Copy(io.Discard, content.NewReader(src, desc.Digest, desc.Size))
	if !errdefs.IsFailedPrecondition(err) {
		return err
	}
	return dropFile(ctx, s, desc.Digest, info)
}

// dropFile deletes a file of wrong bytes that no row names, unless another
// process has done so and put the right one in its place. It returns errBusy.
func dropFile(ctx context.Context, s *contents, dgst digest.Digest, wrong fs.FileInfo) (err error) {
	gate, err := openGate(ctx, s.root, flock.Exclusive)
	if err != nil {
		return err
	}
	defer closing(&err, gate.Close)
	recorded := false
	err = s.db.View(ctx, func(tx *sql.Tx) error {
		recorded, err = exists(ctx, tx, "blobs WHERE digest = $1", dgst.String())
		return err
	})
	if err != nil {
		return err
	}
	now, err := os.Lstat(s.blobs.Path(dgst))
	if recorded || errors.Is(err, fs.ErrNotExist) || err == nil && !os.SameFile(now, wrong) {
		return errBusy
	}
	if err == nil {
		err = s.blobs.Delete(ctx, dgst)
	}
	if err != nil {
		return err
	}
	return errBusy
}

// adoptLayer takes a layer in from its compressed (or plain) blob in the store.
func (s *contents) adoptLayer(ctx context.Context, desc ocispec.Descriptor) (err error) {
	r, err := s.blobs.Open(ctx, desc.Digest)
	if errdefs.IsNotFound(err) {
		return errBusy
	}
	if err != nil {
		return err
	}
	defer closing(&err, r.Close)
	return s.unpack(ctx, desc, io.NewSectionReader(r, 0, r.Size()), present(ctx, s.blobs, desc.Digest))
}

// present is the step of a commit that adopts a file: GC may have swept it
// before the lease was there, and cannot behind the gate. Who gave the file its
// name may have died before the name was durable.
func present(ctx context.Context, blobs *content.Dir, dgst digest.Digest) func() error {
	return func() error {
		_, err := blobs.Stat(ctx, dgst)
		if errdefs.IsNotFound(err) {
			return errBusy
		}
		if err != nil {
			return err
		}
		return syncParent(blobs.Path(dgst))
	}
}

// commit makes files visible and reachable: files, the renames, and then rows,
// one transaction, run behind the gate.
func (s *contents) commit(ctx context.Context, files func() error, rows func(*sql.Tx) error) (err error) {
	gate, err := openGate(ctx, s.root, flock.Shared)
	if err != nil {
		return err
	}
	defer closing(&err, gate.Close)
	if err := files(); err != nil {
		return err
	}
	return s.db.Update(ctx, rows)
}

// ingestLayer streams a layer from src through w (which keeps the bytes as they
// come) into its tar and its index. The part that an earlier attempt left in w
// is read from disk, not fetched again.
func (s *contents) ingestLayer(ctx context.Context, desc ocispec.Descriptor, w content.Writer, src *resuming) error {
	in := newSpool(w, io.LimitReader(src, desc.Size+1-w.Offset()), src.stop)
	err := s.unpack(ctx, desc, in, func() error {
		in.end()
		return w.Commit(ctx, desc.Size, desc.Digest)
	})
	if in.end(); err == nil || src.failed || ctx.Err() != nil || errors.Is(err, errBusy) {
		return err
	}
	// What came is wrong, not the way it came: a part of it is of no use.
	if dropErr := w.Truncate(0); dropErr != nil && !errors.Is(dropErr, fs.ErrClosed) { // closed: Commit dropped it
		err = errors.Join(err, dropErr)
	}
	return err
}

// unpack reads the layer desc from r to its end, makes its tar and index, and
// commits the three together; commitBlob puts the blob itself in place.
func (s *contents) unpack(ctx context.Context, desc ocispec.Descriptor, r io.Reader, commitBlob func() error) (err error) {
	tar, compression, err := archive.Decompress(r)
	if err != nil {
		return err
	}
	defer closing(&err, tar.Close)
	if compression == archive.None {
		return s.indexPlain(ctx, desc, tar, commitBlob)
	}
	p, err := s.newLayer(ctx, refUnpack+desc.Digest.String())
	if err != nil {
		return err
	}
	defer closing(&err, p.Close)
	if err := p.readFrom(ctx, tar); err != nil {
		return errors.Join(err, p.discard(ctx))
	}
	if err := p.sync(ctx); err != nil {
		return err
	}
	diffID := p.w.Digest()
	if err := s.hold(ctx, diffID); err != nil {
		return err
	}
	return s.commit(ctx, func() error {
		if err := commitBlob(); err != nil {
			return err
		}
		return p.commitFiles(ctx, diffID)
	}, func(tx *sql.Tx) error {
		if err := recordBlob(ctx, tx, desc); err != nil {
			return err
		}
		if err := recordLayer(ctx, tx, diffID, p.sizes); err != nil {
			return err
		}
		return recordCompressed(ctx, tx, desc, diffID, "")
	})
}

// indexPlain indexes a layer that came uncompressed: its blob is its tar.
func (s *contents) indexPlain(ctx context.Context, desc ocispec.Descriptor, tar io.Reader, commitBlob func() error) (err error) {
	p, err := s.newIndex(ctx)
	if err != nil {
		return err
	}
	defer closing(&err, p.Close)
	if err := errors.Join(p.readFrom(ctx, tar), p.sync(ctx)); err != nil {
		return err
	}
	return s.commit(ctx, func() error {
		if err := commitBlob(); err != nil {
			return err
		}
		return p.commitIndex(desc.Digest)
	}, func(tx *sql.Tx) error { return recordLayer(ctx, tx, desc.Digest, p.sizes) })
}

// resume reads what open gives from offset on, and opens again where a read
// failed. What follows the size is not waited for. The caller closes it.
func resume(ctx context.Context, open image.Opener, offset, size int64) *resuming {
	ctx, stop := context.WithCancel(ctx)
	return &resuming{
		open: func(offset int64) (io.ReadCloser, error) { return open(ctx, offset) },
		done: ctx.Err, stop: stop, offset: offset, size: size,
	}
}

type resuming struct {
	open   func(offset int64) (io.ReadCloser, error)
	done   func() error // says why reading has to stop
	stop   context.CancelFunc
	r      io.ReadCloser
	offset int64
	size   int64
	tries  int  // that failed since the last byte
	failed bool // by itself: neither stopped nor cancelled
}

// maxTries is how often in a row a read may fail without a byte between.
const maxTries = 5

func (r *resuming) Read(b []byte) (int, error) {
	for {
		if r.r == nil {
			rc, err := r.open(r.offset)
			if err != nil {
				r.failed = r.done() == nil
				return 0, err // an opener retries by itself what is worth it
			}
			r.r = rc
		}
		n, err := r.r.Read(b)
		r.offset += int64(n)
		if n > 0 {
			r.tries = 0
		}
		if err == nil || errors.Is(err, io.EOF) || r.done() != nil {
			return n, err
		}
		if r.offset == r.size {
			return n, io.EOF
		}
		if r.tries++; r.tries >= maxTries {
			r.failed = true
			return n, err
		}
		if err := r.release(); err != nil {
			r.failed = true
			return n, err
		}
		if n > 0 {
			return n, nil
		}
	}
}

func (r *resuming) Close() error {
	r.stop()
	return r.release()
}

func (r *resuming) release() error {
	if r.r == nil {
		return nil
	}
	err := r.r.Close()
	r.r = nil
	return err
}
