package vuln

import (
	"archive/zip"
	"context"
	"errors"
	"fmt"
	"io"
	"path"

	"github.com/containerd/errdefs"
)

// zip imports a dump. Names in it are those of records, and lead nowhere.
func (im *importer) zip(ctx context.Context, r io.ReaderAt, size int64) error {
	if size > maxDump {
		return fmt.Errorf("a dump of %d bytes: %w", size, errdefs.ErrResourceExhausted)
	}
	listing := &limitedReaderAt{r: r, left: maxListing}
	z, err := zip.NewReader(listing, size)
	if err != nil {
		return fmt.Errorf("%s is no dump: %w: %w", im.origin, err, errdefs.ErrInvalidArgument)
	}
	listing.left = -1
	packed := uint64(0)
	for _, f := range z.File {
		if packed += f.CompressedSize64; f.CompressedSize64 > uint64(size) || packed > uint64(size) {
			return fmt.Errorf("%s is no dump: its files overlap: %w", im.origin, errdefs.ErrInvalidArgument)
		}
		if path.Ext(f.Name) != ".json" {
			continue
		}
		if err := im.count(ctx); err != nil {
			return err
		}
		if f.UncompressedSize64 > maxRecord { // what comes out is never more than that
			im.result.Unusable++
			continue
		}
		sum := sumOf(f.CRC32, f.UncompressedSize64)
		if same, err := im.unchanged(ctx, idOf(f.Name), sum); err != nil {
			return err
		} else if same {
			continue
		}
		if im.content += int64(f.UncompressedSize64); im.content > maxContent {
			return fmt.Errorf("%s: more than %d bytes come out of it: %w", im.origin, int64(maxContent), errdefs.ErrResourceExhausted)
		}
		if err := im.member(ctx, f, sum); err != nil {
			return fmt.Errorf("%.200q: %w", f.Name, err)
		}
	}
	return nil
}

// member takes in a record of a dump that is another one than before.
func (im *importer) member(ctx context.Context, f *zip.File, sum string) (err error) {
	content, err := f.Open()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, content.Close()) }()
	b := make([]byte, f.UncompressedSize64)
	if _, err := io.ReadFull(content, b); err != nil {
		return err
	}
	if n, err := content.Read(make([]byte, 1)); n > 0 || !errors.Is(err, io.EOF) { // where the checksum is tested
		return errors.Join(zip.ErrFormat, err)
	}
	return im.take(ctx, b, sum)
}

// limitedReaderAt reads so many bytes and no more; less than 0 left is no limit.
type limitedReaderAt struct {
	r    io.ReaderAt
	left int64
}

// ReadAt is io.ReaderAt's.
func (l *limitedReaderAt) ReadAt(p []byte, off int64) (int, error) {
	n, err := l.r.ReadAt(p, off)
	if l.left >= 0 {
		if l.left -= int64(n); l.left < 0 {
			return 0, fmt.Errorf("its directory has more than %d bytes: %w", int64(maxListing), errdefs.ErrResourceExhausted)
		}
	}
	return n, err
}
