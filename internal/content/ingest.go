package content

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"

	"strake/internal/flock"
)

const (
	maxRef    = 4096 // bytes of a ref
	refSuffix = ".ref"
)

// CheckRef refuses what no ref can be.
func CheckRef(ref string) error {
	if ref == "" || len(ref) > maxRef {
		return fmt.Errorf("ingest ref of %d bytes: %w", len(ref), errdefs.ErrInvalidArgument)
	}
	return nil
}

// ingestPath is where the bytes of the ingest ref are.
func (d *Dir) ingestPath(ref string) string {
	h := sha256.Sum256([]byte(ref))
	return filepath.Join(d.ingests(), hex.EncodeToString(h[:]))
}

// Writer implements Ingester. The digest of the bytes that an earlier attempt
// left is computed again from the disk, so a part that the machine lost in a
// crash cannot pass for a good one.
func (d *Dir) Writer(ctx context.Context, ref string, opts WriterOptions) (Writer, error) {
	if err := CheckRef(ref); err != nil {
		return nil, err
	}
	path := d.ingestPath(ref)
	if err := Absent(ctx, d, opts.Expected); err != nil {
		if errdefs.IsAlreadyExists(err) {
			err = errors.Join(err, forget(path))
		}
		return nil, err
	}
	lock, err := lockRef(path+refSuffix, ref)
	if err != nil {
		return nil, fmt.Errorf("ingest %q: %w", ref, err)
	}
	w := &dirWriter{part: part{dir: d, name: fmt.Sprintf("ingest %q", ref), path: path, hash: sha256.New()}, ref: ref, lock: lock, size: opts.Size}
	// Whoever held the ref until now may have committed it.
	if err := Absent(ctx, d, opts.Expected); err != nil {
		return nil, errors.Join(err, w.drop())
	}
	if err := w.open(); err != nil {
		return nil, errors.Join(fmt.Errorf("ingest %q: %w", ref, err), unlock(lock))
	}
	return w, nil
}

// Lock holds ref as a Writer does, and writes nothing: of all who are to make one
// thing, in any process, one does. It fails with errdefs.ErrUnavailable while
// another holds it. A process that dies gives it up.
func (d *Dir) Lock(ref string) (release func() error, err error) {
	if err := CheckRef(ref); err != nil {
		return nil, err
	}
	path := d.ingestPath(ref)
	lock, err := lockRef(path+refSuffix, ref)
	if err != nil {
		return nil, fmt.Errorf("lock %q: %w", ref, err)
	}
	return func() error { return errors.Join(removeIngest(path), unlock(lock)) }, nil
}

// Absent fails with errdefs.ErrAlreadyExists when s holds dgst, unless that is
// empty.
func Absent(ctx context.Context, s Provider, dgst digest.Digest) error {
	if dgst == "" {
		return nil
	}
	_, err := s.Stat(ctx, dgst)
	switch {
	case err == nil:
		return fmt.Errorf("blob %s: %w", dgst, errdefs.ErrAlreadyExists)
	case errdefs.IsNotFound(err):
		return nil
	}
	return err
}

// lockRef opens and locks the ref file at path, and writes ref to it where it
// does not hold it. The caller ends with unlock.
func lockRef(path, ref string) (*os.File, error) {
	f, err := lockFile(path, os.O_CREATE)
	if err != nil {
		return nil, err
	}
	if have, err := readRef(f); err == nil && have == ref {
		return f, nil
	}
	if err := f.Truncate(0); err != nil {
		return nil, errors.Join(err, unlock(f))
	}
	if _, err := f.WriteAt([]byte(ref), 0); err != nil {
		return nil, errors.Join(err, unlock(f))
	}
	return f, nil
}

// lockFile opens path with flags and locks it, or fails with
// errdefs.ErrUnavailable when another open file holds the lock.
func lockFile(path string, flags int) (*os.File, error) {
	for {
		f, err := os.OpenFile(path, os.O_RDWR|flags, 0o600)
		if err != nil {
			return nil, err
		}
		if err := flock.Try(f, flock.Exclusive); err != nil {
			return nil, errors.Join(fmt.Errorf("held by another writer: %w", err), f.Close())
		}
		// The file may have been removed between open and lock.
		named, err := flock.Names(path, f)
		if named {
			return f, nil
		}
		if err := errors.Join(err, unlock(f)); err != nil {
			return nil, err
		}
	}
}

// unlock gives the lock up, even where a child that is just being started still
// shares the open file, and closes it.
func unlock(f *os.File) error {
	return errors.Join(syscall.Flock(int(f.Fd()), syscall.LOCK_UN), f.Close())
}

// readRef returns the ref that f holds.
func readRef(f io.ReaderAt) (string, error) {
	b, err := io.ReadAll(io.NewSectionReader(f, 0, maxRef+1))
	return string(b), err
}

// dirWriter is the Writer of a Dir.
type dirWriter struct {
	part
	ref  string
	lock *os.File // nil: closed
	size int64    // most bytes to take; 0: no limit
}

// open opens the part, reading what it holds.
func (w *dirWriter) open() error {
	f, err := os.OpenFile(w.path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	w.file = f
	if w.offset, err = io.Copy(w.hash, f); err != nil {
		return errors.Join(err, f.Close())
	}
	return nil
}

// Write appends p. It fails with errdefs.ErrOutOfRange, taking nothing, where p
// passes the size that the Writer was opened with.
func (w *dirWriter) Write(p []byte) (int, error) {
	if w.lock == nil {
		return 0, fmt.Errorf("write ingest %q: %w", w.ref, fs.ErrClosed)
	}
	if err := CheckRoom(w.ref, w.offset, int64(len(p)), w.size); err != nil {
		return 0, err
	}
	return w.part.Write(p)
}

func (w *dirWriter) ReadAt(p []byte, offset int64) (int, error) {
	if w.lock == nil {
		return 0, fmt.Errorf("read ingest %q: %w", w.ref, fs.ErrClosed)
	}
	return w.file.ReadAt(p, offset)
}

// CheckRoom refuses n bytes at offset of an ingest that ends at size (unless 0).
func CheckRoom(ref string, offset, n, size int64) error {
	if size > 0 && n > size-offset {
		return fmt.Errorf("write ingest %q: more than the %d bytes announced: %w", ref, size, errdefs.ErrOutOfRange)
	}
	return nil
}

func (w *dirWriter) Truncate(offset int64) error {
	if w.lock == nil {
		return fmt.Errorf("truncate ingest %q: %w", w.ref, fs.ErrClosed)
	}
	if offset < 0 || offset > w.offset {
		return fmt.Errorf("truncate ingest %q of %d bytes to %d: %w", w.ref, w.offset, offset, errdefs.ErrOutOfRange)
	}
	if offset == w.offset {
		return nil
	}
	if err := w.truncate(offset); err != nil {
		return fmt.Errorf("truncate ingest %q: %w", w.ref, err)
	}
	return nil
}

func (w *dirWriter) Commit(ctx context.Context, size int64, expected digest.Digest) error {
	if w.lock == nil {
		return fmt.Errorf("commit ingest %q: %w", w.ref, fs.ErrClosed)
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	dgst, err := Verify(w.ref, w.offset, size, w.Digest(), expected, io.NewSectionReader(w.file, 0, w.offset))
	if err != nil {
		if errdefs.IsFailedPrecondition(err) {
			err = errors.Join(err, w.drop())
		}
		return err
	}
	// After a failed fsync the kernel may forget what it could not write:
	// nothing of this part can be trusted.
	if err := w.file.Sync(); err != nil {
		return errors.Join(fmt.Errorf("commit ingest %q: %w", w.ref, err), w.drop())
	}
	// Where publish fails late, the part is a blob already: nothing may change
	// it through this Writer any more.
	if err = w.publish(dgst, os.Rename); err == nil {
		err = syncDir(filepath.Dir(w.dir.Path(dgst)))
	}
	if err != nil {
		return errors.Join(fmt.Errorf("commit ingest %q: %w", w.ref, err), w.Close())
	}
	return w.drop()
}

// Verify returns the digest under which the bytes in r are to be stored. The
// error is errdefs.ErrFailedPrecondition only where size or digest differ.
func Verify(ref string, have, size int64, got, expected digest.Digest, r io.Reader) (digest.Digest, error) {
	if size > 0 && have != size {
		return "", fmt.Errorf("commit ingest %q: %d bytes, expected %d: %w", ref, have, size, errdefs.ErrFailedPrecondition)
	}
	if expected == "" || expected == got {
		return got, nil
	}
	h, err := newHash(expected)
	if err != nil {
		return "", fmt.Errorf("commit ingest %q: %w", ref, err)
	}
	if alg := expected.Algorithm(); alg != digest.SHA256 {
		if _, err := io.Copy(h, r); err != nil {
			return "", fmt.Errorf("commit ingest %q: %w", ref, err)
		}
		got = sum(alg, h)
	}
	if got != expected {
		return "", fmt.Errorf("commit ingest %q: digest %s, expected %s: %w", ref, got, expected, errdefs.ErrFailedPrecondition)
	}
	return got, nil
}

func (w *dirWriter) Close() error {
	if w.lock == nil {
		return nil
	}
	err := errors.Join(w.part.Close(), unlock(w.lock))
	w.lock = nil
	return err
}

// drop removes the ingest, the lock last, and closes the Writer.
func (w *dirWriter) drop() error {
	return errors.Join(removeIngest(w.path), w.Close())
}

// removeIngest removes the ingest at path; its ref file, which tells that there
// is one, goes last.
func removeIngest(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return os.Remove(path + refSuffix)
}

// forget removes the ingest at path, if there is one that nobody holds: what a
// process leaves that dies between making the blob visible and the end of Commit.
func forget(path string) error {
	lock, err := lockFile(path+refSuffix, 0)
	if errors.Is(err, fs.ErrNotExist) || errdefs.IsUnavailable(err) {
		return nil
	}
	if err != nil {
		return err
	}
	return errors.Join(removeIngest(path), unlock(lock))
}

// Ingests implements Manager. An ingest whose ref was lost in a crash of the
// machine is listed by the hash of the ref, which Abort takes too.
func (d *Dir) Ingests(ctx context.Context) ([]IngestInfo, error) {
	entries, err := os.ReadDir(d.ingests())
	if err != nil {
		return nil, fmt.Errorf("list ingests: %w", err)
	}
	var infos []IngestInfo
	for _, e := range entries {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		name, ok := strings.CutSuffix(e.Name(), refSuffix)
		if !ok {
			continue
		}
		info, err := d.ingestInfo(name)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("list ingests: %w", err)
		}
		infos = append(infos, info)
	}
	return infos, nil
}

// ingestInfo describes the ingest with the file name name.
func (d *Dir) ingestInfo(name string) (info IngestInfo, err error) {
	path := filepath.Join(d.ingests(), name)
	f, err := os.Open(path + refSuffix)
	if err != nil {
		return IngestInfo{}, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	ref, err := readRef(f)
	if err != nil {
		return IngestInfo{}, err
	}
	if d.ingestPath(ref) != path {
		ref = name
	}
	held := errors.Is(syscall.Flock(int(f.Fd()), syscall.LOCK_SH|syscall.LOCK_NB), syscall.EWOULDBLOCK)
	fi, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		fi, err = f.Stat()
		if err != nil {
			return IngestInfo{}, err
		}
		return IngestInfo{Ref: ref, ModTime: fi.ModTime(), Held: held}, nil
	}
	if err != nil {
		return IngestInfo{}, err
	}
	return IngestInfo{Ref: ref, Offset: fi.Size(), ModTime: fi.ModTime(), Held: held}, nil
}

// Abort implements Manager.
func (d *Dir) Abort(_ context.Context, ref string) error {
	path := d.ingestPath(ref)
	lock, err := lockFile(path+refSuffix, 0)
	if errors.Is(err, fs.ErrNotExist) && len(ref) == hex.EncodedLen(sha256.Size) && filepath.Base(ref) == ref {
		path = filepath.Join(d.ingests(), ref)
		lock, err = lockFile(path+refSuffix, 0)
	}
	if errors.Is(err, fs.ErrNotExist) {
		err = errdefs.ErrNotFound
	}
	if err != nil {
		return fmt.Errorf("abort ingest %q: %w", ref, err)
	}
	if err := errors.Join(removeIngest(path), unlock(lock)); err != nil {
		return fmt.Errorf("abort ingest %q: %w", ref, err)
	}
	return nil
}
