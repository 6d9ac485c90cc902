package archive

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// FuzzReader holds Reader and the standard library's reader to the same answers
// on tars that both take, and what is indexed within the tar.
func FuzzReader(f *testing.F) {
	f.Add(makeTar(f, dirHdr("d/"), hdr("d/"+strings.Repeat("x", 300)), linkHdr(tar.TypeSymlink, "s", "d"), linkHdr(tar.TypeLink, "h", "d/"+strings.Repeat("x", 300)),
		tar.Header{Name: "n", Typeflag: tar.TypeChar, Devmajor: 1, Devminor: 3}, tar.Header{Name: "x", Mode: 0o4755, Uid: 1 << 22, PAXRecords: map[string]string{"SCHILY.xattr.user.a": "b", "mtime": "-1.5"}}))
	f.Add(makeTar(f, tar.Header{Name: strings.Repeat("long/", 50), Typeflag: tar.TypeDir, Format: tar.FormatGNU, Uid: 1 << 30}))
	files, err := filepath.Glob("../layer/testdata/*.tar")
	if err != nil || len(files) < 4 {
		f.Fatal(files, err)
	}
	for _, name := range files {
		b, err := os.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		b = bytes.Clone(b)
		fixChecksums(b)
		own, other := NewReader(bytes.NewReader(b)), tar.NewReader(bytes.NewReader(b))
		tree := NewTree()
		for {
			e, err := own.Next()
			h, otherErr := nextEntry(other)
			if err != nil || otherErr != nil {
				return
			}
			compare(t, e, h)
			if e.Data%blockSize != 0 || e.Data > int64(len(b)) {
				t.Fatalf("%q: data at %d of %d", e.Name, e.Data, len(b))
			}
			got, err := io.ReadAll(io.LimitReader(own, 1<<16))
			want, otherErr := io.ReadAll(io.LimitReader(other, 1<<16))
			if (err == nil) != (otherErr == nil) || !bytes.Equal(got, want) {
				t.Fatalf("%q: %d bytes, %v, want %d, %v", e.Name, len(got), err, len(want), otherErr)
			}
			if err != nil {
				return
			}
			if _, err := tree.Add(e); err != nil {
				return
			}
		}
	})
}

// nextEntry passes over what stands for nothing, as Reader does.
func nextEntry(r *tar.Reader) (*tar.Header, error) {
	for {
		h, err := r.Next()
		if errors.Is(err, tar.ErrInsecurePath) {
			err = nil
		}
		if err != nil || h.Typeflag != tar.TypeXGlobalHeader && h.Typeflag != typeVolume {
			return h, err
		}
	}
}

func compare(t *testing.T, e *Entry, h *tar.Header) {
	t.Helper()
	name, err := cleanName(h.Name)
	if err != nil {
		t.Fatalf("%q is taken as %q", h.Name, e.Name)
	}
	kinds := map[byte]uint32{
		tar.TypeReg: TypeRegular, tar.TypeCont: TypeRegular, tar.TypeGNUSparse: TypeRegular, tar.TypeDir: TypeDir,
		tar.TypeSymlink: TypeSymlink, tar.TypeChar: TypeChar, tar.TypeBlock: TypeBlock, tar.TypeFifo: TypeFifo,
	}
	kind := kinds[h.Typeflag]
	if e.HardLink != (h.Typeflag == tar.TypeLink) || !e.HardLink && e.Mode&TypeMask != kind {
		t.Fatalf("%q: type %q is taken as %o", h.Name, h.Typeflag, e.Mode)
	}
	regular := kind == TypeRegular
	if e.Name != name || regular && e.Size != h.Size || kind == TypeSymlink && e.Linkname != h.Linkname ||
		int(e.UID) != h.Uid || int(e.GID) != h.Gid || !e.ModTime.Equal(h.ModTime) ||
		!e.HardLink && kind != TypeSymlink && e.Mode&0o7777 != uint32(h.Mode)&0o7777 ||
		(kind == TypeChar || kind == TypeBlock) && (int64(e.Major) != h.Devmajor || int64(e.Minor) != h.Devminor) {
		t.Fatalf("got %+v, want %+v", e, h)
	}
}

// fixChecksums gives every block that looks like a header its checksum, so that
// what was changed in it is read.
func fixChecksums(b []byte) {
	for ; len(b) >= 512; b = b[512:] {
		if string(b[257:262]) != "ustar" {
			continue
		}
		copy(b[148:156], "        ")
		sum := 0
		for _, c := range b[:512] {
			sum += int(c)
		}
		copy(b[148:156], fmt.Sprintf("%06o\x00 ", sum))
	}
}
