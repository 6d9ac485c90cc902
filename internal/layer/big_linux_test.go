package layer

import (
	"archive/tar"
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// debianTar makes Debian's smallest root file system, once per machine.
func debianTar(t testing.TB) string {
	t.Helper()
	needRoot(t)
	cache, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(cache, "strake-tests", "bookworm-minbase.tar")
	if _, err := os.Stat(name); err == nil {
		return name
	}
	needTool(t, "mmdebstrap")
	if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
		t.Fatal(err)
	}
	temp := name + ".new.tar"
	if out, err := exec.Command("mmdebstrap", "--variant=minbase", "bookworm", temp).CombinedOutput(); err != nil {
		t.Skipf("mmdebstrap: %v\n%s", err, out)
	}
	if err := os.Rename(temp, name); err != nil {
		t.Fatal(err)
	}
	return name
}

func TestDebian(t *testing.T) {
	base := debianTar(t)
	dir := t.TempDir()
	runTool(t, dir, "tar", "--xattrs", "--xattrs-include=*", "--numeric-owner", "-pxf", base)
	shown := allViews(t, base)
	same(t, "tar -x", walkDisk(t, dir), shown)
	if len(shown) < 5000 {
		t.Errorf("only %d files", len(shown))
	}
}

// manyTar writes n small files in directories of 100.
func manyTar(t testing.TB, n int) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "many.tar")
	f, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	b := bufio.NewWriter(f)
	w := tar.NewWriter(b)
	write := func(h tar.Header) {
		h.Format, h.ModTime = tar.FormatPAX, time.Unix(1e9, int64(n))
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, strings.Repeat("x", int(h.Size))); err != nil {
			t.Fatal(err)
		}
	}
	for _, dir := range []string{"./", "usr/", "usr/share/"} {
		write(tar.Header{Name: dir, Typeflag: tar.TypeDir, Mode: 0o755})
	}
	for i := range n {
		dir := fmt.Sprintf("usr/share/dir-%d", i/100)
		if i%100 == 0 {
			write(tar.Header{Name: dir + "/", Typeflag: tar.TypeDir, Mode: 0o755})
		}
		write(tar.Header{Name: fmt.Sprintf("%s/file-number-%d.txt", dir, i), Size: int64(i % 600), Mode: 0o644})
	}
	for _, close := range []func() error{w.Close, b.Flush, f.Close} {
		if err := close(); err != nil {
			t.Fatal(err)
		}
	}
	return name
}

func TestManyFiles(t *testing.T) {
	needRoot(t)
	if testing.Short() {
		t.Skip("100,000 files")
	}
	many, dir := manyTar(t, 100_000), t.TempDir()
	runTool(t, dir, "tar", "--xattrs", "--xattrs-include=*", "--numeric-owner", "-pxf", many)
	shown := allViews(t, many)
	same(t, "tar -x", walkDisk(t, dir), shown)
	if len(shown) != 100_000+1000+3 {
		t.Errorf("%d files", len(shown))
	}
}

// BenchmarkWriteIndex is the cost of an index, besides hashing the tar.
func BenchmarkWriteIndex(b *testing.B) {
	for _, n := range []int{10_000, 100_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			benchmarkIndex(b, manyTar(b, n))
		})
	}
	b.Run("debian", func(b *testing.B) { benchmarkIndex(b, debianTar(b)) })
}

func benchmarkIndex(b *testing.B, tar string) {
	b.ReportAllocs()
	var info IndexInfo
	for b.Loop() {
		f, err := os.Open(tar)
		if err != nil {
			b.Fatal(err)
		}
		if info, err = WriteIndex(b.Context(), f, io.Discard, nil); err != nil {
			b.Fatal(err)
		}
		if err := f.Close(); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(info.IndexSize), "index-bytes")
	b.ReportMetric(float64(info.IndexSize)/float64(info.Entries), "bytes/entry")
}

// BenchmarkMount is the time to mount an index of 100,000 files and end the mount.
func BenchmarkMount(b *testing.B) {
	needRoot(b)
	files, _ := indexTar(b, manyTar(b, 100_000))
	dir := b.TempDir()
	for b.Loop() {
		if err := unix.Mount(files.Index, dir, "erofs", unix.MS_RDONLY, "device="+files.Tar); err != nil {
			b.Skip(err)
		}
		if err := unix.Unmount(dir, 0); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkOpen is the time to open an index of 100,000 files and look one up.
func BenchmarkOpen(b *testing.B) {
	files, _ := indexTar(b, manyTar(b, 100_000))
	for b.Loop() {
		l, err := Open(files)
		if err != nil {
			b.Fatal(err)
		}
		if _, err := l.Stat("usr/share/dir-77/file-number-7777.txt"); err != nil {
			b.Fatal(err)
		}
		if err := l.Close(); err != nil {
			b.Fatal(err)
		}
	}
}
