package engine

import (
	"context"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"strake/internal/image"
	"strake/internal/reference"
	"strake/internal/remote"
)

// InspectRemote describes an image in a registry as Inspect does one that is
// here, without its layers: the size is that of what a pull would transfer.
func InspectRemote(ctx context.Context, env *Env, opts InspectOptions) (InspectResult, error) {
	named, err := ParseName(opts.Ref)
	if err != nil {
		return InspectResult{}, err
	}
	var wanted []string
	if opts.Platform != "" {
		wanted = []string{opts.Platform}
	}
	found, err := resolveRemote(ctx, env, named, wanted...)
	if err != nil {
		return InspectResult{}, err
	}
	manifest, _, err := image.ReadManifest(ctx, found.repo, found.manifests[0])
	if err != nil {
		return InspectResult{}, pullError(named, err)
	}
	config, _, err := image.ReadConfig(ctx, found.repo, manifest.Config)
	if err != nil {
		return InspectResult{}, pullError(named, err)
	}
	resp := inspectConfig(config)
	resp.ID = manifest.Config.Digest.String()
	resp.RepoTags = []string{}
	if named.Tag() != "" {
		resp.RepoTags = append(resp.RepoTags, named.Familiar().String())
	}
	resp.RepoDigests = []string{named.Familiar().Name() + "@" + found.root.Digest.String()}
	for _, l := range manifest.Layers {
		resp.Size += l.Size
	}
	resp.Descriptor = &found.root
	return InspectResult{InspectResponse: resp}, nil
}

// remoteImage is an image that was found in a registry.
type remoteImage struct {
	repo      *remote.Repository
	root      ocispec.Descriptor   // what the name points to
	manifests []ocispec.Descriptor // those for the platforms
}

// resolveRemote finds the image of a name for some platforms; none is this
// machine's.
func resolveRemote(ctx context.Context, env *Env, named reference.Named, platforms ...string) (found remoteImage, err error) {
	wanted, err := parsePlatforms(platforms)
	if err != nil {
		return found, err
	}
	if found.repo, err = env.Remote.Repository(named); err != nil {
		return found, err
	}
	if found.root, err = found.repo.Resolve(ctx, named.TagOrDigest()); err != nil {
		return found, pullError(named, err)
	}
	found.manifests, err = choose(ctx, found.repo, found.root, named, wanted)
	return found, err
}
