package store

import (
	"bufio"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

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
	tar   int64 // bytes
}

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

// newLayer begins a layer whose tar is written as the ingest ref, or as one of
// its own when ref is empty. What an earlier attempt left of it is dropped: tar
// and index are made in one pass. It fails with errBusy while another process
// writes the ref.
func (s *contents) newLayer(ctx context.Context, ref string) (*pending, error) {
	p, err := s.newIndex(ctx)
	if err != nil {
		return nil, err
	}
	if p.ref = ref; ref == "" {
		p.ref = refBuild + filepath.Base(filepath.Dir(p.dir)) + "-" + filepath.Base(p.dir)
	}
	p.w, err = s.blobs.Writer(ctx, p.ref, content.WriterOptions{})
	for ref == "" && errdefs.IsUnavailable(err) && sleep(ctx, time.Millisecond) == nil {
		p.w, err = s.blobs.Writer(ctx, p.ref, content.WriterOptions{}) // GC looked whether it has an owner
	}
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
	counted := &counter{r: tar}
	var r io.Reader = counted
	if p.w != nil {
		r = io.TeeReader(r, p.w)
	}
	r = bufio.NewReaderSize(r, streamBuffer)
	if _, err := layer.WriteIndex(ctx, r, p.index, p.side); err != nil {
		return err
	}
	if _, err := io.Copy(io.Discard, r); err != nil {
		return err
	}
	p.tar = counted.n
	return nil
}

// sync makes index and side data durable.
func (p *pending) sync() error {
	for _, f := range []*os.File{p.index, p.side} {
		info, err := f.Stat()
		if err == nil && info.Size() > 0 {
			err = f.Sync()
		}
		if err != nil {
			return fmt.Errorf("make index: %w", err)
		}
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

// staged opens the tar and says where the three files are, by descriptors: they
// are the same whatever names the files get and lose.
func (p *pending) staged() (files layer.Files, tar *os.File, err error) {
	if tar, err = p.s.blobs.OpenIngest(p.ref); err != nil {
		return files, nil, err
	}
	path := func(f *os.File) string { return fmt.Sprintf("/proc/self/fd/%d", f.Fd()) }
	files = layer.Files{DiffID: p.w.Digest(), Size: p.tar, Tar: path(tar), Index: path(p.index)}
	side, err := p.side.Stat()
	if err != nil {
		return files, nil, errors.Join(err, tar.Close())
	}
	if side.Size() > 0 {
		files.Side = path(p.side)
	}
	return files, tar, nil
}

// commit is the Commit of a staged layer.
func (p *pending) commit(ctx context.Context, diffID digest.Digest) error {
	if err := p.sync(); err != nil {
		return err
	}
	l, err := p.s.acquire(ctx)
	if err != nil {
		return err
	}
	// GC waits behind the gate, so the lease may come with the row.
	return p.s.commit(ctx, func() error { return p.commitFiles(ctx, diffID) }, func(tx *sql.Tx) error {
		if err := insertLease(ctx, tx, l.id, []digest.Digest{diffID}); err != nil {
			return err
		}
		return recordLayer(ctx, tx, diffID, p)
	})
}

// commitFiles gives tar and index their names, durably.
func (p *pending) commitFiles(ctx context.Context, diffID digest.Digest) error {
	if err := p.w.Commit(ctx, p.tar, diffID); err != nil {
		return err
	}
	return p.commitIndex(diffID)
}

func (p *pending) commitIndex(diffID digest.Digest) error {
	info, err := p.side.Stat()
	if err != nil {
		return fmt.Errorf("commit index: %w", err)
	}
	if info.Size() > 0 {
		if err := os.Rename(p.side.Name(), p.s.sidePath(diffID)); err != nil {
			return fmt.Errorf("commit index: %w", err)
		}
	}
	path := p.s.indexPath(diffID)
	if err := os.Rename(p.index.Name(), path); err != nil {
		return fmt.Errorf("commit index: %w", err)
	}
	return syncParent(path)
}

// sizes are the bytes of the index and of the side data.
func (p *pending) sizes() (index, side int64, err error) {
	indexInfo, err := p.index.Stat()
	if err != nil {
		return 0, 0, err
	}
	sideInfo, err := p.side.Stat()
	if err != nil {
		return 0, 0, err
	}
	return indexInfo.Size(), sideInfo.Size(), nil
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

// Close releases the files, and removes those that were not committed but the
// tar's, which discard drops.
func (p *pending) Close() error {
	var errs []error
	for _, f := range []*os.File{p.index, p.side} {
		if f != nil {
			errs = append(errs, f.Close())
		}
	}
	if p.w != nil {
		errs = append(errs, p.w.Close())
	}
	return errors.Join(append(errs, os.RemoveAll(p.dir))...)
}
