package archive

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
)

func TestParseWhiteout(t *testing.T) {
	for _, c := range []struct {
		name, path string
		kind       Whiteout
		bad        bool
	}{
		{name: "a/b", path: "a/b"},
		{name: "a/x.wh.b", path: "a/x.wh.b"},
		{name: ".wh.a", path: "a", kind: Hides},
		{name: "a/.wh.b", path: "a/b", kind: Hides},
		{name: "a/.wh..b", path: "a/.b", kind: Hides},
		{name: "a/.wh....", path: "a/...", kind: Hides},
		{name: ".wh..wh..opq", path: "", kind: Opaque},
		{name: "a/.wh..wh..opq", path: "a", kind: Opaque},
		{name: ".wh..wh.aufs", path: ".wh..wh.aufs", kind: Metadata},
		{name: ".wh..wh.plnk/x", path: ".wh..wh.plnk/x", kind: Metadata},
		{name: ".wh.", bad: true},
		{name: "a/.wh..", bad: true},
		{name: "a/.wh...", bad: true},
		{name: "a/.wh.b/c", bad: true},
	} {
		kind, path, err := ParseWhiteout(c.name)
		if c.bad != (err != nil) || kind != c.kind || path != c.path {
			t.Errorf("%q: %v %q %v", c.name, kind, path, err)
		}
	}
}

func TestCleanName(t *testing.T) {
	for name, want := range map[string]string{
		"": "", ".": "", "/": "", "./": "", "a": "a", "./a/": "a", "/a//b/": "a/b", "a/./b": "a/b",
		"a/../b": "b", "/../../b": "b", "a/..": "", "\xff/\xfe": "\xff/\xfe",
		strings.Repeat("a/", 2000): strings.TrimSuffix(strings.Repeat("a/", 2000), "/"),
	} {
		if got, err := cleanName(name); err != nil || got != want {
			t.Errorf("%q: %q, %v", name, got, err)
		}
	}
	for _, name := range []string{"..", "../a", "a/../../b", "a\x00b", strings.Repeat("a", 300), strings.Repeat("a/", 2049)} {
		if got, err := cleanName(name); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%.40q: %q, %v", name, got, err)
		}
	}
}

// makeTar writes headers by the standard library.
func makeTar(t testing.TB, headers ...tar.Header) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range headers {
		if h.Typeflag == 0 {
			h.Typeflag = tar.TypeReg
		}
		h.Size = 0
		if h.Typeflag == tar.TypeReg {
			h.Size = int64(len(h.Name))
		}
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, h.Name[:h.Size]); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// readTree makes the tree of a tar.
func readTree(b []byte) (*Tree, error) {
	r, tree := NewReader(bytes.NewReader(b)), NewTree()
	for {
		e, err := r.Next()
		if errors.Is(err, io.EOF) {
			return tree, nil
		}
		if err == nil {
			_, err = tree.Add(e)
		}
		if err != nil {
			return nil, err
		}
	}
}

// list writes a tree as lines: name, type, link count, target.
func list(n *Inode, name string, into map[string]string) map[string]string {
	into[name] = fmt.Sprintf("%o %d %s", n.Mode&TypeMask>>12, n.Nlink, n.Target)
	if n.Opaque {
		into[name] += "opaque"
	}
	for base, child := range n.Children {
		list(child, joinName(name, base), into)
	}
	return into
}

func hdr(name string) tar.Header { return tar.Header{Name: name, Mode: 0o644} }

func dirHdr(name string) tar.Header {
	return tar.Header{Name: name, Typeflag: tar.TypeDir, Mode: 0o755}
}

func linkHdr(kind byte, name, target string) tar.Header {
	return tar.Header{Name: name, Linkname: target, Typeflag: kind, Mode: 0o777}
}

// TestTree has the rules for where entries go.
func TestTree(t *testing.T) {
	sym := func(name, target string) tar.Header { return linkHdr(tar.TypeSymlink, name, target) }
	hard := func(name, target string) tar.Header { return linkHdr(tar.TypeLink, name, target) }
	for _, c := range []struct {
		name    string
		headers []tar.Header
		want    map[string]string // nil: refused
	}{
		{"implied", []tar.Header{hdr("a/b/c")}, map[string]string{"": "4 3 ", "a": "4 3 ", "a/b": "4 2 ", "a/b/c": "10 1 "}},
		{"file over file", []tar.Header{hdr("a"), sym("a", "x")}, map[string]string{"": "4 2 ", "a": "12 1 x"}},
		{"file over directory", []tar.Header{hdr("a/b"), hdr("a")}, map[string]string{"": "4 2 ", "a": "10 1 "}},
		{"directory over file", []tar.Header{hdr("a"), dirHdr("a"), hdr("a/b")}, map[string]string{"": "4 3 ", "a": "4 2 opaque", "a/b": "10 1 "}},
		{"directory twice", []tar.Header{hdr("a/b"), dirHdr("a/")}, map[string]string{"": "4 3 ", "a": "4 2 ", "a/b": "10 1 "}},
		{"below a file", []tar.Header{hdr("a"), hdr("a/b")}, nil},
		{"hard link", []tar.Header{hdr("a/b"), hard("c", "a/b"), hard("d", "/a/b")}, map[string]string{"": "4 3 ", "a": "4 2 ", "a/b": "10 3 ", "c": "10 3 ", "d": "10 3 "}},
		{"hard link replaced", []tar.Header{hdr("a"), hard("b", "a"), hdr("a")}, map[string]string{"": "4 2 ", "a": "10 1 ", "b": "10 1 "}},
		{"hard link lost with its directory", []tar.Header{hdr("a"), hard("d/b", "a"), hdr("d")}, map[string]string{"": "4 2 ", "a": "10 1 ", "d": "10 1 "}},
		{"hard link to itself", []tar.Header{hdr("a"), hard("a", "./a")}, map[string]string{"": "4 2 ", "a": "10 1 "}},
		{"hard link to a symlink", []tar.Header{sym("s", "/etc/passwd"), hard("h", "s")}, map[string]string{"": "4 2 ", "s": "12 2 /etc/passwd", "h": "12 2 /etc/passwd"}},
		{"hard link to nothing", []tar.Header{hard("b", "a")}, nil},
		{"hard link to what comes later", []tar.Header{hard("b", "a"), hdr("a")}, nil},
		{"hard link to a directory", []tar.Header{dirHdr("a"), hard("b", "a")}, nil},
		{"hard link to the root", []tar.Header{hard("b", "/")}, nil},
		{"hard link upwards", []tar.Header{hard("b", "../etc/passwd")}, nil},
		{"hard link in place of its target's directory", []tar.Header{hdr("a/b"), hard("a", "a/b")}, nil},
		{"hard link through a symlink", []tar.Header{hdr("usr/x"), sym("s", "/usr"), hard("b", "s/x")}, map[string]string{"": "4 3 ", "usr": "4 2 ", "usr/x": "10 2 ", "s": "12 1 /usr", "b": "10 2 "}},
		{"through a symlink", []tar.Header{dirHdr("usr/lib"), sym("lib", "usr/lib"), hdr("lib/x")}, map[string]string{"": "4 3 ", "usr": "4 3 ", "usr/lib": "4 2 ", "lib": "12 1 usr/lib", "usr/lib/x": "10 1 "}},
		{"through a symlink out of the root", []tar.Header{sym("s", "../../../etc"), hdr("s/x")}, map[string]string{"": "4 3 ", "s": "12 1 ../../../etc", "etc": "4 2 ", "etc/x": "10 1 "}},
		{"through an absolute symlink", []tar.Header{sym("d/s", "/etc"), hdr("d/s/x")}, map[string]string{"": "4 4 ", "d": "4 2 ", "d/s": "12 1 /etc", "etc": "4 2 ", "etc/x": "10 1 "}},
		{"parent becomes a symlink", []tar.Header{hdr("d/x"), sym("d", "/tmp"), hdr("d/y")}, map[string]string{"": "4 3 ", "d": "12 1 /tmp", "tmp": "4 2 ", "tmp/y": "10 1 "}},
		{"symlink becomes a directory", []tar.Header{sym("d", "/tmp"), dirHdr("d"), hdr("d/y")}, map[string]string{"": "4 3 ", "d": "4 2 opaque", "d/y": "10 1 "}},
		{"symlink to itself", []tar.Header{sym("s", "s"), hdr("s/x")}, nil},
		{"symlink to a file", []tar.Header{hdr("f"), sym("s", "f"), hdr("s/x")}, nil},
		{"root is a symlink", []tar.Header{sym("./", "/etc")}, nil},
		{"root is a file", []tar.Header{{Name: ".", Mode: 0o644}}, nil},
		{"name upwards", []tar.Header{hdr("../x")}, nil},
		{"whiteout", []tar.Header{hdr("a/.wh.b")}, map[string]string{"": "4 3 ", "a": "4 2 ", "a/b": "2 1 "}},
		{"whiteout then file", []tar.Header{hdr(".wh.b"), hdr("b")}, map[string]string{"": "4 2 ", "b": "10 1 "}},
		{"file then whiteout", []tar.Header{hdr("b"), hdr(".wh.b")}, map[string]string{"": "4 2 ", "b": "10 1 "}},
		{"whiteout then directory", []tar.Header{hdr(".wh.b"), hdr("b/x")}, map[string]string{"": "4 3 ", "b": "4 2 opaque", "b/x": "10 1 "}},
		{"opaque", []tar.Header{hdr("b/.wh..wh..opq")}, map[string]string{"": "4 3 ", "b": "4 2 opaque"}},
		{"opaque through a symlink", []tar.Header{dirHdr("d"), sym("s", "d"), hdr("s/.wh..wh..opq")}, map[string]string{"": "4 3 ", "s": "12 1 d", "d": "4 2 opaque"}},
		{"hard link to a whiteout", []tar.Header{hdr(".wh.b"), hard("c", "b")}, nil},
		{"whiteout of nothing proper", []tar.Header{hdr("a/.wh...")}, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			tree, err := readTree(makeTar(t, c.headers...))
			if err != nil {
				if c.want != nil || !errdefs.IsInvalidArgument(err) {
					t.Error(err)
				}
				return
			}
			if diff := cmp.Diff(c.want, list(tree.Root, "", map[string]string{})); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// TestWriterRoundTrip reads back what Writer writes.
func TestWriterRoundTrip(t *testing.T) {
	long := strings.Repeat(strings.Repeat("d", 99)+"/", 4) + "name"
	want := []Entry{
		{Name: "", Mode: TypeDir | 0o750, UID: 1, GID: 2},
		{Name: "dir", Mode: TypeDir | 0o1777},
		{Name: "file", Mode: TypeRegular | 0o4755, Size: 5, UID: 1 << 30, GID: 3, Xattrs: []Xattr{{"security.capability", "\x00\x01="}, {"user.x", "y\n"}}},
		{Name: "hard", HardLink: true, Linkname: "file"},
		{Name: "sym", Mode: TypeSymlink | 0o777, Linkname: "../" + long},
		{Name: long, Mode: TypeRegular | 0o600, Size: 1},
		{Name: "bytes\xff\xfe", Mode: TypeRegular},
		{Name: "null", Mode: TypeChar | 0o666, Major: 1, Minor: 3},
		{Name: "disk", Mode: TypeBlock | 0o660, Major: 4095, Minor: 1048575},
		{Name: "fifo", Mode: TypeFifo | 0o600},
	}
	var b bytes.Buffer
	w := NewWriter(&b, WriterOptions{})
	for i := range want {
		want[i].ModTime = time.Unix(1e9+int64(i), int64(i)*1001)
		if err := w.Write(&want[i], strings.NewReader("hello")); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	r := NewReader(&b)
	for _, e := range want {
		got, err := r.Next()
		if err != nil {
			t.Fatal(err)
		}
		if got.Data%blockSize != 0 {
			t.Errorf("%q: data at %d", e.Name, got.Data)
		}
		if got.Data = 0; e.HardLink {
			got.Mode, got.ModTime = e.Mode, e.ModTime
		}
		if diff := cmp.Diff(&e, got); diff != "" {
			t.Errorf("%q: %s", e.Name, diff)
		}
	}
	if _, err := r.Next(); !errors.Is(err, io.EOF) {
		t.Error(err)
	}
}

func TestWriterClamps(t *testing.T) {
	var b bytes.Buffer
	clamp := time.Unix(1e9, 0)
	w := NewWriter(&b, WriterOptions{Clamp: &clamp})
	for _, at := range []int64{5e8, 2e9} {
		if err := w.Write(&Entry{Name: "f", Mode: TypeRegular, ModTime: time.Unix(at, 9)}, nil); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(w.Whiteout("a/b"), w.Opaque("d"), w.Close()); err != nil {
		t.Fatal(err)
	}
	r := NewReader(&b)
	for _, want := range []struct {
		name string
		at   int64
	}{{"f", 5e8}, {"f", 1e9}, {"a/.wh.b", 0}, {"d/.wh..wh..opq", 0}} {
		if e, err := r.Next(); err != nil || e.Name != want.name || e.ModTime.Unix() != want.at {
			t.Errorf("%+v, %v, want %+v", e, err, want)
		}
	}
	if err := NewWriter(io.Discard, WriterOptions{}).Write(&Entry{Name: "f", Mode: TypeRegular, Size: 9}, strings.NewReader("short")); err == nil {
		t.Error("a file that is too short is no error")
	}
}

// TestReaderBounds has tars that ask for too much.
func TestReaderBounds(t *testing.T) {
	pax := func(k, v string) tar.Header {
		return tar.Header{Name: "f", Mode: 0o644, Typeflag: tar.TypeReg, PAXRecords: map[string]string{k: v}}
	}
	for name, h := range map[string]tar.Header{
		"attribute": pax("SCHILY.xattr.user.x", strings.Repeat("x", 1<<16)),
		"path":      {Name: strings.Repeat("a/", 3000), Typeflag: tar.TypeDir},
		"component": hdr(strings.Repeat("a", 256)),
		"target":    linkHdr(tar.TypeSymlink, "s", strings.Repeat("a/", 3000)),
		"device":    {Name: "d", Typeflag: tar.TypeChar, Devmajor: 4096},
		"owner":     {Name: "o", Mode: 0o644, Uid: 1 << 40},
		"whiteout":  hdr(".wh." + strings.Repeat("a", 256)),
	} {
		var b bytes.Buffer
		w := tar.NewWriter(&b)
		h.Size = 0
		if err := w.WriteHeader(&h); err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		if _, err := readTree(b.Bytes()); err == nil {
			t.Errorf("%s is taken", name)
		}
	}
}

// TestReaderDropsOverlayXattrs: a layer must not tell overlayfs where to look.
func TestReaderDropsOverlayXattrs(t *testing.T) {
	h := dirHdr("d")
	h.PAXRecords = map[string]string{
		"SCHILY.xattr.trusted.overlay.redirect": "/etc", "SCHILY.xattr.user.overlay.opaque": "y",
		"LIBARCHIVE.xattr.trusted.overlay.metacopy": "", "LIBARCHIVE.xattr.user.caf%C3%A9": "eA==", "SCHILY.xattr.user.z": "z",
	}
	e, err := NewReader(bytes.NewReader(makeTar(t, h))).Next()
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]Xattr{{"user.caf\u00e9", "x"}, {"user.z", "z"}}, e.Xattrs); diff != "" {
		t.Error(diff)
	}
}

// TestReaderCutShort cuts a tar everywhere: it ends with an error or, between
// entries, as a shorter tar.
func TestReaderCutShort(t *testing.T) {
	b := makeTar(t, dirHdr("d"), hdr("d/"+strings.Repeat("x", 200)), hdr("e"))
	rnd := rand.New(rand.NewPCG(3, 4))
	for range 300 {
		n := rnd.IntN(len(b))
		if _, err := readTree(b[:n]); err != nil && !errdefs.IsDataLoss(err) {
			t.Errorf("cut at %d: %v", n, err)
		}
	}
}
