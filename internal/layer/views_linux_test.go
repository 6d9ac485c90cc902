package layer

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// makeZoo fills a directory with one of everything.
func makeZoo(t testing.TB, dir string) {
	t.Helper()
	var errs []error
	do := func(err error) { errs = append(errs, err) }
	at := func(name string) string { return filepath.Join(dir, name) }
	write := func(name, data string) { do(os.WriteFile(at(name), []byte(data), 0o644)) }
	long := strings.Repeat(strings.Repeat("d", 99)+"/", 4)
	do(os.MkdirAll(at(long), 0o750))
	do(os.MkdirAll(at("empty/dir"), 0o700))
	do(os.Mkdir(at("many"), 0o1777))
	write(long+strings.Repeat("f", 120), "deep")
	write("name of "+strings.Repeat("x", 247), "longest name")
	write("not\xffutf\xfe8", "latin")
	write("caf\u00e9", "utf-8")
	write("new\nline", "odd")
	write("empty.txt", "")
	write("block", strings.Repeat("b", 512))
	write("page", strings.Repeat("0123456789abcdef", 1000))
	for i := range 700 {
		write(fmt.Sprintf("many/%d-%s", i, strings.Repeat("n", i%50)), fmt.Sprint(i))
	}
	write("linked", "three names")
	do(os.Link(at("linked"), at("empty/other")))
	do(os.Link(at("linked"), at("a-name-before")))
	do(os.Symlink("linked", at("short")))
	do(os.Symlink("/"+strings.Repeat("t/", 600), at("far")))
	do(os.Symlink("nowhere\xff", at("broken")))
	do(os.Link(at("short"), at("short-too")))
	do(unix.Mknod(at("null"), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))))
	do(unix.Mknod(at("disk"), unix.S_IFBLK|0o660, int(unix.Mkdev(259, 70000))))
	do(unix.Mknod(at("fifo"), unix.S_IFIFO|0o600, 0))
	write("setuid", "s")
	do(os.Lchown(at("setuid"), 1234567, 7654321))
	do(unix.Chmod(at("setuid"), 0o6755))
	do(os.Lchown(at("short"), 12, 13))
	do(unix.Setxattr(at("setuid"), "security.capability", []byte("\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"), 0))
	do(unix.Setxattr(at("linked"), "user.note", []byte("line\nbreak and \x00 nul"), 0))
	do(unix.Setxattr(at("linked"), "user.big", []byte(strings.Repeat("v", 2000)), 0))
	do(unix.Setxattr(at("many"), "trusted.dir", []byte("y"), 0))
	sparse(t, at("holes"), 10<<20, 0, 5000, 1<<20+4096, 70000, 9<<20, 1<<20)
	sparse(t, at("checkered"), 1<<20, runsOf(4096, 8192, 120)...)
	sparse(t, at("hole"), 3<<20)
	sparse(t, at("tail"), 5<<20+7, 5<<20, 7)
	sparse(t, at("five-gib"), 5<<30, 1<<30, 10000, 5<<30-4096, 4096)
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
	// Times with nanoseconds, directories after what is in them.
	var names []string
	do(filepath.WalkDir(dir, func(p string, _ os.DirEntry, err error) error {
		names = append(names, p)
		return err
	}))
	for i := len(names) - 1; i >= 0; i-- {
		ts := unix.NsecToTimespec(time.Date(2001, 2, 3, 4, 5, i, 123456789+i, time.UTC).UnixNano())
		do(unix.UtimesNanoAt(unix.AT_FDCWD, names[i], []unix.Timespec{ts, ts}, unix.AT_SYMLINK_NOFOLLOW))
	}
	do(os.Chtimes(at("page"), time.Time{}, time.Unix(-1000, 500)))
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

func runsOf(size, step int64, n int) (runs []int64) {
	for i := range int64(n) {
		runs = append(runs, i*step, size)
	}
	return runs
}

// sparse makes a file of holes with runs of data: offset, size, offset, size...
func sparse(t testing.TB, name string, size int64, runs ...int64) {
	t.Helper()
	f, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	err = f.Truncate(size)
	for i := 0; i < len(runs); i += 2 {
		data := make([]byte, runs[i+1])
		for j := range data {
			data[j] = byte(j*7+i) | 1
		}
		if _, werr := f.WriteAt(data, runs[i]); werr != nil {
			err = werr
		}
	}
	if err = errors.Join(err, f.Close()); err != nil {
		t.Fatal(err)
	}
}

const pyTar = `
import sys, tarfile
fmt = {"pax": tarfile.PAX_FORMAT, "gnu": tarfile.GNU_FORMAT}[sys.argv[1]]
with tarfile.open(sys.argv[2], "w", format=fmt, encoding="utf-8", errors="surrogateescape") as t:
    t.add(".", filter=lambda i: None if i.name.endswith("five-gib") else i)
`

// TestToolsTars holds the views of tars made by the tools of the field equal to
// what the tools themselves extract.
func TestToolsTars(t *testing.T) {
	needRoot(t)
	zoo := t.TempDir()
	makeZoo(t, zoo)
	gnu := func(args ...string) func(t *testing.T, tar string) {
		return func(t *testing.T, tar string) {
			runTool(t, zoo, "tar", append([]string{"--xattrs", "--xattrs-include=*", "--numeric-owner", "-cf", tar}, append(args, ".")...)...)
		}
	}
	extract := func(t *testing.T, tar, dir string) {
		runTool(t, dir, "tar", "--xattrs", "--xattrs-include=*", "--numeric-owner", "--same-owner", "--delay-directory-restore", "-pxf", tar)
	}
	for _, c := range []struct {
		name    string
		create  func(t *testing.T, tar string)
		extract func(t *testing.T, tar, dir string)
	}{
		{"gnu-sparse-gnu", gnu("--format=gnu", "--no-xattrs", "-S"), extract},
		{"gnu-pax-sparse-0.0", gnu("--format=pax", "-S", "--sparse-version=0.0"), extract},
		{"gnu-pax-sparse-0.1", gnu("--format=pax", "-S", "--sparse-version=0.1"), extract},
		{"gnu-pax-sparse-1.0", gnu("--format=pax", "-S", "--sparse-version=1.0"), extract},
		{"gnu-gnu", gnu("--format=gnu", "--no-xattrs", "--exclude=five-gib"), extract},
		{"python-pax", func(t *testing.T, tar string) { runTool(t, zoo, "python3", "-c", pyTar, "pax", tar) }, extract},
		{"python-gnu", func(t *testing.T, tar string) { runTool(t, zoo, "python3", "-c", pyTar, "gnu", tar) }, extract},
		{"bsdtar", func(t *testing.T, tar string) { runTool(t, zoo, "bsdtar", "--format=pax", "-cf", tar, ".") }, extract},
	} {
		t.Run(c.name, func(t *testing.T) {
			tar := filepath.Join(t.TempDir(), "layer.tar")
			c.create(t, tar)
			dir := t.TempDir()
			c.extract(t, tar, dir)
			same(t, "the tool's extraction", walkDisk(t, dir), allViews(t, tar))
		})
	}
}
