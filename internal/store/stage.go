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

// stager takes in layers that are made here.
type stager struct{ *contents }

// LockStep waits until no other process makes the step of a cache key, and keeps
// others from it until release is called, or the process dies. Where it has to
// wait it calls busy first.
func (s stager) LockStep(ctx context.Context, key string, busy func()) (release func() error, err error) {
	for wait := time.Millisecond; ; wait = min(2*wait, pollInterval) {
		release, err = s.blobs.Lock(refStep + key)
		if !errdefs.IsUnavailable(err) {
			return release, err
		}
		if busy != nil {
			busy()
			busy = nil
		}
		if err := sleep(ctx, wait); err != nil {
			return nil, err
		}
	}
}

// staged is a layer in scratch: its tar lies there too. Committing gives the
// files second names, so that the first ones lead to them until Close.
type staged struct {
	*pending
	part  *content.Part
	files layer.Files
}

// WriteLayer takes in the layer whose tar write writes. It is hashed and
// indexed as it is written, and becomes visible whole or not at all.
func (s stager) WriteLayer(ctx context.Context, write func(w io.Writer) error) (files layer.Files, err error) {
	l, err := s.StageLayer(ctx, write)
	if err != nil {
		return layer.Files{}, err
	}
	defer closing(&err, l.Close)
	if err := s.CommitLayers(ctx, []layer.Commit{{Staged: l}}); err != nil {
		return layer.Files{}, err
	}
	return s.Layer(ctx, l.Files().DiffID)
}

// StageLayer writes, hashes and indexes a layer and waits for nothing to be on
// disk: that is for CommitLayers to do. write has ended when it returns. The caller
// closes it.
func (s stager) StageLayer(ctx context.Context, write func(w io.Writer) error) (layer.Staged, error) {
	l, err := s.newStaged(ctx)
	if err != nil {
		return nil, err
	}
	pr, pw := io.Pipe()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		buf := bufio.NewWriterSize(pw, streamBuffer)
		err := write(buf)
		if err == nil {
			err = buf.Flush()
		}
		if err != nil {
			err = &writeError{err}
		}
		pw.CloseWithError(err)
	}()
	err = l.readCopy(ctx, pr, l.part)
	pr.CloseWithError(errors.New("layer writer stopped")) // frees the writer when reading failed
	<-ended                                               // it uses what the caller closes
	if told, ok := errors.AsType[*writeError](err); ok {
		return nil, errors.Join(told.error, l.Close())
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("write layer: %w", err), l.Close())
	}
	l.files = layer.Files{DiffID: l.part.Digest(), Size: l.sizes.tar, Tar: l.part.Path(), Index: l.index.Name()}
	if l.sizes.side > 0 {
		l.files.Side = l.side.Name()
	}
	return l, nil
}

// writeError marks an error of the function that writes a layer: the caller
// gets it back as it is.
type writeError struct{ error }

func (s stager) newStaged(ctx context.Context) (*staged, error) {
	p, err := s.newIndex(ctx)
	if err != nil {
		return nil, err
	}
	l := &staged{pending: p}
	if l.part, err = s.blobs.NewPart(filepath.Join(p.dir, "tar")); err != nil {
		return nil, errors.Join(fmt.Errorf("write layer: %w", err), p.Close())
	}
	return l, nil
}

// Files implements layer.Staged.
func (l *staged) Files() layer.Files { return l.files }

// release closes the files.
func (l *staged) release() error { return errors.Join(l.part.Close(), l.pending.release()) }

// Close implements layer.Staged.
func (l *staged) Close() error { return errors.Join(l.part.Close(), l.pending.Close()) }

// CommitLayers puts layers that StageLayer gave into the store, with what is to be
// remembered of them: all of them, durably, in one transaction, or none. Each is
// committed once, and may be read by its Files until its Close.
func (s stager) CommitLayers(ctx context.Context, commits []layer.Commit) error {
	if len(commits) == 0 {
		return nil
	}
	layers := make([]*staged, len(commits))
	for i, c := range commits {
		l, ok := c.Staged.(*staged)
		if !ok || l.s != s.contents {
			return fmt.Errorf("write layer: not staged in this store: %w", errdefs.ErrInvalidArgument)
		}
		layers[i] = l
	}
	if err := s.commitStaged(ctx, layers, commits); err != nil {
		return fmt.Errorf("write layer: %w", err)
	}
	var errs []error
	for _, l := range layers {
		errs = append(errs, l.release())
	}
	return errors.Join(errs...)
}

func (s stager) commitStaged(ctx context.Context, layers []*staged, commits []layer.Commit) error {
	var files []*os.File
	for _, l := range layers {
		files = append(append(files, l.part.File()), l.written()...)
	}
	if err := content.SyncAll(ctx, files...); err != nil {
		return err
	}
	own, err := s.acquire(ctx)
	if err != nil {
		return err
	}
	// GC waits behind the gate, so the leases may come with the rows.
	return s.commit(ctx, func() error { return s.nameStaged(ctx, layers) }, func(tx *sql.Tx) error {
		for i, l := range layers {
			id := l.files.DiffID
			err := errors.Join(insertLease(ctx, tx, own.id, []digest.Digest{id}), recordLayer(ctx, tx, id, l.sizes))
			for _, r := range commits[i].Records {
				err = errors.Join(err, saveRecord(ctx, tx, r, id))
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
}

// nameStaged makes the files of layers visible, durably.
func (s stager) nameStaged(ctx context.Context, layers []*staged) error {
	parts := make([]*content.Part, len(layers))
	for i, l := range layers {
		parts[i] = l.part
	}
	if err := s.blobs.Publish(ctx, parts...); err != nil {
		return err
	}
	for _, l := range layers {
		if err := l.nameIndex(l.files.DiffID, content.Link); err != nil {
			return err
		}
	}
	return syncParent(s.indexPath(layers[0].files.DiffID))
}
