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

// statIndex is a parsed stat cache.
type statIndex struct{ entries []indexEntry }

type indexEntry struct {
	path    string
	size    uint64
	mode    uint64
	stat    fileStat
	trusted bool
	sum     []byte
}

func (x statIndex) count() int { return len(x.entries) }

// parseIndex reads a stat cache. What is damaged is as if it were not there.
func parseIndex(b []byte) statIndex {
	if len(b) > maxIndex || len(b) < len(indexMagic) || string(b[:len(indexMagic)]) != indexMagic {
		return statIndex{}
	}
	b = b[len(indexMagic):]
	ok := true
	uvarint := func() uint64 {
		v, n := binary.Uvarint(b)
		if n <= 0 {
			ok = false
			return 0
		}
		b = b[n:]
		return v
	}
	varint := func() int64 {
		v, n := binary.Varint(b)
		if n <= 0 {
			ok = false
			return 0
		}
		b = b[n:]
		return v
	}
	entries := make([]indexEntry, 0, len(b)/64)
	var name []byte
	for len(b) > 0 {
		shared, more := uvarint(), uvarint()
		if !ok || shared > uint64(len(name)) || more > uint64(len(b)) {
			return statIndex{}
		}
		name = append(name[:shared], b[:more]...)
		b = b[more:]
		e := indexEntry{path: string(name), size: uvarint()}
		e.stat.mtime, e.stat.ctime = varint(), varint()
		e.stat.inode, e.mode = uvarint(), uvarint()
		if !ok || len(b) < 33 {
			return statIndex{}
		}
		e.trusted, e.sum = b[0] == 1, b[1:33]
		b = b[33:]
		entries = append(entries, e)
	}
	return statIndex{entries}
}

// apply fills in the sums that are known and returns the nodes whose content
// must be read. Both files and the index are in walk order.
func (x statIndex) apply(files []node, stats []fileStat) []*node {
	var todo []*node
	known := x.entries
	for i := range files {
		n := &files[i]
		if !n.mode.IsRegular() {
			continue
		}
		for len(known) > 0 && known[0].path != n.path && comparePath(known[0].path, n.path) < 0 {
			known = known[1:]
		}
		if len(known) > 0 {
			e := &known[0]
			if e.trusted && e.path == n.path && e.stat == stats[i] &&
				e.size == uint64(n.size) && e.mode == uint64(n.mode) {
				copy(n.sum[:], e.sum)
				continue
			}
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
