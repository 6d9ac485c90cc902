package s3

import (
	"context"
	"crypto/sha256"
	"encoding"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"strconv"
	"time"

	"github.com/containerd/errdefs"
	"github.com/minio/minio-go/v7"
	"github.com/opencontainers/go-digest"

	"strake/internal/content"
)

// callTime bounds what a call without a context asks of the server.
const callTime = 5 * time.Minute

// Metadata of a segment.
const (
	metaState = "State" // base64 of the sha256's state at its end
	metaChain = "Chain" // hash of the ETags of the segments before it
)

// segment is a full segment that is stored.
type segment struct {
	offset, size int64
	etag         string
}

// writer is the Writer of a Store. The segments cover the bytes before buf.
type writer struct {
	store *Store
	ref   string
	dir   string
	lease *lease // nil: closed
	size  int64  // most bytes to take; 0: no limit

	hash     hash.Hash
	segments []segment
	buf      []byte
	stored   int           // bytes of buf that are stored as a segment
	pending  chan uploaded // the segment under way; nil: none
	err      error         // of a segment: nothing more can be written
}

// uploaded is how the upload of a segment ended.
type uploaded struct {
	segment
	err error
}

// Writer implements content.Ingester.
func (s *Store) Writer(ctx context.Context, ref string, opts content.WriterOptions) (content.Writer, error) {
	if err := content.CheckRef(ref); err != nil {
		return nil, err
	}
	if err := content.Absent(ctx, s, opts.Expected); err != nil {
		if errdefs.IsAlreadyExists(err) {
			err = errors.Join(err, s.forget(ctx, ref))
		}
		return nil, err
	}
	l, err := s.acquire(ctx, ref, true)
	if err != nil {
		return nil, err
	}
	// Whoever held the ref until now may have committed it.
	if err := content.Absent(ctx, s, opts.Expected); err != nil {
		return nil, errors.Join(err, l.drop(ctx))
	}
	w := &writer{store: s, ref: ref, dir: s.dir(ref), lease: l, size: opts.Size, hash: sha256.New()}
	if l.created {
		return w, nil
	}
	if err := w.resume(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("ingest %q: %w", ref, err), l.release(ctx))
	}
	return w, nil
}

// forget removes an ingest of a blob that is there, unless somebody holds it.
func (s *Store) forget(ctx context.Context, ref string) error {
	err := s.Abort(ctx, ref)
	if errdefs.IsNotFound(err) || errdefs.IsUnavailable(err) {
		return nil
	}
	return err
}

// segmentKey is where the segment at offset is.
func (w *writer) segmentKey(offset int64) string { return w.dir + fmt.Sprintf("%016d", offset) }

// parseOffset reads the last part of a segment's key.
func parseOffset(name string) (offset int64, ok bool) {
	offset, err := strconv.ParseInt(name, 10, 64)
	return offset, err == nil && len(name) == 16
}

// Offset implements content.Writer.
func (w *writer) Offset() int64 { return w.start() + int64(len(w.buf)) }

// start is the offset of buf.
func (w *writer) start() int64 { return int64(len(w.segments)) * segmentSize }

// Digest implements content.Writer.
func (w *writer) Digest() digest.Digest { return digest.NewDigest(digest.SHA256, w.hash) }

// Write implements content.Writer. A segment that is full goes to the server
// while the next one fills.
func (w *writer) Write(p []byte) (n int, err error) {
	if w.lease == nil {
		return 0, fmt.Errorf("write ingest %q: %w", w.ref, fs.ErrClosed)
	}
	if err := content.CheckRoom(w.ref, w.Offset(), int64(len(p)), w.size); err != nil {
		return 0, err
	}
	for len(p) > 0 {
		if w.err != nil {
			return n, w.err
		}
		if len(w.buf) == segmentSize {
			w.flush()
			continue
		}
		if w.buf == nil {
			w.buf = make([]byte, 0, min(segmentSize, max(len(p), 64<<10)))
		}
		part := p[:min(len(p), segmentSize-len(w.buf))]
		w.buf = append(w.buf, part...)
		w.hash.Write(part)
		n, p = n+len(part), p[len(part):]
	}
	return n, nil
}

// flush begins to store buf, which is full, as a segment and begins another. It
// waits for the one before.
func (w *writer) flush() {
	if w.wait(); w.err != nil {
		return
	}
	if len(w.segments) == maxSegments-1 {
		w.err = fmt.Errorf("write ingest %q: more than %d bytes: %w", w.ref, int64(maxSegments)*segmentSize, errdefs.ErrOutOfRange)
		return
	}
	seg, b := segment{offset: w.start(), size: int64(len(w.buf))}, w.buf
	meta, err := w.meta(w.segments)
	if err == nil {
		err = w.lease.check()
	}
	if err != nil {
		w.err = err
		return
	}
	done := make(chan uploaded, 1)
	w.pending = done
	key, store := w.segmentKey(seg.offset), w.store
	go func() {
		ctx, cancel := context.WithTimeout(context.Background(), callTime)
		defer cancel()
		up := uploaded{segment: seg}
		up.etag, up.err = store.putMeta(ctx, key, b, meta, nil)
		done <- up
	}()
	w.segments = append(w.segments, seg)
	w.buf, w.stored = nil, 0
}

// wait waits for the segment under way.
func (w *writer) wait() {
	if w.pending == nil {
		return
	}
	up := <-w.pending
	w.pending = nil
	if up.err != nil {
		w.err = fmt.Errorf("write ingest %q: %w", w.ref, up.err)
		return
	}
	w.segments[up.offset/segmentSize] = up.segment
}

// save stores buf as the last segment.
func (w *writer) save(ctx context.Context) error {
	if w.wait(); w.err != nil {
		return w.err
	}
	if len(w.buf) == w.stored {
		return nil
	}
	meta, err := w.meta(w.segments)
	if err == nil {
		err = w.lease.check()
	}
	if err == nil {
		_, err = w.store.putMeta(ctx, w.segmentKey(w.start()), w.buf, meta, nil)
	}
	if err == nil {
		w.stored = len(w.buf)
	}
	return err
}

// meta is the metadata of the segment that ends at Offset and follows before.
func (w *writer) meta(before []segment) (map[string]string, error) {
	h, ok := w.hash.(encoding.BinaryMarshaler)
	if !ok {
		return nil, fmt.Errorf("state of %T: %w", w.hash, errdefs.ErrNotImplemented)
	}
	state, err := h.MarshalBinary()
	if err != nil {
		return nil, fmt.Errorf("state of sha256: %w", err)
	}
	return map[string]string{metaState: base64.StdEncoding.EncodeToString(state), metaChain: chain(before)}, nil
}

// chain is a hash of the names of segments.
func chain(segments []segment) string {
	h := sha256.New()
	for _, seg := range segments {
		fmt.Fprintln(h, seg.etag)
	}
	return hex.EncodeToString(h.Sum(nil))
}

// ReadAt implements content.Writer.
func (w *writer) ReadAt(p []byte, offset int64) (n int, err error) {
	if w.lease == nil {
		return 0, fmt.Errorf("read ingest %q: %w", w.ref, fs.ErrClosed)
	}
	if w.wait(); w.err != nil {
		return 0, w.err
	}
	ctx, cancel := context.WithTimeout(context.Background(), callTime)
	defer cancel()
	return w.readAt(ctx, p, offset)
}

// readAt reads p from segments and buf; no segment is under way.
func (w *writer) readAt(ctx context.Context, p []byte, offset int64) (n int, err error) {
	for len(p) > n {
		at := offset + int64(n)
		if at >= w.Offset() {
			return n, io.EOF
		}
		if at >= w.start() {
			n += copy(p[n:], w.buf[at-w.start():])
			continue
		}
		seg := w.segments[at/segmentSize]
		part := p[n:]
		part = part[:min(int64(len(part)), seg.offset+seg.size-at)]
		got, err := w.readSegment(ctx, seg, part, at-seg.offset)
		n += got
		if err != nil {
			return n, fmt.Errorf("read ingest %q: %w", w.ref, err)
		}
	}
	return n, nil
}

// readSegment reads p from a segment.
func (w *writer) readSegment(ctx context.Context, seg segment, p []byte, offset int64) (n int, err error) {
	var opts minio.GetObjectOptions
	if err := errors.Join(opts.SetMatchETag(seg.etag), opts.SetRange(offset, offset+int64(len(p))-1)); err != nil {
		return 0, err
	}
	body, _, _, err := w.store.client.GetObject(ctx, w.store.bucket, w.segmentKey(seg.offset), opts)
	if err != nil {
		return 0, classify(err)
	}
	defer func() { err = errors.Join(err, body.Close()) }()
	return io.ReadFull(body, p)
}

// Truncate implements content.Writer.
func (w *writer) Truncate(offset int64) error {
	if w.lease == nil {
		return fmt.Errorf("truncate ingest %q: %w", w.ref, fs.ErrClosed)
	}
	if offset < 0 || offset > w.Offset() {
		return fmt.Errorf("truncate ingest %q of %d bytes to %d: %w", w.ref, w.Offset(), offset, errdefs.ErrOutOfRange)
	}
	if offset == w.Offset() {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), callTime)
	defer cancel()
	if err := w.truncate(ctx, offset); err != nil {
		return fmt.Errorf("truncate ingest %q: %w", w.ref, err)
	}
	return nil
}

func (w *writer) truncate(ctx context.Context, offset int64) error {
	if w.wait(); w.err != nil {
		return w.err
	}
	keep := int(offset / segmentSize)
	buf := make([]byte, offset-int64(keep)*segmentSize)
	if _, err := w.readAt(ctx, buf, int64(keep)*segmentSize); err != nil {
		return err
	}
	var gone []string
	for i := keep; i <= len(w.segments); i++ {
		gone = append(gone, w.segmentKey(int64(i)*segmentSize))
	}
	if err := w.store.remove(ctx, gone...); err != nil {
		return err
	}
	w.segments, w.buf, w.stored = w.segments[:keep], buf, 0
	return w.rehash(ctx)
}

// rehash computes the state of the hash anew from what is stored and buf.
func (w *writer) rehash(ctx context.Context) error {
	h := sha256.New()
	chunk := make([]byte, 0)
	for _, seg := range w.segments {
		if int64(len(chunk)) < seg.size {
			chunk = make([]byte, seg.size)
		}
		if _, err := w.readSegment(ctx, seg, chunk[:seg.size], 0); err != nil {
			return err
		}
		h.Write(chunk[:seg.size])
	}
	h.Write(w.buf)
	w.hash = h
	return nil
}

// Close implements content.Writer. The bytes are stored, and the lease is free.
func (w *writer) Close() error {
	if w.lease == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), callTime)
	defer cancel()
	var err error
	if w.err == nil { // or who wrote knows
		err = w.save(ctx)
	} else {
		w.wait()
	}
	l := w.lease
	w.lease = nil
	if err = errors.Join(err, l.release(ctx)); err != nil {
		return fmt.Errorf("close ingest %q: %w", w.ref, err)
	}
	return nil
}
