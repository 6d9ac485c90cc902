package layout

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"strake/internal/archive"
	"strake/internal/image"
	"strake/internal/reference"
)

const (
	// annotationImageName is how containerd and docker write an image's whole
	// name into index.json.
	annotationImageName = "io.containerd.image.name"
	manifestFile        = "manifest.json"
	maxImages           = 10_000
)

// ReadOptions say how to read an archive.
type ReadOptions struct {
	TempDir string // for what cannot be read in place; "" is the system's
	MaxCopy int64  // bytes that the copy of such an archive may have; 0 is any number
}

// Archive is an open archive. It is an image.Source whose refs are the names
// of its images, or digests.
type Archive struct {
	file   *os.File // the archive itself, or its copy
	own    bool     // close file
	tar    *tarFile
	images []ArchiveImage
	made   map[digest.Digest][]byte // manifests that a docker archive has not
	layers map[digest.Digest]string // where a docker archive has its blobs
}

var _ image.Source = (*Archive)(nil)

// ArchiveImage is an image in an archive.
type ArchiveImage struct {
	Desc  ocispec.Descriptor
	Names []string // normalised: docker.io/library/debian:bookworm
}

// ReadArchive opens the archive in r, of either form, plain or compressed. A
// plain one in a regular file is read in place, and r must stay open; any other
// is copied to a file without a name in opts.TempDir.
func ReadArchive(ctx context.Context, r io.Reader, opts ReadOptions) (*Archive, error) {
	a := &Archive{made: map[digest.Digest][]byte{}, layers: map[digest.Digest]string{}}
	if err := a.load(ctx, r, opts); err != nil {
		return nil, errors.Join(fmt.Errorf("read image archive: %w", err), a.Close())
	}
	return a, nil
}

// Close gives back what ReadArchive took.
func (a *Archive) Close() error {
	if !a.own {
		return nil
	}
	a.own = false
	return a.file.Close()
}

// Images lists the archive's images, in its order.
func (a *Archive) Images() []ArchiveImage { return a.images }

func (a *Archive) load(ctx context.Context, r io.Reader, opts ReadOptions) error {
	if err := a.place(ctx, r, opts); err != nil {
		return err
	}
	fi, err := a.file.Stat()
	if err != nil {
		return err
	}
	if a.tar, err = indexTar(a.file, fi.Size()); err != nil {
		return err
	}
	if _, ok := a.tar.files[indexFile]; ok {
		return a.loadOCI(ctx)
	}
	if _, ok := a.tar.files[manifestFile]; ok {
		return a.loadDocker()
	}
	return fmt.Errorf("neither %s nor %s in it: %w", indexFile, manifestFile, errdefs.ErrInvalidArgument)
}

// place sets a.file to a file that holds the plain archive.
func (a *Archive) place(ctx context.Context, r io.Reader, opts ReadOptions) error {
	if f, ok := r.(*os.File); ok {
		fi, err := f.Stat()
		if err != nil {
			return err
		}
		if head := make([]byte, 6); fi.Mode().IsRegular() {
			if at, err := f.Seek(0, io.SeekCurrent); err == nil && at == 0 {
				n, _ := f.ReadAt(head, 0) // what is too short is no tar either
				if archive.Detect(head[:n]) == archive.None {
					a.file = f
					return nil
				}
			}
		}
	}
	plain, _, err := archive.Decompress(r)
	if err != nil {
		return err
	}
	f, err := os.CreateTemp(opts.TempDir, "archive-*")
	if err != nil {
		return errors.Join(err, plain.Close())
	}
	a.file, a.own = f, true
	buf := make([]byte, 256<<10)
	in := until(ctx, plain)
	if opts.MaxCopy > 0 {
		in = io.LimitReader(in, opts.MaxCopy+1)
	}
	n, err := io.CopyBuffer(struct{ io.Writer }{f}, in, buf)
	if err == nil && opts.MaxCopy > 0 && n > opts.MaxCopy {
		err = fmt.Errorf("unpacked it is more than the %d bytes that there is room for: %w", opts.MaxCopy, errdefs.ErrResourceExhausted)
	}
	return errors.Join(err, plain.Close(), os.Remove(f.Name()))
}

// readerFunc is a Read.
type readerFunc func(p []byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

// until reads r until ctx ends.
func until(ctx context.Context, r io.Reader) io.Reader {
	return readerFunc(func(p []byte) (int, error) {
		if ctx.Err() != nil {
			return 0, context.Cause(ctx)
		}
		return r.Read(p)
	})
}

// loadOCI reads index.json. Names that it has not, manifest.json may have.
func (a *Archive) loadOCI(ctx context.Context) error {
	version, err := a.tar.read(ocispec.ImageLayoutFile, 1<<10)
	if err == nil {
		err = checkVersion(version)
	}
	if err != nil {
		return err
	}
	b, err := a.tar.read(indexFile, maxIndexSize)
	if err != nil {
		return err
	}
	x, err := parseIndex(b)
	if err != nil {
		return err
	}
	if len(x.Manifests) > maxImages {
		return fmt.Errorf("%d images: %w", len(x.Manifests), errdefs.ErrResourceExhausted)
	}
	known := map[digest.Digest]int{}
	for _, d := range x.Manifests {
		if _, err := a.tar.open(blobName(d.Digest)); err != nil {
			return err
		}
		i, ok := known[d.Digest]
		if !ok {
			i = len(a.images)
			known[d.Digest] = i
			a.images = append(a.images, ArchiveImage{Desc: plain(d)})
		}
		if name := nameOf(d); name != "" {
			a.images[i].Names = append(a.images[i].Names, name)
		}
	}
	return a.nameFromManifestFile(ctx)
}

// nameOf returns the whole name that index.json gives d, or "".
func nameOf(d ocispec.Descriptor) string {
	if name := normalize(d.Annotations[annotationImageName]); name != "" {
		return name
	}
	ref := d.Annotations[ocispec.AnnotationRefName]
	if !strings.ContainsAny(ref, "/:") { // a bare tag: of what, it does not say
		return ""
	}
	return normalize(ref)
}

// normalize returns the normal form of a tagged name, or "".
func normalize(s string) string {
	named, err := reference.Parse(s)
	if err != nil || named.Digest() != "" {
		return ""
	}
	return named.OrLatest().String()
}

// nameFromManifestFile names the images that have none after manifest.json,
// where their config is.
func (a *Archive) nameFromManifestFile(ctx context.Context) error {
	if _, ok := a.tar.files[manifestFile]; !ok {
		return nil
	}
	items, err := a.manifestItems()
	if err != nil {
		return err
	}
	for i := range a.images {
		im := &a.images[i]
		if len(im.Names) > 0 || !image.IsManifest(im.Desc.MediaType) {
			continue
		}
		m, _, err := image.ReadManifest(ctx, a, im.Desc)
		if err != nil {
			return err
		}
		for _, item := range items {
			if item.Config == blobName(m.Config.Digest) {
				im.Names = append(im.Names, item.names()...)
			}
		}
	}
	return nil
}

func blobName(dgst digest.Digest) string {
	return "blobs/" + dgst.Algorithm().String() + "/" + dgst.Encoded()
}

// manifestItem is one image in manifest.json.
type manifestItem struct {
	Config   string
	RepoTags []string
	Layers   []string
}

func (m manifestItem) names() []string {
	var names []string
	for _, tag := range m.RepoTags {
		if name := normalize(tag); name != "" {
			names = append(names, name)
		}
	}
	return names
}

func (a *Archive) manifestItems() ([]manifestItem, error) {
	b, err := a.tar.read(manifestFile, maxIndexSize)
	if err != nil {
		return nil, err
	}
	var items []manifestItem
	if err := json.Unmarshal(b, &items); err != nil {
		return nil, fmt.Errorf("%s: %w: %w", manifestFile, err, errdefs.ErrInvalidArgument)
	}
	if len(items) == 0 {
		return nil, fmt.Errorf("%s: no images: %w", manifestFile, errdefs.ErrInvalidArgument)
	}
	if len(items) > maxImages {
		return nil, fmt.Errorf("%s: %d images: %w", manifestFile, len(items), errdefs.ErrResourceExhausted)
	}
	return items, nil
}

// loadDocker reads manifest.json and makes the manifests that are not there.
func (a *Archive) loadDocker() error {
	items, err := a.manifestItems()
	if err != nil {
		return err
	}
	for _, item := range items {
		desc, err := a.makeManifest(item)
		if err != nil {
			return fmt.Errorf("%s: image %.200q: %w", manifestFile, item.Config, err)
		}
		a.images = append(a.images, ArchiveImage{Desc: desc, Names: item.names()})
	}
	return nil
}

// makeManifest makes the manifest of one image. A plain layer is what its diffID
// says, which whoever takes it in verifies; only a compressed one is read here.
func (a *Archive) makeManifest(item manifestItem) (ocispec.Descriptor, error) {
	config, err := a.tar.read(item.Config, image.MaxConfigSize)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	c, err := image.ParseConfig(config)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	if len(c.RootFS.DiffIDs) != len(item.Layers) {
		return ocispec.Descriptor{}, fmt.Errorf("%d layers, the config has %d: %w", len(item.Layers), len(c.RootFS.DiffIDs), errdefs.ErrInvalidArgument)
	}
	m := ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2},
		MediaType: ocispec.MediaTypeImageManifest,
		Config:    image.Bytes(ocispec.MediaTypeImageConfig, config),
		Layers:    []ocispec.Descriptor{},
	}
	a.layers[m.Config.Digest] = item.Config
	for i, name := range item.Layers {
		d, err := a.describeLayer(name, c.RootFS.DiffIDs[i])
		if err != nil {
			return ocispec.Descriptor{}, err
		}
		a.layers[d.Digest] = name
		m.Layers = append(m.Layers, d)
	}
	b, err := json.Marshal(m)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	desc := image.Bytes(m.MediaType, b)
	a.made[desc.Digest] = b
	return desc, nil
}

func (a *Archive) describeLayer(name string, diffID digest.Digest) (ocispec.Descriptor, error) {
	r, err := a.tar.open(name)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	head := make([]byte, 6)
	n, err := r.ReadAt(head, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return ocispec.Descriptor{}, err
	}
	d := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayer, Digest: diffID, Size: r.Size()}
	switch archive.Detect(head[:n]) {
	case archive.None:
		return d, nil
	case archive.Gzip:
		d.MediaType = ocispec.MediaTypeImageLayerGzip
	case archive.Zstd:
		d.MediaType = ocispec.MediaTypeImageLayerZstd
	default:
		return d, fmt.Errorf("layer %.200q: neither plain nor gzip nor zstd: %w", name, errdefs.ErrNotImplemented)
	}
	if d.Digest, err = digest.FromReader(r); err != nil {
		return d, fmt.Errorf("layer %.200q: %w", name, err)
	}
	return d, nil
}

// Resolve implements image.Source. The empty ref means the only image there is.
func (a *Archive) Resolve(_ context.Context, ref string) (ocispec.Descriptor, error) {
	if ref == "" && len(a.images) == 1 {
		return a.images[0].Desc, nil
	}
	want := normalize(ref)
	for _, im := range a.images {
		if im.Desc.Digest.String() == ref {
			return im.Desc, nil
		}
		for _, name := range im.Names {
			if name == want {
				return im.Desc, nil
			}
		}
	}
	return ocispec.Descriptor{}, fmt.Errorf("no image %q in the archive: %w", ref, errdefs.ErrNotFound)
}

// Has reports whether the archive holds the bytes of desc.
func (a *Archive) Has(desc ocispec.Descriptor) bool {
	_, err := a.open(desc.Digest)
	return err == nil
}

// open opens a blob: one that was made, or a file under one of the names that
// blobs have.
func (a *Archive) open(dgst digest.Digest) (*io.SectionReader, error) {
	if b, ok := a.made[dgst]; ok {
		return io.NewSectionReader(bytes.NewReader(b), 0, int64(len(b))), nil
	}
	name, ok := a.layers[dgst]
	if !ok {
		name = blobName(dgst)
	}
	return a.tar.open(name)
}

// Fetch implements image.Source.
func (a *Archive) Fetch(_ context.Context, desc ocispec.Descriptor, offset int64) (io.ReadCloser, error) {
	if err := image.CheckDescriptor(desc); err != nil {
		return nil, err
	}
	r, err := a.open(desc.Digest)
	if err != nil {
		return nil, err
	}
	if offset < 0 || offset > r.Size() {
		return nil, fmt.Errorf("blob %s: offset %d of %d: %w", desc.Digest, offset, r.Size(), errdefs.ErrOutOfRange)
	}
	if _, err := r.Seek(offset, io.SeekStart); err != nil {
		return nil, err
	}
	return io.NopCloser(r), nil
}
