// Package layout reads and writes images as files.
//
// A layout is a directory (OCI image layout) and an archive is one tar, of
// either form: an OCI archive is a tar of a layout, a docker archive names
// configs and layers in a manifest.json. What docker writes since version 25
// is both at once, and so is what WriteArchive writes.
package layout

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"strake/internal/content"
	"strake/internal/image"
)

const (
	indexFile    = "index.json"
	lockFile     = ".lock" // beside index.json, held while that is changed
	maxIndexSize = 64 << 20
)

// Layout is an OCI image layout: an image.Source and image.Target whose refs
// are the names in index.json, or digests. Any number of processes may use it
// at once.
type Layout struct {
	dir   string
	blobs *content.Dir

	mu sync.Mutex // one change of index.json at a time
}

var (
	_ image.Source = (*Layout)(nil)
	_ image.Target = (*Layout)(nil)
)

// Open opens the layout in dir, or makes one there if dir is empty or missing.
// A directory that holds other files is refused.
func Open(dir string) (*Layout, error) {
	version, err := os.ReadFile(filepath.Join(dir, ocispec.ImageLayoutFile))
	if errors.Is(err, os.ErrNotExist) {
		if err := create(dir); err != nil {
			return nil, fmt.Errorf("make layout %s: %w", dir, err)
		}
	} else if err != nil {
		return nil, fmt.Errorf("open layout: %w", err)
	} else if err := checkVersion(version); err != nil {
		return nil, fmt.Errorf("open layout %s: %w", dir, err)
	}
	blobs, err := content.NewDir(dir)
	if err != nil {
		return nil, fmt.Errorf("open layout: %w", err)
	}
	return &Layout{dir: dir, blobs: blobs}, nil
}

// checkVersion checks the oci-layout file.
func checkVersion(b []byte) error {
	var v ocispec.ImageLayout
	if err := json.Unmarshal(b, &v); err != nil {
		return fmt.Errorf("%s: %w: %w", ocispec.ImageLayoutFile, err, errdefs.ErrInvalidArgument)
	}
	if v.Version != ocispec.ImageLayoutVersion {
		return fmt.Errorf("layout version %.20q: %w", v.Version, errdefs.ErrNotImplemented)
	}
	return nil
}

func create(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil { //nolint:gosec // made to be handed on
		return err
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	if len(entries) > 0 {
		return fmt.Errorf("the directory is not empty: %w", errdefs.ErrFailedPrecondition)
	}
	return writeJSON(filepath.Join(dir, ocispec.ImageLayoutFile), ocispec.ImageLayout{Version: ocispec.ImageLayoutVersion})
}

// writeJSON replaces path, durably.
func writeJSON(path string, v any) (err error) {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(path), ".tmp-*")
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	err = errors.Join(err, f.Chmod(0o644), f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

// index reads index.json.
func (l *Layout) index() (ocispec.Index, error) {
	x := ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex}
	f, err := os.Open(filepath.Join(l.dir, indexFile))
	if errors.Is(err, os.ErrNotExist) {
		return x, nil
	}
	if err != nil {
		return x, err
	}
	b, err := io.ReadAll(io.LimitReader(f, maxIndexSize+1))
	if err := errors.Join(err, f.Close()); err != nil {
		return x, err
	}
	return parseIndex(b)
}

// parseIndex parses an index.json, which unlike an index may be big.
func parseIndex(b []byte) (x ocispec.Index, err error) {
	if len(b) > maxIndexSize {
		return x, fmt.Errorf("%s: more than %d bytes: %w", indexFile, maxIndexSize, errdefs.ErrResourceExhausted)
	}
	if err := json.Unmarshal(b, &x); err != nil {
		return x, fmt.Errorf("%s: %w: %w", indexFile, err, errdefs.ErrInvalidArgument)
	}
	for _, d := range x.Manifests {
		if err := image.CheckDescriptor(d); err != nil {
			return x, fmt.Errorf("%s: %w", indexFile, err)
		}
	}
	return x, nil
}

// Resolve implements image.Source. The empty ref means the only image there is.
func (l *Layout) Resolve(_ context.Context, ref string) (ocispec.Descriptor, error) {
	x, err := l.index()
	if err != nil {
		return ocispec.Descriptor{}, fmt.Errorf("layout %s: %w", l.dir, err)
	}
	return find(x.Manifests, ref)
}

// find finds what ref names among an index's manifests.
func find(descs []ocispec.Descriptor, ref string) (ocispec.Descriptor, error) {
	if ref == "" && len(descs) == 1 {
		return plain(descs[0]), nil
	}
	for _, d := range descs {
		if ref != "" && (d.Annotations[ocispec.AnnotationRefName] == ref ||
			d.Annotations[annotationImageName] == ref || d.Digest.String() == ref) {
			return plain(d), nil
		}
	}
	return ocispec.Descriptor{}, fmt.Errorf("no image %q: %w", ref, errdefs.ErrNotFound)
}

// plain is d without what the index says of it alone.
func plain(d ocispec.Descriptor) ocispec.Descriptor {
	return ocispec.Descriptor{MediaType: d.MediaType, Digest: d.Digest, Size: d.Size, Platform: d.Platform, ArtifactType: d.ArtifactType}
}

// Images lists what index.json names.
func (l *Layout) Images() ([]ocispec.Descriptor, error) {
	x, err := l.index()
	return x.Manifests, err
}

// Fetch implements image.Source.
func (l *Layout) Fetch(ctx context.Context, desc ocispec.Descriptor, offset int64) (io.ReadCloser, error) {
	if err := image.CheckDescriptor(desc); err != nil {
		return nil, err
	}
	ra, err := l.blobs.Open(ctx, desc.Digest)
	if err != nil {
		return nil, err
	}
	if offset < 0 || offset > ra.Size() {
		return nil, errors.Join(fmt.Errorf("blob %s: offset %d: %w", desc.Digest, offset, errdefs.ErrOutOfRange), ra.Close())
	}
	return section{io.NewSectionReader(ra, offset, ra.Size()-offset), ra}, nil
}

// section is a part of something that is closed with it.
type section struct {
	*io.SectionReader
	io.Closer
}

// Exists implements image.Target.
func (l *Layout) Exists(ctx context.Context, desc ocispec.Descriptor) (bool, error) {
	if err := image.CheckDescriptor(desc); err != nil {
		return false, err
	}
	descs := []ocispec.Descriptor{desc}
	if image.IsManifest(desc.MediaType) {
		m, _, err := image.ReadManifest(ctx, l, desc)
		if errdefs.IsNotFound(err) {
			return false, nil
		}
		if err != nil {
			return false, err
		}
		descs = append(append(descs, m.Config), m.Layers...)
	}
	for _, d := range descs {
		info, err := l.blobs.Stat(ctx, d.Digest)
		if errdefs.IsNotFound(err) || err == nil && info.Size != d.Size {
			return false, nil
		}
		if err != nil {
			return false, err
		}
	}
	return true, nil
}

// Push implements image.Target.
func (l *Layout) Push(ctx context.Context, desc ocispec.Descriptor, open image.Opener) (err error) {
	if err := image.CheckDescriptor(desc); err != nil {
		return err
	}
	w, err := l.writer(ctx, desc)
	if errdefs.IsAlreadyExists(err) {
		return nil
	}
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, w.Close()) }()
	if w.Offset() > desc.Size {
		if err := w.Truncate(0); err != nil {
			return err
		}
	}
	rc, err := open(ctx, w.Offset())
	if err != nil {
		return err
	}
	buf := make([]byte, 256<<10)
	_, err = io.CopyBuffer(struct{ io.Writer }{w}, struct{ io.Reader }{rc}, buf)
	if err := errors.Join(err, rc.Close()); err != nil {
		return fmt.Errorf("write %s: %w", desc.Digest, err)
	}
	return w.Commit(ctx, desc.Size, desc.Digest)
}

// writer waits for whoever writes the same blob.
func (l *Layout) writer(ctx context.Context, desc ocispec.Descriptor) (content.Writer, error) {
	for {
		w, err := l.blobs.Writer(ctx, desc.Digest.String(), content.WriterOptions{Expected: desc.Digest, Size: desc.Size})
		if !errdefs.IsUnavailable(err) {
			return w, err
		}
		select {
		case <-time.After(20 * time.Millisecond):
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// Tag implements image.Target: it puts desc into index.json under ref.
func (l *Layout) Tag(_ context.Context, desc ocispec.Descriptor, ref string) (err error) {
	if ref == "" {
		return fmt.Errorf("tag %s: empty name: %w", desc.Digest, errdefs.ErrInvalidArgument)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	lock, err := os.OpenFile(filepath.Join(l.dir, lockFile), os.O_RDWR|os.O_CREATE, 0o644) //nolint:gosec // holds nothing
	if err != nil {
		return fmt.Errorf("lock layout: %w", err)
	}
	defer func() { err = errors.Join(err, lock.Close()) }()
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil {
		return fmt.Errorf("lock layout: %w", err)
	}
	x, err := l.index()
	if err != nil {
		return fmt.Errorf("layout %s: %w", l.dir, err)
	}
	x.Manifests = slices.DeleteFunc(x.Manifests, func(d ocispec.Descriptor) bool {
		return d.Annotations[ocispec.AnnotationRefName] == ref
	})
	d := plain(desc)
	d.Annotations = map[string]string{ocispec.AnnotationRefName: ref}
	x.Manifests = append(x.Manifests, d)
	if err := writeJSON(filepath.Join(l.dir, indexFile), x); err != nil {
		return fmt.Errorf("layout %s: %w", l.dir, err)
	}
	return nil
}
