package layer

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"sort"
	"strings"
	"time"

	"github.com/containerd/errdefs"

	"strake/internal/archive"
)

// Layer reads one layer. As a file system it shows the layer as it is, whiteouts
// included. Its methods are safe for concurrent use, Close apart.
type Layer struct {
	FS

	files    Files
	index    []byte
	tar      dataFile
	side     dataFile
	tarBlock uint32 // where the tar begins among the blocks

	whiteouts bool // there are some
}

// dataFile is what files' data is read from.
type dataFile interface {
	io.ReaderAt
	io.Closer
}

// Open opens a layer for reading; Close closes it. The index is checked as it is
// read: a damaged one gives errors of the kind DataLoss.
func Open(files Files) (*Layer, error) {
	index, err := os.ReadFile(files.Index)
	if err != nil {
		return nil, fmt.Errorf("open layer index: %w", err)
	}
	l, err := openIndex(index)
	if err != nil {
		return nil, fmt.Errorf("open layer index %q: %w", files.Index, err)
	}
	l.files = files
	if l.tar, err = openData(files.Tar); err == nil {
		l.side, err = openData(files.Side)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open layer: %w", err), l.Close())
	}
	return l, nil
}

// A Chain is open layers, bottom first.
type Chain []*Layer

// OpenChain opens layers, all or none; Close closes them.
func OpenChain(files []Files) (Chain, error) {
	c := make(Chain, 0, len(files))
	for _, f := range files {
		l, err := Open(f)
		if err != nil {
			return nil, errors.Join(err, c.Close())
		}
		c = append(c, l)
	}
	return c, nil
}

// Close closes the layers.
func (c Chain) Close() error {
	var errs []error
	for _, l := range c {
		errs = append(errs, l.Close())
	}
	return errors.Join(errs...)
}

func openIndex(index []byte) (*Layer, error) {
	l := &Layer{index: index}
	l.FS = FS{layers: []*Layer{l}, raw: true}
	return l, l.checkSuper()
}

// Files are the files of the layer.
func (l *Layer) Files() Files { return l.files }

// Close closes the layer's files. Files opened from it cannot be read any more.
func (l *Layer) Close() error {
	var errs []error
	for _, f := range []dataFile{l.tar, l.side} {
		if f != nil {
			errs = append(errs, f.Close())
		}
	}
	return errors.Join(errs...)
}

func openData(name string) (dataFile, error) {
	if name == "" {
		return nil, nil
	}
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	return f, nil
}

func (l *Layer) checkSuper() error {
	le := binary.LittleEndian
	if len(l.index) < metaOffset {
		return damaged("too short")
	}
	sb := append([]byte(nil), l.index[superOffset:metaOffset]...)
	sum := le.Uint32(sb[4:])
	le.PutUint32(sb[4:], 0)
	switch {
	case le.Uint32(sb) != superMagic || checksum(sb) != sum:
		return damaged("wrong magic or checksum")
	case sb[12] != blockBits || le.Uint32(sb[80:])&^incompatSupports != 0 || le.Uint32(sb[40:]) != 0:
		return damaged("not made by this program")
	case int64(le.Uint32(sb[36:]))<<blockBits != int64(len(l.index)):
		return damaged("cut short")
	}
	l.tarBlock = le.Uint32(sb[36:])
	l.whiteouts = bytes.HasPrefix(sb[64:80], []byte(whiteoutVolume)) // indexes of before have one letter more
	return nil
}

func damaged(what string) error {
	return fmt.Errorf("damaged index: %s: %w", what, errdefs.ErrDataLoss)
}

// inode is one inode as the index has it.
type inode struct {
	number uint64
	mode   uint32
	layout uint16
	data   uint32
	uid    uint32
	gid    uint32
	nlink  uint32
	size   int64
	mtime  time.Time
	xattrs []byte // encoded
	body   int64  // offset of what follows
	ino    uint32
}

func (n *inode) isDir() bool { return n.mode&archive.TypeMask == archive.TypeDir }

func (n *inode) isWhiteout() bool {
	return n.mode&archive.TypeMask == archive.TypeChar && n.data == 0
}

func (n *inode) implied() bool { return n.isDir() && n.ino == impliedIno }

const rootNumber = metaOffset / slotSize

func (l *Layer) inode(number uint64) (inode, error) {
	if number < rootNumber || number > uint64(len(l.index)-inodeSize)/slotSize {
		return inode{}, damaged("inode out of bounds")
	}
	at := int64(number) * slotSize
	b, le := l.index[at:], binary.LittleEndian
	n := inode{
		number: number,
		layout: le.Uint16(b) >> 1,
		mode:   uint32(le.Uint16(b[4:])),
		size:   int64(le.Uint64(b[8:])),
		data:   le.Uint32(b[16:]),
		ino:    le.Uint32(b[20:]),
		uid:    le.Uint32(b[24:]),
		gid:    le.Uint32(b[28:]),
		mtime:  time.Unix(int64(le.Uint64(b[32:])), int64(le.Uint32(b[40:]))),
		nlink:  le.Uint32(b[44:]),
		body:   at + inodeSize,
	}
	if count := int64(le.Uint16(b[2:])); count > 0 {
		end := n.body + xattrHeaderSize + (count-1)*xattrEntrySize
		if end > int64(len(l.index)) {
			return inode{}, damaged("attributes out of bounds")
		}
		n.xattrs = l.index[n.body:end]
		n.body = end
	}
	if n.size < 0 || le.Uint16(b)&1 == 0 || (n.layout != layoutPlain && n.layout != layoutInline && n.layout != layoutChunks) {
		return inode{}, damaged("inode of an unknown kind")
	}
	return n, nil
}

// eachXattr calls f with each attribute until it returns false.
func (n *inode) eachXattr(f func(prefix, rest, value string) bool) error {
	b := n.xattrs
	if len(b) == 0 {
		return nil
	}
	for b = b[xattrHeaderSize:]; len(b) >= xattrEntrySize; {
		nameLen, valueLen := int(b[0]), int(binary.LittleEndian.Uint16(b[2:]))
		end := xattrEntrySize + nameLen + valueLen
		if end > len(b) {
			return damaged("attribute out of bounds")
		}
		for _, p := range xattrPrefixes {
			if p.index == b[1] && !f(p.prefix, string(b[xattrEntrySize:xattrEntrySize+nameLen]), string(b[xattrEntrySize+nameLen:end])) {
				return nil
			}
		}
		b = b[min((end+3)&^3, len(b)):]
	}
	return nil
}

// attributes lists the inode's attributes and tells whether it is opaque.
func (n *inode) attributes() (list []archive.Xattr, opaque bool, err error) {
	err = n.eachXattr(func(prefix, rest, value string) bool {
		if prefix+rest == opaqueXattr.Name {
			opaque = true
		} else {
			list = append(list, archive.Xattr{Name: prefix + rest, Value: value})
		}
		return true
	})
	return list, opaque, err
}

// content returns the bytes of a directory or symlink.
func (l *Layer) content(n *inode) (head, tail []byte, err error) {
	size := int64(len(l.index))
	full := n.size
	if n.layout == layoutInline {
		full = n.size &^ (blockSize - 1)
		if n.body+n.size-full > size {
			return nil, nil, damaged("data out of bounds")
		}
		tail = l.index[n.body : n.body+n.size-full]
	}
	begin := int64(n.data) << blockBits
	if full > 0 {
		if n.layout == layoutChunks || begin > size || full > size-begin {
			return nil, nil, damaged("data out of bounds")
		}
		head = l.index[begin : begin+full]
	}
	return head, tail, nil
}

// dirBlock returns block i of a directory's content.
func dirBlock(head, tail []byte, i int) []byte {
	if at := i << blockBits; at < len(head) {
		return head[at:min(at+blockSize, len(head))]
	}
	return tail
}

// dirent is one name in a directory.
type dirent struct {
	name   string
	number uint64
	kind   byte
}

// blockEntries calls f with each entry of a directory's block until it returns false.
func blockEntry(b []byte, k int) (name []byte, number uint64, kind byte, count int, err error) {
	le := binary.LittleEndian
	if len(b) < direntSize {
		return nil, 0, 0, 0, damaged("directory block too short")
	}
	count = int(le.Uint16(b[8:])) / direntSize
	if count == 0 || count*direntSize > len(b) || k >= count {
		return nil, 0, 0, 0, damaged("directory block")
	}
	d := b[k*direntSize:]
	begin, end := int(le.Uint16(d[8:])), len(b)
	if k+1 < count {
		end = int(le.Uint16(d[direntSize+8:]))
	}
	if begin > end || end > len(b) {
		return nil, 0, 0, 0, damaged("directory entry")
	}
	name = b[begin:end]
	if k+1 == count {
		for i, c := range name {
			if c == 0 {
				name = name[:i]
				break
			}
		}
	}
	return name, le.Uint64(d), d[10], count, nil
}

// readDir calls f with each name of a directory, in order, without "." and "..".
func (l *Layer) readDir(dir *inode, f func(d dirent)) error {
	head, tail, err := l.content(dir)
	if err != nil {
		return err
	}
	for i := 0; i < int((dir.size+blockSize-1)>>blockBits); i++ {
		b := dirBlock(head, tail, i)
		for k, count := 0, 1; k < count; k++ {
			var d dirent
			var name []byte
			if name, d.number, d.kind, count, err = blockEntry(b, k); err != nil {
				return err
			}
			if d.name = string(name); d.name != "." && d.name != ".." {
				f(d)
			}
		}
	}
	return nil
}

// lookup finds a name in a directory by binary search, first for its block.
func (l *Layer) lookup(dir *inode, name string) (number uint64, ok bool, err error) {
	head, tail, err := l.content(dir)
	if err != nil || dir.size == 0 {
		return 0, false, err
	}
	blocks := int((dir.size + blockSize - 1) >> blockBits)
	first := func(b []byte, k int) string {
		entry, _, _, _, e := blockEntry(b, k)
		if e != nil {
			err = e
		}
		return string(entry)
	}
	i := sort.Search(blocks, func(i int) bool { return first(dirBlock(head, tail, i), 0) > name }) - 1
	if i < 0 || err != nil {
		return 0, false, err
	}
	b := dirBlock(head, tail, i)
	_, _, _, count, err := blockEntry(b, 0)
	if err != nil {
		return 0, false, err
	}
	k := sort.Search(count, func(k int) bool { return first(b, k) >= name })
	if k == count || err != nil {
		return 0, false, err
	}
	entry, number, _, _, err := blockEntry(b, k)
	return number, string(entry) == name, err
}

// readAt reads a regular file's data; off is within its size.
func (l *Layer) readAt(n *inode, p []byte, off int64) (int, error) {
	p = p[:min(int64(len(p)), n.size-off)]
	if n.layout == layoutPlain {
		if n.data < l.tarBlock {
			return 0, damaged("file data out of bounds")
		}
		return readFull(l.tar, p, int64(n.data-l.tarBlock)<<blockBits+off)
	}
	bits := n.data&chunkBitsMask + blockBits
	table := (n.body + chunkSize - 1) &^ (chunkSize - 1)
	done := 0
	for done < len(p) {
		at := off + int64(done)
		entry := table + at>>bits*chunkSize
		if n.layout != layoutChunks || entry+chunkSize > int64(len(l.index)) {
			return done, damaged("chunk out of bounds")
		}
		part := p[done:min(int64(len(p)), int64(done)+(at>>bits+1)<<bits-at)]
		b := l.index[entry:]
		device, block := binary.LittleEndian.Uint16(b[2:]), binary.LittleEndian.Uint32(b[4:])
		from := int64(block)<<blockBits + at&(1<<bits-1)
		var err error
		switch {
		case block == chunkHole:
			clear(part)
		case device == tarDevice:
			_, err = readFull(l.tar, part, from)
		default:
			_, err = readFull(l.side, part, from)
		}
		if err != nil {
			return done, err
		}
		done += len(part)
	}
	return done, nil
}

func readFull(f dataFile, p []byte, off int64) (int, error) {
	if f == nil {
		return 0, fmt.Errorf("layer opened without its data: %w", errdefs.ErrFailedPrecondition)
	}
	n, err := f.ReadAt(p, off)
	if n == len(p) {
		return n, nil
	}
	if errors.Is(err, io.EOF) {
		err = fmt.Errorf("layer tar is cut short: %w", errdefs.ErrDataLoss)
	}
	return n, err
}

func (l *Layer) readLink(n *inode) (string, error) {
	head, tail, err := l.content(n)
	return strings.Clone(string(head) + string(tail)), err
}
