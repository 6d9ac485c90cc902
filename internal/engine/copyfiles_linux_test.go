package engine

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// imageOf makes an image named "i" of tar entries, files with their names as
// contents, in a store of its own.
func imageOf(t *testing.T, entries ...tar.Header) *Env {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range entries {
		if h.Typeflag == 0 {
			h.Typeflag = tar.TypeReg
		}
		if h.Typeflag == tar.TypeReg {
			h.Size = int64(len(h.Name))
		}
		if h.Mode == 0 {
			h.Mode = 0o755
		}
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if h.Size > 0 {
			if _, err := io.WriteString(w, h.Name); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	env, err := Open(t.Context(), OpenOptions{Root: t.TempDir(), Config: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := Close(env); err != nil {
			t.Error(err)
		}
	})
	if _, err := Import(t.Context(), env, ImportOptions{Source: &b, Name: "i"}); err != nil {
		t.Fatal(err)
	}
	return env
}

func tarLink(name, target string) tar.Header {
	return tar.Header{Typeflag: tar.TypeSymlink, Name: name, Linkname: target}
}

func tarDir(name string, mode int64) tar.Header {
	return tar.Header{Typeflag: tar.TypeDir, Name: name + "/", Mode: mode}
}

// diskTree lists what is below a directory: names, and contents, targets or modes.
func diskTree(t *testing.T, dir string) string {
	t.Helper()
	var b strings.Builder
	err := filepath.WalkDir(dir, func(name string, d fs.DirEntry, err error) error {
		if err != nil || name == dir {
			return err
		}
		rel, err := filepath.Rel(dir, name)
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		switch {
		case d.IsDir():
			fmt.Fprintf(&b, "%s/ ", rel)
		case d.Type() == fs.ModeSymlink:
			target, err := os.Readlink(name)
			fmt.Fprintf(&b, "%s->%s ", rel, target)
			return err
		case d.Type().IsRegular():
			text, err := os.ReadFile(name)
			fmt.Fprintf(&b, "%s=%s ", rel, text)
			return err
		default:
			fmt.Fprintf(&b, "%s:%v ", rel, info.Mode())
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(b.String())
}

func sorted(list string) []string {
	return slices.Compact(slices.Sorted(slices.Values(strings.Fields(list))))
}

func copyOut(t *testing.T, env *Env, path, dest string) error {
	t.Helper()
	_, err := CopyFiles(t.Context(), env, CopyFilesOptions{LookOptions: LookOptions{Ref: "i"}, Path: path, Dest: dest})
	return err
}

// TestCopyFiles has docker cp's rules for names. The destination has a directory
// "dir", a file "file", a symlink "to-dir" and one "to-file".
func TestCopyFiles(t *testing.T) {
	env := imageOf(t, tarDir("d", 0o755), tar.Header{Name: "d/x"}, tar.Header{Typeflag: tar.TypeLink, Name: "d/y", Linkname: "d/x"},
		tarLink("d/l", "/d/x"), tarDir("d/s", 0o755), tarLink("ld", "d"), tar.Header{Name: "f"}, tarLink("lf", "/f"), tarLink("bad", "none"))
	in := func(dir string) string {
		return dir + "/ " + dir + "/l->/d/x " + dir + "/s/ " + dir + "/x=d/x " + dir + "/y=d/x"
	}
	for _, c := range []struct{ path, dest, want, err string }{
		{path: "/f", dest: "new", want: "new=f"},
		{path: "f", dest: "dir", want: "dir/f=f"},
		{path: "/f", dest: "dir/", want: "dir/f=f"},
		{path: "/f", dest: "file", want: "file=f"},
		{path: "/f", dest: "to-dir", want: "dir/f=f"},
		{path: "/f", dest: "to-file", want: "file=f"},
		{path: "/f", dest: "none/", err: "no such directory"},
		{path: "/f", dest: "none/new", err: "invalid output path"},
		{path: "/f", dest: "file/", err: "not a directory"},
		{path: "/f", dest: "dangling", err: "dangling symlink"},
		{path: "/f", dest: ".wh.f", err: "whiteout"},
		{path: "/f/", dest: "new", err: "not a directory"},
		{path: "/lf", dest: "dir", want: "dir/lf->/f"},
		{path: "/../lf", dest: "new", want: "new->/f"},
		{path: "/bad", dest: "new", want: "new->none"},
		{path: "/d", dest: "new", want: in("new")},
		{path: "/d/", dest: "new/", want: in("new")},
		{path: "/d", dest: "dir", want: in("dir/d")},
		{path: "/d/.", dest: "dir", want: in("dir")},
		{path: "/d/.", dest: "new", want: in("new")},
		{path: "/ld", dest: "dir", want: "dir/ld->d"},
		{path: "/ld/", dest: "dir", want: in("dir/ld")},
		{path: "/ld/s", dest: "new", want: "new/"},
		{path: "/d", dest: "file", err: "cannot copy directory"},
		{path: "/none", dest: "dir", err: "Could not find the file /none in image i"},
		{path: "/ld/none", dest: "dir", err: "Could not find the file"},
	} {
		dir := t.TempDir()
		for _, err := range []error{
			os.Mkdir(filepath.Join(dir, "dir"), 0o700), os.WriteFile(filepath.Join(dir, "file"), []byte("old"), 0o600),
			os.Symlink("dir", filepath.Join(dir, "to-dir")), os.Symlink("file", filepath.Join(dir, "to-file")),
			os.Symlink("nowhere", filepath.Join(dir, "dangling")),
		} {
			if err != nil {
				t.Fatal(err)
			}
		}
		err := copyOut(t, env, c.path, dir+"/"+c.dest)
		if (err != nil) != (c.err != "") || err != nil && !strings.Contains(err.Error(), c.err) {
			t.Errorf("%s to %s: %v, want %q", c.path, c.dest, err, c.err)
			continue
		}
		want := "dangling->nowhere dir/ file=old to-dir->dir to-file->file " + c.want
		if c.want == "file=f" {
			want = strings.Replace(want, "file=old ", "", 1)
		}
		got := diskTree(t, dir)
		if diff := cmp.Diff(sorted(want), sorted(got)); diff != "" {
			t.Errorf("%s to %s (-want +got):\n%s", c.path, c.dest, diff)
		}
	}
}

// tarNames lists the names and owners of a tar.
func tarNames(t *testing.T, env *Env, path string) string {
	t.Helper()
	var b bytes.Buffer
	if err := TarFiles(t.Context(), env, CopyFilesOptions{LookOptions: LookOptions{Ref: "i"}, Path: path}, &b); err != nil {
		t.Fatal(err)
	}
	var names []string
	for r := tar.NewReader(&b); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return strings.Join(names, " ")
		}
		if err != nil {
			t.Fatal(err)
		}
		names = append(names, fmt.Sprintf("%s:%d:%s%s", h.Name, h.Uid, h.Uname, h.Gname))
	}
}

func TestTarFiles(t *testing.T) {
	env := imageOf(t, tarDir("d", 0o755), tar.Header{Name: "d/x", Uid: 7}, tarLink("d/l", "x"), tarLink("ld", "d"))
	for path, want := range map[string]string{
		"/d":   "d/:0: d/l:0: d/x:7:",
		"/d/.": "./:0: l:0: x:7:",
		"/ld":  "ld:0:",
		"/ld/": "ld/:0: ld/l:0: ld/x:7:",
		"d/x":  "x:7:",
	} {
		if got := tarNames(t, env, path); got != want {
			t.Errorf("%s: %s, want %s", path, got, want)
		}
	}
}

// CVE-2018-15664, CVE-2026-41568 and CVE-2026-42306: a directory of the
// destination is swapped for a symlink while docker cp writes below it.
func TestCopyFilesCVE_2018_15664(t *testing.T) {
	env := imageOf(t, tarDir("d", 0o777), tar.Header{Name: "d/a"}, tarDir("d/e", 0o777), tar.Header{Name: "d/e/b"}, tar.Header{Name: "d/z"})
	outside, dest := t.TempDir(), t.TempDir()
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
			}
			name := filepath.Join(dest, []string{"d", "d/e", "d/a"}[i%3])
			_ = os.RemoveAll(name)
			_ = os.Symlink(outside, name)
			_ = os.Remove(name)
		}
	})
	for range 300 {
		_ = copyOut(t, env, "/d", dest) // it may fail: what it works on is taken away
	}
	close(stop)
	wg.Wait()
	if got := diskTree(t, outside); got != "" {
		t.Errorf("written outside: %s", got)
	}
}

// CVE-2019-14271: the helper of docker cp, in the container's root, loads the
// container's libnss to look names up. Here nothing of the image is run, and no
// names are looked up.
func TestCopyFilesCVE_2019_14271(t *testing.T) {
	env := imageOf(t, tar.Header{Name: "lib/libnss_files.so.2"}, tar.Header{Name: "etc/nsswitch.conf"},
		tar.Header{Name: "etc/passwd", Uid: 12345}, tar.Header{Name: "bin/tar"})
	if got, want := tarNames(t, env, "/etc"), "etc/:0: etc/nsswitch.conf:0: etc/passwd:12345:"; got != want {
		t.Errorf("tar has %s, want %s", got, want)
	}
}

// CVE-2021-41089: docker cp changes the mode of files and directories that exist
// on the host.
func TestCopyFilesCVE_2021_41089(t *testing.T) {
	env := imageOf(t, tarDir("d", 0o777), tarDir("d/sub", 0o777), tar.Header{Name: "d/sub/x", Mode: 0o4777}, tarLink("d/l", "sub"))
	dir, outside := t.TempDir(), filepath.Join(t.TempDir(), "secret")
	for _, err := range []error{
		os.Chmod(dir, 0o700), os.Mkdir(filepath.Join(dir, "sub"), 0o700), os.WriteFile(outside, nil, 0o600),
		os.Symlink(outside, filepath.Join(dir, "sub", "x")), os.Symlink(outside, filepath.Join(dir, "l")),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := copyOut(t, env, "/d/.", dir); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]fs.FileMode{dir: 0o700, filepath.Join(dir, "sub"): 0o700, outside: 0o600, filepath.Join(dir, "sub", "x"): 0o777} {
		info, err := os.Lstat(name)
		if err != nil {
			t.Fatal(err)
		}
		if got := info.Mode() &^ fs.ModeDir; got != want {
			t.Errorf("%s has mode %v, want %v", name, got, want)
		}
	}
}

// CVE-2019-10152 and CVE-2019-18466: podman cp follows symlinks of the container
// on the host, at either end.
func TestCopyFilesCVE_2019_10152(t *testing.T) {
	secret := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(secret, []byte("secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	env := imageOf(t, tarLink("l", secret), tarLink("up", "../../../../../.."+secret), tarLink("dir", filepath.Dir(secret)),
		tarLink("proc", "/proc/self/root"), tarDir("d", 0o755), tar.Header{Name: "d/x"})
	for _, path := range []string{"/l", "/up", "/dir/secret", "/proc" + secret, "/dir/"} {
		dir := t.TempDir()
		_, err := CopyFiles(t.Context(), env, CopyFilesOptions{LookOptions: LookOptions{Ref: "i"}, Path: path, Dest: dir, Follow: true})
		if err == nil || diskTree(t, dir) != "" {
			t.Errorf("%s: %v, copied %q", path, err, diskTree(t, dir))
		}
		if err := Cat(t.Context(), env, CatOptions{LookOptions: LookOptions{Ref: "i"}, Paths: []string{path}}, io.Discard); err == nil {
			t.Errorf("%s can be read", path)
		}
	}
	dest, outside := t.TempDir(), t.TempDir()
	if err := os.Symlink(outside, filepath.Join(dest, "d")); err != nil {
		t.Fatal(err)
	}
	err := copyOut(t, env, "/d", dest)
	if err == nil || !strings.Contains(err.Error(), "cannot overwrite non-directory with directory") || diskTree(t, outside) != "" {
		t.Errorf("a directory over a symlink: %v; outside: %s", err, diskTree(t, outside))
	}
}

// A file never takes the place of a directory that the user has.
func TestCopyFilesKeepsDirectories(t *testing.T) {
	env := imageOf(t, tar.Header{Name: "d/x"}, tar.Header{Name: "d/y"})
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, "x", "mine"), 0o755); err != nil {
		t.Fatal(err)
	}
	err := copyOut(t, env, "/d/.", dir)
	if err == nil || !strings.Contains(err.Error(), "cannot overwrite directory with non-directory") {
		t.Errorf("%v, want a refusal", err)
	}
	if got := diskTree(t, dir); got != "x/ x/mine/" {
		t.Errorf("left is %s", got)
	}
}
