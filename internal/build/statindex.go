package build

import (
	"encoding/binary"
	"slices"
	"time"
)

// The stat cache of a context directory is one blob: a magic, then for each
// regular file, in walk order,
//
//	uvarint  bytes shared with the path before
//	uvarint  bytes that follow, and these
//	uvarint  size
//	varint   mtime, ctime in ns; uvarint inode, mode
//	byte     1: trusted
//	32 bytes sha256 of the content
//
// An entry whose times lie within racy of the moment at which the walk began is
// not trusted: the file may have changed after it was hashed without its times
// changing.
const (
	indexMagic = "strake-stat-1\n"
	racy       = 2 * time.Second
	maxIndex   = 1 << 30
)

// fileStat is what of a file the stat cache compares, besides path, size and
// mode.
type fileStat struct {
	mtime, ctime int64 // ns
	inode        uint64
}

// statIndex is a stat cache that is whole: its entries, as they are encoded, and
// how many they are.
type statIndex struct {
	encoded []byte
	count   int
}

// indexEntry is the entry that an indexReader is at.
type indexEntry struct {
	path    []byte
	size    uint64
	mode    uint64
	stat    fileStat
	trusted bool
	sum     []byte
}

// parseIndex reads a stat cache. What is damaged is as if it were not there.
func parseIndex(b []byte) statIndex {
	if len(b) > maxIndex || len(b) < len(indexMagic) || string(b[:len(indexMagic)]) != indexMagic {
		return statIndex{}
	}
	x := statIndex{encoded: b[len(indexMagic):]}
	r := indexReader{rest: x.encoded}
	for r.next() {
		x.count++
	}
	if r.damaged {
		return statIndex{}
	}
	return x
}

// indexReader reads one entry after the other, each into the place of the last.
type indexReader struct {
	indexEntry
	rest    []byte
	damaged bool
}

// next reads the next entry, or tells that there is none.
func (r *indexReader) next() bool {
	if len(r.rest) == 0 || r.damaged {
		return false
	}
	shared, more := r.uvarint(), r.uvarint()
	if r.damaged || shared > uint64(len(r.path)) || more > uint64(len(r.rest)) {
		r.damaged = true
		return false
	}
	r.path = append(r.path[:shared], r.rest[:more]...)
	r.rest = r.rest[more:]
	r.size = r.uvarint()
	r.stat.mtime, r.stat.ctime = r.varint(), r.varint()
	r.stat.inode, r.mode = r.uvarint(), r.uvarint()
	if r.damaged || len(r.rest) < 33 {
		r.damaged = true
		return false
	}
	r.trusted, r.sum, r.rest = r.rest[0] == 1, r.rest[1:33], r.rest[33:]
	return true
}

func (r *indexReader) uvarint() uint64 {
	v, n := binary.Uvarint(r.rest)
	r.skip(n)
	return v
}

func (r *indexReader) varint() int64 {
	v, n := binary.Varint(r.rest)
	r.skip(n)
	return v
}

func (r *indexReader) skip(n int) {
	if n <= 0 {
		r.damaged = true
		return
	}
	r.rest = r.rest[n:]
}

// apply fills in the sums that are known and returns the nodes whose content
// must be read. Both files and the index are in walk order.
func (x statIndex) apply(files []node, stats []fileStat) []*node {
	var todo []*node
	known := indexReader{rest: x.encoded}
	more := known.next()
	for i := range files {
		n := &files[i]
		if !n.mode.IsRegular() {
			continue
		}
		for more && string(known.path) != n.path && comparePath(known.path, n.path) < 0 {
			more = known.next()
		}
		if more && known.trusted && string(known.path) == n.path && known.stat == stats[i] &&
			known.size == uint64(n.size) && known.mode == uint64(n.mode) {
			copy(n.sum[:], known.sum)
			continue
		}
		todo = append(todo, n)
	}
	return todo
}

// encodeIndex writes the stat cache of files hashed after started.
func encodeIndex(files []node, stats []fileStat, started time.Time) []byte {
	limit := started.Add(-racy).UnixNano()
	b := make([]byte, 0, 96*len(files)+len(indexMagic))
	b = append(b, indexMagic...)
	before := ""
	for i := range files {
		n := &files[i]
		if !n.mode.IsRegular() {
			continue
		}
		shared := 0
		for shared < len(before) && shared < len(n.path) && before[shared] == n.path[shared] {
			shared++
		}
		before = n.path
		st := stats[i]
		b = binary.AppendUvarint(b, uint64(shared))
		b = binary.AppendUvarint(b, uint64(len(n.path)-shared))
		b = append(b, n.path[shared:]...)
		b = binary.AppendUvarint(b, uint64(n.size))
		b = binary.AppendVarint(b, st.mtime)
		b = binary.AppendVarint(b, st.ctime)
		b = binary.AppendUvarint(b, st.inode)
		b = binary.AppendUvarint(b, uint64(n.mode))
		b = append(b, trusted(max(st.mtime, st.ctime) < limit))
		b = append(b, n.sum[:]...)
	}
	return slices.Clip(b)
}

func trusted(ok bool) byte {
	if ok {
		return 1
	}
	return 0
}
