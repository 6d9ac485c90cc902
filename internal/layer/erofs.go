package layer

import (
	"encoding/binary"
	"hash/crc32"
	"strings"

	"strake/internal/archive"
)

// The part of the EROFS format that an index uses, as the kernel's
// fs/erofs/erofs_fs.h has it. Everything is little-endian. An index has 512-byte
// blocks, so that a tar's data is made of whole blocks of it, and inodes of the
// extended kind only, which keep nanoseconds. A file whose bytes lie in a row in
// the tar is "flat": its first block is counted in an address space in which the
// tar comes right after the index. A sparse file is "chunk based": a table names
// a device (1 the tar, 2 the side file) and a block for each chunk of it.
const (
	blockBits = 9
	blockSize = 1 << blockBits

	superOffset = 1024
	superSize   = 128
	superMagic  = 0xE0F5E1E2
	deviceSize  = 128
	metaOffset  = superOffset + blockSize // the root's inode is here

	compatChecksum   = 1 << 0
	compatMtime      = 1 << 1
	incompatChunked  = 1 << 2
	incompatDevices  = 1 << 3
	incompatSupports = incompatChunked | incompatDevices

	inodeSize = 64
	slotSize  = 32 // an inode's number is its offset in slots

	layoutPlain  = 0
	layoutInline = 2
	layoutChunks = 4

	chunkIndexes  = 0x20 // chunk format: the table has 8-byte entries
	chunkBitsMask = 0x1f
	chunkSize     = 8
	chunkHole     = 1<<32 - 1

	direntSize      = 12
	xattrHeaderSize = 12
	xattrEntrySize  = 4

	tarDevice  = 1
	sideDevice = 2

	// impliedIno in an inode's ino field, which the kernel does not use, marks
	// a directory that the layer does not name.
	impliedIno = 0
)

// super is what an index says of itself.
type super struct {
	inodes     uint64
	blocks     uint32 // of the index
	tarBlocks  uint32
	sideBlocks uint32
	whiteouts  bool // there are some
}

// The volume name tells whether there are whiteouts. It has 16 bytes, and Linux 6.1 refuses an image where the last of them is not zero.
const (
	plainVolume    = "strake-layer"
	whiteoutVolume = "strake-whiteout"
)

func (s *super) devices() int {
	switch {
	case s.sideBlocks > 0:
		return 2
	case s.tarBlocks > 0:
		return 1
	}
	return 0
}

// encode makes the first bytes of an index, up to its first inode.
func (s *super) encode() []byte {
	b := make([]byte, metaOffset)
	le, sb := binary.LittleEndian, b[superOffset:]
	le.PutUint32(sb[0:], superMagic)
	le.PutUint32(sb[8:], compatChecksum|compatMtime)
	sb[12] = blockBits
	le.PutUint16(sb[14:], metaOffset/slotSize) // the root's number
	le.PutUint64(sb[16:], s.inodes)
	le.PutUint32(sb[36:], s.blocks)
	copy(sb[64:80], plainVolume)
	if s.whiteouts {
		copy(sb[64:80], whiteoutVolume)
	}
	le.PutUint32(sb[80:], incompatChunked|incompatDevices)
	le.PutUint16(sb[86:], uint16(s.devices()))
	le.PutUint16(sb[88:], (superOffset+superSize)/deviceSize)
	if s.tarBlocks > 0 || s.sideBlocks > 0 {
		dev := sb[superSize:]
		copy(dev, "tar")
		le.PutUint32(dev[64:], s.tarBlocks)
		le.PutUint32(dev[68:], s.blocks) // where the tar begins among all blocks
	}
	if s.sideBlocks > 0 {
		dev := sb[superSize+deviceSize:]
		copy(dev, "side")
		le.PutUint32(dev[64:], s.sideBlocks)
	}
	le.PutUint32(sb[4:], checksum(sb))
	return b
}

// checksum is CRC-32C as the kernel has it, which leaves out the last inversion.
func checksum(sb []byte) uint32 {
	return ^crc32.Checksum(sb, crc32.MakeTable(crc32.Castagnoli))
}

// xattrPrefixes are the prefixes of attributes' names that EROFS can keep. The
// first that fits is taken; a whole name has nothing left after it.
var xattrPrefixes = []struct {
	prefix string
	index  byte
	whole  bool
}{
	{"user.", 1, false},
	{"system.posix_acl_access", 2, true},
	{"system.posix_acl_default", 3, true},
	{"trusted.", 4, false},
	{"security.", 6, false},
}

// xattrName splits a name, or says that EROFS cannot keep it.
func xattrName(name string) (index byte, rest string, ok bool) {
	for _, p := range xattrPrefixes {
		if rest, ok := strings.CutPrefix(name, p.prefix); ok && (rest == "") == p.whole {
			return p.index, rest, true
		}
	}
	return 0, "", false
}

// encodeXattrs makes the attributes' part of an inode.
func encodeXattrs(list []archive.Xattr) []byte {
	var b []byte
	for _, x := range list {
		index, rest, ok := xattrName(x.Name)
		if !ok {
			continue
		}
		if b == nil {
			b = make([]byte, xattrHeaderSize)
		}
		b = append(b, byte(len(rest)), index, byte(len(x.Value)), byte(len(x.Value)>>8))
		b = append(b, rest...)
		b = append(b, x.Value...)
		for len(b)%4 != 0 {
			b = append(b, 0)
		}
	}
	return b
}

// deviceNumber is the kernel's new_encode_dev.
func deviceNumber(major, minor uint32) uint32 {
	return minor&0xff | major<<8 | (minor&^0xff)<<12
}

// opaqueXattr is what makes a directory hide those of lower layers.
var opaqueXattr = archive.Xattr{Name: "trusted.overlay.opaque", Value: "y"}

// Types in a directory entry.
const (
	kindRegular = 1 + iota
	kindDir
	kindChar
	kindBlock
	kindFifo
	kindSocket
	kindSymlink
)

// fileKind is a mode's type in a directory entry.
func fileKind(mode uint32) byte {
	switch mode & archive.TypeMask {
	case archive.TypeRegular:
		return kindRegular
	case archive.TypeDir:
		return kindDir
	case archive.TypeChar:
		return kindChar
	case archive.TypeBlock:
		return kindBlock
	case archive.TypeFifo:
		return kindFifo
	case archive.TypeSymlink:
		return kindSymlink
	}
	return 0
}

func alignBlock(n int64) int64 { return (n + blockSize - 1) &^ (blockSize - 1) }
