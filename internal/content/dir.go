package content

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
)

// Dir is a Store in a directory:
//
//	blobs/<algorithm>/<hex>   a blob
//	ingest/<hash of ref>      the bytes of an ingest
//	ingest/<hash of ref>.ref  its ref; flock'ed by the Writer that holds it
//
// Any number of processes may use one directory at once. A blob becomes visible
// by one rename, after its bytes are durable, and never changes afterwards.
// Directories have the mode 0700 and files 0600.
type Dir struct {
	// Full, when not nil, is called by a write that found the disk full. It
	// reports whether it made room: then the write goes on.
	Full func() bool

	root string
}

// NewDir returns the store in root and makes its directories where they lack.
func NewDir(root string) (*Dir, error) {
	d := &Dir{root: root}
	for _, dir := range []string{root, d.blobs(), filepath.Join(d.blobs(), string(digest.SHA256)), d.ingests()} {
		if err := makeDir(dir); err != nil {
			return nil, fmt.Errorf("open content directory %q: %w", root, err)
		}
	}
	return d, nil
}

func (d *Dir) blobs() string   { return filepath.Join(d.root, "blobs") }
func (d *Dir) ingests() string { return filepath.Join(d.root, "ingest") }

// Path returns where the blob dgst is, or will be, or "" when dgst is not a
// valid digest.
func (d *Dir) Path(dgst digest.Digest) string {
	if _, err := newHash(dgst); err != nil {
		return ""
	}
	return filepath.Join(d.blobs(), string(dgst.Algorithm()), dgst.Encoded())
}

// Stat implements Provider.
func (d *Dir) Stat(_ context.Context, dgst digest.Digest) (Info, error) {
	if _, err := newHash(dgst); err != nil {
		return Info{}, err
	}
	fi, err := os.Stat(d.Path(dgst))
	if err != nil {
		return Info{}, blobError(dgst, err)
	}
	if !fi.Mode().IsRegular() {
		return Info{}, blobError(dgst, fs.ErrNotExist)
	}
	return Info{Digest: dgst, Size: fi.Size(), ModTime: fi.ModTime()}, nil
}

// file is a ReaderAt of a blob.
type file struct {
	*os.File
	size int64
}

func (f file) Size() int64 { return f.size }

// Open implements Provider. The ReaderAt stays good when the blob is deleted.
func (d *Dir) Open(_ context.Context, dgst digest.Digest) (ReaderAt, error) {
	if _, err := newHash(dgst); err != nil {
		return nil, err
	}
	// A directory that came from elsewhere may hold a fifo by that name:
	// O_NONBLOCK opens it at once, and it is no blob.
	f, err := os.OpenFile(d.Path(dgst), os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, blobError(dgst, err)
	}
	fi, err := f.Stat()
	if err == nil && !fi.Mode().IsRegular() {
		err = fs.ErrNotExist
	}
	if err != nil {
		return nil, blobError(dgst, errors.Join(err, f.Close()))
	}
	return file{f, fi.Size()}, nil
}

// blobError classifies an error of the file system about dgst.
func blobError(dgst digest.Digest, err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("blob %s: %w", dgst, errdefs.ErrNotFound)
	}
	return fmt.Errorf("blob %s: %w", dgst, err)
}

// Walk implements Manager. Files that are not named by a digest are left out,
// and blobs that come or go meanwhile may be.
func (d *Dir) Walk(ctx context.Context, fn func(Info) error) error {
	algs, err := os.ReadDir(d.blobs())
	if err != nil {
		return fmt.Errorf("list blobs: %w", err)
	}
	for _, alg := range algs {
		if err := d.walkAlgorithm(ctx, alg.Name(), fn); err != nil {
			return err
		}
	}
	return nil
}

func (d *Dir) walkAlgorithm(ctx context.Context, alg string, fn func(Info) error) (err error) {
	dir, err := os.Open(filepath.Join(d.blobs(), alg))
	if err != nil {
		return fmt.Errorf("list blobs: %w", err)
	}
	defer func() { err = errors.Join(err, dir.Close()) }()
	for {
		names, err := dir.Readdirnames(1024)
		if errors.Is(err, io.EOF) || errors.Is(err, syscall.ENOTDIR) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("list blobs: %w", err)
		}
		for _, name := range names {
			if err := ctx.Err(); err != nil {
				return err
			}
			info, err := d.Stat(ctx, digest.NewDigestFromEncoded(digest.Algorithm(alg), name))
			if errdefs.IsNotFound(err) || errdefs.IsInvalidArgument(err) {
				continue
			}
			if err != nil {
				return err
			}
			if err := fn(info); err != nil {
				return err
			}
		}
	}
}

// Delete implements Manager.
func (d *Dir) Delete(_ context.Context, dgst digest.Digest) error {
	if _, err := newHash(dgst); err != nil {
		return err
	}
	if err := os.Remove(d.Path(dgst)); err != nil {
		return blobError(dgst, err)
	}
	return nil
}

// makeDir makes one directory, durably, unless it is there.
func makeDir(dir string) error {
	if _, err := os.Stat(dir); err == nil {
		return nil
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	return syncDir(filepath.Dir(dir))
}

// syncDir makes the names in dir durable.
func syncDir(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}
