package engine

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"strake/internal/archive"
	"strake/internal/build"
	"strake/internal/image"
)

// A cache has the cache mounts of RUN as layers of its manifest beside those of
// the steps: its list says which is whose.

// cacheMount is a cache mount of a list.
type cacheMount struct {
	Digest digest.Digest `json:"digest"` // of its key
	Blob   digest.Digest `json:"blob"`
}

// mounts reports whether cache mounts are asked for; otherwise holds where nothing
// is said of them.
func (c Cache) mounts(otherwise bool) (bool, error) {
	err := Output{Attrs: c.Attrs}.parseBool("mounts", &otherwise)
	return otherwise, err
}

// addMounts takes over the cache mounts that a list names among the manifest's
// blobs. The list may be hostile.
func (c *importedCache) addMounts(list []cacheMount, blobs map[digest.Digest]ocispec.Descriptor) {
	for _, m := range list {
		if desc, ok := blobs[m.Blob]; ok && c.mounts != nil && IsLayer(desc) && image.CheckDigest(m.Digest) == nil {
			c.mounts[m.Digest] = desc
		}
	}
}

// OpenMount implements build.RemoteCache.
func (c *importedCache) OpenMount(ctx context.Context, key digest.Digest) (io.ReadCloser, error) {
	blob, ok := c.mounts[key]
	if !ok {
		return nil, fmt.Errorf("cache mount %s: %w", key, errdefs.ErrNotFound)
	}
	if err := hasRoom(ctx, c.env, []ocispec.Descriptor{blob}); err != nil {
		return nil, err
	}
	body, err := c.src.Fetch(ctx, blob, 0)
	if err != nil {
		return nil, unfound(err)
	}
	checked := &checkedReader{r: io.LimitReader(body, blob.Size+1), desc: blob, sum: blob.Digest.Verifier()}
	tar, _, err := archive.Decompress(checked)
	if err != nil {
		return nil, errors.Join(err, body.Close())
	}
	return &mountReader{ReadCloser: tar, checked: checked, body: body}, nil
}

// unfound is an error that is not of the kind NotFound: a cache that lacks what
// it lists is broken.
func unfound(err error) error {
	if errdefs.IsNotFound(err) {
		return fmt.Errorf("%v: %w", err, errdefs.ErrDataLoss) //nolint:errorlint // its kind is left out
	}
	return err
}

// mountReader is the tar of a cache mount.
type mountReader struct {
	io.ReadCloser
	checked *checkedReader
	body    io.Closer
}

// Close fails where the blob was not read to its end, or is another.
func (m *mountReader) Close() error {
	err := errors.Join(m.ReadCloser.Close(), m.body.Close())
	if err == nil && !m.checked.right {
		err = fmt.Errorf("blob %s was not verified: %w", m.checked.desc.Digest, errdefs.ErrDataLoss)
	}
	return err
}

// checkedReader reads a blob, and fails at its end where it is another one.
type checkedReader struct {
	r     io.Reader
	desc  ocispec.Descriptor
	sum   digest.Verifier
	size  int64
	right bool // it was read to its end, and is the one
}

func (c *checkedReader) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.size += int64(n)
	if _, werr := c.sum.Write(p[:n]); werr != nil {
		return n, werr
	}
	if !errors.Is(err, io.EOF) {
		return n, err
	}
	if c.right = c.size == c.desc.Size && c.sum.Verified(); !c.right {
		return n, fmt.Errorf("blob %s has other bytes: %w", c.desc.Digest, errdefs.ErrDataLoss)
	}
	return n, err
}

// cacheSource is where the blobs of a cache are that is being written.
type cacheSource struct {
	image.Source // of layers: the store
	made         map[digest.Digest][]byte
	files        map[digest.Digest]string
	elsewhere    map[digest.Digest]image.Source // what another cache has

	mounts []cacheMount
	blobs  []ocispec.Descriptor // of the mounts
}

func newCacheSource(layers image.Source) *cacheSource {
	return &cacheSource{Source: layers, made: map[digest.Digest][]byte{}, files: map[digest.Digest]string{}, elsewhere: map[digest.Digest]image.Source{}}
}

// Fetch implements image.Fetcher.
func (s *cacheSource) Fetch(ctx context.Context, desc ocispec.Descriptor, offset int64) (io.ReadCloser, error) {
	if b, ok := s.made[desc.Digest]; ok {
		return io.NopCloser(bytes.NewReader(b[offset:])), nil
	}
	if path, ok := s.files[desc.Digest]; ok {
		f, err := os.Open(path)
		if err != nil {
			return nil, err
		}
		if _, err := f.Seek(offset, io.SeekStart); err != nil {
			return nil, errors.Join(err, f.Close())
		}
		return f, nil
	}
	if src, ok := s.elsewhere[desc.Digest]; ok {
		return src.Fetch(ctx, desc, offset)
	}
	return s.Source.Fetch(ctx, desc, offset)
}

// mountWriter makes blobs of cache mounts, in dir.
type mountWriter struct {
	cacheWriter
	step *build.Reporter
	form cacheForm
	dir  string
	src  *cacheSource
}

// all takes the cache mounts that the build used, those of steps in the cache
// too: as they are here, else as a cache has them that the build was given.
func (w mountWriter) all(ctx context.Context) error {
	for _, m := range w.exchange.UsedMounts() {
		blob, err := w.write(ctx, m)
		leak := (*build.SecretError)(nil)
		switch {
		case errors.As(err, &leak):
			w.step.Warn("the cache mount %s is left out: the value of a secret is in %s\n", m.Name, strings.Join(leak.Files, ", "))
			continue
		case errdefs.IsNotFound(err):
			var ok bool
			if blob, ok = w.carried(m.Digest); !ok {
				continue // it was pruned, or its steps never ran here
			}
		case err != nil:
			return err
		}
		item(w.step, "writing cache mount "+m.Name)
		w.src.mounts, w.src.blobs = append(w.src.mounts, cacheMount{m.Digest, blob.Digest}), append(w.src.blobs, blob)
	}
	return nil
}

// write compresses one to a file.
func (w mountWriter) write(ctx context.Context, m build.UsedMount) (desc ocispec.Descriptor, err error) {
	path := filepath.Join(w.dir, m.Digest.Encoded())
	f, err := os.Create(path)
	if err != nil {
		return desc, err
	}
	defer closing(&err, f.Close)
	sum := digest.Canonical.Digester()
	kind, mediaType := archive.Gzip, ocispec.MediaTypeImageLayerGzip
	switch {
	case w.form.plain:
		kind, mediaType = archive.None, ocispec.MediaTypeImageLayer
	case w.form.recipe.Compression == archive.Zstd:
		kind, mediaType = archive.Zstd, ocispec.MediaTypeImageLayerZstd
	}
	z, err := archive.Compress(io.MultiWriter(f, sum.Hash()), kind, w.form.recipe.Level)
	if err != nil {
		return desc, err
	}
	waits := func() { item(w.step, "another step uses the cache mount "+m.Name+": waiting for it") }
	if err := errors.Join(build.WriteMount(ctx, w.solver, m, waits, z), z.Close()); err != nil {
		return desc, err
	}
	info, err := f.Stat()
	if err != nil {
		return desc, err
	}
	desc = ocispec.Descriptor{MediaType: mediaType, Digest: sum.Digest(), Size: info.Size()}
	w.src.files[desc.Digest] = path
	return desc, nil
}

// carried is a cache mount of one of the caches that the build was given.
func (w mountWriter) carried(key digest.Digest) (ocispec.Descriptor, bool) {
	for _, remote := range w.exchange.Remote {
		c, ok := remote.(*importedCache)
		if !ok {
			continue
		}
		if blob, ok := c.mounts[key]; ok {
			w.src.elsewhere[blob.Digest] = c.src
			return blob, true
		}
	}
	return ocispec.Descriptor{}, false
}
