package archive

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"math"

	"github.com/containerd/errdefs"
)

const (
	blockSize = 512
	readAhead = 256 << 10
)

// Reader reads a tar entry by entry and knows where each one's data lies. It
// understands USTAR, PAX, GNU, star and v7 tars and GNU's four forms of sparse
// files. The standard library's reader agrees with it (a fuzz test sees to that)
// but does not tell sparse maps and takes several times as long for an entry.
// It is used by one goroutine.
type Reader struct {
	br  *bufio.Reader
	off int64           // in the tar
	blk [blockSize]byte // the last header
	buf []byte

	cur     *Entry
	pos     int64    // in the content, for Read
	extents []Extent // that Read has not passed
	dataEnd int64    // in the tar
	tap     func(off int64, p []byte) error
}

// NewReader reads the tar r, from here to its end.
func NewReader(r io.Reader) *Reader {
	return &Reader{br: bufio.NewReaderSize(r, readAhead)}
}

// Next goes on to the next entry, or fails with io.EOF once all of r is read,
// what follows the end of the archive included. Entries that stand for nothing
// (global headers, volume names) are passed over. A tar that is broken fails with
// the errdefs kind DataLoss, one that asks for too much with InvalidArgument.
func (r *Reader) Next() (*Entry, error) {
	err := r.skipData()
	r.tap, r.cur = nil, nil
	for err == nil {
		h := header{}
		if err = r.header(&h); err != nil {
			break
		}
		r.dataEnd = r.off + h.size
		if h.kind == typeVolume {
			err = r.skipData()
			continue
		}
		e, err := h.entry(r)
		if err != nil {
			return nil, fmt.Errorf("tar entry %q: %w", h.name, err)
		}
		r.cur, r.pos, r.extents = e, 0, e.Extents
		return e, nil
	}
	if errors.Is(err, io.EOF) {
		return nil, r.drain()
	}
	return nil, fmt.Errorf("read tar at %d: %w", r.off, err)
}

// Tap has f see the current entry's bytes in the tar, with their offset, while
// Next passes over them. An error of f ends the reading. It is not for an entry
// that Read has begun with.
func (r *Reader) Tap(f func(off int64, p []byte) error) { r.tap = f }

// Offset is how far the tar has been read; after io.EOF, its size.
func (r *Reader) Offset() int64 { return r.off }

// Read reads the current entry's content, holes as zeros.
func (r *Reader) Read(p []byte) (int, error) {
	if r.cur == nil || r.pos >= r.cur.Size {
		return 0, io.EOF
	}
	p = p[:min(int64(len(p)), r.cur.Size-r.pos)]
	if r.cur.Sparse {
		for len(r.extents) > 0 && r.pos >= r.extents[0].Offset+r.extents[0].Size {
			r.extents = r.extents[1:]
		}
		switch {
		case len(r.extents) == 0 || r.pos < r.extents[0].Offset:
			if len(r.extents) > 0 {
				p = p[:min(int64(len(p)), r.extents[0].Offset-r.pos)]
			}
			clear(p)
			r.pos += int64(len(p))
			return len(p), nil
		default:
			p = p[:min(int64(len(p)), r.extents[0].Offset+r.extents[0].Size-r.pos)]
		}
	}
	n, err := r.br.Read(p)
	r.pos, r.off = r.pos+int64(n), r.off+int64(n)
	if errors.Is(err, io.EOF) {
		err = errCut
	}
	return n, err
}

var errCut = fmt.Errorf("%w: %w", io.ErrUnexpectedEOF, errdefs.ErrDataLoss)

// drain reads what follows the end of the archive.
func (r *Reader) drain() error {
	n, err := io.Copy(io.Discard, r.br)
	if r.off += n; err != nil {
		return fmt.Errorf("read tar at %d: %w", r.off, err)
	}
	return io.EOF
}

// skipData goes on to the next header. A tar that ends within the padding of its
// last file is cut short: the kernel reads whole blocks of it.
func (r *Reader) skipData() error {
	for r.tap != nil && r.off < r.dataEnd {
		p, err := r.br.Peek(int(min(r.dataEnd-r.off, readAhead)))
		if len(p) == 0 {
			return noData(err)
		}
		if err := r.tap(r.off, p); err != nil {
			return err
		}
		if err := r.discard(int64(len(p))); err != nil {
			return err
		}
	}
	return noData(r.discard(align(r.dataEnd) - r.off))
}

func (r *Reader) discard(n int64) error {
	for n > 0 {
		m, err := r.br.Discard(int(min(n, 1<<30)))
		n, r.off = n-int64(m), r.off+int64(m)
		if err != nil {
			return err
		}
	}
	return nil
}

// noData is the error of a tar that ends where there must be more.
func noData(err error) error {
	if errors.Is(err, io.EOF) {
		return errCut
	}
	return err
}

// block reads a block into blk; at the tar's end it fails with io.EOF.
func (r *Reader) block() error {
	n, err := io.ReadFull(r.br, r.blk[:])
	r.off += int64(n)
	if errors.Is(err, io.ErrUnexpectedEOF) {
		return errCut
	}
	return err
}

// special reads the data of an entry that describes the next one. It is good
// until the next call.
func (r *Reader) special(size int64) ([]byte, error) {
	if size < 0 || size > maxHeader {
		return nil, fmt.Errorf("header of %d bytes: %w", size, errdefs.ErrInvalidArgument)
	}
	if int64(cap(r.buf)) < size || cap(r.buf) > 1<<16 {
		r.buf = make([]byte, size)
	}
	r.buf = r.buf[:size]
	n, err := io.ReadFull(r.br, r.buf)
	r.off += int64(n)
	if err == nil {
		err = r.discard(align(size) - size)
	}
	if errors.Is(err, io.ErrUnexpectedEOF) {
		err = errCut
	}
	return r.buf, noData(err)
}

func align(n int64) int64 { return (n + blockSize - 1) &^ (blockSize - 1) }

// entry makes the entry that the header describes, and of a sparse file reads
// the map that may come first in its data.
func (h *header) entry(r *Reader) (*Entry, error) {
	e := &Entry{Mode: uint32(h.mode & 0o7777), ModTime: h.mtime, Xattrs: h.pax.xattrs, Data: r.off}
	sparse, err := h.sparse(r)
	if err != nil {
		return nil, err
	}
	if e.Name, err = cleanName(h.name); err != nil {
		return nil, err
	}
	if h.uid < 0 || h.uid >= math.MaxUint32 || h.gid < 0 || h.gid >= math.MaxUint32 {
		return nil, fmt.Errorf("owner %d:%d: %w", h.uid, h.gid, errdefs.ErrInvalidArgument)
	}
	e.UID, e.GID = uint32(h.uid), uint32(h.gid)
	switch h.kind {
	case typeRegular, typeContiguous, typeSparse:
		e.Mode |= TypeRegular
		e.Size, e.Data = h.size, r.off
		if sparse != nil {
			e.Sparse, e.Size = true, sparse.size
			e.Extents = sparse.extents(e.Data)
		}
		if e.Size > maxFileSize {
			return nil, fmt.Errorf("file of %d bytes: %w", e.Size, errdefs.ErrInvalidArgument)
		}
	case typeDir:
		e.Mode |= TypeDir
	case typeLink:
		e.HardLink = true
		e.Linkname, err = cleanName(h.linkname)
	case typeSymlink:
		e.Mode = TypeSymlink | 0o777
		e.Linkname = h.linkname
		err = checkTarget(h.linkname)
	case typeChar, typeBlock:
		e.Mode |= TypeChar
		if h.kind == typeBlock {
			e.Mode = e.Mode&0o7777 | TypeBlock
		}
		if h.major < 0 || h.major > 0xfff || h.minor < 0 || h.minor > 0xfffff {
			return nil, fmt.Errorf("device %d:%d: %w", h.major, h.minor, errdefs.ErrInvalidArgument)
		}
		e.Major, e.Minor = uint32(h.major), uint32(h.minor)
	case typeFifo:
		e.Mode |= TypeFifo
	default:
		return nil, fmt.Errorf("type %q: %w", h.kind, errdefs.ErrInvalidArgument)
	}
	return e, err
}
