package engine

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"strake/internal/attest"
	"strake/internal/build"
	"strake/internal/image"
	"strake/internal/store"
)

// exporter takes what was built to the outputs.
type exporter struct {
	env      *Env
	solver   *build.Solver
	exchange *build.Exchange
	targets  []ocispec.Platform // that were asked for
	built    []build.Built      // one per platform, that of this machine where none was asked for
	multi    bool               // the image is an index, even of one platform
	names    []string           // as the user wrote them
	epoch    *time.Time
	attest   attestations
	made     attest.Build                  // how it was built
	vcs      func() map[string]string      // attest.Build.VCS, found out when it is said
	sboms    map[string][]attest.Predicate // by platform
	write    func(dest string, write func(io.Writer) error) error

	result *BuildResult
}

// run takes the result to each output, one after the other.
func (x *exporter) run(ctx context.Context, outputs []Output) error {
	for _, out := range outputs {
		var err error
		switch {
		case out.Type == OutputCacheOnly:
		case out.Stores():
			err = x.image(ctx, out)
		case out.Type == OutputLocal:
			err = x.local(ctx, out)
		case out.Type == OutputTar:
			err = x.tarball(ctx, out)
		default:
			err = x.archive(ctx, out)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// assembled is an image whose manifests are made and not yet written.
type assembled struct {
	root   ocispec.Descriptor
	config digest.Digest // of an image for one platform; "" of an index
	blobs  []madeBlob    // children before parents
}

type madeBlob struct {
	mediaType string
	bytes     []byte
}

// add adds a blob, and returns its descriptor.
func (a *assembled) add(mediaType string, b []byte) ocispec.Descriptor {
	a.blobs = append(a.blobs, madeBlob{mediaType, b})
	return image.Bytes(mediaType, b)
}

// addJSON is add of a value.
func (a *assembled) addJSON(mediaType string, v any) (ocispec.Descriptor, error) {
	b, err := json.Marshal(v)
	if err != nil {
		return ocispec.Descriptor{}, fmt.Errorf("encode %s: %w", mediaType, err)
	}
	return a.add(mediaType, b), nil
}

// put writes the blobs.
func (a *assembled) put(ctx context.Context, s *store.Store) error {
	for _, b := range a.blobs {
		if _, err := s.PutBlob(ctx, b.mediaType, b.bytes); err != nil {
			return fmt.Errorf("store the image: %w", err)
		}
	}
	return nil
}

// forms are how layers are to be.
type forms struct {
	imageOptions
	pushed   bool                               // what is said of every pushed image is said
	compress bool                               // those that are made too
	tee      func(ocispec.Descriptor) store.Tee // of CompressOptions
}

// assemble makes the manifests of an image: one, or for several platforms an
// index of them.
func (x *exporter) assemble(ctx context.Context, step *build.Reporter, how forms) (a assembled, err error) {
	var list []ocispec.Platform
	for _, b := range x.built {
		list = append(list, b.Platform)
	}
	var manifests []ocispec.Descriptor
	var ids []digest.Digest
	for _, b := range x.built {
		desc, id, err := x.manifest(ctx, &a, b, how)
		if err != nil {
			return a, err
		}
		item(step, "exporting manifest "+desc.Digest.String())
		item(step, "exporting config "+id.String())
		manifests, ids = append(manifests, desc), append(ids, id)
	}
	said, err := statements{x}.attestManifests(ctx, &a, manifests, how)
	if err != nil {
		return a, err
	}
	indexed := x.multi || len(said) > 0
	if err := how.annotations.check(list, indexed, how.docker); err != nil {
		return a, err
	}
	if !indexed {
		a.root, a.config = manifests[0], ids[0]
		return a, nil
	}
	for _, desc := range said {
		item(step, "exporting attestation manifest "+desc.Digest.String())
	}
	index := ocispec.Index{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex,
		Manifests: append(manifests, said...), Annotations: how.annotations.pick(ofIndex, nil),
	}
	if how.docker {
		index.MediaType = image.MediaTypeDockerManifestList
	}
	if a.root, err = a.addJSON(index.MediaType, index); err != nil {
		return a, err
	}
	a.root.Annotations = how.annotations.pick(ofIndexDescriptor, nil)
	item(step, "exporting manifest list "+a.root.Digest.String())
	return a, nil
}

// manifest makes the config and the manifest of one platform. It returns the image's ID too.
func (x *exporter) manifest(ctx context.Context, a *assembled, b build.Built, how forms) (desc ocispec.Descriptor, id digest.Digest, err error) {
	layers, diffIDs, err := x.layers(ctx, b, how)
	if err != nil {
		return desc, "", err
	}
	m := ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest,
		Layers: layers, Annotations: how.annotations.pick(ofManifest, &b.Platform),
	}
	config := ocispec.MediaTypeImageConfig
	if how.docker {
		m.MediaType, config = image.MediaTypeDockerManifest, image.MediaTypeDockerConfig
	}
	built := b.Config
	if how.estargz {
		if built, err = replaceLayers(built, diffIDs); err != nil {
			return desc, "", err
		}
	}
	m.Config = a.add(config, built)
	desc, err = a.addJSON(m.MediaType, m)
	desc.Platform = &b.Platform
	desc.Annotations = how.annotations.pick(ofManifestDescriptor, &b.Platform)
	return desc, m.Config.Digest, err
}

// layers is how the manifest names the layers: as the tars that the store has,
// or compressed, or as eStargz, which are others. It returns the diffIDs too.
func (x *exporter) layers(ctx context.Context, b build.Built, how forms) ([]ocispec.Descriptor, []digest.Digest, error) {
	layers := make([]ocispec.Descriptor, len(b.Layers))
	diffIDs := make([]digest.Digest, len(b.Layers))
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(compressAtOnce)
	for i, l := range b.Layers {
		g.Go(func() (err error) {
			base := i < b.Base
			if how.estargz && (!base || how.force) {
				made, err := store.MakeEstargz(gctx, x.env.Store, l.Digest, how.recipe.Level)
				layers[i], diffIDs[i] = made.Blob, made.DiffID
				return err
			}
			diffIDs[i] = l.Digest
			layers[i], err = x.layer(gctx, l, base, how)
			if how.docker {
				layers[i].MediaType, layers[i].Annotations = dockerLayer(layers[i].MediaType), nil
			} else {
				layers[i].MediaType = ociLayer(layers[i].MediaType)
			}
			return err
		})
	}
	return layers, diffIDs, g.Wait()
}

// compressAtOnce is how many layers are compressed at once, as for a push.
const compressAtOnce = 3

// layer is a layer in its form. One of the base image keeps the form that it
// came in, unless all are to have the same.
func (x *exporter) layer(ctx context.Context, l ocispec.Descriptor, base bool, how forms) (ocispec.Descriptor, error) {
	keeps := base && !how.force
	if how.plain && keeps && how.compress {
		return store.Form(ctx, x.env.Store, l)
	}
	if how.plain || !how.compress {
		return l, nil
	}
	recipe := how.recipe
	if keeps {
		recipe = store.Recipe{}
	}
	return x.env.Store.Compress(ctx, l.Digest, store.CompressOptions{Recipe: recipe, Tee: how.tee})
}

var dockerLayers = map[string]string{
	ocispec.MediaTypeImageLayer:     image.MediaTypeDockerLayer,
	ocispec.MediaTypeImageLayerGzip: image.MediaTypeDockerLayerGzip,
	ocispec.MediaTypeImageLayerZstd: image.MediaTypeDockerLayerZstd,
}

// dockerLayer and ociLayer are the two names of a layer's media type.
func dockerLayer(mediaType string) string {
	if t, ok := dockerLayers[mediaType]; ok {
		return t
	}
	return mediaType
}

func ociLayer(mediaType string) string {
	for oci, docker := range dockerLayers {
		if docker == mediaType {
			return oci
		}
	}
	return mediaType
}
