package content

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/errgroup"
)

const (
	flushSize = 8 << 20 // bytes after which writing to the disk begins
	syncers   = 8       // files that SyncAll syncs at once
)

// part is a file that is hashed as it grows, and becomes a blob.
type part struct {
	dir    *Dir
	name   string // for messages
	path   string
	file   *os.File  // nil: closed
	hash   hash.Hash // sha256 of the bytes held
	offset int64
	flush  int64 // the offset up to which writing to the disk was begun
}

// Offset is the count of bytes held.
func (p *part) Offset() int64 { return p.offset }

// Digest is the sha256 of the bytes held.
func (p *part) Digest() digest.Digest { return sum(digest.SHA256, p.hash) }

// Write appends b. Where it fails, Offset may be less than it was.
func (p *part) Write(b []byte) (int, error) {
	n, err := p.append(b)
	if errors.Is(err, syscall.ENOSPC) && p.dir.Full != nil && p.makeRoom() == nil {
		var more int
		more, err = p.append(b[n:])
		n += more
	}
	if err != nil {
		return n, fmt.Errorf("write %s: %w", p.name, err)
	}
	if p.offset-p.flush >= flushSize {
		startFlush(p.file, p.flush, p.offset-p.flush)
		p.flush = p.offset
	}
	return n, nil
}

func (p *part) append(b []byte) (int, error) {
	n, err := p.file.Write(b)
	p.hash.Write(b[:n])
	p.offset += int64(n)
	return n, err
}

// lent is how many bytes of a part make way for those who free space: they may
// have to write a little first.
const lent = 2 << 20

// makeRoom calls Full while the last bytes of the part are in memory alone.
// Where they cannot be written back the part holds less.
func (p *part) makeRoom() error {
	tail := make([]byte, min(p.offset, lent))
	from := p.offset - int64(len(tail))
	if _, err := p.file.ReadAt(tail, from); err != nil {
		return err
	}
	if err := p.file.Truncate(from); err != nil {
		return err
	}
	room := p.dir.Full()
	if n, err := p.file.WriteAt(tail, from); err != nil {
		return errors.Join(err, p.truncate(from+int64(n)))
	}
	if !room {
		return syscall.ENOSPC
	}
	return nil
}

// truncate leaves the first size bytes of the part, and reads them again.
func (p *part) truncate(size int64) error {
	if err := p.file.Truncate(size); err != nil {
		return err
	}
	p.hash.Reset()
	var err error
	p.offset, err = io.Copy(p.hash, io.NewSectionReader(p.file, 0, size))
	p.flush = min(p.flush, p.offset)
	if err != nil {
		return err
	}
	_, err = p.file.Seek(size, io.SeekStart)
	return err
}

// publish makes the part, whose bytes are durable, the blob dgst, by move, which
// gives it a name in the place of what may have that; the caller syncs the
// directory of blobs. A blob that is there stays, as others may have it mapped or
// mounted, unless it is damaged in a way that shows.
func (p *part) publish(dgst digest.Digest, move func(from, to string) error) error {
	target := p.dir.Path(dgst)
	if err := makeDir(filepath.Dir(target)); err != nil {
		return err
	}
	if fi, err := os.Lstat(target); err == nil && fi.Mode().IsRegular() && fi.Size() == p.offset {
		return nil
	}
	return move(p.path, target)
}

// Close releases the part's file, which stays.
func (p *part) Close() error {
	if p.file == nil {
		return nil
	}
	err := p.file.Close()
	p.file = nil
	return err
}

// Part is a blob in the making that nobody resumes: its creator says where it
// lies, and removes it. It is not safe for concurrent use.
type Part struct{ part }

// NewPart makes the file path, on the store's file system, and begins a blob in it.
func (d *Dir) NewPart(path string) (*Part, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, err
	}
	return &Part{part{dir: d, name: filepath.Base(path), path: path, file: f, hash: sha256.New()}}, nil
}

// File is the part's file, for SyncAll.
func (p *Part) File() *os.File { return p.file }

// Path is where the part lies.
func (p *Part) Path() string { return p.path }

// Publish makes parts blobs, under their sha256: visible one by one, and all of
// them durable when it returns nil. The caller has made their bytes durable, by
// SyncAll. Each part keeps the name that it has besides.
func (d *Dir) Publish(ctx context.Context, parts ...*Part) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	for _, p := range parts {
		if err := p.publish(p.Digest(), Link); err != nil {
			return fmt.Errorf("make %s a blob: %w", p.name, err)
		}
	}
	return syncDir(filepath.Join(d.blobs(), string(digest.SHA256)))
}

// Link gives the file from one more name, to, in the place of a file that may
// have it, atomically. It leaves from.new, or nothing, beside from.
func Link(from, to string) error {
	err := os.Link(from, to)
	if !errors.Is(err, fs.ErrExist) {
		return err
	}
	if err := os.Link(from, from+".new"); err != nil {
		return err
	}
	return os.Rename(from+".new", to)
}

// SyncAll makes the bytes of files durable. It costs little more than to sync
// one of them: the file system commits them together.
func SyncAll(ctx context.Context, files ...*os.File) error {
	for _, f := range files {
		startFlush(f, 0, 0)
	}
	var g errgroup.Group
	g.SetLimit(syncers)
	for _, f := range files {
		if ctx.Err() == nil {
			g.Go(f.Sync)
		}
	}
	return errors.Join(g.Wait(), ctx.Err())
}
