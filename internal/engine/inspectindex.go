package engine

import (
	"context"

	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	imagespec "github.com/moby/docker-image-spec/specs-go/v1"
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

// IndexConfigs reads the configs of the images that InspectIndex found, by
// platform.
func IndexConfigs(ctx context.Context, env *Env, found InspectIndexResult) (map[string]imagespec.DockerOCIImage, error) {
	repo, err := env.Remote.Repository(found.Name)
	if err != nil {
		return nil, err
	}
	descs := []ocispec.Descriptor{found.Desc}
	if image.IsIndex(found.Desc.MediaType) {
		descs = imagesIn(found.Index)
	}
	configs := map[string]imagespec.DockerOCIImage{}
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
		configs[platforms.Format(platforms.Normalize(config.Platform))] = config
	}
	return configs, nil
}
