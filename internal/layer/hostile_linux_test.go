package layer

import (
	"archive/tar"
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
)

// TestCVE_2026_28406_DotDot has names in a layer that lead out of it, as files,
// directories and the targets of hard links: it gets no index, so nothing copies
// from it.
func TestCVE_2026_28406_DotDot(t *testing.T) {
	for _, h := range []tar.Header{
		{Name: "../evil", Typeflag: tar.TypeReg},
		{Name: "a/../../evil", Typeflag: tar.TypeReg},
		{Name: "..", Typeflag: tar.TypeDir},
		{Name: "./../evil/", Typeflag: tar.TypeDir},
		{Name: "hard", Linkname: "../evil", Typeflag: tar.TypeLink},
		{Name: "hard", Linkname: "f/../../evil", Typeflag: tar.TypeLink},
	} {
		var b bytes.Buffer
		w := tar.NewWriter(&b)
		for _, h := range []tar.Header{{Name: "f", Typeflag: tar.TypeReg, Mode: 0o644}, h} {
			if err := w.WriteHeader(&h); err != nil {
				t.Fatal(err)
			}
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		dir := t.TempDir()
		index, err := os.Create(filepath.Join(dir, "index"))
		if err != nil {
			t.Fatal(err)
		}
		_, err = WriteIndex(t.Context(), &b, index, nil)
		if err == nil || !errdefs.IsInvalidArgument(err) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s -> %s: %v", h.Name, h.Linkname, err)
		}
		if err := index.Close(); err != nil {
			t.Error(err)
		}
	}
}
