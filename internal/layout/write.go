package layout

import (
	"archive/tar"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"strake/internal/image"
	"strake/internal/reference"
)

// Format is the form of an archive.
type Format int

// Formats.
const (
	FormatOCI    Format = iota // an OCI archive with docker's manifest.json beside
	FormatDocker               // a docker archive alone
)

// WriteOptions say how to write an archive.
type WriteOptions struct {
	Format Format
	// Keep tells which manifests of an index are written with it; nil is all.
	// The index names the others still.
	Keep func(ocispec.Descriptor) bool
	// Omit tells which layers are left out, for a reader that has them; nil is none.
	Omit func(ocispec.Descriptor) bool
}

// WriteArchive writes images of src to w as one tar: the same bytes whenever
// the images and names are the same. Blobs that images share are there once.
func WriteArchive(ctx context.Context, w io.Writer, src image.Source, images []ArchiveImage, opts WriteOptions) error {
	p := &plan{src: src, opts: opts, blobs: map[digest.Digest]ocispec.Descriptor{}}
	for _, im := range images {
		if err := p.add(ctx, im); err != nil {
			return fmt.Errorf("write image archive: %w", err)
		}
	}
	aw := &archiveWriter{tw: tar.NewWriter(w), src: src, docker: opts.Format == FormatDocker}
	if err := errors.Join(aw.write(ctx, p), aw.tw.Close()); err != nil {
		return fmt.Errorf("write image archive: %w", err)
	}
	return nil
}

// plan is what an archive will hold.
type plan struct {
	src    image.Source
	opts   WriteOptions
	blobs  map[digest.Digest]ocispec.Descriptor // all of them
	roots  []ArchiveImage
	images []plannedImage
}

// plannedImage is an entry of manifest.json.
type plannedImage struct {
	config digest.Digest
	layers []ocispec.Descriptor
	names  []string

	platform ocispec.Platform
}

// maxIndexDepth bounds indexes in indexes.
const maxIndexDepth = 8

// add adds an image. The names of an index are, in manifest.json, those of the
// image that fits this machine best.
func (p *plan) add(ctx context.Context, im ArchiveImage) error {
	p.roots = append(p.roots, im)
	if !image.IsIndex(im.Desc.MediaType) {
		return p.addManifest(ctx, im)
	}
	first := len(p.images)
	if err := p.addIndex(ctx, im.Desc, 0); err != nil {
		return err
	}
	main := -1
	match := platforms.Default()
	for i := first; i < len(p.images); i++ {
		if main < 0 || match.Less(p.images[i].platform, p.images[main].platform) {
			main = i
		}
	}
	if main >= 0 {
		p.images[main].names = im.Names
	}
	return nil
}

// addIndex adds an index and what is kept of it.
func (p *plan) addIndex(ctx context.Context, desc ocispec.Descriptor, depth int) error {
	if depth > maxIndexDepth {
		return fmt.Errorf("index %s: nested deeper than %d: %w", desc.Digest, maxIndexDepth, errdefs.ErrInvalidArgument)
	}
	index, _, err := image.ReadIndex(ctx, p.src, desc)
	if err != nil {
		return err
	}
	p.blobs[desc.Digest] = desc
	for _, d := range index.Manifests {
		if p.opts.Keep != nil && !p.opts.Keep(d) {
			continue
		}
		if image.IsIndex(d.MediaType) {
			err = p.addIndex(ctx, d, depth+1)
		} else {
			err = p.addManifest(ctx, ArchiveImage{Desc: d})
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (p *plan) addManifest(ctx context.Context, im ArchiveImage) error {
	return image.Walk(ctx, p.src, im.Desc, func(d ocispec.Descriptor, b []byte) error {
		omitted := b == nil && !image.IsConfig(d.MediaType) && p.opts.Omit != nil && p.opts.Omit(d)
		if !omitted && (p.opts.Format == FormatOCI || b == nil) {
			p.blobs[d.Digest] = d
		}
		if !image.IsManifest(d.MediaType) || image.IsAttestation(d) {
			return nil
		}
		m, err := image.ParseManifest(d.MediaType, b)
		if err != nil {
			return err
		}
		if !image.IsConfig(m.Config.MediaType) {
			return nil // an artifact is nothing that docker loads
		}
		c, _, err := image.ReadConfig(ctx, p.src, m.Config)
		if err != nil {
			return err
		}
		p.images = append(p.images, plannedImage{m.Config.Digest, m.Layers, im.Names, c.Platform})
		return nil
	})
}

// archiveWriter writes the tar. Everything in it has the same owner and time.
type archiveWriter struct {
	tw     *tar.Writer
	src    image.Source
	docker bool
}

func (a *archiveWriter) write(ctx context.Context, p *plan) error {
	if !a.docker {
		dirs := map[string]bool{"blobs/": true}
		for dgst := range p.blobs {
			dirs["blobs/"+dgst.Algorithm().String()+"/"] = true
		}
		for _, dir := range slices.Sorted(maps.Keys(dirs)) {
			if err := a.tw.WriteHeader(header(dir, tar.TypeDir, 0o755, 0)); err != nil {
				return err
			}
		}
	}
	configs := map[digest.Digest]bool{}
	for _, im := range p.images {
		configs[im.config] = true
	}
	for _, dgst := range slices.Sorted(maps.Keys(p.blobs)) {
		if err := a.blob(ctx, p.blobs[dgst], a.name(dgst, configs[dgst])); err != nil {
			return fmt.Errorf("blob %s: %w", dgst, err)
		}
	}
	if !a.docker {
		if err := a.ociFiles(p); err != nil {
			return err
		}
	}
	return a.dockerFiles(p)
}

// name is the path of a blob in the archive.
func (a *archiveWriter) name(dgst digest.Digest, config bool) string {
	switch {
	case !a.docker:
		return blobName(dgst)
	case config:
		return dgst.Encoded() + ".json"
	}
	return dgst.Encoded() + ".tar"
}

func header(name string, typ byte, mode, size int64) *tar.Header {
	return &tar.Header{Typeflag: typ, Name: name, Mode: mode, Size: size, ModTime: time.Unix(0, 0), Format: tar.FormatPAX}
}

// blob streams a blob, verifying it.
func (a *archiveWriter) blob(ctx context.Context, desc ocispec.Descriptor, name string) error {
	rc, err := a.src.Fetch(ctx, desc, 0)
	if err != nil {
		return err
	}
	if err := a.tw.WriteHeader(header(name, tar.TypeReg, 0o644, desc.Size)); err != nil {
		return errors.Join(err, rc.Close())
	}
	verifier := desc.Digest.Verifier()
	buf := make([]byte, 256<<10)
	n, err := io.CopyBuffer(io.MultiWriter(struct{ io.Writer }{a.tw}, verifier), until(ctx, rc), buf)
	if err := errors.Join(err, rc.Close()); err != nil {
		return err
	}
	if n != desc.Size || !verifier.Verified() {
		return fmt.Errorf("its bytes are others than the descriptor says: %w", errdefs.ErrFailedPrecondition)
	}
	return nil
}

// json writes a file.
func (a *archiveWriter) json(name string, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	if err := a.tw.WriteHeader(header(name, tar.TypeReg, 0o644, int64(len(b)))); err != nil {
		return err
	}
	_, err = a.tw.Write(b)
	return err
}

// ociFiles writes what makes the archive a layout.
func (a *archiveWriter) ociFiles(p *plan) error {
	x := ocispec.Index{
		Versioned: specs.Versioned{SchemaVersion: 2},
		MediaType: ocispec.MediaTypeImageIndex,
		Manifests: []ocispec.Descriptor{},
	}
	for _, im := range p.roots {
		if len(im.Names) == 0 {
			x.Manifests = append(x.Manifests, plain(im.Desc))
		}
		for _, name := range im.Names {
			d := plain(im.Desc)
			d.Annotations = map[string]string{annotationImageName: name}
			if named, err := reference.Parse(name); err == nil && named.Tag() != "" {
				d.Annotations[ocispec.AnnotationRefName] = named.Tag()
			}
			x.Manifests = append(x.Manifests, d)
		}
	}
	if err := a.json(indexFile, x); err != nil {
		return err
	}
	return a.json(ocispec.ImageLayoutFile, ocispec.ImageLayout{Version: ocispec.ImageLayoutVersion})
}

// dockerFiles writes manifest.json, and repositories as docker before 1.10
// reads it.
func (a *archiveWriter) dockerFiles(p *plan) error {
	items := []manifestItem{}
	repositories := map[string]map[string]string{}
	for _, im := range p.images {
		item := manifestItem{Config: a.name(im.config, true), Layers: []string{}}
		for _, l := range im.layers {
			item.Layers = append(item.Layers, a.name(l.Digest, false))
		}
		for _, name := range im.names {
			named, err := reference.Parse(name)
			if err != nil {
				return fmt.Errorf("name %q: %w: %w", name, err, errdefs.ErrInvalidArgument)
			}
			if named.Tag() == "" {
				continue
			}
			item.RepoTags = append(item.RepoTags, named.Familiar().String())
			if len(im.layers) > 0 {
				repo := named.Familiar().Name()
				if repositories[repo] == nil {
					repositories[repo] = map[string]string{}
				}
				repositories[repo][named.Tag()] = im.layers[len(im.layers)-1].Digest.Encoded()
			}
		}
		items = append(items, item)
	}
	if err := a.json(manifestFile, items); err != nil {
		return err
	}
	if len(repositories) == 0 {
		return nil
	}
	return a.json("repositories", repositories)
}
