package archive

import (
	"archive/tar"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/containerd/errdefs"
)

// WriterOptions say how a tar is written.
type WriterOptions struct {
	Clamp *time.Time // no entry is younger than this; nil: times are as they are
}

// Writer writes a layer tar whose bytes depend on what is written alone: no
// names of owners, no access and change times, PAX headers only where an entry
// needs them. The caller chooses the order. It is used by one goroutine.
type Writer struct {
	tw   *tar.Writer
	opts WriterOptions
}

// NewWriter writes a tar to w.
func NewWriter(w io.Writer, opts WriterOptions) *Writer {
	return &Writer{tw: tar.NewWriter(w), opts: opts}
}

// Write writes one entry. For a regular file content gives e.Size bytes, no more
// and no less; for all else it is not read. Data, Sparse and Extents do not count.
func (w *Writer) Write(e *Entry, content io.Reader) error {
	hdr, err := w.header(e)
	if err == nil {
		err = w.tw.WriteHeader(hdr)
	}
	if err != nil {
		return fmt.Errorf("write tar entry %q: %w", e.Name, err)
	}
	if hdr.Typeflag != tar.TypeReg || e.Size == 0 {
		return nil
	}
	n, err := io.Copy(w.tw, io.LimitReader(content, e.Size))
	if err == nil && n < e.Size {
		err = fmt.Errorf("%d bytes of %d: %w", n, e.Size, io.ErrUnexpectedEOF)
	}
	if err != nil {
		return fmt.Errorf("write tar entry %q: %w", e.Name, err)
	}
	return nil
}

// Whiteout writes the entry that hides name in lower layers.
func (w *Writer) Whiteout(name string) error {
	return w.Write(&Entry{Name: WhiteoutName(name), Mode: TypeRegular, ModTime: time.Unix(0, 0)}, nil)
}

// Opaque writes the entry that hides all that lower layers have in dir.
func (w *Writer) Opaque(dir string) error {
	return w.Write(&Entry{Name: OpaqueName(dir), Mode: TypeRegular, ModTime: time.Unix(0, 0)}, nil)
}

// Close writes the end of the tar. It does not close what the tar is written to.
func (w *Writer) Close() error {
	if err := w.tw.Close(); err != nil {
		return fmt.Errorf("end tar: %w", err)
	}
	return nil
}

func (w *Writer) header(e *Entry) (*tar.Header, error) {
	hdr := &tar.Header{
		Format: tar.FormatPAX, // with no PAX records, that is USTAR
		Name:   e.Name, Linkname: e.Linkname, Mode: int64(e.Mode & 0o7777),
		Uid: int(e.UID), Gid: int(e.GID), ModTime: e.ModTime,
	}
	if w.opts.Clamp != nil && hdr.ModTime.After(*w.opts.Clamp) {
		hdr.ModTime = *w.opts.Clamp
	}
	if len(e.Xattrs) > 0 && !e.HardLink {
		hdr.PAXRecords = map[string]string{}
		for _, x := range e.Xattrs {
			if strings.Contains(x.Name, "=") || x.Name == "" {
				return nil, fmt.Errorf("attribute %q: %w", x.Name, errdefs.ErrInvalidArgument)
			}
			hdr.PAXRecords[paxXattr+x.Name] = x.Value
		}
	}
	if e.HardLink {
		hdr.Typeflag = tar.TypeLink
		return hdr, nil
	}
	switch e.Mode & TypeMask {
	case TypeRegular:
		hdr.Typeflag, hdr.Size = tar.TypeReg, e.Size
	case TypeDir:
		hdr.Typeflag = tar.TypeDir
		hdr.Name = strings.TrimPrefix(e.Name+"/", "/")
		if e.Name == "" {
			hdr.Name = "./"
		}
	case TypeSymlink:
		hdr.Typeflag, hdr.Mode = tar.TypeSymlink, 0o777
	case TypeChar, TypeBlock:
		hdr.Typeflag = tar.TypeChar
		if e.Mode&TypeMask == TypeBlock {
			hdr.Typeflag = tar.TypeBlock
		}
		hdr.Devmajor, hdr.Devminor = int64(e.Major), int64(e.Minor)
	case TypeFifo:
		hdr.Typeflag = tar.TypeFifo
	default:
		return nil, fmt.Errorf("mode %#o: %w", e.Mode, errdefs.ErrInvalidArgument)
	}
	return hdr, nil
}
