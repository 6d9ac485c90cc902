package store

import (
	"archive/tar"
	"bytes"
	"io"
	"os"
	"slices"
	"sync"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"strake/internal/archive"
	"strake/internal/image"
)

// oneFile writes a layer with one file.
func oneFile(t *testing.T, s *Store, text string) digest.Digest {
	t.Helper()
	files, err := s.WriteLayer(t.Context(), func(w io.Writer) error {
		tw := tar.NewWriter(w)
		if err := tw.WriteHeader(&tar.Header{Name: "file", Mode: 0o644, Size: int64(len(text)), Typeflag: tar.TypeReg}); err != nil {
			return err
		}
		if _, err := tw.Write([]byte(text)); err != nil {
			return err
		}
		return tw.Close()
	})
	if err != nil {
		t.Fatal(err)
	}
	return files.DiffID
}

// TestMakeEstargz: an eStargz is made once, by one of many, and again where it is gone; what it was made of comes out of it.
func TestMakeEstargz(t *testing.T) {
	root := t.TempDir()
	s := open(t, root)
	id := oneFile(t, s, "text")
	made := make([]Estargz, 4)
	var wg sync.WaitGroup
	for i := range made {
		wg.Go(func() {
			var err error
			if made[i], err = MakeEstargz(t.Context(), open(t, root), id, 0); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	first := made[0]
	if slices.ContainsFunc(made, func(e Estargz) bool { return e.Blob.Digest != first.Blob.Digest || e.DiffID != first.DiffID }) || first.DiffID == id {
		t.Errorf("made %+v", made)
	}
	if own, err := MakeEstargz(t.Context(), s, first.DiffID, 0); err != nil || own.Blob.Digest != first.Blob.Digest ||
		own.Blob.Annotations[archive.EstargzTOCAnnotation] != first.Blob.Annotations[archive.EstargzTOCAnnotation] {
		t.Errorf("of itself %+v, %v; want %+v", own, err, first)
	}
	if err := os.Remove(s.blobs.Path(first.Blob.Digest)); err != nil {
		t.Fatal(err)
	}
	if again, err := MakeEstargz(t.Context(), s, id, 0); err != nil || again.Blob.Digest != first.Blob.Digest {
		t.Errorf("made again %+v, %v", again, err)
	}
	second := open(t, t.TempDir())
	if err := image.CopyGraph(t.Context(), s, second, first.Blob, image.CopyOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := OpenEstargz(t.Context(), second, first.Blob.Digest, first.DiffID); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("opened as another layer: %v", err)
	}
	if err := OpenEstargz(t.Context(), second, first.Blob.Digest, id); err != nil {
		t.Fatal(err)
	}
	if _, err := second.Layer(t.Context(), id); err != nil {
		t.Error(err)
	}
	gzip, err := s.Compress(t.Context(), oneFile(t, s, "other"), CompressOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if err := OpenEstargz(t.Context(), s, gzip.Digest, id); !errdefs.IsNotFound(err) {
		t.Errorf("opened what is none: %v", err)
	}
	if err := os.Remove(s.blobs.Path(id)); err != nil { // a third is found, not made
		t.Fatal(err)
	}
	if found, err := MakeEstargz(t.Context(), s, id, 0); err != nil || found.Blob.Digest != first.Blob.Digest {
		t.Errorf("found %+v, %v", found, err)
	}
}

// TestEstargzLevels: each level gives another blob, annotated with the digest of its table.
func TestEstargzLevels(t *testing.T) {
	s := open(t, t.TempDir())
	twice := oneFile(t, s, "text")
	first, err := MakeEstargz(t.Context(), s, twice, 1)
	if err != nil {
		t.Fatal(err)
	}
	other, err := MakeEstargz(t.Context(), s, twice, 9)
	if err != nil {
		t.Fatal(err)
	}
	if first.Blob.MediaType != ocispec.MediaTypeImageLayerGzip || first.Blob.Digest == other.Blob.Digest {
		t.Errorf("levels 1 and 9 gave %s and %s", first.Blob.Digest, other.Blob.Digest)
	}
	b, err := image.ReadAll(t.Context(), s, first.Blob, 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	if _, toc, err := archive.EstargzTOC(bytes.NewReader(b), int64(len(b))); err != nil || toc.String() != first.Blob.Annotations[archive.EstargzTOCAnnotation] {
		t.Errorf("table %s, %v; annotations %v", toc, err, first.Blob.Annotations)
	}
}
