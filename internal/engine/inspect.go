package engine

import (
	"context"
	"strings"
	"time"

	imagetypes "github.com/moby/moby/api/types/image"

	imagespec "github.com/moby/docker-image-spec/specs-go/v1"

	"strake/internal/image"
)

// InspectOptions say what to inspect.
type InspectOptions struct {
	Ref      string
	Platform string // which image of an index; "" is the one that stands for it
}

// InspectResult is docker's description of an image, and what docker does not
// say of it, which is not in the JSON.
type InspectResult struct {
	imagetypes.InspectResponse
	Source string `json:"-"` // hosts and repositories that it was pulled from: a mirror's, perhaps
}

// Inspect describes one image as docker does. It fails with errdefs.ErrNotFound
// when there is none, or none for the platform.
func Inspect(ctx context.Context, env *Env, opts InspectOptions) (InspectResult, error) {
	img, err := find(ctx, env, opts.Ref, opts.Platform)
	if err != nil {
		return InspectResult{}, err
	}
	config, err := readConfig(ctx, env, img)
	if err != nil {
		return InspectResult{}, err
	}
	origins, err := env.Store.Origins(ctx, img.ID)
	if err != nil {
		return InspectResult{}, err
	}
	resp := inspectConfig(config)
	resp.ID = img.ID.String()
	resp.RepoTags = FamiliarNames(img.Names)
	resp.RepoDigests = FamiliarNames(img.RepoDigests)
	resp.Size = img.Size
	resp.Metadata = imagetypes.Metadata{LastTagTime: img.Tagged}
	return InspectResult{resp, strings.Join(origins, ", ")}, nil
}

// inspectConfig is what docker tells of an image that its config says.
func inspectConfig(config imagespec.DockerOCIImage) imagetypes.InspectResponse {
	resp := imagetypes.InspectResponse{
		Author:       config.Author,
		Config:       &config.Config,
		Architecture: config.Architecture,
		Variant:      config.Variant,
		Os:           config.OS,
		OsVersion:    config.OSVersion,
		RootFS:       imagetypes.RootFS{Type: config.RootFS.Type, Layers: make([]string, len(config.RootFS.DiffIDs))},
	}
	for i, id := range config.RootFS.DiffIDs {
		resp.RootFS.Layers[i] = id.String()
	}
	if n := len(config.History); n > 0 {
		resp.Comment = config.History[n-1].Comment
	}
	if config.Created != nil {
		resp.Created = config.Created.Format(time.RFC3339Nano)
	}
	return resp
}

func readConfig(ctx context.Context, env *Env, img Image) (imagespec.DockerOCIImage, error) {
	manifest, _, err := image.ReadManifest(ctx, env.Store, img.Manifest)
	if err != nil {
		return imagespec.DockerOCIImage{}, err
	}
	config, _, err := image.ReadConfig(ctx, env.Store, manifest.Config)
	return config, err
}
