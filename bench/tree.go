//go:build linux

package main

import (
	"archive/tar"
	"encoding/binary"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"time"
)

// A sink takes the entries of a generated tree, parents first.
type sink interface {
	Dir(name string) error
	File(name string, mode os.FileMode, data []byte) error
	Link(name, target string) error
}

// generator makes file contents that compress like the files of a distribution: text, machine code, tables, archives.
type generator struct {
	rng   *rand.Rand
	words [][]byte
	code  [][]byte
	zipfW *rand.Zipf
	zipfC *rand.Zipf
}

func newGenerator(seed uint64) *generator {
	rng := rand.New(rand.NewPCG(seed, 0x5374726b)) // #nosec G404 -- reproducible, not secret
	g := &generator{rng: rng}
	for range 6000 {
		w := make([]byte, 2+rng.IntN(9))
		for i := range w {
			w[i] = "etaoinshrdlucmfwypvbgkjqxz_"[min(rng.IntN(27), rng.IntN(27))]
		}
		g.words = append(g.words, w)
	}
	for range 3000 {
		c := make([]byte, 3+rng.IntN(12))
		for i := range c {
			c[i] = byte(rng.Uint32())
		}
		g.code = append(g.code, c)
	}
	g.zipfW = rand.NewZipf(rng, 1.2, 3, uint64(len(g.words)-1))
	g.zipfC = rand.NewZipf(rng, 1.2, 4, uint64(len(g.code)-1))
	return g
}

// Kinds of file content.
const (
	kindText = iota
	kindCode
	kindTable
	kindPacked
)

// file makes size bytes of a kind drawn by its share of a distribution's bytes.
func (g *generator) file(size int) []byte {
	switch n := g.rng.IntN(100); {
	case n < 38:
		return g.kind(kindText, size)
	case n < 82:
		return g.kind(kindCode, size)
	case n < 95:
		return g.kind(kindTable, size)
	default:
		return g.kind(kindPacked, size)
	}
}

// kind makes size bytes of one kind.
func (g *generator) kind(kind, size int) []byte {
	b := make([]byte, 0, size+64)
	addr := g.rng.Uint64N(1 << 24)
	for len(b) < size {
		switch kind {
		case kindText:
			b = append(append(b, g.words[g.zipfW.Uint64()]...), " \n\t. ,=("[min(g.rng.IntN(8), g.rng.IntN(8))])
		case kindCode:
			b = append(b, g.code[g.zipfC.Uint64()]...)
			if g.rng.IntN(4) == 0 { // an immediate
				b = append(b, byte(g.rng.Uint32()), 0)
			}
		case kindTable:
			b = binary.LittleEndian.AppendUint64(b, addr)
			addr += 8 * g.rng.Uint64N(16)
		default:
			b = binary.LittleEndian.AppendUint64(b, g.rng.Uint64())
		}
	}
	return b[:size]
}

// size draws a file size: log-normal, a median of 4 KB and a mean of 17 KB.
func (g *generator) size() int {
	return int(min(8<<20, math.Exp(8.3+1.7*g.rng.NormFloat64())))
}

// writeTree writes about total bytes of files below top to s; the same seed gives the same tree.
func writeTree(s sink, seed uint64, top string, total int64) error {
	g := newGenerator(seed)
	dirs := []string{top}
	if err := s.Dir(top); err != nil {
		return err
	}
	for i := 0; total > 0; i++ {
		dir := dirs[g.rng.IntN(len(dirs))]
		if i%12 == 0 {
			dir = fmt.Sprintf("%s/%s%d", dirs[min(g.rng.IntN(len(dirs)), g.rng.IntN(len(dirs)))], g.words[g.rng.IntN(len(g.words))], i)
			dirs = append(dirs, dir)
			if err := s.Dir(dir); err != nil {
				return err
			}
		}
		name := fmt.Sprintf("%s/%s%d", dir, g.words[g.rng.IntN(len(g.words))], i)
		if i%10 == 9 {
			if err := s.Link(name, "../lib/"+filepath.Base(dir)); err != nil {
				return err
			}
			continue
		}
		mode := os.FileMode(0o644)
		if i%8 == 0 {
			mode = 0o755
		}
		data := g.file(int(min(int64(g.size()), total)))
		if err := s.File(name, mode, data); err != nil {
			return err
		}
		total -= int64(len(data)) + 512
	}
	return nil
}

// treeTime is the modification time of everything generated.
func treeTime() time.Time { return time.Unix(1_700_000_000, 0) }

// tarSink writes entries to a tar.
type tarSink struct{ w *tar.Writer }

func (t tarSink) Dir(name string) error {
	return t.w.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: name + "/", Mode: 0o755, ModTime: treeTime()})
}

func (t tarSink) File(name string, mode os.FileMode, data []byte) error {
	h := &tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: int64(mode), Size: int64(len(data)), ModTime: treeTime()}
	if err := t.w.WriteHeader(h); err != nil {
		return err
	}
	_, err := t.w.Write(data)
	return err
}

func (t tarSink) Link(name, target string) error {
	return t.w.WriteHeader(&tar.Header{Typeflag: tar.TypeSymlink, Name: name, Linkname: target, Mode: 0o777, ModTime: treeTime()})
}

// dirSink writes entries below a directory.
type dirSink struct{ root string }

func (d dirSink) Dir(name string) error {
	return os.MkdirAll(filepath.Join(d.root, name), 0o755) // #nosec G301 -- a build context
}

func (d dirSink) File(name string, mode os.FileMode, data []byte) error {
	name = filepath.Join(d.root, name)
	if err := os.WriteFile(name, data, mode); err != nil {
		return err
	}
	return os.Chtimes(name, treeTime(), treeTime())
}

func (d dirSink) Link(name, target string) error {
	return os.Symlink(target, filepath.Join(d.root, name))
}

// writeTar writes one tar made by fill to w.
func writeTar(w io.Writer, fill func(sink) error) error {
	t := tar.NewWriter(w)
	if err := fill(tarSink{t}); err != nil {
		return err
	}
	return t.Close()
}
