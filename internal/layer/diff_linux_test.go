package layer

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"strake/internal/archive"
)

// TestDiff changes a tree through overlayfs and holds lower layer plus Diff equal
// to what the overlay showed.
func TestDiff(t *testing.T) {
	needRoot(t)
	base := writeTar(t,
		dirEntryOf("d", 0o750, 42), file("d/one"), file("d/two"), dirEntryOf("d/sub", 0o711, 43), file("d/sub/x"),
		dirEntryOf("gone", 0o700, 0), file("gone/x"), file("top"), file("kept"))
	files, _ := indexTar(t, base)
	diff := filepath.Join(t.TempDir(), "diff.tar")
	var overlay tree
	inNamespace(t, func() {
		upper, work, mnt := t.TempDir(), t.TempDir(), t.TempDir()
		setRoot(t, upper)
		opts := "lowerdir=" + mountLayer(t, files) + ",upperdir=" + upper + ",workdir=" + work
		if err := unix.Mount("overlay", mnt, "overlay", 0, opts); err != nil {
			t.Error(err)
			return
		}
		change(t, mnt)
		setRoot(t, mnt)
		overlay = dropLinks(walkDisk(t, mnt))
		if err := unix.Unmount(mnt, 0); err != nil {
			t.Error(err)
		}
		var b, again bytes.Buffer
		for _, out := range []*bytes.Buffer{&b, &again} {
			w := archive.NewWriter(out, archive.WriterOptions{})
			err := Diff(t.Context(), upper, w, DiffOptions{Skip: func(name string) bool { return name == "skipped" }})
			if err = errors.Join(err, w.Close()); err != nil {
				t.Error(err)
			}
		}
		if !bytes.Equal(b.Bytes(), again.Bytes()) {
			t.Error("a second diff differs")
		}
		if err := os.WriteFile(diff, b.Bytes(), 0o600); err != nil {
			t.Error(err)
		}
	})
	linked := overlay["kept-too"] // overlayfs gives its two names two numbers
	linked.Same = "kept"
	overlay["kept-too"] = linked
	delete(overlay, "skipped")
	delete(overlay, "skipped/x")
	delete(overlay, "socket")
	shown := union(t, []string{base, diff})
	same(t, "lower and diff", overlay, shown)
}

// change does to a tree what a RUN step may do.
func change(t testing.TB, root string) {
	at := func(name string) string { return filepath.Join(root, name) }
	socket, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM, 0)
	errs := []error{
		err,
		unix.Bind(socket, &unix.SockaddrUnix{Name: at("socket")}),
		unix.Close(socket),
		os.Remove(at("d/one")),
		os.WriteFile(at("d/two"), []byte("changed"), 0o600),
		os.Chmod(at("d/sub"), 0o700),
		os.RemoveAll(at("gone")),
		os.Mkdir(at("gone"), 0o755),
		os.WriteFile(at("gone/new"), []byte("new"), 0o644),
		os.Link(at("gone/new"), at("hard")),
		os.Link(at("kept"), at("kept-too")),
		os.Remove(at("top")),
		os.Mkdir(at("top"), 0o755),
		os.MkdirAll(at("skipped/x"), 0o755),
		os.Mkdir(at("empty"), 0o1777),
		os.Symlink("../x", at("sym")),
		unix.Mknod(at("fifo"), unix.S_IFIFO|0o600, 0),
		unix.Mknod(at("null"), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))),
		unix.Setxattr(at("gone/new"), "user.x", []byte("value"), 0),
		unix.Setxattr(at("gone/new"), "security.capability", []byte("\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"), 0),
		os.WriteFile(at("long-"+strings.Repeat("n", 240)), nil, 0o644),
	}
	if err := errors.Join(errs...); err != nil {
		t.Error(err)
	}
}
