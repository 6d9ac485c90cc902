package engine

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"slices"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"strake/internal/build"
	"strake/internal/image"
	"strake/internal/layout"
	"strake/internal/store"
)

// checkTo fails for a cache that nothing can be written to.
func (c Cache) checkTo() (err error) {
	switch mode := c.Attrs["mode"]; mode {
	case "", "min", "max":
	default:
		return invalid("invalid cache mode %q: neither min nor max", mode)
	}
	if _, err = c.ignoresErrors(); err == nil {
		_, err = c.form()
	}
	if err == nil {
		_, err = c.mounts(false)
	}
	switch {
	case err != nil:
	case c.Type == "registry":
		_, err = c.named()
	case c.Type == "gha":
		_, err = c.github()
	case c.Type == "s3" || c.Type == "azblob":
		_, _, err = c.bucket()
	case c.Type == "local" && c.Attrs["dest"] == "":
		err = invalid("local cache exporter requires dest")
	}
	return err
}

func (c Cache) ignoresErrors() (ignore bool, err error) {
	err = Output{Attrs: c.Attrs}.parseBool("ignore-error", &ignore)
	return ignore, err
}

// cacheForm is how a cache is written: how its layers are compressed, and in which of BuildKit's forms it lists them.
type cacheForm struct {
	imageOptions
	index bool // an index lists the layers and the config as if they were manifests; else a manifest
}

func (c Cache) form() (form cacheForm, err error) {
	attrs := Output{Attrs: c.Attrs}
	if err := attrs.parseCompression(&form.imageOptions); err != nil {
		return form, err
	}
	oci := true
	if err := attrs.parseBool("oci-mediatypes", &oci); err != nil {
		return form, err
	}
	manifest := oci
	if err := attrs.parseBool("image-manifest", &manifest); err != nil {
		return form, err
	}
	form.docker, form.index = !oci, !manifest
	switch {
	case form.docker && manifest:
		return form, invalid("cache %s: image-manifest=true wants oci-mediatypes=true", c)
	case form.index && c.Type != "registry" && c.Type != "local":
		return form, invalid("%s cache has no other form: image-manifest and oci-mediatypes are true", c.Type)
	}
	return form, nil
}

// cacheWriter is the part of an exporter that is about the build cache.
type cacheWriter struct{ *exporter }

// exportCaches writes the build cache of the steps that the build used, those of
// all stages unless the mode is min.
func (x cacheWriter) exportCaches(ctx context.Context, caches []Cache) error {
	for _, c := range caches {
		if c.Type == "inline" {
			continue
		}
		name := "exporting cache to registry"
		switch c.Type {
		case "local":
			name = "exporting cache to client directory"
		case "gha":
			name = "exporting cache to GitHub Actions Cache"
		case "s3":
			name = "exporting cache to Amazon S3"
		case "azblob":
			name = "exporting cache to Azure Blob Storage"
		}
		step := x.solver.Begin(name)
		err := step.End(ctx, x.exportCache(ctx, step, c))
		if ignore, _ := c.ignoresErrors(); ignore && ctx.Err() == nil { // checked before
			continue
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (x cacheWriter) exportCache(ctx context.Context, step *build.Reporter, c Cache) (err error) {
	records := x.exchange.Used()
	if c.Attrs["mode"] == "min" {
		records = inLayers(records, x.resultLayers())
	}
	dir, err := x.env.Store.TempDir(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	form, err := c.form()
	if err != nil {
		return err
	}
	src := newCacheSource(x.env.Store)
	if wanted, err := c.mounts(false); err != nil {
		return err
	} else if wanted {
		if err := (mountWriter{x, step, form, dir, src}).all(ctx); err != nil {
			return err
		}
	}
	if len(records)+len(src.mounts) == 0 {
		item(step, "skipping cache export for empty result")
		return nil
	}
	root, err := x.cacheManifest(ctx, step, form, src, records)
	if err != nil {
		return err
	}
	return x.send(ctx, c, src, root)
}

// send takes a cache to where it goes.
func (x cacheWriter) send(ctx context.Context, c Cache, src *cacheSource, root ocispec.Descriptor) error {
	var dest image.Target
	tag := "latest"
	switch c.Type {
	case "registry":
		repo, named, err := c.repository(x.env)
		if err != nil {
			return err
		}
		return upload(ctx, x.env, src, repo, named, root, nil)
	case "gha":
		entries, err := c.github()
		if err != nil {
			return err
		}
		dest, tag = entries, githubName
	case "s3", "azblob":
		entries, names, err := c.bucket()
		if err != nil {
			return err
		}
		dest, tag = entries, names
	default:
		dir, err := layout.Open(c.Attrs["dest"])
		if err != nil {
			return err
		}
		dest, tag = dir, cmp.Or(c.Attrs["tag"], tag)
	}
	uploads, err := c.uploads()
	if err == nil {
		err = copyError(image.CopyGraph(ctx, src, dest, root, image.CopyOptions{Concurrency: uploads}))
	}
	if err != nil {
		return err
	}
	return dest.Tag(ctx, root, tag)
}

// cacheManifest makes the manifest of a cache, with its layers compressed.
func (x cacheWriter) cacheManifest(ctx context.Context, step *build.Reporter, form cacheForm, src *cacheSource, records []build.CacheRecord) (ocispec.Descriptor, error) {
	ids := recordLayers(records)
	blobs := make([]ocispec.Descriptor, len(ids))
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(compressAtOnce)
	for i, id := range ids {
		g.Go(func() (err error) {
			blobs[i], err = x.cacheBlob(gctx, id, form)
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return ocispec.Descriptor{}, err
	}
	for _, blob := range blobs {
		item(step, "writing layer "+blob.Digest.String())
	}
	list := newCacheConfig(records, func(id digest.Digest) cacheLayer {
		blob := blobs[slices.Index(ids, id)]
		return cacheLayer{Blob: blob.Digest, Parent: noParent, Annotations: &cacheAnnotations{MediaType: blob.MediaType, DiffID: id, Size: blob.Size}}
	})
	list.Mounts = src.mounts
	var a assembled
	config, err := a.addJSON(cacheConfigType, list)
	if err != nil {
		return config, err
	}
	if config.Size > image.MaxConfigSize {
		return config, fmt.Errorf("the cache has %d records, which are more than a cache can list", len(records))
	}
	root, err := form.list(&a, config, append(blobs, src.blobs...))
	for _, b := range a.blobs {
		src.made[digest.FromBytes(b.bytes)] = b.bytes
	}
	what := "writing cache image manifest "
	if form.index {
		what = "writing cache manifest "
	}
	item(step, what+root.Digest.String())
	return root, err
}

// cacheBlob is a layer in the form that a cache is to have it in.
func (x cacheWriter) cacheBlob(ctx context.Context, id digest.Digest, form cacheForm) (ocispec.Descriptor, error) {
	switch {
	case form.plain:
		files, err := x.env.Store.Layer(ctx, id)
		return ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayer, Digest: id, Size: files.Size}, err
	case form.estargz:
		made, err := store.MakeEstargz(ctx, x.env.Store, id, form.recipe.Level)
		return made.Blob, err
	}
	blob, err := x.env.Store.Compress(ctx, id, store.CompressOptions{Recipe: form.recipe})
	blob.MediaType = ociLayer(blob.MediaType)
	return blob, err
}

// list adds what lists a cache's layers and its config.
func (form cacheForm) list(a *assembled, config ocispec.Descriptor, layers []ocispec.Descriptor) (ocispec.Descriptor, error) {
	version := specs.Versioned{SchemaVersion: 2}
	if !form.index {
		return a.addJSON(ocispec.MediaTypeImageManifest, ocispec.Manifest{
			Versioned: version, MediaType: ocispec.MediaTypeImageManifest, Config: config, Layers: layers,
		})
	}
	mediaType := ocispec.MediaTypeImageIndex
	if form.docker {
		mediaType = image.MediaTypeDockerManifestList
		for i := range layers {
			layers[i].MediaType, layers[i].Annotations = dockerLayer(layers[i].MediaType), nil
		}
	}
	return a.addJSON(mediaType, ocispec.Index{Versioned: version, MediaType: mediaType, Manifests: append(layers, config)})
}

// recordLayers are the layers of records, each once.
func recordLayers(records []build.CacheRecord) []digest.Digest {
	var ids []digest.Digest
	seen := map[digest.Digest]bool{}
	for _, r := range records {
		if id := r.Layers[0]; !seen[id] {
			seen[id] = true
			ids = append(ids, id)
		}
	}
	return ids
}

// resultLayers are the layers of the result.
func (x cacheWriter) resultLayers() []digest.Digest {
	var ids []digest.Digest
	for _, b := range x.built {
		ids = append(ids, layersOf(b)...)
	}
	return ids
}

// addInlineCache puts the cache into the configs of the result.
func (x cacheWriter) addInlineCache(caches []Cache) error {
	if !slices.ContainsFunc(caches, func(c Cache) bool { return c.Type == "inline" }) {
		return nil
	}
	records := x.exchange.Used()
	for i := range x.built {
		b := &x.built[i]
		config, err := inlineCache(b.Config, layersOf(*b), records)
		if err != nil {
			return err
		}
		b.Config, b.ID = config, digest.FromBytes(config)
	}
	return nil
}
