package store

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"sync"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/errgroup"

	"strake/internal/layer"
)

// checkBytes reads the blobs to their ends, on all cores, the big ones first,
// and compares them with their digests; of a layer's tar it makes the index
// again, in the same pass, and compares that too. What is not there is passed
// over.
func (s *Store) checkBytes(ctx context.Context, c *census, blobs []digest.Digest, progress func(done, total int64)) ([]Finding, error) {
	slices.SortFunc(blobs, func(a, b digest.Digest) int {
		return cmp.Or(cmp.Compare(c.blobs[b], c.blobs[a]), cmp.Compare(a, b))
	})
	r := &byteReader{store: s, census: c, progress: progress}
	for _, d := range blobs {
		r.total += c.blobs[d]
	}
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(runtime.GOMAXPROCS(0))
	for _, d := range blobs {
		group.Go(func() error { return r.check(ctx, d) })
	}
	err := group.Wait()
	return r.found, err
}

type byteReader struct {
	store    *Store
	census   *census
	progress func(done, total int64)
	total    int64

	mu    sync.Mutex // guards what follows
	done  int64
	found []Finding
}

func (r *byteReader) tell(kind Kind, d digest.Digest, detail string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.found = append(r.found, Finding{Kind: kind, What: d.String(), Detail: detail, desc: r.census.describe(d)})
}

func (r *byteReader) read(n int) {
	if r.progress == nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.done += int64(n)
	r.progress(r.done, r.total)
}

// check reads one blob. Its error is one of the check, not of the blob.
func (r *byteReader) check(ctx context.Context, d digest.Digest) (err error) {
	f, err := os.Open(r.store.blobs.Path(d))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		r.tell(r.census.kindOf(d), d, err.Error())
		return nil
	}
	defer closing(&err, f.Close)
	verifier := d.Algorithm().Hash()
	src := io.TeeReader(readerFunc(func(b []byte) (int, error) {
		if err := ctx.Err(); err != nil {
			return 0, err
		}
		n, err := f.Read(b)
		r.read(n)
		return n, err
	}), verifier)
	row, isLayer := r.census.layers[d]
	var indexErr error
	if isLayer {
		indexErr = r.compareIndex(ctx, bufio.NewReaderSize(src, streamBuffer), d, row)
	}
	_, err = io.CopyBuffer(struct{ io.Writer }{io.Discard}, src, make([]byte, streamBuffer))
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case err != nil:
		r.tell(r.census.kindOf(d), d, "cannot be read: "+reason(err))
	case digest.NewDigest(d.Algorithm(), verifier) != d:
		r.tell(r.census.kindOf(d), d, "its bytes have another digest")
	case indexErr != nil:
		r.tell(KindIndex, d, indexErr.Error())
	}
	return nil
}

// compareIndex makes the index of a tar and compares it with the one that is
// there.
func (r *byteReader) compareIndex(ctx context.Context, tar io.Reader, d digest.Digest, row layerRow) (err error) {
	index, err := newComparer(r.store.indexPath(d))
	if err != nil {
		return errors.New(reason(err))
	}
	defer closing(&err, index.Close)
	var side *os.File
	if row.side > 0 {
		dir, err := r.store.TempDir(ctx)
		if err != nil {
			return err
		}
		defer closing(&err, func() error { return os.RemoveAll(dir) })
		if side, err = os.Create(filepath.Join(dir, "side")); err != nil {
			return err
		}
		defer closing(&err, side.Close)
	}
	if _, err := layer.WriteIndex(ctx, tar, index, side); err != nil {
		return err
	}
	if err := index.end(); err != nil || side == nil {
		return err
	}
	have, err := newComparer(r.store.sidePath(d))
	if err != nil {
		return errors.New(reason(err))
	}
	defer closing(&err, have.Close)
	if _, err := side.Seek(0, io.SeekStart); err != nil {
		return err
	}
	if _, err := io.Copy(have, side); err != nil {
		return err
	}
	if err := have.end(); err != nil {
		return fmt.Errorf("side data: %w", err)
	}
	return nil
}

// comparer is a Writer of the bytes that a file should hold.
type comparer struct {
	file *os.File
	r    *bufio.Reader
	buf  []byte
}

func newComparer(path string) (*comparer, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	return &comparer{file: f, r: bufio.NewReaderSize(f, streamBuffer), buf: make([]byte, streamBuffer)}, nil
}

// Write compares. It fails with errdefs.ErrDataLoss once the file is different.
func (c *comparer) Write(b []byte) (int, error) {
	for rest := b; len(rest) > 0; {
		n, err := io.ReadFull(c.r, c.buf[:min(len(rest), len(c.buf))])
		if err != nil || !bytes.Equal(c.buf[:n], rest[:n]) {
			return 0, errDiffers
		}
		rest = rest[n:]
	}
	return len(b), nil
}

// end makes sure that the file ends where the bytes do.
func (c *comparer) end() error {
	if _, err := c.r.ReadByte(); !errors.Is(err, io.EOF) {
		return errDiffers
	}
	return nil
}

func (c *comparer) Close() error { return c.file.Close() }

var errDiffers = fmt.Errorf("is not what its tar gives: %w", errdefs.ErrDataLoss)
