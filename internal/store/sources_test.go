package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"strake/internal/content"
	"strake/internal/image"
)

// A source that has something else now is no reason to ask it for ever, though a
// part lies here.
func TestResumeIsRefused(t *testing.T) {
	s := open(t, t.TempDir())
	f := newFixture(t, "something else")
	w, err := s.blobs.Writer(t.Context(), f.layer.Digest.String(), content.WriterOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(f.blobs[f.layer.Digest][:10]); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	asked := 0
	err = s.Push(t.Context(), f.layer, func(context.Context, int64) (io.ReadCloser, error) {
		if asked++; asked > 10 {
			return nil, errors.New("it is asked again and again")
		}
		return nil, errdefs.ErrFailedPrecondition
	})
	if !errdefs.IsFailedPrecondition(err) {
		t.Error(err)
	}
}

// two is a source that has a layer from two places, the first of which lies.
type two struct {
	*fixture
	wrong   []byte
	doubted int
}

func (d *two) Fetch(ctx context.Context, desc ocispec.Descriptor, offset int64) (io.ReadCloser, error) {
	if desc.Digest == d.layer.Digest && d.doubted == 0 {
		return io.NopCloser(bytes.NewReader(d.wrong[offset:])), nil
	}
	return d.fixture.Fetch(ctx, desc, offset)
}

func (d *two) Doubt(ocispec.Descriptor) (string, bool) {
	d.doubted++
	return "liar.example/a", d.doubted == 1
}

// However the bytes of one place are wrong, those of the next are asked for.
func TestWrongBytesOfOnePlace(t *testing.T) {
	f := newFixture(t, "right")
	right := f.blobs[f.layer.Digest]
	damage := map[string][]byte{
		"no gzip": []byte("<html>" + strings.Repeat("x", len(right)-6)), "short": right[:len(right)-1], "long": append(bytes.Clone(right), 0),
		"another layer": newFixture(t, "wrong").blobs[newFixture(t, "wrong").layer.Digest],
	}
	for i := 0; i < len(right); i += 9 {
		damage[fmt.Sprintf("byte %d", i)] = append(append(bytes.Clone(right[:i]), right[i]^1), right[i+1:]...)
	}
	s := open(t, t.TempDir())
	for name, wrong := range damage {
		src := &two{fixture: f, wrong: wrong}
		if err := image.CopyGraph(t.Context(), src, s, f.root, image.CopyOptions{}); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if src.doubted != 1 {
			t.Errorf("%s: doubted %d times", name, src.doubted)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		s = open(t, t.TempDir())
	}
}
