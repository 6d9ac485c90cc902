package archive

import (
	"archive/tar"
	"bufio"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"math"
	"net/url"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
)

const (
	blockSize   = 512
	readAhead   = 256 << 10
	paxXattr    = "SCHILY.xattr."
	paxLibXattr = "LIBARCHIVE.xattr."
)

// Reader reads a tar entry by entry and knows where each one's data lies. It
// understands USTAR, PAX, GNU and v7 tars, and the sparse files of all of them.
// It is used by one goroutine.
type Reader struct {
	raw *tapReader
	tr  *tar.Reader
	end int64 // where the header after the current entry begins
}

// NewReader reads the tar r, from here to its end.
func NewReader(r io.Reader) *Reader {
	raw := &tapReader{r: bufio.NewReaderSize(r, readAhead)}
	return &Reader{raw: raw, tr: tar.NewReader(raw)}
}

// Next goes on to the next entry, or fails with io.EOF once all of r is read,
// what follows the end of the archive included. Entries that stand for nothing
// (global headers, volume names) are passed over.
func (r *Reader) Next() (*Entry, error) {
	for {
		r.raw.record(r.end) // until there, it is the last entry's data
		hdr, err := r.tr.Next()
		if errors.Is(err, tar.ErrInsecurePath) {
			err = nil // cleanName is the judge of names
		}
		if tapped := r.raw.tapErr; tapped != nil {
			return nil, tapped
		}
		if errors.Is(err, io.EOF) {
			return nil, r.drain()
		}
		if err != nil {
			return nil, fmt.Errorf("read tar at %d: %w", r.raw.off, classify(err))
		}
		r.raw.tap, r.raw.recFrom = nil, math.MaxInt64
		if hdr.Typeflag == tar.TypeXGlobalHeader || hdr.Typeflag == 'V' {
			r.end = align(r.raw.off + hdr.Size)
			continue
		}
		e, err := r.entry(hdr)
		if err != nil {
			return nil, fmt.Errorf("tar entry %q: %w", hdr.Name, err)
		}
		return e, nil
	}
}

// Read reads the current entry's content, holes as zeros.
func (r *Reader) Read(p []byte) (int, error) { return r.tr.Read(p) }

// Tap has f see the current entry's bytes in the tar, with their offset, while
// Next passes over them. An error of f ends the reading.
func (r *Reader) Tap(f func(off int64, p []byte) error) { r.raw.tap = f }

// Offset is how far the tar has been read; after io.EOF, its size.
func (r *Reader) Offset() int64 { return r.raw.off }

func (r *Reader) drain() error {
	r.raw.rec, r.raw.tap, r.raw.recFrom = nil, nil, math.MaxInt64
	if _, err := io.Copy(io.Discard, r.raw); err != nil {
		return fmt.Errorf("read tar at %d: %w", r.raw.off, err)
	}
	return io.EOF
}

func (r *Reader) entry(hdr *tar.Header) (*Entry, error) {
	e := &Entry{
		Mode: uint32(hdr.Mode & 0o7777), ModTime: hdr.ModTime, //nolint:gosec // masked
		Data: r.raw.off,
	}
	r.end = r.raw.off
	var err error
	if e.Name, err = cleanName(hdr.Name); err != nil {
		return nil, err
	}
	if hdr.Uid < 0 || hdr.Uid >= math.MaxUint32 || hdr.Gid < 0 || hdr.Gid >= math.MaxUint32 {
		return nil, fmt.Errorf("owner %d:%d: %w", hdr.Uid, hdr.Gid, errdefs.ErrInvalidArgument)
	}
	e.UID, e.GID = uint32(hdr.Uid), uint32(hdr.Gid)
	if e.Xattrs, err = xattrs(hdr.PAXRecords); err != nil {
		return nil, err
	}
	switch hdr.Typeflag {
	case tar.TypeReg, tar.TypeCont, tar.TypeGNUSparse:
		e.Mode |= TypeRegular
		return e, r.regular(e, hdr)
	case tar.TypeDir:
		e.Mode |= TypeDir
	case tar.TypeLink:
		e.HardLink = true
		e.Linkname, err = cleanName(hdr.Linkname)
	case tar.TypeSymlink:
		e.Mode = TypeSymlink | 0o777
		e.Linkname = hdr.Linkname
		err = checkTarget(hdr.Linkname)
	case tar.TypeChar, tar.TypeBlock:
		e.Mode |= TypeChar
		if hdr.Typeflag == tar.TypeBlock {
			e.Mode = e.Mode&0o7777 | TypeBlock
		}
		if hdr.Devmajor < 0 || hdr.Devmajor > 0xfff || hdr.Devminor < 0 || hdr.Devminor > 0xfffff {
			return nil, fmt.Errorf("device %d:%d: %w", hdr.Devmajor, hdr.Devminor, errdefs.ErrInvalidArgument)
		}
		e.Major, e.Minor = uint32(hdr.Devmajor), uint32(hdr.Devminor)
	case tar.TypeFifo:
		e.Mode |= TypeFifo
	default:
		return nil, fmt.Errorf("type %q: %w", hdr.Typeflag, errdefs.ErrInvalidArgument)
	}
	return e, err
}

func checkTarget(target string) error {
	if target == "" || len(target) >= maxPath || strings.IndexByte(target, 0) >= 0 {
		return fmt.Errorf("symlink target of %d bytes: %w", len(target), errdefs.ErrInvalidArgument)
	}
	return nil
}

// regular finds where the data of a regular file lies.
func (r *Reader) regular(e *Entry, hdr *tar.Header) error {
	e.Size = hdr.Size
	if e.Size > maxFileSize {
		return fmt.Errorf("file of %d bytes: %w", e.Size, errdefs.ErrInvalidArgument)
	}
	stored := e.Size
	if isSparse(hdr) {
		m, err := sparseMap(hdr, r.raw.rec)
		if err != nil {
			return err
		}
		e.Sparse, stored = true, m.stored
		e.Extents = m.extents(e.Data, e.Size)
	}
	r.end = e.Data + align(stored)
	return nil
}

// xattrs collects the attributes of both tar dialects. Those that overlayfs
// gives a meaning would let a layer redirect lookups, so they fall away.
func xattrs(pax map[string]string) ([]Xattr, error) {
	var list []Xattr
	total := 0
	for key, value := range pax {
		name, ok := strings.CutPrefix(key, paxXattr)
		if !ok {
			if name, ok = strings.CutPrefix(key, paxLibXattr); !ok {
				continue
			}
			name, value, ok = libarchiveXattr(name, value)
			if _, twice := pax[paxXattr+name]; !ok || twice {
				continue
			}
		}
		if isOverlayXattr(name) {
			continue
		}
		total += len(name) + len(value)
		if name == "" || len(name) > maxComponent || len(value) > maxXattr || total > maxXattrs {
			return nil, fmt.Errorf("attributes of %d bytes: %w", total, errdefs.ErrInvalidArgument)
		}
		list = append(list, Xattr{Name: name, Value: value})
	}
	slices.SortFunc(list, func(a, b Xattr) int { return strings.Compare(a.Name, b.Name) })
	return slices.CompactFunc(list, func(a, b Xattr) bool { return a.Name == b.Name }), nil
}

// libarchiveXattr decodes a LIBARCHIVE.xattr record: a URL-encoded name and a
// value in base64, with or without padding.
func libarchiveXattr(name, value string) (string, string, bool) {
	name, err := url.PathUnescape(name)
	if err != nil {
		return "", "", false
	}
	b, err := base64.RawStdEncoding.DecodeString(strings.TrimRight(value, "="))
	return name, string(b), err == nil
}

func isOverlayXattr(name string) bool {
	return strings.HasPrefix(name, "trusted.overlay.") || strings.HasPrefix(name, "user.overlay.")
}

// classify gives a broken archive its errdefs kind and leaves errors of the
// source alone.
func classify(err error) error {
	if errors.Is(err, tar.ErrHeader) || errors.Is(err, io.ErrUnexpectedEOF) {
		return fmt.Errorf("%w: %w", err, errdefs.ErrDataLoss)
	}
	if errors.Is(err, tar.ErrFieldTooLong) {
		return fmt.Errorf("%w: %w", err, errdefs.ErrInvalidArgument)
	}
	return err
}

func align(n int64) int64 { return (n + blockSize - 1) &^ (blockSize - 1) }

// tapReader counts what passes, records headers and shows data to a tap.
type tapReader struct {
	r       io.Reader
	off     int64
	recFrom int64 // bytes from this offset on are recorded
	rec     []byte
	tap     func(off int64, p []byte) error
	tapErr  error
}

// record begins a new recording at the offset from.
func (t *tapReader) record(from int64) {
	t.recFrom = from
	if cap(t.rec) > 1<<16 {
		t.rec = nil
	}
	t.rec = t.rec[:0]
}

func (t *tapReader) Read(p []byte) (int, error) {
	n, err := t.r.Read(p)
	if t.tap != nil && t.off < t.recFrom && n > 0 {
		if t.tapErr = t.tap(t.off, p[:min(int64(n), t.recFrom-t.off)]); t.tapErr != nil {
			return 0, t.tapErr
		}
	}
	if skip := max(0, t.recFrom-t.off); skip < int64(n) {
		if int64(len(t.rec)+n)-skip > maxHeader {
			return 0, fmt.Errorf("more than %d bytes of headers: %w", maxHeader, errdefs.ErrInvalidArgument)
		}
		t.rec = append(t.rec, p[skip:n]...)
	}
	t.off += int64(n)
	return n, err
}
