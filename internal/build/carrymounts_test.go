package build

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
)

// mountCache has one cache mount, with a fault at its end.
type mountCache struct {
	RemoteCache
	tar  []byte
	last error
}

func (c mountCache) OpenMount(context.Context, digest.Digest) (io.ReadCloser, error) {
	if c.tar == nil {
		return nil, errdefs.ErrNotFound
	}
	return faulty{bytes.NewReader(c.tar), c.last}, nil
}

type faulty struct {
	io.Reader
	last error
}

func (f faulty) Close() error { return f.last }

// TestHostileCacheMount: what comes as a cache mount stays in its directory, and one that is broken leaves nothing there.
func TestHostileCacheMount(t *testing.T) {
	pack := func(entries ...tar.Header) []byte {
		var b bytes.Buffer
		tw := tar.NewWriter(&b)
		for _, h := range entries {
			if err := tw.WriteHeader(&h); err != nil {
				t.Fatal(err)
			}
			if _, err := tw.Write(make([]byte, h.Size)); err != nil {
				t.Fatal(err)
			}
		}
		if err := tw.Close(); err != nil {
			t.Fatal(err)
		}
		return b.Bytes()
	}
	good := pack(tar.Header{Name: "file", Typeflag: tar.TypeReg, Size: 3, Mode: 0o600})
	for name, test := range map[string]struct {
		caches []RemoteCache
		found  bool
	}{
		"none":     {[]RemoteCache{mountCache{}}, false},
		"good":     {[]RemoteCache{mountCache{}, mountCache{tar: good}}, true},
		"other":    {[]RemoteCache{mountCache{tar: good, last: errors.New("other bytes")}}, false},
		"cut":      {[]RemoteCache{mountCache{tar: good[:700]}}, false},
		"then one": {[]RemoteCache{mountCache{tar: pack(tar.Header{Name: "../../out", Typeflag: tar.TypeReg, Mode: 0o600})}, mountCache{tar: good}}, true},
		"link":     {[]RemoteCache{mountCache{tar: pack(tar.Header{Name: "l", Typeflag: tar.TypeSymlink, Linkname: "../.."}, tar.Header{Name: "l/out", Typeflag: tar.TypeReg, Mode: 0o600})}}, true},
		"root":     {[]RemoteCache{mountCache{tar: pack(tar.Header{Name: "./", Typeflag: tar.TypeSymlink, Linkname: "/"})}}, false},
	} {
		t.Run(name, func(t *testing.T) {
			outer := t.TempDir()
			dir := filepath.Join(outer, "a", "data")
			if err := os.MkdirAll(dir, 0o700); err != nil {
				t.Fatal(err)
			}
			m := &mounting{solver: NewSolver(Options{Exchange: &Exchange{Remote: test.caches}}), work: &Work{}}
			found, err := m.fetchMount(t.Context(), "key", dir)
			if err != nil || found != test.found {
				t.Errorf("found %v, %v", found, err)
			}
			entries, err := os.ReadDir(dir)
			if err != nil || !test.found && len(entries) > 0 {
				t.Errorf("left: %v, %v", entries, err)
			}
			for _, escaped := range []string{filepath.Join(outer, "out"), filepath.Join(outer, "a", "out")} {
				if _, err := os.Lstat(escaped); err == nil {
					t.Errorf("%s was made", escaped)
				}
			}
		})
	}
}
