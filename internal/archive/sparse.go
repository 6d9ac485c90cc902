package archive

import (
	"archive/tar"
	"bytes"
	"fmt"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
)

// The standard library reads sparse files and checks their maps, but keeps the
// maps to itself and hands out holes as zeros. A map is what lets a file of any
// size be served from the tar, so it is read here a second time, from the
// headers that were recorded while the library read them.

const (
	paxSparseMap   = "GNU.sparse.map"
	paxSparseMajor = "GNU.sparse.major"
	paxSparseMinor = "GNU.sparse.minor"
)

// sparseFile is a map of a sparse file, checked by the standard library.
type sparseFile struct {
	runs   []int64 // offset, length, offset, length...
	stored int64   // bytes of data in the tar
}

// isSparse tells whether the standard library took hdr for a sparse file.
func isSparse(hdr *tar.Header) bool {
	if hdr.Typeflag == tar.TypeGNUSparse {
		return true
	}
	major, minor := hdr.PAXRecords[paxSparseMajor], hdr.PAXRecords[paxSparseMinor]
	switch {
	case major == "0" && (minor == "0" || minor == "1"), major == "1" && minor == "0":
		return true
	case major != "" || minor != "":
		return false
	}
	return hdr.PAXRecords[paxSparseMap] != ""
}

// extents places the runs in a tar whose data for this file begins at data.
// Runs that touch are joined.
func (m *sparseFile) extents(data, size int64) []Extent {
	var list []Extent
	for i := 0; i+1 < len(m.runs); i += 2 {
		e := Extent{Offset: m.runs[i], Data: data, Size: m.runs[i+1]}
		data += e.Size
		e.Size = min(e.Size, size-e.Offset)
		if e.Size <= 0 {
			continue
		}
		if n := len(list); n > 0 && list[n-1].Offset+list[n-1].Size == e.Offset {
			list[n-1].Size += e.Size
			continue
		}
		list = append(list, e)
	}
	return list
}

// sparseMap reads the map of a sparse file from rec, the bytes from the entry's
// first header up to its data.
func sparseMap(hdr *tar.Header, rec []byte) (*sparseFile, error) {
	errMap := fmt.Errorf("sparse map: %w", errdefs.ErrInvalidArgument)
	main, ok := mainHeader(rec)
	if !ok {
		return nil, errMap
	}
	var runs []int64
	switch {
	case hdr.Typeflag == tar.TypeGNUSparse:
		runs, ok = oldRuns(main)
	case hdr.PAXRecords[paxSparseMajor] == "1":
		lines := strings.Split(string(main[blockSize:]), "\n")
		n, err := strconv.Atoi(lines[0])
		if ok = err == nil && n >= 0 && n <= (len(lines)-1)/2; ok {
			runs, ok = parseRuns(lines[1 : 1+2*n])
		}
	case hdr.PAXRecords[paxSparseMap] != "":
		runs, ok = parseRuns(strings.Split(hdr.PAXRecords[paxSparseMap], ","))
	}
	if !ok {
		return nil, errMap
	}
	size, ok := number(main[124:136])
	if s := hdr.PAXRecords["size"]; s != "" {
		var err error
		size, err = strconv.ParseInt(s, 10, 64)
		ok = err == nil
	}
	if hdr.Typeflag != tar.TypeGNUSparse {
		size -= int64(len(main) - blockSize)
	}
	m := &sparseFile{runs: runs}
	for i := 1; i < len(runs); i += 2 {
		m.stored += runs[i]
	}
	if !ok || m.stored != size {
		return nil, errMap
	}
	return m, nil
}

// mainHeader passes over the headers that describe the next header, and
// returns what begins with the file's own.
func mainHeader(rec []byte) ([]byte, bool) {
	for len(rec) >= blockSize {
		switch rec[156] {
		case tar.TypeXHeader, tar.TypeGNULongName, tar.TypeGNULongLink:
			n, ok := number(rec[124:136])
			if !ok || n < 0 || n > maxHeader || int64(len(rec)) < blockSize+align(n) {
				return nil, false
			}
			rec = rec[blockSize+align(n):]
		default:
			return rec, true
		}
	}
	return nil, false
}

// oldRuns reads the map of GNU tar's own sparse format: four runs in the
// header, 21 in each block that follows.
func oldRuns(main []byte) ([]int64, bool) {
	var runs []int64
	table, more := main[386:482], main[482]
	for {
		for ; len(table) >= 24 && table[0] != 0; table = table[24:] {
			off, ok1 := number(table[:12])
			n, ok2 := number(table[12:24])
			if !ok1 || !ok2 {
				return nil, false
			}
			runs = append(runs, off, n)
		}
		if more == 0 {
			return runs, true
		}
		main = main[blockSize:]
		if len(main) < blockSize {
			return nil, false
		}
		table, more = main[:504], main[504]
	}
}

func parseRuns(fields []string) ([]int64, bool) {
	runs := make([]int64, len(fields))
	for i, f := range fields {
		var err error
		if runs[i], err = strconv.ParseInt(f, 10, 64); err != nil || runs[i] < 0 {
			return nil, false
		}
	}
	return runs, len(runs)%2 == 0
}

// number reads a header's number: octal digits, or big-endian binary when the
// first bit is set.
func number(b []byte) (int64, bool) {
	if b[0]&0x80 != 0 {
		n := int64(b[0] & 0x7f)
		for _, c := range b[1:] {
			if n >= 1<<55 {
				return 0, false
			}
			n = n<<8 | int64(c)
		}
		return n, true
	}
	b = bytes.Trim(b, " \x00")
	if len(b) == 0 {
		return 0, true
	}
	n, err := strconv.ParseInt(string(b), 8, 64)
	return n, err == nil && n >= 0
}
