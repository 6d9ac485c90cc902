package content_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"testing/iotest"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"

	"strake/internal/conformance"
	"strake/internal/content"
)

// childEnv names the store in which a child process of the test works.
const childEnv = "CONTENT_TEST_CHILD"

func TestMain(m *testing.M) {
	if root := os.Getenv(childEnv); root != "" {
		if err := child(context.Background(), root); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// childBlob is the blob number i that all child processes write.
func childBlob(i int) []byte { return bytes.Repeat([]byte{byte(i), 7, 3}, 100_000) }

const childBlobs = 20

// child writes all blobs, resuming what a dead process left.
func child(ctx context.Context, root string) error {
	d, err := content.NewDir(root)
	if err != nil {
		return err
	}
	for i := range childBlobs {
		if err := resume(ctx, d, childBlob(i)); err != nil {
			return err
		}
	}
	return nil
}

// resume writes b in small pieces from where an earlier writer stopped.
func resume(ctx context.Context, d *content.Dir, b []byte) (err error) {
	dgst := digest.FromBytes(b)
	opts := content.WriterOptions{Expected: dgst, Size: int64(len(b))}
	w, err := d.Writer(ctx, string(dgst), opts)
	for errdefs.IsUnavailable(err) {
		time.Sleep(time.Millisecond)
		w, err = d.Writer(ctx, string(dgst), opts)
	}
	if errdefs.IsAlreadyExists(err) {
		return nil
	}
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, w.Close()) }()
	for w.Offset() < int64(len(b)) {
		rest := b[w.Offset():]
		if _, err := w.Write(rest[:min(len(rest), 4096)]); err != nil {
			return err
		}
	}
	return w.Commit(ctx, int64(len(b)), dgst)
}

func startChild(t *testing.T, root string) *exec.Cmd {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), self)
	cmd.Env = append(os.Environ(), childEnv+"="+root)
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return cmd
}

func newDir(t testing.TB) *content.Dir {
	t.Helper()
	d, err := content.NewDir(filepath.Join(t.TempDir(), "store"))
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func TestDir(t *testing.T) {
	conformance.Content(t, func(t *testing.T) content.Store { return newDir(t) })
}

func TestMem(t *testing.T) {
	conformance.Content(t, func(*testing.T) content.Store { return &content.Mem{} })
}

// TestProcesses lets many processes write the same blobs, some of them killed.
func TestProcesses(t *testing.T) {
	root := t.TempDir()
	for i := range 8 {
		cmd := startChild(t, root)
		time.Sleep(time.Duration(5+5*i) * time.Millisecond)
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		_ = cmd.Wait()
	}
	var cmds []*exec.Cmd
	for range 8 {
		cmds = append(cmds, startChild(t, root))
	}
	for _, cmd := range cmds {
		if err := cmd.Wait(); err != nil {
			t.Error(err)
		}
	}
	d, err := content.NewDir(root)
	if err != nil {
		t.Fatal(err)
	}
	for i := range childBlobs {
		b := childBlob(i)
		got, err := content.ReadAll(t.Context(), d, digest.FromBytes(b), int64(len(b)))
		if err != nil || !bytes.Equal(got, b) {
			t.Errorf("blob %d: %v", i, err)
		}
	}
	left, err := os.ReadDir(filepath.Join(root, "ingest"))
	if err != nil || len(left) != 0 {
		t.Errorf("left: %v, %v", left, err)
	}
}

func TestDirModes(t *testing.T) {
	d := newDir(t)
	b := []byte("secret")
	if err := content.WriteBlob(t.Context(), d, digest.FromBytes(b), 6, bytes.NewReader(b)); err != nil {
		t.Fatal(err)
	}
	path := d.Path(digest.FromBytes(b))
	if fi, err := os.Stat(path); err != nil || fi.Mode() != 0o600 {
		t.Errorf("%v, %v", fi.Mode(), err)
	}
	for range 3 {
		path = filepath.Dir(path)
		if fi, err := os.Stat(path); err != nil || fi.Mode() != 0o700|os.ModeDir {
			t.Errorf("%v, %v", fi.Mode(), err)
		}
	}
	if p := d.Path("sha256:../../x"); p != "" {
		t.Errorf("a path of a hostile digest: %s", p)
	}
}

// TestDirLostRef is an ingest whose ref did not reach the disk.
func TestDirLostRef(t *testing.T) {
	root := t.TempDir()
	d, err := content.NewDir(root)
	if err != nil {
		t.Fatal(err)
	}
	w, err := d.Writer(t.Context(), "mine", content.WriterOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(w, "abc"); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	refs, err := filepath.Glob(filepath.Join(root, "ingest", "*.ref"))
	if err != nil || len(refs) != 1 {
		t.Fatalf("%v, %v", refs, err)
	}
	if err := os.Truncate(refs[0], 0); err != nil {
		t.Fatal(err)
	}
	infos, err := d.Ingests(t.Context())
	if err != nil || len(infos) != 1 || infos[0].Offset != 3 {
		t.Fatalf("%+v, %v", infos, err)
	}
	if err := d.Abort(t.Context(), infos[0].Ref); err != nil {
		t.Error(err)
	}
	if err := d.Abort(t.Context(), "../../../../../../../../../../../../../../../../../../../../../../"); !errdefs.IsNotFound(err) {
		t.Error(err)
	}
}

// TestDirForgets is a process that died between the rename and the end of Commit.
func TestDirForgets(t *testing.T) {
	root := t.TempDir()
	d, err := content.NewDir(root)
	if err != nil {
		t.Fatal(err)
	}
	dgst := digest.FromString("x")
	w, err := d.Writer(t.Context(), string(dgst), content.WriterOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(d.Path(dgst), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, held := range []int{2, 0} {
		if _, err := d.Writer(t.Context(), string(dgst), content.WriterOptions{Expected: dgst}); !errdefs.IsAlreadyExists(err) {
			t.Error(err)
		}
		left, err := os.ReadDir(filepath.Join(root, "ingest"))
		if err != nil || len(left) != held {
			t.Errorf("left: %v, %v", left, err)
		}
		if err := w.Close(); err != nil {
			t.Error(err)
		}
	}
}

// TestDirRepairs replaces a blob that lost bytes.
func TestDirRepairs(t *testing.T) {
	d := newDir(t)
	b := []byte("whole blob")
	dgst := digest.FromBytes(b)
	for range 2 {
		w, err := d.Writer(t.Context(), "x", content.WriterOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(b); err != nil {
			t.Fatal(err)
		}
		if err := w.Commit(t.Context(), 0, dgst); err != nil {
			t.Fatal(err)
		}
		if _, err := content.ReadAll(t.Context(), d, dgst, 100); err != nil {
			t.Error(err)
		}
		if err := os.Truncate(d.Path(dgst), 4); err != nil {
			t.Fatal(err)
		}
		if _, err := content.ReadAll(t.Context(), d, dgst, 100); !errdefs.IsFailedPrecondition(err) {
			t.Errorf("damage not seen: %v", err)
		}
	}
}

// TestDirFifo is a layout from elsewhere with a fifo for a blob.
func TestDirFifo(t *testing.T) {
	d := newDir(t)
	dgst := digest.FromString("fifo")
	if err := syscall.Mkfifo(d.Path(dgst), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := d.Open(t.Context(), dgst); !errdefs.IsNotFound(err) {
		t.Errorf("Open: %v", err)
	}
	if _, err := d.Stat(t.Context(), dgst); !errdefs.IsNotFound(err) {
		t.Errorf("Stat: %v", err)
	}
}

func TestReader(t *testing.T) {
	b := bytes.Repeat([]byte("0123456789"), 1000)
	dgst, size := digest.FromBytes(b), int64(len(b))
	for _, c := range []struct {
		name string
		src  []byte
		dgst digest.Digest
		size int64
		is   func(error) bool
	}{
		{"good", b, dgst, size, nil},
		{"size not known", b, dgst, -1, nil},
		{"empty", nil, digest.FromString(""), 0, nil},
		{"empty, size not known", nil, digest.FromString(""), -1, nil},
		{"sha512", b, digest.SHA512.FromBytes(b), size, nil},
		{"different", append([]byte("X"), b[1:]...), dgst, size, errdefs.IsFailedPrecondition},
		{"different, size not known", append([]byte("X"), b[1:]...), dgst, -1, errdefs.IsFailedPrecondition},
		{"short", b[1:], dgst, size, errdefs.IsFailedPrecondition},
		{"long", append(b[:size:size], 'x'), dgst, size, errdefs.IsFailedPrecondition},
		{"empty with another digest", nil, dgst, 0, errdefs.IsFailedPrecondition},
		{"no digest", b, "sha256:../x", size, errdefs.IsInvalidArgument},
	} {
		for name, wrap := range map[string]func(io.Reader) io.Reader{
			"plain": func(r io.Reader) io.Reader { return r }, "data with EOF": iotest.DataErrReader, "half": iotest.HalfReader,
		} {
			got, err := io.ReadAll(content.NewReader(wrap(bytes.NewReader(c.src)), c.dgst, c.size))
			switch {
			case c.is == nil && (err != nil || !bytes.Equal(got, c.src)):
				t.Errorf("%s, %s: %d bytes, %v", c.name, name, len(got), err)
			case c.is != nil && !c.is(err):
				t.Errorf("%s, %s: %v", c.name, name, err)
			}
		}
	}
	// A caller that asks for exactly the size never sees EOF, and is still safe.
	bad := append(b[:size-1:size-1], 'X')
	if _, err := io.ReadFull(content.NewReader(bytes.NewReader(bad), dgst, size), make([]byte, size)); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("ReadFull: %v", err)
	}
	if err := iotest.TestReader(content.NewReader(bytes.NewReader(b), dgst, size), b); err != nil {
		t.Error(err)
	}
	broken := content.NewReader(iotest.ErrReader(os.ErrDeadlineExceeded), dgst, size)
	if _, err := io.ReadAll(broken); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Error(err)
	}
}

func BenchmarkDir(b *testing.B) {
	for _, size := range []int{1 << 10, 1 << 20, 64 << 20} {
		b.Run(fmt.Sprint(size), func(b *testing.B) {
			d := newDir(b)
			data := make([]byte, size)
			_, _ = rand.Read(data)
			b.SetBytes(int64(size))
			for b.Loop() {
				data[0]++
				data[1]++
				dgst := digest.FromBytes(data)
				if err := content.WriteBlob(b.Context(), d, dgst, int64(size), bytes.NewReader(data)); err != nil {
					b.Fatal(err)
				}
				b.StopTimer()
				if err := d.Delete(b.Context(), dgst); err != nil && !errdefs.IsNotFound(err) {
					b.Fatal(err)
				}
				b.StartTimer()
			}
		})
	}
}
