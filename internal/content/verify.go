package content

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/sha512"
	"errors"
	"fmt"
	"hash"
	"io"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
)

// newHash returns the hash that dgst is made with. It fails with
// errdefs.ErrInvalidArgument when dgst is not a well-formed digest of an
// algorithm of the OCI image specification, so that a digest which passed here
// is safe in a path: its algorithm is a known word, the rest lower-case hex.
func newHash(dgst digest.Digest) (hash.Hash, error) {
	if err := dgst.Validate(); err != nil {
		return nil, fmt.Errorf("digest %q: %w: %w", dgst, err, errdefs.ErrInvalidArgument)
	}
	switch dgst.Algorithm() {
	case digest.SHA256:
		return sha256.New(), nil
	case digest.SHA384:
		return sha512.New384(), nil
	case digest.SHA512:
		return sha512.New(), nil
	}
	return nil, fmt.Errorf("digest %q: %w: %w", dgst, digest.ErrDigestUnsupported, errdefs.ErrInvalidArgument)
}

// CheckDigest fails with errdefs.ErrInvalidArgument unless dgst is a well-formed
// digest of a known algorithm: one that passes is safe in a path.
func CheckDigest(dgst digest.Digest) error {
	_, err := newHash(dgst)
	return err
}

// sum is the digest of what was written to h, of the algorithm alg.
func sum(alg digest.Algorithm, h hash.Hash) digest.Digest {
	return digest.NewDigest(alg, h)
}

// Reader reads a blob from a source that is not trusted and verifies it. When
// the size is known, the last byte is handed out only after the digest of all
// of them was found right.
type Reader struct {
	src      io.Reader
	want     digest.Digest
	hash     hash.Hash
	size     int64 // -1: not known
	offset   int64
	verified bool
	err      error // what every further Read returns
}

// NewReader returns a reader of the blob dgst of size bytes (-1: not known)
// that takes its bytes from src. It reads at most one byte more than size from
// src. A Read fails with errdefs.ErrFailedPrecondition once src turns out to be
// longer, shorter or different, and with errdefs.ErrInvalidArgument when dgst is
// no digest.
func NewReader(src io.Reader, dgst digest.Digest, size int64) *Reader {
	h, err := newHash(dgst)
	return &Reader{src: src, want: dgst, hash: h, size: size, err: err}
}

// Read implements io.Reader. It returns io.EOF only for a verified blob.
func (r *Reader) Read(p []byte) (int, error) {
	if r.err != nil {
		return 0, r.err
	}
	if r.verified {
		r.err = r.end()
		return 0, r.err
	}
	if r.size >= 0 && int64(len(p)) > r.size-r.offset {
		p = p[:r.size-r.offset]
	}
	var n int
	var err error
	if r.size != r.offset {
		n, err = r.src.Read(p)
		r.hash.Write(p[:n])
		r.offset += int64(n)
	}
	switch {
	case r.offset == r.size:
		if err := r.check(); err != nil {
			r.err = err
			return 0, err
		}
		return n, nil
	case err == nil:
		return n, nil
	case !errors.Is(err, io.EOF):
		r.err = err
	case r.size >= 0:
		r.err = fmt.Errorf("blob %s: %d bytes of %d: %w: %w",
			r.want, r.offset, r.size, io.ErrUnexpectedEOF, errdefs.ErrFailedPrecondition)
	default:
		r.err = r.check()
		if r.err == nil {
			r.err = io.EOF
		}
	}
	return n, r.err
}

// check compares the digests.
func (r *Reader) check() error {
	if got := sum(r.want.Algorithm(), r.hash); got != r.want {
		return fmt.Errorf("blob %s: content has digest %s: %w", r.want, got, errdefs.ErrFailedPrecondition)
	}
	r.verified = true
	return nil
}

// end makes sure that nothing follows the last byte.
func (r *Reader) end() error {
	var one [1]byte
	switch n, err := io.ReadFull(r.src, one[:]); {
	case n > 0:
		return fmt.Errorf("blob %s: more than %d bytes: %w", r.want, r.size, errdefs.ErrFailedPrecondition)
	case err != nil:
		return err
	}
	return io.EOF
}

// ReadAll returns the verified bytes of the blob dgst. It fails with
// errdefs.ErrNotFound when p does not hold it and with errdefs.ErrOutOfRange,
// before it spends any memory, when the blob has more than limit bytes.
func ReadAll(ctx context.Context, p Provider, dgst digest.Digest, limit int64) (b []byte, err error) {
	ra, err := p.Open(ctx, dgst)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, ra.Close()) }()
	size := ra.Size()
	if size > limit {
		return nil, fmt.Errorf("blob %s: %d bytes, at most %d are allowed: %w", dgst, size, limit, errdefs.ErrOutOfRange)
	}
	buf := bytes.NewBuffer(make([]byte, 0, size+bytes.MinRead))
	if _, err := buf.ReadFrom(NewReader(io.NewSectionReader(ra, 0, size), dgst, size)); err != nil {
		return nil, fmt.Errorf("read blob %s: %w", dgst, err)
	}
	return buf.Bytes(), nil
}

// WriteBlob stores the blob dgst of size bytes (0: not known) read from r, and
// succeeds without reading r when ing holds it. While another writer is at work
// on the same blob it waits for the outcome, until ctx is done.
func WriteBlob(ctx context.Context, ing Ingester, dgst digest.Digest, size int64, r io.Reader) (err error) {
	w, err := waitWriter(ctx, ing, string(dgst), WriterOptions{Expected: dgst, Size: size})
	if errdefs.IsAlreadyExists(err) {
		return nil
	}
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, w.Close()) }()
	if err := w.Truncate(0); err != nil {
		return err
	}
	if _, err := io.Copy(w, r); err != nil {
		return fmt.Errorf("write blob %s: %w", dgst, err)
	}
	return w.Commit(ctx, size, dgst)
}

// waitWriter is ing.Writer that waits while another writer holds the ref.
func waitWriter(ctx context.Context, ing Ingester, ref string, opts WriterOptions) (Writer, error) {
	for pause := time.Millisecond; ; pause = min(2*pause, 100*time.Millisecond) {
		w, err := ing.Writer(ctx, ref, opts)
		if !errdefs.IsUnavailable(err) {
			return w, err
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("%w: %w", err, ctx.Err())
		case <-time.After(pause):
		}
	}
}
