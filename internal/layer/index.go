// Package layer makes a layer readable without unpacking it.
//
// A layer is its tar. Its index is an EROFS image without file data: names,
// modes, owners, times, attributes, and for each file the place of its bytes in
// the tar, which is the image's first extra device. What the tar cannot serve in
// place (parts of sparse files) lies in the side file, its second device. The
// kernel mounts index and tar together; Open reads the same tree in this process.
//
// A whiteout is a character device 0:0 and an opaque directory has the attribute
// trusted.overlay.opaque, as overlayfs has it. The union of layers is what is seen
// when they lie one over the other. A directory that a layer uses but does not
// name is implied: in a union it looks as the highest layer that names it says.
package layer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"strake/internal/archive"
)

// IndexInfo describes what WriteIndex wrote and read.
type IndexInfo struct {
	Entries   int   // files, directories and other inodes
	IndexSize int64 // bytes of the index
	SideSize  int64 // bytes of the side file, holes included; 0: there is none
	TarSize   int64 // bytes of the tar, to its end
}

// WriteIndex reads the layer tar to its end and writes its index. What it writes
// depends on the tar's bytes alone. The side file may be nil where no file needs
// it; one that does is an error then. Nothing is synced or closed. A tar that
// is broken or breaks the bounds of package archive fails with the errdefs kinds
// DataLoss, InvalidArgument or ResourceExhausted.
func WriteIndex(ctx context.Context, tar io.Reader, index io.Writer, side *os.File) (IndexInfo, error) {
	r := archive.NewReader(tar)
	tree := archive.NewTree()
	s := &sideWriter{file: side}
	for {
		if err := ctx.Err(); err != nil {
			return IndexInfo{}, fmt.Errorf("index layer: %w", err)
		}
		e, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return IndexInfo{}, fmt.Errorf("index layer: %w", err)
		}
		placed, err := tree.Add(e)
		if err != nil {
			return IndexInfo{}, fmt.Errorf("index layer: %w", err)
		}
		if e.Sparse && placed.Inode != nil {
			if err := s.take(r, placed.Inode); err != nil {
				return IndexInfo{}, fmt.Errorf("index layer: %q: %w", e.Name, err)
			}
		}
	}
	sideSize, err := s.finish()
	if err != nil {
		return IndexInfo{}, fmt.Errorf("index layer: %w", err)
	}
	im := &image{tarSize: r.Offset(), sideSize: sideSize, tables: s.tables, inodes: make([]node, 0, tree.Inodes()+1)}
	size, err := im.write(index, tree.Root)
	if err != nil {
		return IndexInfo{}, fmt.Errorf("write layer index: %w", err)
	}
	return IndexInfo{Entries: len(im.inodes), IndexSize: size, SideSize: sideSize, TarSize: r.Offset()}, nil
}
