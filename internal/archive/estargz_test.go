package archive

import (
	"archive/tar"
	"bytes"
	"io"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/containerd/stargz-snapshotter/estargz"
)

// files is a tar with a file of more than one chunk, one that is empty, a link and an end with padding.
func files(t *testing.T) []byte {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, f := range []struct {
		header tar.Header
		data   []byte
	}{
		{tar.Header{Name: "d/", Typeflag: tar.TypeDir, Mode: 0o755}, nil},
		{tar.Header{Name: "d/big", Typeflag: tar.TypeReg, Mode: 0o644, PAXRecords: map[string]string{"SCHILY.xattr.user.a": "b"}}, bytes.Repeat([]byte("0123456789abcdef"), 5<<16)},
		{tar.Header{Name: "d/empty", Typeflag: tar.TypeReg, Mode: 0o600}, nil},
		{tar.Header{Name: "d/link", Typeflag: tar.TypeSymlink, Linkname: "big"}, nil},
		{tar.Header{Name: "d/hard", Typeflag: tar.TypeLink, Linkname: "d/big"}, nil},
		{tar.Header{Name: "d/.wh.gone", Typeflag: tar.TypeReg}, nil},
	} {
		f.header.Size = int64(len(f.data))
		if err := w.WriteHeader(&f.header); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(f.data); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return append(b.Bytes(), make([]byte, 4096)...)
}

// TestCompressEstargz reads an eStargz with the library's reader, and without one.
func TestCompressEstargz(t *testing.T) {
	plain := files(t)
	var blob, again bytes.Buffer
	toc, err := CompressEstargz(&blob, bytes.NewReader(plain), 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := CompressEstargz(&again, bytes.NewReader(plain), 0); err != nil || !bytes.Equal(blob.Bytes(), again.Bytes()) {
		t.Errorf("the second time other bytes came out, or %v", err)
	}
	size := int64(blob.Len())
	r, err := estargz.Open(io.NewSectionReader(bytes.NewReader(blob.Bytes()), 0, size))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.VerifyTOC(toc); err != nil {
		t.Error(err)
	}
	entries, err := r.Verifiers()
	if err != nil || entries == nil {
		t.Fatalf("verifiers: %v", err)
	}
	big, err := r.OpenFile("d/big")
	if err != nil {
		t.Fatal(err)
	}
	part := make([]byte, 16)
	if _, err := big.ReadAt(part, 4<<20); err != nil || string(part) != "0123456789abcdef" {
		t.Errorf("of the second chunk: %q, %v", part, err)
	}
	offset, found, err := EstargzTOC(bytes.NewReader(blob.Bytes()), size)
	if err != nil || found != toc {
		t.Errorf("table %s, %v; want %s", found, err, toc)
	}
	inflate := func(b []byte) []byte {
		t.Helper()
		r, _, err := Decompress(bytes.NewReader(b))
		if err != nil {
			t.Fatal(err)
		}
		all, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		return all
	}
	if !bytes.Equal(inflate(blob.Bytes()[:offset]), plain) {
		t.Error("before the table is another tar")
	}
	if whole := inflate(blob.Bytes()); !bytes.HasPrefix(whole, plain) || len(whole) == len(plain) {
		t.Errorf("the whole inflates to %d bytes, the tar has %d", len(whole), len(plain))
	}
}

// TestEstargzTOCHostile: what ends nearly as an eStargz does is none, and breaks nothing.
func TestEstargzTOCHostile(t *testing.T) {
	var blob bytes.Buffer
	if _, err := CompressEstargz(&blob, bytes.NewReader(files(t)), 1); err != nil {
		t.Fatal(err)
	}
	foot := blob.Bytes()[blob.Len()-estargz.FooterSize:]
	with := func(at int, b ...byte) []byte {
		c := bytes.Clone(blob.Bytes())
		copy(c[len(c)-len(foot)+at:], b)
		return c
	}
	for name, b := range map[string][]byte{
		"empty":            nil,
		"short":            foot[:50],
		"the footer alone": foot,
		"no extra field":   with(3, 0),
		"a short one":      with(10, 1, 0),
		"behind the end":   with(16, []byte("7fffffffffffffff")...),
		"before the start": with(16, []byte("-000000000000001")...),
		"not a number":     with(16, []byte("zzzzzzzzzzzzzzzz")...),
		"no table there":   with(16, []byte("0000000000000001")...),
		"a file there":     with(16, []byte("0000000000000000")...),
		"a broken table":   with(-20, 1, 2, 3, 4, 5, 6, 7, 8),
	} {
		if _, _, err := EstargzTOC(bytes.NewReader(b), int64(len(b))); !errdefs.IsNotFound(err) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
