package archive

import (
	"bytes"
	"cmp"
	"strconv"
	"strings"
)

// sparseFile is the map of a sparse file.
type sparseFile struct {
	size int64   // of the file
	runs []int64 // of data: offset, length, offset, length...
}

// extents places the runs in a tar whose data for the file begins at data. Runs
// that touch are joined.
func (m *sparseFile) extents(data int64) []Extent {
	var list []Extent
	for i := 0; i+1 < len(m.runs); i += 2 {
		e := Extent{Offset: m.runs[i], Data: data, Size: m.runs[i+1]}
		data += e.Size
		if e.Size == 0 {
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

// sparse finds the map of the file, or nil if it is not sparse. The reader goes
// on to the file's data proper.
func (h *header) sparse(r *Reader) (*sparseFile, error) {
	p := &h.pax
	m := sparseFile{runs: p.runs}
	var err error
	switch version := p.major + "." + p.minor; {
	case h.kind == typeSparse:
		m = h.old
	case h.kind != typeRegular && h.kind != typeContiguous:
		return nil, nil
	case version == "1.0":
		h.name = cmp.Or(p.sparseName, h.name)
		if m.size, err = sparseSize(p, h.size); err == nil {
			m.runs, err = h.runsInData(r)
		}
	case version == "0.0", version == "0.1", version == "." && (p.sparseMap != "" || len(p.runs) > 0):
		h.name = cmp.Or(p.sparseName, h.name)
		if m.size, err = sparseSize(p, h.size); err == nil && p.sparseMap != "" {
			m.runs, err = parseRuns(strings.Split(p.sparseMap, ","))
		}
	default:
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	end, stored := int64(0), int64(0)
	for i := 0; i+1 < len(m.runs); i += 2 {
		off, n := m.runs[i], m.runs[i+1]
		if off < end || n < 0 || off > m.size-n {
			return nil, broken("sparse map")
		}
		end, stored = off+n, stored+n
	}
	if len(m.runs)%2 != 0 || m.size < 0 || stored != h.size {
		return nil, broken("sparse map")
	}
	return &m, nil
}

func sparseSize(p *pax, size int64) (int64, error) {
	if p.realSize == "" {
		return size, nil
	}
	n, err := strconv.ParseInt(p.realSize, 10, 64)
	if err != nil {
		return 0, broken("sparse size")
	}
	return n, nil
}

// runsInData reads the map of version 1.0: lines of decimal numbers at the
// beginning of the data, filled up to whole blocks.
func (h *header) runsInData(r *Reader) ([]int64, error) {
	var text []byte
	lines, want := 0, 1
	for lines < want {
		if h.size -= blockSize; h.size < 0 || len(text) > maxHeader {
			return nil, broken("sparse map")
		}
		if err := r.block(); err != nil {
			return nil, noData(err)
		}
		text = append(text, r.blk[:]...)
		lines += bytes.Count(r.blk[:], []byte("\n"))
		if want == 1 && lines > 0 {
			count, _, _ := bytes.Cut(text, []byte("\n"))
			n, err := strconv.Atoi(string(count))
			if err != nil || n < 0 || n > maxHeader {
				return nil, broken("sparse map")
			}
			want = 1 + 2*n
		}
	}
	return parseRuns(strings.Split(string(text), "\n")[1:want])
}

// parseOld reads the map of GNU tar's first form: four runs in the header b, 21
// in each block that follows.
func (m *sparseFile) parseOld(r *Reader, b *[blockSize]byte) error {
	var ok bool
	if m.size, ok = number(b[483:495]); !ok || string(b[257:265]) != "ustar  \x00" {
		return broken("sparse file")
	}
	table, more := b[386:482], b[482] > 0
	for {
		for ; len(table) >= 24 && table[0] != 0; table = table[24:] {
			off, ok1 := number(table[:12])
			n, ok2 := number(table[12:24])
			if !ok1 || !ok2 || len(m.runs) > maxHeader/12 {
				return broken("sparse map")
			}
			m.runs = append(m.runs, off, n)
		}
		if !more {
			return nil
		}
		if err := r.block(); err != nil {
			return noData(err)
		}
		table, more = b[:504], b[504] > 0
	}
}

func parseRuns(fields []string) ([]int64, error) {
	runs := make([]int64, len(fields))
	for i, f := range fields {
		var err error
		if runs[i], err = strconv.ParseInt(f, 10, 64); err != nil {
			return nil, broken("sparse map")
		}
	}
	return runs, nil
}
