package engine

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"strake/internal/image"
	"strake/internal/reference"
)

// InspectIndexResult is a manifest or an index of a registry.
type InspectIndexResult struct {
	Name  reference.Named
	Desc  ocispec.Descriptor
	Bytes []byte
	Index ocispec.Index // of an index
}

// InspectIndex reads what a name is in its registry.
func InspectIndex(ctx context.Context, env *Env, ref string) (InspectIndexResult, error) {
	named, err := listReference(ref)
	if err != nil {
		return InspectIndexResult{}, err
	}
	repo, err := env.Remote.Repository(named)
	if err != nil {
		return InspectIndexResult{}, err
	}
	found := InspectIndexResult{Name: named}
	if found.Desc, err = repo.Resolve(ctx, named.TagOrDigest()); err != nil {
		return found, pullError(named, err)
	}
	if found.Bytes, err = image.ReadAll(ctx, repo, found.Desc, image.MaxManifestSize); err != nil {
		return found, pullError(named, err)
	}
	if image.IsIndex(found.Desc.MediaType) {
		found.Index, err = image.ParseIndex(found.Desc.MediaType, found.Bytes)
	}
	return found, err
}

// IndexImage is an image of a registry, and the manifests of what is attested
// of it.
type IndexImage struct {
	Config       ocispec.Image
	Attestations []ocispec.Descriptor
}

// IndexImages reads the images that InspectIndex found, by platform.
func IndexImages(ctx context.Context, env *Env, found InspectIndexResult) (map[string]IndexImage, error) {
	repo, err := env.Remote.Repository(found.Name)
	if err != nil {
		return nil, err
	}
	descs := []ocispec.Descriptor{found.Desc}
	if image.IsIndex(found.Desc.MediaType) {
		descs = imagesIn(found.Index)
	}
	images := map[string]IndexImage{}
	for _, d := range descs {
		manifest, _, err := image.ReadManifest(ctx, repo, d)
		if errdefs.IsNotFound(err) { // an index need not have all it names
			continue
		}
		if err != nil {
			return nil, err
		}
		config, _, err := image.ReadConfig(ctx, repo, manifest.Config)
		if err != nil {
			return nil, err
		}
		one := IndexImage{Config: config.Image}
		one.Config.Config = config.Config.ImageConfig
		for _, a := range found.Index.Manifests {
			if image.IsAttestation(a) && a.Annotations[attestedDigest] == d.Digest.String() {
				one.Attestations = append(one.Attestations, a)
			}
		}
		images[platforms.Format(platforms.Normalize(config.Platform))] = one
	}
	return images, nil
}

// attestedDigest is the annotation of an attestation manifest that says of which
// image of its index it is.
const attestedDigest = "vnd.docker.reference.digest"

// maxStatement is the size of an attestation's statement, in bytes, up to which
// it is read: that of a large image names each of its files.
const maxStatement = 64 << 20

// Attested reads what is attested of an image: the predicates of its in-toto
// statements whose type starts with kind, plain or in a DSSE envelope, whose
// signature is not checked.
func Attested(ctx context.Context, env *Env, found InspectIndexResult, of IndexImage, kind string) ([]any, error) {
	repo, err := env.Remote.Repository(found.Name)
	if err != nil {
		return nil, err
	}
	var predicates []any
	for _, a := range of.Attestations {
		manifest, _, err := image.ReadManifest(ctx, repo, a)
		if err != nil {
			return nil, err
		}
		for _, l := range manifest.Layers {
			envelope := strings.HasPrefix(l.MediaType, "application/vnd.in-toto.") && strings.HasSuffix(l.MediaType, "+dsse")
			if !envelope && l.MediaType != "application/vnd.in-toto+json" || !strings.HasPrefix(l.Annotations["in-toto.io/predicate-type"], kind) {
				continue
			}
			text, err := image.ReadAll(ctx, repo, l, maxStatement)
			if err != nil {
				return nil, err
			}
			predicate, err := predicateOf(text, envelope)
			if err != nil {
				return nil, fmt.Errorf("attestation %s: %w", l.Digest, err)
			}
			predicates = append(predicates, predicate)
		}
	}
	return predicates, nil
}

// predicateOf is the predicate of a statement.
func predicateOf(text []byte, envelope bool) (any, error) {
	if envelope {
		var dsse struct {
			Payload []byte `json:"payload"`
		}
		if err := json.Unmarshal(text, &dsse); err != nil {
			return nil, err
		}
		text = dsse.Payload
	}
	var statement struct {
		Predicate any `json:"predicate"`
	}
	err := json.Unmarshal(text, &statement)
	return statement.Predicate, err
}
