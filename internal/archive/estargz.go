package archive

import (
	"bytes"
	"errors"
	"fmt"
	"io"

	"github.com/containerd/errdefs"
	"github.com/containerd/stargz-snapshotter/estargz"
	"github.com/klauspost/compress/gzip"
	"github.com/opencontainers/go-digest"
)

// The annotations of a layer that is an eStargz: the digest of its table of contents, and the bytes of its tar, in decimal.
const (
	EstargzTOCAnnotation  = estargz.TOCJSONDigestAnnotation
	EstargzSizeAnnotation = estargz.StoreUncompressedSizeAnnotation
)

// CompressEstargz writes tar to w as an eStargz: gzip, with a member of its own for each file and for each 4 MiB of one, and at the end a table of contents,
// whose digest it returns. What the whole inflates to is tar as it is, and behind its end the tar of the table. The bytes depend on tar and
// the level alone; level 0 is Compress's default. An entry that the format has no name for is an error.
func CompressEstargz(w io.Writer, tar io.Reader, level int) (toc digest.Digest, err error) {
	if level == 0 {
		level = gzipLevel
	}
	z := estargz.NewWriterWithCompressor(w, &members{GzipCompressor: estargz.NewGzipCompressorWithLevel(level), level: level})
	if err := z.AppendTarLossLess(tar); err != nil {
		return "", fmt.Errorf("compress with estargz: %w", err)
	}
	if toc, err = z.Close(); err != nil {
		return "", fmt.Errorf("compress with estargz: %w", err)
	}
	return toc, nil
}

// members makes the gzip members of one eStargz, one after the other, with one compressor: making one for each file costs more than small files do.
type members struct {
	*estargz.GzipCompressor // writes the table
	level                   int
	z                       *gzip.Writer
}

// Writer begins a member, when the one before is closed.
func (m *members) Writer(w io.Writer) (_ estargz.WriteFlushCloser, err error) {
	if m.z != nil {
		m.z.Reset(w)
		return m.z, nil
	}
	m.z, err = gzip.NewWriterLevel(w, m.level)
	return m.z, err
}

// footHead is how the last member begins: gzip's header with an extra field of 26 bytes, which says where the table is.
var footHead = []byte{0x1f, 0x8b, 8, 4, 0, 0, 0, 0, 0, 0xff, 26, 0}

// maxTOC bounds a table of contents, in bytes: an entry has some hundred, for each file and 4 MiB.
const maxTOC = 1 << 30

// EstargzTOC finds the table of contents of an eStargz: where in the blob it begins, and its digest. The bytes before it are a whole gzip
// stream, of the tar without the table. It fails with errdefs.ErrNotFound for a blob that is no eStargz.
func EstargzTOC(blob io.ReaderAt, size int64) (offset int64, toc digest.Digest, err error) {
	if size < estargz.FooterSize {
		return 0, "", fmt.Errorf("no eStargz: %w", errdefs.ErrNotFound)
	}
	foot := make([]byte, estargz.FooterSize)
	if _, err := blob.ReadAt(foot, size-estargz.FooterSize); err != nil && !errors.Is(err, io.EOF) {
		return 0, "", fmt.Errorf("no eStargz: %w: %w", err, errdefs.ErrNotFound)
	}
	if !bytes.HasPrefix(foot, footHead) { // the library panics where the extra field is shorter
		return 0, "", fmt.Errorf("no eStargz: %w", errdefs.ErrNotFound)
	}
	_, offset, _, err = new(estargz.GzipDecompressor).ParseFooter(foot)
	if err != nil || offset <= 0 || offset >= size {
		return 0, "", fmt.Errorf("no eStargz: %w", errdefs.ErrNotFound)
	}
	table, err := new(estargz.GzipDecompressor).DecompressTOC(io.NewSectionReader(blob, offset, size-offset))
	if err != nil {
		return 0, "", fmt.Errorf("no eStargz: %w: %w", err, errdefs.ErrNotFound)
	}
	sum := digest.Canonical.Digester()
	n, err := io.Copy(sum.Hash(), io.LimitReader(table, maxTOC+1))
	if err := errors.Join(err, table.Close()); err != nil {
		return 0, "", fmt.Errorf("no eStargz: %w: %w", brokenStream(Gzip, err), errdefs.ErrNotFound)
	}
	if n > maxTOC {
		return 0, "", fmt.Errorf("no eStargz: a table of more than %d bytes: %w", int64(maxTOC), errdefs.ErrNotFound)
	}
	return offset, sum.Digest(), nil
}
