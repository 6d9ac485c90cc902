package layer

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"
	"math"
	"slices"

	"github.com/containerd/errdefs"

	"strake/internal/archive"
)

// image is an index on its way to be written: first every inode gets its place,
// in the order of a walk, then everything is written in that order. Inodes and
// what goes with them come first, then the blocks of large directories and long
// symlinks.
type image struct {
	tarSize  int64
	sideSize int64
	tables   map[*archive.Inode]*chunkTable

	inodes []node
	data   []node // those with blocks of their own
	pos    int64  // end of the inodes so far
	blocks int64  // data blocks so far
	first  int64  // the first data block

	whiteouts bool // there are some
}

// node is one inode with its place.
type node struct {
	*archive.Inode
	parent *archive.Inode
	names  []string // of a directory, in order, with "." and ".."
	xattrs []byte
	layout uint16
	size   int64
	block  int64 // of data, counted from the first
}

// write places and writes the tree, and returns the index's size.
func (im *image) write(w io.Writer, root *archive.Inode) (int64, error) {
	im.pos = metaOffset
	im.place(root, root)
	im.first = alignBlock(im.pos) >> blockBits
	s := super{
		whiteouts:  im.whiteouts,
		inodes:     uint64(len(im.inodes)),
		tarBlocks:  uint32(alignBlock(im.tarSize) >> blockBits),
		sideBlocks: uint32(alignBlock(im.sideSize) >> blockBits),
		blocks:     uint32(im.first + im.blocks),
	}
	if im.first+im.blocks+alignBlock(im.tarSize)>>blockBits >= math.MaxUint32 {
		return 0, fmt.Errorf("layer of %d bytes: %w", im.tarSize, errdefs.ErrResourceExhausted)
	}
	size := (im.first + im.blocks) << blockBits
	out := &output{w: bufio.NewWriterSize(w, int(min(size, 1<<18)))}
	out.write(s.encode())
	for i := range im.inodes {
		im.writeInode(out, &im.inodes[i], int64(s.blocks))
	}
	out.pad(im.first << blockBits)
	for i := range im.data {
		im.writeData(out, &im.data[i])
	}
	if out.err == nil {
		out.err = out.w.Flush()
	}
	return out.pos, out.err
}

// place gives an inode and all below it a place. Directories come before their
// files, files before the next directory.
func (im *image) place(inode, parent *archive.Inode) {
	n := node{Inode: inode, parent: parent, size: inode.Size, xattrs: encodeXattrs(inode.Xattrs)}
	if inode.IsDir() {
		if inode.Opaque {
			n.xattrs = encodeXattrs(append(slices.Clone(inode.Xattrs), opaqueXattr))
		}
		n.names = directoryNames(inode)
		n.size = directorySize(n.names)
	}
	fixed := inodeSize + int64(len(n.xattrs))
	at := (im.pos + slotSize - 1) &^ (slotSize - 1)
	if at%blockSize > blockSize-inodeSize {
		at += slotSize // an inode that is not split is read faster
	}
	im.pos = at + fixed
	switch table := im.tables[inode]; {
	case inode.IsDir() || inode.Target != "":
		if tail := n.size % blockSize; tail > 0 {
			if in, ok := inlineAt(at, fixed, tail); ok && (inode.IsDir() || n.size == tail) {
				n.layout, at = layoutInline, in
				im.pos = at + fixed + tail
			}
		}
		n.block = im.blocks
		if n.layout == layoutInline {
			im.blocks += n.size >> blockBits
		} else {
			im.blocks += alignBlock(n.size) >> blockBits
		}
	case table != nil && inode.Size > 0:
		n.layout = layoutChunks
		im.pos = (im.pos+chunkSize-1)&^(chunkSize-1) + table.count*chunkSize
	}
	inode.Number = at / slotSize
	im.whiteouts = im.whiteouts || inode.IsWhiteout()
	im.inodes = append(im.inodes, n)
	if n.layout == layoutPlain && n.size > 0 && !isRegular(inode) || n.layout == layoutInline && n.size >= blockSize {
		im.data = append(im.data, n)
	}
	im.placeChildren(&n)
}

func (im *image) placeChildren(n *node) {
	for _, dirs := range []bool{false, true} {
		for _, name := range n.names {
			child := n.Children[name]
			if child == nil || child.IsDir() != dirs || child.Number != 0 {
				continue
			}
			im.place(child, n.Inode)
		}
	}
}

func isRegular(inode *archive.Inode) bool { return inode.Mode&archive.TypeMask == archive.TypeRegular }

// inlineAt finds a place at or after at for an inode whose tail must not cross a
// block's end.
func inlineAt(at, fixed, tail int64) (int64, bool) {
	for end := at + blockSize; at < end; at += slotSize {
		if (at+fixed)%blockSize+tail <= blockSize && at%blockSize <= blockSize-inodeSize {
			return at, true
		}
	}
	return 0, false
}

// directoryNames lists a directory's names as EROFS wants them: in the order of
// their bytes, "." and ".." among them.
func directoryNames(inode *archive.Inode) []string {
	names := make([]string, 0, len(inode.Children)+2)
	names = append(names, ".", "..")
	for name := range inode.Children {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// directorySize is the size of a directory of these names. A block holds the
// entries of some names, then the names themselves.
func directorySize(names []string) int64 {
	var full, used int64
	for _, name := range names {
		n := int64(direntSize + len(name))
		if used+n > blockSize {
			full, used = full+blockSize, 0
		}
		used += n
	}
	return full + used
}

func (im *image) writeInode(out *output, n *node, tarBlock int64) {
	out.pad(n.Number * slotSize)
	le := binary.LittleEndian
	var b [inodeSize]byte
	le.PutUint16(b[0:], 1|n.layout<<1)
	if len(n.xattrs) > 0 {
		le.PutUint16(b[2:], uint16((len(n.xattrs)-xattrHeaderSize)/xattrEntrySize+1))
	}
	le.PutUint16(b[4:], uint16(n.Mode))
	le.PutUint64(b[8:], uint64(n.size))
	le.PutUint32(b[16:], im.place32(n, tarBlock))
	ino := uint32(n.Number)
	if n.IsDir() && n.Implied {
		ino = impliedIno
	}
	le.PutUint32(b[20:], ino)
	le.PutUint32(b[24:], n.UID)
	le.PutUint32(b[28:], n.GID)
	le.PutUint64(b[32:], uint64(n.ModTime.Unix()))
	le.PutUint32(b[40:], uint32(n.ModTime.Nanosecond()))
	le.PutUint32(b[44:], n.Nlink)
	out.write(b[:])
	out.write(n.xattrs)
	switch {
	case n.layout == layoutChunks:
		im.writeChunks(out, n)
	case n.layout == layoutInline && n.IsDir():
		out.write(directoryBlocks(n)[n.size&^(blockSize-1):])
	case n.layout == layoutInline:
		out.write([]byte(n.Target))
	}
}

// place32 is the inode's field that says where its data is, or what device it is.
func (im *image) place32(n *node, tarBlock int64) uint32 {
	switch {
	case n.layout == layoutChunks:
		return uint32(im.tables[n.Inode].bits-blockBits) | chunkIndexes
	case isRegular(n.Inode) && n.size > 0:
		return uint32(tarBlock + n.Data>>blockBits)
	case n.IsDir() || n.Target != "":
		return uint32(im.first + n.block)
	}
	return deviceNumber(n.Major, n.Minor)
}

func (im *image) writeChunks(out *output, n *node) {
	out.pad((out.pos + chunkSize - 1) &^ (chunkSize - 1))
	table := im.tables[n.Inode]
	var next int64
	hole := [chunkSize]byte{4: 0xff, 5: 0xff, 6: 0xff, 7: 0xff}
	for _, r := range table.runs {
		for ; next < r.first; next++ {
			out.write(hole[:])
		}
		device := uint16(tarDevice)
		if r.side {
			device = sideDevice
		}
		for k := range r.count {
			var b [chunkSize]byte
			binary.LittleEndian.PutUint16(b[2:], device)
			binary.LittleEndian.PutUint32(b[4:], uint32((r.data+k<<table.bits)>>blockBits))
			out.write(b[:])
		}
		next = r.first + r.count
	}
	for ; next < table.count; next++ {
		out.write(hole[:])
	}
}

// writeData writes the blocks of an inode that has some, at the place they have.
func (im *image) writeData(out *output, n *node) {
	out.pad((im.first + n.block) << blockBits)
	data := []byte(n.Target)
	if n.IsDir() {
		data = directoryBlocks(n)
	}
	if n.layout == layoutInline {
		data = data[:n.size&^(blockSize-1)]
	}
	out.write(data)
	out.pad(alignBlock(out.pos))
}

// directoryBlocks makes a directory's content.
func directoryBlocks(n *node) []byte {
	le := binary.LittleEndian
	b := make([]byte, 0, n.size)
	for names := n.names; len(names) > 0; {
		count, used := 0, 0
		for count < len(names) && used+direntSize+len(names[count]) <= blockSize {
			used += direntSize + len(names[count])
			count++
		}
		off := count * direntSize
		for _, name := range names[:count] {
			child := n.child(name)
			b = le.AppendUint64(b, uint64(child.Number))
			b = le.AppendUint16(b, uint16(off))
			b = append(b, fileKind(child.Mode), 0)
			off += len(name)
		}
		for _, name := range names[:count] {
			b = append(b, name...)
		}
		if names = names[count:]; len(names) > 0 {
			b = append(b, make([]byte, blockSize-used)...)
		}
	}
	return b
}

func (n *node) child(name string) *archive.Inode {
	switch name {
	case ".":
		return n.Inode
	case "..":
		return n.parent
	}
	return n.Children[name]
}

// output counts what it writes and keeps the first error.
type output struct {
	w   *bufio.Writer
	pos int64
	err error
}

func (o *output) write(p []byte) {
	if o.err != nil {
		return
	}
	n, err := o.w.Write(p)
	o.pos, o.err = o.pos+int64(n), err
}

var zeros [blockSize]byte

// pad writes zeros up to the offset to.
func (o *output) pad(to int64) {
	for o.err == nil && o.pos < to {
		o.write(zeros[:min(to-o.pos, blockSize)])
	}
}
