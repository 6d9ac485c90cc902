package archive

import (
	"archive/tar"
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"github.com/containerd/errdefs"
)

// Extract for a user's directory takes nothing away that is not replaced by its
// like.
func TestExtractMerge(t *testing.T) {
	for name, c := range map[string]struct {
		tar  []tar.Header
		fine bool
	}{
		"files and directories": {[]tar.Header{dirHdr("dir"), hdr("dir/new"), hdr("file"), linkHdr(tar.TypeLink, "same", "file")}, true},
		"link over a file":      {[]tar.Header{hdr("x"), linkHdr(tar.TypeLink, "file", "x")}, true},
		"link over a directory": {[]tar.Header{hdr("x"), linkHdr(tar.TypeLink, "dir", "x")}, false},
		"file over a directory": {[]tar.Header{hdr("dir")}, false},
		"directory over a file": {[]tar.Header{dirHdr("file")}, false},
		"below a file":          {[]tar.Header{hdr("file/x")}, false},
		"below a symlink":       {[]tar.Header{hdr("link/x")}, false},
		"whiteout":              {[]tar.Header{hdr(".wh.file")}, false},
		"opaque":                {[]tar.Header{hdr("dir/.wh..wh..opq")}, false},
		"opaque root":           {[]tar.Header{hdr(".wh..wh..opq")}, false},
		"character device 0:0":  {[]tar.Header{{Typeflag: tar.TypeChar, Name: "file"}}, false},
	} {
		dir, outside := t.TempDir(), t.TempDir()
		for _, err := range []error{
			os.Mkdir(filepath.Join(dir, "dir"), 0o700), os.WriteFile(filepath.Join(dir, "dir", "kept"), nil, 0o600),
			os.WriteFile(filepath.Join(dir, "file"), []byte("old"), 0o600), os.Symlink(outside, filepath.Join(dir, "link")),
		} {
			if err != nil {
				t.Fatal(err)
			}
		}
		err := Extract(t.Context(), bytes.NewReader(makeTar(t, c.tar...)), dir, ExtractOptions{Squash: true, Merge: true})
		if (err == nil) != c.fine || err != nil && !errdefs.IsFailedPrecondition(err) {
			t.Errorf("%s: %v", name, err)
		}
		info, statErr := os.Stat(filepath.Join(dir, "dir"))
		if _, err := os.Stat(filepath.Join(dir, "dir", "kept")); err != nil || statErr != nil || info.Mode().Perm() != 0o700 {
			t.Errorf("%s: the directory is %v (%v), what was in it: %v", name, info, statErr, err)
		}
		if _, err := os.Lstat(filepath.Join(dir, "file")); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if entries, err := os.ReadDir(outside); err != nil || len(entries) > 0 {
			t.Errorf("%s: outside is %v, %v", name, entries, err)
		}
	}
}
