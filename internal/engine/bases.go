package engine

import (
	"context"
	"sync"

	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"strake/internal/build"
	"strake/internal/image"
)

// baseImages finds the images that a build starts from. They are leased when the
// first step misses the cache: a build that finds all of its steps only reads,
// and that its image is whole is proved when it is named.
type baseImages struct {
	env *Env

	mu   sync.Mutex
	held bool            // what is found is leased
	ids  []digest.Digest // found before
}

// Resolve implements build.Images.
func (b *baseImages) Resolve(ctx context.Context, ref string, platform ocispec.Platform, pull bool) (build.Image, error) {
	img, err := b.find(ctx, ref, platforms.Format(platform))
	if err != nil && !errdefs.IsNotFound(err) {
		return build.Image{}, err
	}
	if pull || err != nil {
		pulled, err := Pull(ctx, b.env, PullOptions{Ref: ref, Platforms: []string{platforms.Format(platform)}})
		if err != nil {
			return build.Image{}, err
		}
		img = pulled.Image
	}
	manifest, _, err := image.ReadManifest(ctx, b.env.Store, img.Manifest)
	if err != nil {
		return build.Image{}, err
	}
	config, raw, err := image.ReadConfig(ctx, b.env.Store, manifest.Config)
	if err != nil {
		return build.Image{}, err
	}
	return build.Image{Layers: config.RootFS.DiffIDs, Config: raw, Manifest: img.Manifest}, nil
}

func (b *baseImages) find(ctx context.Context, ref, platform string) (Image, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.held {
		return use(ctx, b.env, ref, platform)
	}
	img, err := find(ctx, b.env, ref, platform)
	if err == nil {
		b.ids = append(b.ids, img.ID)
	}
	return img, err
}

// hold leases what was found, and what will be. It fails with
// errdefs.ErrNotFound when an image was removed since.
func (b *baseImages) hold(ctx context.Context) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.held = true
	for _, id := range b.ids {
		if _, err := b.env.Store.Use(ctx, id.String()); err != nil {
			return err
		}
	}
	return nil
}
