package layer

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/containerd/errdefs"
	"github.com/erofs/go-erofs"

	"strake/internal/archive"
)

// memory is a tar in memory.
type memory struct{ *bytes.Reader }

func (memory) Close() error { return nil }

// openBytes indexes a tar in memory and opens it.
func openBytes(t testing.TB, tar []byte, side *os.File) (*Layer, error) {
	t.Helper()
	var index bytes.Buffer
	if _, err := WriteIndex(t.Context(), bytes.NewReader(tar), &index, side); err != nil {
		return nil, err
	}
	l, err := openIndex(index.Bytes())
	if err != nil {
		t.Fatalf("an index that was just written: %v", err)
	}
	l.tar = memory{bytes.NewReader(tar)}
	l.side = side
	return l, nil
}

func TestFSTest(t *testing.T) {
	files, _ := indexTar(t, writeTar(t, file("a/b/c"), file("a/b/d"), file("top"), archive.Entry{Name: "a/s", Mode: archive.TypeSymlink, Linkname: "/a/b/c"}))
	f := Union([]*Layer{openLayer(t, files)})
	if err := fstest.TestFS(f, "a/b/c", "a/b/d", "top", "a/s"); err != nil {
		t.Error(err)
	}
}

// TestVolumeNames: Linux 6.1 mounts no index whose volume name does not end with a zero.
func TestVolumeNames(t *testing.T) {
	for _, whiteouts := range []bool{false, true} {
		s := super{whiteouts: whiteouts}
		if name := s.encode()[superOffset+64:][:16]; name[15] != 0 {
			t.Errorf("volume name %q", name)
		}
	}
}

// TestIndependentReader has another implementation of EROFS read an index. It does
// not know the address space in which data is found; the kernel's does.
func TestIndependentReader(t *testing.T) {
	tar := writeTar(t, append(manyEntries(500), file("a/b/c"), file("top"), archive.Entry{Name: "s", Mode: archive.TypeSymlink, Linkname: strings.Repeat("x/", 500)})...)
	files, _ := indexTar(t, tar)
	open := func(name string) *os.File {
		f, err := os.Open(name)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = f.Close() })
		return f
	}
	other, err := erofs.Open(open(files.Index), erofs.WithExtraDevices(open(tar)))
	if err != nil {
		t.Fatal(err)
	}
	own := openLayer(t, files)
	count := 0
	err = fs.WalkDir(own, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		count++
		want, err := d.Info()
		if err != nil {
			return err
		}
		got, err := fs.Stat(other, name)
		if want.Mode()&fs.ModeSymlink != 0 {
			return nil
		}
		if err != nil || got.Mode().Perm() != want.Mode().Perm() || got.IsDir() != want.IsDir() || got.Size() != want.Size() || !got.ModTime().Equal(want.ModTime()) {
			t.Errorf("%q: %v %v %d %v, %v, want %v %d %v", name, got.Mode(), got.IsDir(), got.Size(), got.ModTime(), err, want.Mode(), want.Size(), want.ModTime())
		}
		return nil
	})
	if err != nil || count < 500 {
		t.Errorf("%d files, %v", count, err)
	}
}

func manyEntries(n int) (list []archive.Entry) {
	for i := range n {
		list = append(list, file("many/"+strings.Repeat("n", i%40)+string(rune('a'+i%26))+strings.Repeat("m", i/40)))
	}
	return list
}

// TestDamagedIndex flips bytes of an index: reading it gives errors or wrong
// answers, never a panic.
func TestDamagedIndex(t *testing.T) {
	tar := writeTar(t, append(manyEntries(100), file("a/b"), dirEntryOf("d", 0o700, 1))...)
	files, _ := indexTar(t, tar)
	index, err := os.ReadFile(files.Index)
	if err != nil {
		t.Fatal(err)
	}
	bad := files
	bad.Index = filepath.Join(t.TempDir(), "bad")
	for at := superOffset; at < len(index); at += 1 + at/300 {
		b := bytes.Clone(index)
		b[at] ^= 0xff
		if err := os.WriteFile(bad.Index, b, 0o600); err != nil {
			t.Fatal(err)
		}
		l, err := Open(bad)
		if at < metaOffset {
			if !errdefs.IsDataLoss(err) {
				t.Fatalf("byte %d: %v", at, err)
			}
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		readAll(l)
		if _, err := FindGaps(bad.Index); err != nil && !errdefs.IsDataLoss(err) {
			t.Fatalf("byte %d: %v", at, err)
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(bad.Index, index[:len(index)-blockSize], 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(bad); !errdefs.IsDataLoss(err) {
		t.Error(err)
	}
}

// readAll reads what it can of a layer, at most 2000 names.
func readAll(l *Layer) (names []string, err error) {
	err = fs.WalkDir(l, ".", func(name string, d fs.DirEntry, err error) error {
		if names = append(names, name); err != nil {
			return err
		}
		if len(names) > 2000 || strings.Count(name, "/") > 50 {
			return fs.SkipAll
		}
		info, err := d.Info()
		if err != nil || !info.Mode().IsRegular() {
			return err
		}
		f, err := l.Open(name)
		if err != nil {
			return err
		}
		_, err = io.CopyN(io.Discard, f, min(info.Size(), 1<<16))
		return errors.Join(err, f.Close())
	})
	return names, err
}

// TestEndsWithinABlock refuses a tar that ends with its last file's last byte: the
// kernel reads whole blocks of it.
func TestEndsWithinABlock(t *testing.T) {
	b, err := os.ReadFile(writeTar(t, file("a"), file("last")))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := WriteIndex(t.Context(), bytes.NewReader(b[:3*512+4]), io.Discard, nil); !errdefs.IsDataLoss(err) {
		t.Error(err)
	}
	if _, err := WriteIndex(t.Context(), bytes.NewReader(b[:4*512]), io.Discard, nil); err != nil {
		t.Errorf("without the blocks that end an archive: %v", err)
	}
}

// FuzzWriteIndex: a tar that is indexed can be opened and read to its last file,
// and Open shows only names that are clean.
func FuzzWriteIndex(f *testing.F) {
	for _, seed := range seeds(f) {
		f.Add(seed)
	}
	side, err := os.Create(filepath.Join(f.TempDir(), "side"))
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, tar []byte) {
		if len(tar) > 1<<20 {
			return
		}
		tar = bytes.Clone(tar)
		fixChecksums(tar)
		l, err := openBytes(t, tar, side)
		if err != nil {
			return
		}
		names, err := readAll(l)
		if err != nil {
			t.Fatalf("an indexed layer cannot be read: %v", err)
		}
		for _, name := range names {
			if !validName(name) {
				t.Errorf("name %q", name)
			}
		}
	})
}

func seeds(f *testing.F) (list [][]byte) {
	var b bytes.Buffer
	w := archive.NewWriter(&b, archive.WriterOptions{})
	for _, e := range append(manyEntries(5), file("a/b"), file("a/.wh.b"), archive.Entry{Name: "h", HardLink: true, Linkname: "a/b"},
		archive.Entry{Name: "s", Mode: archive.TypeSymlink, Linkname: "/a"}, file("s/x"), file("long/"+strings.Repeat("n", 200)+"/"+strings.Repeat("m", 200))) {
		if e.Size = int64(len(e.Name)); e.Mode&archive.TypeMask == 0 {
			e.Mode |= archive.TypeRegular
		}
		if err := w.Write(&e, strings.NewReader(e.Name)); err != nil {
			f.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		f.Fatal(err)
	}
	list = append(list, b.Bytes(), nil)
	sparse, err := filepath.Glob("testdata/*.tar")
	if err != nil {
		f.Fatal(err)
	}
	for _, name := range sparse {
		b, err := os.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		list = append(list, b)
	}
	return list
}

// fixChecksums gives every block that looks like a header its checksum, so that
// what was changed in it is read.
func fixChecksums(b []byte) {
	for ; len(b) >= 512; b = b[512:] {
		if string(b[257:262]) != "ustar" {
			continue
		}
		copy(b[148:156], "        ")
		sum := 0
		for _, c := range b[:512] {
			sum += int(c)
		}
		copy(b[148:156], fmt.Sprintf("%06o\x00 ", sum))
	}
}
