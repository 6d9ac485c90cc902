package layer

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"strake/internal/archive"
	"strake/internal/usertest"
)

// look is all that two views of a file can differ in.
type look struct {
	Mode, UID, GID uint32
	Major, Minor   uint32
	Nlink          uint32
	Size           int64
	MTime          int64 // nanoseconds
	Target         string
	Xattrs         string
	Sum            string
	Same           string // the first name of a file with several
}

// tree is what a view shows, by name.
type tree map[string]look

// hugeFile is the size from which only samples of a file are compared.
const hugeFile = 1 << 30

// walkFS looks at a tree as an fs.FS shows it.
func walkFS(t testing.TB, f *FS) tree {
	t.Helper()
	got, first := tree{}, map[[2]uint64]string{}
	err := fs.WalkDir(f, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		st := info.Sys().(*Stat)
		l := look{
			Mode: st.Mode, UID: st.UID, GID: st.GID, Major: st.Major, Minor: st.Minor,
			Nlink: st.Nlink, Size: info.Size(), MTime: info.ModTime().UnixNano(),
		}
		for _, x := range st.Xattrs {
			l.Xattrs += fmt.Sprintf("%s=%q ", x.Name, x.Value)
		}
		switch {
		case info.IsDir():
			l.Size = 0
		case info.Mode()&fs.ModeSymlink != 0:
			if l.Target, err = f.ReadLink(name); err != nil {
				return err
			}
		case info.Mode().IsRegular():
			file, err := f.Open(name)
			if err != nil {
				return err
			}
			if l.Sum, err = sum(file.(io.ReaderAt), l.Size); err != nil {
				return err
			}
		}
		if !info.IsDir() && st.Nlink > 1 {
			l.Same = sameAs(first, [2]uint64{0, st.Ino}, name)
		}
		got[name] = l
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return got
}

// walkDisk looks at a directory of the system.
func walkDisk(t testing.TB, root string) tree {
	t.Helper()
	got, first := tree{}, map[[2]uint64]string{}
	err := filepath.WalkDir(root, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		h, err := openHandle(unix.AT_FDCWD, path)
		if err != nil {
			return err
		}
		defer h.close()
		st := &h.stat
		l := look{
			Mode: st.Mode, UID: st.Uid, GID: st.Gid, Nlink: uint32(st.Nlink), Size: st.Size, MTime: unix.TimespecToNsec(st.Mtim),
		}
		attrs, err := h.xattrs()
		if err != nil {
			return err
		}
		for _, x := range attrs {
			if !overlayXattr(x) {
				l.Xattrs += fmt.Sprintf("%s=%q ", x.Name, x.Value)
			}
		}
		switch st.Mode & unix.S_IFMT {
		case unix.S_IFDIR:
			l.Size = 0
		case unix.S_IFCHR, unix.S_IFBLK:
			l.Major, l.Minor = unix.Major(st.Rdev), unix.Minor(st.Rdev)
		case unix.S_IFLNK:
			if l.Target, err = os.Readlink(path); err != nil {
				return err
			}
		case unix.S_IFREG:
			file, err := os.Open(path)
			if err != nil {
				return err
			}
			defer file.Close()
			if l.Sum, err = sum(file, l.Size); err != nil {
				return err
			}
		}
		if st.Mode&unix.S_IFMT != unix.S_IFDIR && st.Nlink > 1 {
			l.Same = sameAs(first, [2]uint64{st.Dev, st.Ino}, name)
		}
		got[name] = l
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return got
}

func sameAs(first map[[2]uint64]string, ino [2]uint64, name string) string {
	if _, ok := first[ino]; !ok {
		first[ino] = name
	}
	return first[ino]
}

func sum(r io.ReaderAt, size int64) (string, error) {
	h := sha256.New()
	parts := []io.Reader{io.NewSectionReader(r, 0, size)}
	if size >= hugeFile {
		parts = nil
		for at := int64(0); at < size; at += 1 << 27 {
			parts = append(parts, io.NewSectionReader(r, at, 1<<16))
		}
		parts = append(parts, io.NewSectionReader(r, size-1000, 1000))
	}
	_, err := io.Copy(h, io.MultiReader(parts...))
	return hex.EncodeToString(h.Sum(nil)[:8]), err
}

// indexTar indexes a tar file, twice, and holds the two indexes equal.
func indexTar(t testing.TB, tar string) (Files, IndexInfo) {
	t.Helper()
	f, err := os.Open(tar)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	files := Files{Tar: tar, Index: filepath.Join(t.TempDir(), "index"), Side: filepath.Join(t.TempDir(), "side")}
	side, err := os.Create(files.Side)
	if err != nil {
		t.Fatal(err)
	}
	defer side.Close()
	var index, again bytes.Buffer
	info, err := WriteIndex(t.Context(), f, &index, side)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		t.Fatal(err)
	}
	if _, err := WriteIndex(t.Context(), f, &again, side); err != nil || !bytes.Equal(index.Bytes(), again.Bytes()) {
		t.Fatalf("a second index differs: %v", err)
	}
	if info.SideSize == 0 {
		files.Side = ""
	}
	if err := os.WriteFile(files.Index, index.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	return files, info
}

func openLayer(t testing.TB, files Files) *Layer {
	t.Helper()
	l, err := Open(files)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
	return l
}

// inNamespace calls f on a thread with mounts of its own, which end with it.
func inNamespace(t *testing.T, f func()) {
	t.Helper()
	needRoot(t)
	done := make(chan error)
	ok := false
	go func() {
		defer close(done)
		runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
		err := unix.Unshare(unix.CLONE_NEWNS | unix.CLONE_FS)
		if err == nil {
			err = unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, "")
		}
		if err != nil {
			done <- err
			return
		}
		f()
		ok = true
	}()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if !ok {
		t.FailNow()
	}
}

func needRoot(t testing.TB) {
	t.Helper()
	usertest.NeedRoot(t, "to mount EROFS")
}

// needTool skips the test where a tool is missing.
func needTool(t testing.TB, name string) {
	t.Helper()
	if _, err := exec.LookPath(name); err != nil {
		t.Skipf("needs %s", name)
	}
}

// mountLayer mounts a layer by the kernel, in inNamespace.
func mountLayer(t testing.TB, files Files) string {
	t.Helper()
	dir := t.TempDir()
	var opts []string
	for _, d := range []string{files.Tar, files.Side} {
		if d != "" {
			opts = append(opts, "device="+d)
		}
	}
	if err := unix.Mount(files.Index, dir, "erofs", unix.MS_RDONLY, strings.Join(opts, ",")); err != nil {
		if errors.Is(err, unix.ENOTBLK) || errors.Is(err, unix.ENODEV) {
			t.Skip("the kernel cannot mount EROFS from a file")
		}
		t.Error(err)
		runtime.Goexit()
	}
	return dir
}

// same reports what two views do not have in common.
func same(t testing.TB, what string, want, got tree) {
	t.Helper()
	if cmp.Equal(want, got) {
		return
	}
	shown := 0
	for name, w := range want {
		if g, ok := got[name]; !ok || g != w {
			if shown++; shown < 10 {
				t.Errorf("%s: %q\nwant %+v\ngot  %+v (there: %v)", what, name, w, g, ok)
			}
		}
	}
	for name, g := range got {
		if _, ok := want[name]; !ok {
			t.Errorf("%s: %q should not be there: %+v", what, name, g)
		}
	}
}

// allViews indexes a tar and holds what the kernel mounts, what Open shows and
// what Extract makes equal to each other, and returns it.
func allViews(t *testing.T, tar string) tree {
	t.Helper()
	files, _ := indexTar(t, tar)
	shown := walkFS(t, &openLayer(t, files).FS)
	dir := extractTar(t, tar)
	same(t, "extracted", shown, walkDisk(t, dir))
	inNamespace(t, func() {
		mnt := mountLayer(t, files)
		same(t, "mounted", shown, walkDisk(t, mnt))
	})
	return shown
}

func extractTar(t testing.TB, tars ...string) string {
	t.Helper()
	dir := t.TempDir()
	setRoot(t, dir)
	for _, tar := range tars {
		extractInto(t.Context(), t, tar, dir)
	}
	return dir
}

// setRoot makes a directory look as an implied root.
func setRoot(t testing.TB, dir string) {
	t.Helper()
	if err := errors.Join(os.Chmod(dir, 0o755), os.Chtimes(dir, time.Unix(0, 0), time.Unix(0, 0))); err != nil {
		t.Fatal(err)
	}
}

func extractInto(ctx context.Context, t testing.TB, tar, dir string) {
	t.Helper()
	f, err := os.Open(tar)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := archive.Extract(ctx, f, dir, archive.ExtractOptions{}); err != nil {
		t.Fatal(err)
	}
}

// runTool runs a tool of the system.
func runTool(t testing.TB, dir, name string, args ...string) {
	t.Helper()
	needTool(t, name)
	cmd := exec.Command(name, args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s %q: %v\n%s", name, args, err, out)
	}
}
