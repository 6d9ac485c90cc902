package store

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"

	"strake/internal/content"
	"strake/internal/layer"
)

// pending is a layer that is being made: its tar (nil when that is written
// elsewhere) and, in scratch, its index and side data.
type pending struct {
	s     *contents
	dir   string // scratch
	ref   string
	w     content.Writer
	index *os.File
	side  *os.File
	sizes sizes
}

// sizes are those of a layer's files, in bytes.
type sizes struct{ tar, index, side int64 }

// newIndex begins an index alone.
func (s *contents) newIndex(ctx context.Context) (*pending, error) {
	dir, err := s.TempDir(ctx)
	if err != nil {
		return nil, err
	}
	p := &pending{s: s, dir: dir}
	if p.index, err = os.Create(filepath.Join(dir, "index")); err == nil {
		p.side, err = os.Create(filepath.Join(dir, "side"))
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("make index: %w", err), p.Close())
	}
	return p, nil
}

// newLayer begins a layer whose tar is written as the ingest ref. What an
// earlier attempt left of it is dropped: tar and index are made in one pass. It
// fails with errBusy while another process writes the ref.
func (s *contents) newLayer(ctx context.Context, ref string) (*pending, error) {
	p, err := s.newIndex(ctx)
	if err != nil {
		return nil, err
	}
	p.ref = ref
	p.w, err = s.blobs.Writer(ctx, ref, content.WriterOptions{})
	if errdefs.IsUnavailable(err) {
		err = errBusy
	}
	if err == nil {
		err = p.w.Truncate(0)
	}
	if err != nil {
		return nil, errors.Join(err, p.Close())
	}
	return p, nil
}

// readFrom reads a layer tar to its end.
func (p *pending) readFrom(ctx context.Context, tar io.Reader) error {
	var copied io.Writer
	if p.w != nil {
		copied = p.w
	}
	return p.readCopy(ctx, tar, copied)
}

// readCopy reads a layer tar to its end and copies it, unless copied is nil.
func (p *pending) readCopy(ctx context.Context, tar io.Reader, copied io.Writer) error {
	counted := &counter{r: tar}
	var r io.Reader = counted
	if copied != nil {
		r = io.TeeReader(r, copied)
	}
	r = bufio.NewReaderSize(r, streamBuffer)
	info, err := layer.WriteIndex(ctx, r, p.index, p.side)
	if err != nil {
		return err
	}
	if _, err := io.Copy(io.Discard, r); err != nil {
		return err
	}
	p.sizes = sizes{tar: counted.n, index: info.IndexSize, side: info.SideSize}
	return nil
}

// written are the files that hold something: index and side data.
func (p *pending) written() []*os.File {
	if p.sizes.side > 0 {
		return []*os.File{p.index, p.side}
	}
	return []*os.File{p.index}
}

// sync makes index and side data durable.
func (p *pending) sync(ctx context.Context) error {
	if err := content.SyncAll(ctx, p.written()...); err != nil {
		return fmt.Errorf("make index: %w", err)
	}
	return nil
}

type counter struct {
	r io.Reader
	n int64
}

func (c *counter) Read(b []byte) (int, error) {
	n, err := c.r.Read(b)
	c.n += int64(n)
	return n, err
}

// commitFiles gives tar and index their names, durably.
func (p *pending) commitFiles(ctx context.Context, diffID digest.Digest) error {
	if err := p.w.Commit(ctx, p.sizes.tar, diffID); err != nil {
		return err
	}
	return p.commitIndex(diffID)
}

// commitIndex gives index and side data their names, durably.
func (p *pending) commitIndex(diffID digest.Digest) error {
	if err := p.nameIndex(diffID, os.Rename); err != nil {
		return err
	}
	return syncParent(p.s.indexPath(diffID))
}

// nameIndex gives index and side data their names, by move; the index, which
// says that there is side data, last.
func (p *pending) nameIndex(diffID digest.Digest, move func(from, to string) error) error {
	if p.sizes.side > 0 {
		if err := move(p.side.Name(), p.s.sidePath(diffID)); err != nil {
			return fmt.Errorf("commit index: %w", err)
		}
	}
	if err := move(p.index.Name(), p.s.indexPath(diffID)); err != nil {
		return fmt.Errorf("commit index: %w", err)
	}
	return nil
}

// discard drops the tar's ingest, which nothing could resume.
func (p *pending) discard(ctx context.Context) error {
	if p.w == nil {
		return nil
	}
	if err := p.w.Close(); err != nil {
		return err
	}
	if err := p.s.blobs.Abort(context.WithoutCancel(ctx), p.ref); err != nil && !errdefs.IsNotFound(err) {
		return err
	}
	return nil
}

// release closes the files, but not their tar's.
func (p *pending) release() error {
	var errs []error
	for _, f := range []**os.File{&p.index, &p.side} {
		if *f != nil {
			errs = append(errs, (*f).Close())
			*f = nil
		}
	}
	return errors.Join(errs...)
}

// Close releases the files, and removes those that were not committed but the
// tar's, which discard drops.
func (p *pending) Close() error {
	errs := []error{p.release()}
	if p.w != nil {
		errs = append(errs, p.w.Close())
	}
	return errors.Join(append(errs, os.RemoveAll(p.dir))...)
}
