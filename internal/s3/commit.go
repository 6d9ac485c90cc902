package s3

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"

	"github.com/containerd/errdefs"
	"github.com/minio/minio-go/v7"
	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/errgroup"

	"strake/internal/content"
)

// copiers is how many parts of one blob the server copies at once.
const copiers = 16

// resume takes up the segments that are stored, up to the first that lacks.
func (w *writer) resume(ctx context.Context) error {
	var found []segment
	var gone []string
	err := w.store.list(ctx, w.dir, func(o minio.ObjectInfo) error {
		offset, ok := parseOffset(o.Key[len(w.dir):])
		switch {
		case !ok: // the lease
		case offset == int64(len(found))*segmentSize:
			found = append(found, segment{offset: offset, size: o.Size, etag: o.ETag})
		default:
			gone = append(gone, o.Key)
		}
		return nil
	})
	if err == nil && len(gone) > 0 {
		err = w.store.remove(ctx, gone...)
	}
	if err != nil || len(found) == 0 {
		return err
	}
	// The last one is read, unless it is full; so is one with others after a gap.
	last := found[len(found)-1]
	w.segments = found[:len(found)-1]
	meta, err := w.readLast(ctx, last)
	if err != nil {
		return err
	}
	if w.restore(meta) {
		return nil
	}
	return w.rehash(ctx)
}

// readLast reads the last segment: its metadata and, where more is to be added
// to it, its bytes.
func (w *writer) readLast(ctx context.Context, last segment) (meta map[string]string, err error) {
	if last.size > segmentSize {
		return nil, fmt.Errorf("segment %d has %d bytes: %w", last.offset, last.size, errdefs.ErrDataLoss)
	}
	key := w.segmentKey(last.offset)
	if last.size == segmentSize {
		var opts minio.StatObjectOptions
		if err := opts.SetMatchETag(last.etag); err != nil {
			return nil, err
		}
		o, err := w.store.client.StatObject(ctx, w.store.bucket, key, opts)
		w.segments = append(w.segments, last)
		return o.UserMetadata, classify(err)
	}
	var opts minio.GetObjectOptions
	if err := opts.SetMatchETag(last.etag); err != nil {
		return nil, err
	}
	body, o, _, err := w.store.client.GetObject(ctx, w.store.bucket, key, opts)
	if err != nil {
		return nil, classify(err)
	}
	defer func() { err = errors.Join(err, body.Close()) }()
	w.buf = make([]byte, last.size)
	_, err = io.ReadFull(body, w.buf)
	w.stored = len(w.buf)
	return o.UserMetadata, err
}

// restore sets the hash to the state that the last segment carries. It reports
// false where that is not the state of these segments.
func (w *writer) restore(meta map[string]string) bool {
	before := w.segments
	if len(w.buf) == 0 {
		before = before[:len(before)-1]
	}
	state, err := base64.StdEncoding.DecodeString(meta[metaState])
	if err != nil || meta[metaChain] != chain(before) {
		return false
	}
	h, ok := w.hash.(encoding.BinaryUnmarshaler)
	return ok && h.UnmarshalBinary(state) == nil
}

// Commit implements content.Writer.
func (w *writer) Commit(ctx context.Context, size int64, expected digest.Digest) error {
	if w.lease == nil {
		return fmt.Errorf("commit ingest %q: %w", w.ref, fs.ErrClosed)
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	if w.wait(); w.err != nil {
		return w.err
	}
	dgst, err := content.Verify(w.ref, w.Offset(), size, w.Digest(), expected, io.NewSectionReader(w, 0, w.Offset()))
	if errdefs.IsFailedPrecondition(err) {
		return errors.Join(err, w.drop(ctx))
	}
	if err == nil {
		err = w.publish(ctx, dgst)
	}
	if isConflict(err) || errdefs.IsNotFound(err) {
		err = fmt.Errorf("another writer took it over: %w: %w", err, errdefs.ErrUnavailable)
	}
	if err != nil {
		return fmt.Errorf("commit ingest %q: %w", w.ref, err)
	}
	return w.drop(ctx)
}

// drop removes the ingest and closes the Writer.
func (w *writer) drop(ctx context.Context) error {
	l := w.lease
	w.lease = nil
	if err := l.drop(context.WithoutCancel(ctx)); err != nil {
		return fmt.Errorf("drop ingest %q: %w", w.ref, err)
	}
	return nil
}

// publish makes the bytes the blob dgst, unless it is there.
func (w *writer) publish(ctx context.Context, dgst digest.Digest) error {
	key, err := w.store.key(dgst)
	if err != nil {
		return err
	}
	if err := w.lease.check(); err != nil {
		return err
	}
	info, err := w.store.Stat(ctx, dgst)
	if err == nil && info.Size == w.Offset() || err != nil && !errdefs.IsNotFound(err) {
		return err
	}
	if len(w.segments) == 0 {
		_, err := w.store.put(ctx, key, w.buf, nil)
		return err
	}
	return w.compose(ctx, key)
}

// compose makes the object key of the segments, which the server copies, and buf.
func (w *writer) compose(ctx context.Context, key string) (err error) {
	s := w.store
	id, err := s.client.NewMultipartUpload(ctx, s.bucket, key, minio.PutObjectOptions{ContentType: octetStream})
	if err != nil {
		return classify(err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.client.AbortMultipartUpload(context.WithoutCancel(ctx), s.bucket, key, id))
		}
	}()
	count := len(w.segments)
	if len(w.buf) > 0 {
		count++
	}
	parts := make([]minio.CompletePart, count)
	group, gctx := errgroup.WithContext(ctx)
	group.SetLimit(copiers)
	for i, seg := range w.segments {
		group.Go(func() (err error) {
			parts[i], err = s.client.CopyObjectPart(gctx, s.bucket, w.segmentKey(seg.offset), s.bucket, key, id, i+1, 0, -1,
				map[string]string{"x-amz-copy-source-if-match": `"` + seg.etag + `"`})
			return classify(err)
		})
	}
	if len(w.buf) > 0 {
		h := sha256.Sum256(w.buf)
		part, err := s.client.PutObjectPart(ctx, s.bucket, key, id, count, bytes.NewReader(w.buf), int64(len(w.buf)),
			minio.PutObjectPartOptions{Sha256Hex: hex.EncodeToString(h[:]), DisableContentSha256: true})
		if err != nil {
			return errors.Join(classify(err), group.Wait())
		}
		parts[count-1] = minio.CompletePart{PartNumber: part.PartNumber, ETag: part.ETag}
	}
	if err := group.Wait(); err != nil {
		return err
	}
	_, err = s.client.CompleteMultipartUpload(ctx, s.bucket, key, id, parts, minio.PutObjectOptions{})
	return classify(err)
}
