package layer

import (
	"errors"
	"fmt"
	"math"
	"os"

	"github.com/containerd/errdefs"

	"strake/internal/archive"
)

// A sparse file is cut into chunks of one size, a power of two. A chunk is a hole,
// or lies in the tar in whole, or else has its data copied to the side file,
// where it takes a chunk's room, sparse itself. Small chunks copy nothing but
// need a long table, so the table's length is bounded by that of the file's map,
// which the tar paid for.

// run is a row of chunks that are not holes.
type run struct {
	first, count int64
	data         int64 // in the tar or in the side file
	side         bool
}

// chunkTable says how a sparse file is cut.
type chunkTable struct {
	bits  int   // of the chunk size
	count int64 // chunks
	runs  []run // ascending
}

// cutFile finds the smallest chunks that the bound allows, then larger ones as
// long as that costs nothing in the side file.
func cutFile(size int64, extents []archive.Extent) chunkTable {
	most := int64(64 + 8*len(extents))
	var table chunkTable
	var least int64
	for b := blockBits; b <= blockBits+chunkBitsMask; b++ {
		count := (size + 1<<b - 1) >> b
		if count > most {
			continue
		}
		runs, copied := cutAt(b, size, extents)
		for _, r := range runs {
			if r.side {
				copied += r.count << b
			}
		}
		if table.bits > 0 && copied > least {
			break
		}
		least = copied
		table = chunkTable{bits: b, count: count, runs: runs}
		if count <= 1 {
			break
		}
	}
	return table
}

// cutAt cuts the file into chunks of 1<<b bytes and counts the bytes that have to
// be copied for it.
func cutAt(b int, size int64, extents []archive.Extent) (runs []run, copied int64) {
	add := func(r run) {
		if n := len(runs); n > 0 && r.side && runs[n-1].side && r.first <= runs[n-1].first+runs[n-1].count {
			runs[n-1].count = max(runs[n-1].count, r.first+r.count-runs[n-1].first)
			return
		}
		if r.count > 0 {
			runs = append(runs, r)
		}
	}
	for _, e := range extents {
		end := e.Offset + e.Size
		first, last := e.Offset>>b, (end-1)>>b // chunks that the extent touches
		from, to := (e.Offset+1<<b-1)>>b, end>>b
		if end == size {
			to = last + 1
		}
		if from >= to || (e.Data-e.Offset)%blockSize != 0 {
			add(run{first: first, count: last + 1 - first, side: true})
			copied += e.Size
			continue
		}
		add(run{first: first, count: from - first, side: true})
		add(run{first: from, count: to - from, data: e.Data + from<<b - e.Offset})
		add(run{first: to, count: last + 1 - to, side: true})
		copied += e.Size - (min(to<<b, end) - from<<b)
	}
	return runs, copied
}

// sideWriter copies to the side file what the tar cannot serve in place.
type sideWriter struct {
	file   *os.File
	size   int64
	tables map[*archive.Inode]*chunkTable
}

// copyJob is a row of bytes to be copied.
type copyJob struct{ from, to, size int64 }

// take cuts the file that r is at and has r copy what must be copied.
func (s *sideWriter) take(r *archive.Reader, inode *archive.Inode) error {
	table := cutFile(inode.Size, inode.Extents)
	var jobs []copyJob
	extents := inode.Extents
	for i := range table.runs {
		run := &table.runs[i]
		if !run.side {
			continue
		}
		begin := run.first << table.bits
		end := min((run.first+run.count)<<table.bits, inode.Size)
		run.data = s.size
		s.size += alignBlock(end - begin)
		for len(extents) > 0 && extents[0].Offset+extents[0].Size <= begin {
			extents = extents[1:]
		}
		for _, e := range extents {
			if e.Offset >= end {
				break
			}
			lo, hi := max(begin, e.Offset), min(end, e.Offset+e.Size)
			jobs = append(jobs, copyJob{from: e.Data + lo - e.Offset, to: run.data + lo - begin, size: hi - lo})
		}
	}
	if s.tables == nil {
		s.tables = map[*archive.Inode]*chunkTable{}
	}
	s.tables[inode] = &table
	if len(jobs) == 0 {
		return nil
	}
	if s.file == nil {
		return fmt.Errorf("sparse file without a side file: %w", errdefs.ErrInvalidArgument)
	}
	if s.size > math.MaxUint32<<blockBits {
		return fmt.Errorf("side file of %d bytes: %w", s.size, errdefs.ErrResourceExhausted)
	}
	r.Tap(func(off int64, p []byte) error { return s.copy(&jobs, off, p) })
	return nil
}

// copy does as much of the jobs as p, the tar's bytes at off, allows.
func (s *sideWriter) copy(jobs *[]copyJob, off int64, p []byte) error {
	end := off + int64(len(p))
	for len(*jobs) > 0 && (*jobs)[0].from < end {
		j := &(*jobs)[0]
		lo, hi := max(off, j.from), min(end, j.from+j.size)
		if hi > lo {
			if _, err := s.file.WriteAt(p[lo-off:hi-off], j.to+lo-j.from); err != nil {
				return fmt.Errorf("write side file: %w", err)
			}
		}
		if j.from+j.size > end {
			return nil
		}
		*jobs = (*jobs)[1:]
	}
	return nil
}

// finish gives the side file its size, which is returned.
func (s *sideWriter) finish() (int64, error) {
	if s.size == 0 {
		return 0, nil
	}
	if err := s.file.Truncate(s.size); err != nil {
		return 0, errors.Join(errors.New("size side file"), err)
	}
	return s.size, nil
}
