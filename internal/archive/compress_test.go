package archive

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"os/exec"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
)

func sample(n int) []byte {
	rnd := rand.New(rand.NewPCG(1, 2))
	b := make([]byte, n)
	for i := range b {
		b[i] = "abcdefgh"[rnd.IntN(8)]
	}
	return b
}

func compress(t testing.TB, c Compression, b []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	w, err := Compress(&out, c, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(b); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// byTool compresses by a tool of the system.
func byTool(t testing.TB, tool string, b []byte) []byte {
	t.Helper()
	if _, err := exec.LookPath(tool); err != nil {
		t.Skipf("needs %s", tool)
	}
	cmd := exec.Command(tool, "-c")
	cmd.Stdin = bytes.NewReader(b)
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func decompress(b []byte) ([]byte, Compression, error) {
	r, c, err := Decompress(bytes.NewReader(b))
	if err != nil {
		return nil, c, err
	}
	out, err := io.ReadAll(r)
	return out, c, errors.Join(err, r.Close())
}

func TestDecompress(t *testing.T) {
	plain := sample(3<<20 + 17)
	for _, c := range []struct {
		name Compression
		data []byte
	}{
		{None, plain},
		{Gzip, compress(t, Gzip, plain)},
		{Zstd, compress(t, Zstd, plain)},
		{Gzip, byTool(t, "gzip", plain)},
		{Bzip2, byTool(t, "bzip2", plain)},
		{XZ, byTool(t, "xz", plain)},
	} {
		got, kind, err := decompress(c.data)
		if err != nil || kind != c.name || !bytes.Equal(got, plain) {
			t.Errorf("%s: %d bytes as %s, %v", c.name, len(got), kind, err)
		}
		if c.name == None {
			continue
		}
		for _, cut := range []int{len(c.data) - 1, len(c.data) - 9, len(c.data) / 2, 12} {
			if got, _, err := decompress(c.data[:cut]); err == nil || !errdefs.IsDataLoss(err) {
				t.Errorf("%s cut at %d of %d: %d bytes, %v", c.name, cut, len(c.data), len(got), err)
			}
		}
		if _, _, err := decompress(append(bytes.Clone(c.data), "garbage after it"...)); !errdefs.IsDataLoss(err) {
			t.Errorf("%s with garbage after it: %v", c.name, err)
		}
		broken := bytes.Clone(c.data)
		broken[len(broken)/2] ^= 0x55
		if got, _, err := decompress(broken); err == nil && bytes.Equal(got, plain) {
			t.Errorf("%s with a wrong byte: no error", c.name)
		}
	}
}

func TestDecompressMembers(t *testing.T) {
	one, two := compress(t, Gzip, []byte("one ")), compress(t, Gzip, []byte("two"))
	got, _, err := decompress(append(bytes.Clone(one), two...))
	if err != nil || string(got) != "one two" {
		t.Errorf("%q, %v", got, err)
	}
	got, _, err = decompress(append(bytes.Clone(one), make([]byte, 1000)...))
	if err != nil || string(got) != "one " {
		t.Errorf("padding: %q, %v", got, err)
	}
	if _, _, err := decompress(nil); err != nil {
		t.Error(err)
	}
}

func TestCompressIsReproducible(t *testing.T) {
	plain := sample(5 << 20)
	for _, c := range []Compression{Gzip, Zstd} {
		first := compress(t, c, plain)
		before := runtime.GOMAXPROCS(1)
		second := compress(t, c, plain)
		runtime.GOMAXPROCS(before)
		if !bytes.Equal(first, second) {
			t.Errorf("%s depends on the number of processors", c)
		}
	}
	if _, err := Compress(io.Discard, XZ, 0); !errdefs.IsNotImplemented(err) {
		t.Error(err)
	}
}

// TestDecompressClose closes in the middle of streams, which must not hang.
func TestDecompressClose(t *testing.T) {
	for _, data := range [][]byte{compress(t, Gzip, sample(8<<20)), byTool(t, "xz", sample(8<<20)), compress(t, Zstd, sample(8<<20))} {
		for _, n := range []int64{0, 10, 1 << 20} {
			r, _, err := Decompress(bytes.NewReader(data))
			if err != nil {
				t.Fatal(err)
			}
			if _, err := io.CopyN(io.Discard, r, n); err != nil {
				t.Fatal(err)
			}
			done := make(chan error, 1)
			go func() { done <- errors.Join(r.Close(), r.Close()) }()
			select {
			case err := <-done:
				if err != nil {
					t.Error(err)
				}
			case <-time.After(20 * time.Second):
				t.Fatal("Close hangs")
			}
		}
	}
}

func TestDecompressReadError(t *testing.T) {
	data := compress(t, Gzip, sample(1<<20))
	want := errors.New("the network")
	r, _, err := Decompress(io.MultiReader(bytes.NewReader(data[:len(data)/2]), &failing{want}))
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if _, err := io.ReadAll(r); !errors.Is(err, want) {
		t.Error(err)
	}
}

type failing struct{ err error }

func (f *failing) Read([]byte) (int, error) { return 0, f.err }

func BenchmarkDecompress(b *testing.B) {
	plain := []byte(strings.Repeat(string(sample(1<<20)), 32))
	for _, c := range []Compression{Gzip, Zstd} {
		data := compress(b, c, plain)
		b.Run(string(c), func(b *testing.B) {
			b.SetBytes(int64(len(plain)))
			for b.Loop() {
				r, _, err := Decompress(bytes.NewReader(data))
				if err != nil {
					b.Fatal(err)
				}
				if _, err := io.Copy(io.Discard, r); err != nil {
					b.Fatal(err)
				}
				if err := r.Close(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
