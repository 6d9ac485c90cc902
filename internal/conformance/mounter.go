package conformance

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"

	"strake/internal/layer"
	"strake/internal/mount"
	"strake/internal/rootfs"
	"strake/internal/userns"
)

// Mounter runs the suite that every rootfs.Mounter must pass; open makes one that mounts inside of ns and works in dir. It needs
// root, of a user namespace at least.
func Mounter(t *testing.T, open func(t *testing.T, dir string, ns *mount.Namespace) rootfs.Mounter) {
	for _, test := range []struct {
		name string
		run  func(t *testing.T, m *mounter)
	}{
		{"Tree", testMountTree},
		{"Union", testMountUnion},
		{"Hiding", testMountHiding},
		{"Twice", testMountTwice},
		{"Implied", testMountImplied},
		{"Upper", testMountUpper},
		{"ReadOnly", testMountReadOnly},
		{"Empty", testMountEmpty},
		{"Stubs", testMountStubs},
		{"Private", testMountPrivate},
		{"Deep", testMountDeep},
		{"Parallel", testMountParallel},
		{"Invalid", testMountInvalid},
	} {
		t.Run(test.name, func(t *testing.T) {
			ns, err := mount.New(t.Context())
			must(t, err)
			t.Cleanup(func() { must(t, ns.Close()) })
			dir := t.TempDir()
			test.run(t, &mounter{Mounter: open(t, filepath.Join(dir, "mounter"), ns), ns: ns, dir: dir})
		})
	}
}

// A mounter is a Mounter, its namespace and a directory for the test.
type mounter struct {
	rootfs.Mounter
	ns  *mount.Namespace
	dir string
	n   int
}

// newDir makes a directory.
func (m *mounter) newDir(t *testing.T) string {
	t.Helper()
	m.n++
	dir := filepath.Join(m.dir, fmt.Sprint("dir", m.n))
	must(t, os.Mkdir(dir, 0o700))
	return dir
}

// entryTime is the time of every entry of a test layer.
var entryTime = time.Unix(1e9, 123456789)

// layer makes a layer of headers; Linkname is the content of a regular file.
func (m *mounter) layer(t *testing.T, headers ...tar.Header) layer.Files {
	t.Helper()
	dir := m.newDir(t)
	files := layer.Files{Tar: filepath.Join(dir, "tar"), Index: filepath.Join(dir, "index")}
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, h := range headers {
		data := ""
		if h.Typeflag == tar.TypeReg {
			data, h.Linkname = h.Linkname, ""
		}
		h.Size, h.Format = int64(len(data)), tar.FormatPAX
		if h.ModTime.IsZero() {
			h.ModTime = entryTime
		}
		must(t, w.WriteHeader(&h))
		_, err := w.Write([]byte(data))
		must(t, err)
	}
	must(t, w.Close())
	must(t, os.WriteFile(files.Tar, buf.Bytes(), 0o600))
	files.DiffID, files.Size = digest.FromBytes(buf.Bytes()), int64(buf.Len())
	index, err := os.Create(files.Index)
	must(t, err)
	_, err = layer.WriteIndex(t.Context(), &buf, index, nil)
	must(t, errors.Join(err, index.Close()))
	return files
}

func dirEntry(name string, mode int64) tar.Header {
	return tar.Header{Typeflag: tar.TypeDir, Name: name + "/", Mode: mode}
}

func fileEntry(name, data string) tar.Header {
	return tar.Header{Typeflag: tar.TypeReg, Name: name, Linkname: data, Mode: 0o644}
}

// mount mounts a chain and returns its options; it is unmounted when the test ends.
func (m *mounter) mount(t *testing.T, o rootfs.MountOptions) rootfs.MountOptions {
	t.Helper()
	o.Target = m.newDir(t)
	mounted, err := m.Mount(t.Context(), o)
	must(t, err)
	t.Cleanup(func() {
		if err := mounted.Close(); err != nil {
			t.Error(err)
		}
	})
	return o
}

// list describes the files below dir, as seen in the namespace.
func (m *mounter) list(t *testing.T, dir string) []string {
	t.Helper()
	var lines []string
	must(t, m.ns.Do(func() error {
		return filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			line, err := describe(path)
			lines = append(lines, strings.TrimPrefix(path, dir)+" "+line)
			return err
		})
	}))
	return lines
}

// describe tells all of a file: mode owner [time] [links] [device] [content] [attributes].
func describe(path string) (string, error) {
	info, err := os.Lstat(path)
	if err != nil {
		return "", err
	}
	st := info.Sys().(*syscall.Stat_t)
	line := fmt.Sprintf("%v %d:%d", info.Mode(), st.Uid, st.Gid)
	if !info.ModTime().Equal(entryTime) {
		line += " " + info.ModTime().UTC().Format(time.RFC3339Nano)
	}
	switch {
	case info.Mode().IsRegular():
		data, err := os.ReadFile(path)
		if err != nil {
			return "", err
		}
		line += fmt.Sprintf(" n%d %q", st.Nlink, data)
	case info.Mode()&fs.ModeSymlink != 0:
		to, err := os.Readlink(path)
		if err != nil {
			return "", err
		}
		line += " -> " + to
	case info.Mode()&fs.ModeDevice != 0:
		line += fmt.Sprintf(" dev %#x", st.Rdev)
	}
	names := make([]byte, 4096)
	n, err := syscall.Listxattr(path, names)
	if err != nil || info.Mode()&fs.ModeSymlink != 0 {
		return line, nil //nolint:nilerr // a symbolic link has none, and is not followed
	}
	for name := range strings.SplitSeq(strings.TrimSuffix(string(names[:n]), "\x00"), "\x00") {
		value := make([]byte, 256)
		if n, err := syscall.Getxattr(path, name, value); err == nil {
			line += fmt.Sprintf(" %s=%q", name, value[:n])
		}
	}
	return line, nil
}

// check compares what is mounted with what should be.
func (m *mounter) check(t *testing.T, dir string, want ...string) {
	t.Helper()
	if diff := cmp.Diff(want, m.list(t, dir)); diff != "" {
		t.Errorf("mounted tree (-want +got):\n%s", diff)
	}
}

func testMountTree(t *testing.T, m *mounter) {
	long := strings.Repeat("d", 200)
	o := m.mount(t, rootfs.MountOptions{Layers: []layer.Files{m.layer(t,
		dirEntry(".", 0o751),
		tar.Header{Typeflag: tar.TypeDir, Name: "bin/", Mode: 0o1777, Uid: 1, Gid: 70000},
		tar.Header{Typeflag: tar.TypeReg, Name: "bin/su", Linkname: "program", Mode: 0o4755, PAXRecords: map[string]string{
			"SCHILY.xattr.user.color": "blue", "SCHILY.xattr.security.capability": "\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00",
		}},
		tar.Header{Typeflag: tar.TypeLink, Name: "bin/sudo", Linkname: "bin/su"},
		tar.Header{Typeflag: tar.TypeSymlink, Name: "bin/sh", Linkname: "/etc/../nowhere", Mode: 0o777},
		tar.Header{Typeflag: tar.TypeChar, Name: "null", Mode: 0o666, Devmajor: 1, Devminor: 3},
		tar.Header{Typeflag: tar.TypeFifo, Name: "pipe", Mode: 0o600},
		dirEntry(long, 0o755), fileEntry(long+"/"+long, strings.Repeat("x", 5000)),
		tar.Header{Typeflag: tar.TypeReg, Name: "z-caf\xe9", Mode: 0o644, ModTime: time.Unix(-1, 5)},
	)}})
	uid, gid := userns.Owner(1, 70000)
	want := []string{
		" drwxr-x--x 0:0", fmt.Sprintf("/bin dtrwxrwxrwx %d:%d", uid, gid), "/bin/sh Lrwxrwxrwx 0:0 -> /etc/../nowhere",
		`/bin/su urwxr-xr-x 0:0 n2 "program" security.capability="\x01\x00\x00\x02\x00 \x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00" user.color="blue"`,
		`/bin/sudo urwxr-xr-x 0:0 n2 "program" security.capability="\x01\x00\x00\x02\x00 \x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00" user.color="blue"`,
		"/" + long + " drwxr-xr-x 0:0", "/" + long + "/" + long + fmt.Sprintf(" -rw-r--r-- 0:0 n1 %q", strings.Repeat("x", 5000)),
		"/null Dcrw-rw-rw- 0:0 dev 0x103", "/pipe prw------- 0:0",
		"/z-caf\xe9 -rw-r--r-- 0:0 1969-12-31T23:59:59.000000005Z n1 \"\"",
	}
	if !userns.IsRoot() { // who may make no devices
		want = slices.DeleteFunc(want, func(line string) bool { return strings.HasPrefix(line, "/null ") })
	}
	m.check(t, o.Target, want...)
}

func testMountUnion(t *testing.T, m *mounter) {
	o := m.mount(t, rootfs.MountOptions{Layers: []layer.Files{
		m.layer(t, dirEntry(".", 0o755), dirEntry("a", 0o755), fileEntry("a/gone", "1"), fileEntry("a/kept", "1"), dirEntry("b", 0o700),
			fileEntry("b/hidden", "1"), dirEntry("c", 0o755), fileEntry("c/f", "1"), fileEntry("d", "1"), dirEntry("e", 0o755), fileEntry("e/f", "1")),
		m.layer(t, dirEntry("a", 0o711), fileEntry("a/.wh.gone", ""), fileEntry("a/new", "2"), dirEntry("b", 0o750),
			fileEntry("b/.wh..wh..opq", ""), fileEntry("b/shown", "2"), fileEntry(".wh.c", ""), dirEntry("d", 0o755), fileEntry("d/f", "2"),
			fileEntry(".wh.never", ""), fileEntry("e", "2")),
		m.layer(t, dirEntry("c", 0o700), fileEntry("c/again", "3"), fileEntry("a/kept", "3")),
	}})
	m.check(t, o.Target,
		" drwxr-xr-x 0:0", "/a drwx--x--x 0:0", `/a/kept -rw-r--r-- 0:0 n1 "3"`, `/a/new -rw-r--r-- 0:0 n1 "2"`,
		"/b drwxr-x--- 0:0", `/b/shown -rw-r--r-- 0:0 n1 "2"`, "/c drwx------ 0:0", `/c/again -rw-r--r-- 0:0 n1 "3"`,
		"/d drwxr-xr-x 0:0", `/d/f -rw-r--r-- 0:0 n1 "2"`, `/e -rw-r--r-- 0:0 n1 "2"`,
	)
}

// testMountHiding: what overlayfs overlooks by itself, an opaque root and whiteouts in a directory of one layer.
func testMountHiding(t *testing.T, m *mounter) {
	layers := []layer.Files{
		m.layer(t, dirEntry(".", 0o755), fileEntry("old", "1")),
		m.layer(t, dirEntry(".", 0o750), fileEntry(".wh..wh..opq", ""), dirEntry("a", 0o755), fileEntry("a/f", "2")),
		m.layer(t, dirEntry("only", 0o700), fileEntry("only/.wh.never", ""), fileEntry("only/f", "3")),
	}
	m.check(t, m.mount(t, rootfs.MountOptions{Layers: layers}).Target,
		" drwxr-x--- 0:0", "/a drwxr-xr-x 0:0", `/a/f -rw-r--r-- 0:0 n1 "2"`, "/only drwx------ 0:0", `/only/f -rw-r--r-- 0:0 n1 "3"`)
}

// testMountTwice: the same layer twice, as commands that change nothing make it.
func testMountTwice(t *testing.T, m *mounter) {
	base, empty := m.layer(t, dirEntry(".", 0o755), fileEntry("f", "1")), m.layer(t, dirEntry("d", 0o700))
	o := m.mount(t, rootfs.MountOptions{Layers: []layer.Files{base, empty, m.layer(t, fileEntry(".wh.d", "")), empty, empty}})
	m.check(t, o.Target, " drwxr-xr-x 0:0", "/d drwx------ 0:0", `/f -rw-r--r-- 0:0 n1 "1"`)
}

// testMountImplied: a directory that a layer uses without naming it looks as the highest layer that names it says.
func testMountImplied(t *testing.T, m *mounter) {
	named := func(name string, mode int64) tar.Header {
		h := dirEntry(name, mode)
		h.Uid, h.PAXRecords = 7, map[string]string{"SCHILY.xattr.user.note": "x"}
		return h
	}
	layers := []layer.Files{
		m.layer(t, dirEntry(".", 0o711), named("data", 0o700), dirEntry("data/sub", 0o1777), fileEntry("data/sub/old", "1")),
		m.layer(t, fileEntry("data/sub/new", "2"), fileEntry("nobody/f", "2")),
		m.layer(t, fileEntry("data/sub/newer", "3")),
		m.layer(t, dirEntry("data", 0o750)),
	}
	uid, gid := userns.Owner(7, 0)
	sub := []string{
		"/data/sub dtrwxrwxrwx 0:0", `/data/sub/new -rw-r--r-- 0:0 n1 "2"`, `/data/sub/newer -rw-r--r-- 0:0 n1 "3"`,
		`/data/sub/old -rw-r--r-- 0:0 n1 "1"`, "/nobody drwxr-xr-x 0:0 1970-01-01T00:00:00Z", `/nobody/f -rw-r--r-- 0:0 n1 "2"`,
	}
	m.check(t, m.mount(t, rootfs.MountOptions{Layers: layers[:3]}).Target,
		append([]string{" drwx--x--x 0:0", fmt.Sprintf(`/data drwx------ %d:%d user.note="x"`, uid, gid)}, sub...)...)
	m.check(t, m.mount(t, rootfs.MountOptions{Layers: layers}).Target,
		append([]string{" drwx--x--x 0:0", "/data drwxr-x--- 0:0"}, sub...)...)
	upper := m.mount(t, rootfs.MountOptions{Layers: layers, Upper: m.newDir(t), Work: m.newDir(t)})
	m.check(t, upper.Target, append([]string{" drwx--x--x 0:0", "/data drwxr-x--- 0:0"}, sub...)...)
}

func testMountUpper(t *testing.T, m *mounter) {
	o := rootfs.MountOptions{Upper: m.newDir(t), Work: m.newDir(t), Volatile: true, Layers: []layer.Files{
		m.layer(t, dirEntry(".", 0o755), dirEntry("d", 0o755), fileEntry("d/changed", "1"), fileEntry("d/removed", "1")),
		m.layer(t, fileEntry("top", "2")),
	}}
	o = m.mount(t, o)
	must(t, m.ns.Do(func() error {
		return errors.Join(os.WriteFile(o.Target+"/d/changed", []byte("3"), 0), os.Remove(o.Target+"/d/removed"),
			os.WriteFile(o.Target+"/added", nil, 0o600), os.Rename(o.Target+"/top", o.Target+"/moved"),
			os.Chtimes(o.Target+"/d/changed", entryTime, entryTime), os.Chtimes(o.Target+"/d", entryTime, entryTime),
			os.Chtimes(o.Target+"/added", entryTime, entryTime), os.Chmod(o.Target, 0o700), os.Chtimes(o.Target, entryTime, entryTime))
	}))
	want := []string{
		" drwx------ 0:0", `/added -rw------- 0:0 n1 ""`, "/d drwxr-xr-x 0:0", `/d/changed -rw-r--r-- 0:0 n1 "3"`,
		`/moved -rw-r--r-- 0:0 n1 "2"`,
	}
	m.check(t, o.Target, want...)
	if info, err := os.Lstat(filepath.Join(o.Upper, "d/removed")); err != nil || info.Mode()&fs.ModeCharDevice == 0 {
		t.Errorf("no whiteout in the upper directory: %v, %v", info, err)
	}
	again := o
	again.Upper, again.Work = m.newDir(t), m.newDir(t)
	if list := m.list(t, m.mount(t, again).Target); len(list) != 5 || !strings.Contains(list[2], `"1"`) {
		t.Errorf("the layers changed: %v", list)
	}
}

func testMountReadOnly(t *testing.T, m *mounter) {
	one := m.layer(t, dirEntry(".", 0o755), fileEntry("f", "1"))
	for _, layers := range [][]layer.Files{{one}, {one, m.layer(t, fileEntry("g", "2"))}} {
		o := m.mount(t, rootfs.MountOptions{Layers: layers})
		for _, err := range []error{
			m.ns.Do(func() error { return os.WriteFile(o.Target+"/f", nil, 0) }),
			m.ns.Do(func() error { return os.Remove(o.Target + "/f") }),
			m.ns.Do(func() error { return os.Mkdir(o.Target+"/new", 0o755) }),
		} {
			if !errors.Is(err, syscall.EROFS) {
				t.Errorf("writing to %d layers: %v", len(layers), err)
			}
		}
	}
}

func testMountEmpty(t *testing.T, m *mounter) {
	o := m.mount(t, rootfs.MountOptions{})
	if list := m.list(t, o.Target); len(list) != 1 || !strings.HasPrefix(list[0], " drwxr-xr-x 0:0") {
		t.Errorf("no layers: %v", list)
	}
	o = m.mount(t, rootfs.MountOptions{Upper: m.newDir(t), Work: m.newDir(t)})
	must(t, m.ns.Do(func() error { return os.WriteFile(o.Target+"/f", nil, 0o600) }))
	if list := m.list(t, o.Target); len(list) != 2 || !strings.HasPrefix(list[0], " drwxr-xr-x 0:0") {
		t.Errorf("no layers and a file: %v", list)
	}
}

func testMountStubs(t *testing.T, m *mounter) {
	layers := []layer.Files{m.layer(t, dirEntry("etc", 0o711), fileEntry("etc/hosts", "own"))}
	o := m.mount(t, rootfs.MountOptions{Layers: layers, Upper: m.newDir(t), Work: m.newDir(t), Stubs: true})
	const epoch = " 1970-01-01T00:00:00Z"
	m.check(t, o.Target,
		" drwxr-xr-x 0:0"+epoch, "/etc drwx--x--x 0:0",
		`/etc/hosts -rw-r--r-- 0:0 n1 "own"`, "/etc/resolv.conf -rw-r--r-- 0:0"+epoch+` n1 ""`)
	if left, err := os.ReadDir(o.Upper); err != nil || len(left) > 0 {
		t.Errorf("in the upper directory: %v, %v", left, err)
	}
}

// testMountPrivate: nothing is seen outside of the namespace, nor after Close.
func testMountPrivate(t *testing.T, m *mounter) {
	target := m.newDir(t)
	layers := []layer.Files{m.layer(t, fileEntry("f", "1"))}
	mounted, err := m.Mount(t.Context(), rootfs.MountOptions{Layers: layers, Target: target})
	must(t, err)
	if info, err := os.ReadFile("/proc/self/mountinfo"); err != nil || strings.Contains(string(info), m.dir) {
		t.Errorf("the process sees the mounts: %v\n%s", err, info)
	}
	if n := len(m.list(t, target)); n != 2 {
		t.Errorf("%d entries are mounted", n)
	}
	must(t, mounted.Close())
	if n := len(m.list(t, target)); n != 1 {
		t.Errorf("%d entries are still mounted", n)
	}
}

func testMountDeep(t *testing.T, m *mounter) {
	var layers []layer.Files
	for i := range 300 {
		layers = append(layers, m.layer(t, fileEntry(fmt.Sprintf("d/%03d", i), "x"), fileEntry("d/last", fmt.Sprint(i))))
	}
	start := time.Now()
	o := m.mount(t, rootfs.MountOptions{Layers: layers, Upper: m.newDir(t), Work: m.newDir(t)})
	t.Logf("300 layers mounted in %v", time.Since(start))
	list := m.list(t, o.Target)
	if len(list) != 303 || !strings.HasSuffix(list[302], `"299"`) {
		t.Errorf("%d entries, the last %s", len(list), list[len(list)-1])
	}
}

func testMountParallel(t *testing.T, m *mounter) {
	base := m.layer(t, dirEntry(".", 0o755), fileEntry("base", "1"))
	var all sync.WaitGroup
	for i := range 8 {
		layers := []layer.Files{base, m.layer(t, fileEntry(fmt.Sprint("f", i/2), "2"))}
		target := m.newDir(t)
		all.Go(func() {
			mounted, err := m.Mount(t.Context(), rootfs.MountOptions{Layers: layers, Target: target})
			if err != nil {
				t.Error(err)
				return
			}
			if list := m.list(t, target); len(list) != 3 {
				t.Error(list)
			}
			if err := mounted.Close(); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
}

func testMountInvalid(t *testing.T, m *mounter) {
	good := m.layer(t, fileEntry("f", "1"))
	for _, o := range []rootfs.MountOptions{
		{Layers: []layer.Files{good}},
		{Layers: []layer.Files{good}, Target: m.newDir(t), Upper: m.newDir(t)},
		{Layers: []layer.Files{good}, Target: m.newDir(t), Work: m.newDir(t)},
	} {
		if _, err := m.Mount(t.Context(), o); !errors.Is(err, errdefs.ErrInvalidArgument) {
			t.Errorf("%+v: got error %v", o, err)
		}
	}
	many := make([]layer.Files, 1000)
	if _, err := m.Mount(t.Context(), rootfs.MountOptions{Layers: many, Target: m.newDir(t)}); !errors.Is(err, errdefs.ErrOutOfRange) {
		t.Errorf("1000 layers: got error %v", err)
	}
	missing := layer.Files{DiffID: digest.FromString("x"), Tar: m.dir + "/none", Index: m.dir + "/none"}
	if _, err := m.Mount(t.Context(), rootfs.MountOptions{Layers: []layer.Files{missing}, Target: m.newDir(t)}); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a missing layer: got error %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := m.Mount(ctx, rootfs.MountOptions{Layers: []layer.Files{good}, Target: m.newDir(t)}); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: got error %v", err)
	}
}
