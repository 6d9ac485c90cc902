package layout

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"

	"github.com/containerd/errdefs"
)

// Bounds on an archive.
const (
	maxEntries  = 500_000
	maxName     = 4096
	maxLinkHops = 8
)

// maxNames bounds the names of an archive's files, in bytes.
const maxNames = 32 << 20

// tarFile is a tar whose files are read in place. Nothing of it is extracted,
// so a name is only ever a key; still names that lead out of the archive, files
// that are there twice and sparse files are refused, for no honest writer makes
// them and readers differ in what they take them for.
type tarFile struct {
	r     io.ReaderAt
	files map[string]tarEntry
	names int // bytes of their names
}

// tarEntry is a file's place, or what a link points to.
type tarEntry struct {
	offset, size int64
	link         string // cleaned; "" for a file
}

// indexTar reads the headers of the tar in r, of size bytes; contents are
// passed over by seeking.
func indexTar(r io.ReaderAt, size int64) (*tarFile, error) {
	sr := io.NewSectionReader(r, 0, size)
	tr := tar.NewReader(sr)
	t := &tarFile{r: r, files: map[string]tarEntry{}}
	for n := 0; ; n++ {
		hdr, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return t, nil
		}
		if err != nil && !errors.Is(err, tar.ErrInsecurePath) {
			return nil, fmt.Errorf("read tar: %w: %w", err, errdefs.ErrInvalidArgument)
		}
		if n >= maxEntries {
			return nil, fmt.Errorf("read tar: more than %d entries: %w", maxEntries, errdefs.ErrResourceExhausted)
		}
		offset, err := sr.Seek(0, io.SeekCurrent)
		if err != nil {
			return nil, err
		}
		if err := t.add(hdr, offset, size); err != nil {
			return nil, fmt.Errorf("tar entry %.200q: %w", hdr.Name, err)
		}
	}
}

func (t *tarFile) add(hdr *tar.Header, offset, size int64) error {
	name, err := cleanPath("", hdr.Name)
	if err != nil {
		return err
	}
	if t.names += len(name) + len(hdr.Linkname); t.names > maxNames {
		return fmt.Errorf("names of more than %d bytes: %w", maxNames, errdefs.ErrResourceExhausted)
	}
	e := tarEntry{offset: offset, size: hdr.Size}
	switch hdr.Typeflag {
	case tar.TypeReg:
		for key := range hdr.PAXRecords {
			if strings.HasPrefix(key, "GNU.sparse.") {
				return fmt.Errorf("sparse file: %w", errdefs.ErrInvalidArgument)
			}
		}
		if hdr.Size < 0 || offset+hdr.Size > size {
			return fmt.Errorf("cut off: %w", errdefs.ErrInvalidArgument)
		}
	case tar.TypeSymlink:
		e.link, err = cleanPath(path.Dir(name), hdr.Linkname)
	case tar.TypeLink:
		e.link, err = cleanPath("", hdr.Linkname)
	case tar.TypeDir, tar.TypeXGlobalHeader:
		return nil
	default:
		return fmt.Errorf("type %q: %w", hdr.Typeflag, errdefs.ErrInvalidArgument)
	}
	if err != nil {
		return err
	}
	if _, ok := t.files[name]; ok {
		return fmt.Errorf("twice: %w", errdefs.ErrInvalidArgument)
	}
	t.files[name] = e
	return nil
}

// cleanPath returns name, read from dir, as a path within the archive.
func cleanPath(dir, name string) (string, error) {
	if name == "" || len(name) > maxName || strings.HasPrefix(name, "/") || strings.ContainsAny(name, "\x00\\") {
		return "", fmt.Errorf("path %.200q: %w", name, errdefs.ErrInvalidArgument)
	}
	p := path.Join(dir, name)
	if p == ".." || strings.HasPrefix(p, "../") || dir == "" && hasDotDot(name) {
		return "", fmt.Errorf("path %.200q leads out: %w", name, errdefs.ErrInvalidArgument)
	}
	return p, nil
}

func hasDotDot(name string) bool {
	for part := range strings.SplitSeq(name, "/") {
		if part == ".." {
			return true
		}
	}
	return false
}

// open opens the file at name, through links within the archive.
func (t *tarFile) open(name string) (*io.SectionReader, error) {
	p, err := cleanPath("", name)
	if err != nil {
		return nil, err
	}
	for range maxLinkHops {
		e, ok := t.files[p]
		if !ok {
			return nil, fmt.Errorf("no file %.200q in the archive: %w", name, errdefs.ErrNotFound)
		}
		if e.link == "" {
			return io.NewSectionReader(t.r, e.offset, e.size), nil
		}
		p = e.link
	}
	return nil, fmt.Errorf("file %.200q: too many links: %w", name, errdefs.ErrInvalidArgument)
}

// read reads the whole file at name, of at most limit bytes.
func (t *tarFile) read(name string, limit int64) ([]byte, error) {
	r, err := t.open(name)
	if err != nil {
		return nil, err
	}
	if r.Size() > limit {
		return nil, fmt.Errorf("file %.200q: %d bytes, more than %d: %w", name, r.Size(), limit, errdefs.ErrResourceExhausted)
	}
	b := make([]byte, r.Size())
	if _, err := io.ReadFull(r, b); err != nil {
		return nil, fmt.Errorf("file %.200q: %w", name, err)
	}
	return b, nil
}
