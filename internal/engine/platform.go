package engine

import (
	"context"
	"fmt"

	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"strake/internal/image"
)

// ParsePlatform parses "os/arch[/variant]"; "" is this machine's.
func ParsePlatform(platform string) (ocispec.Platform, error) {
	if platform == "" {
		return platforms.DefaultSpec(), nil
	}
	p, err := platforms.Parse(platform)
	if err != nil {
		return p, messageError{err.Error(), errdefs.ErrInvalidArgument}
	}
	return platforms.Normalize(p), nil
}

// LocalPlatform is this machine's platform.
func LocalPlatform() string { return platforms.Format(platforms.DefaultSpec()) }

// parsePlatforms parses a list; an empty one stays empty.
func parsePlatforms(list []string) ([]ocispec.Platform, error) {
	parsed := make([]ocispec.Platform, len(list))
	for i, text := range list {
		p, err := ParsePlatform(text)
		if err != nil {
			return nil, err
		}
		parsed[i] = p
	}
	return parsed, nil
}

// find is the store's image of ref for the platform ("" is the one that stands
// for ref), or docker's error.
func find(ctx context.Context, env *Env, ref, platform string) (Image, error) {
	img, err := env.Store.Image(ctx, ref)
	if err != nil {
		return Image{}, imageError(ref, err)
	}
	return forPlatform(ctx, env, img, ref, platform)
}

// use is find for a verb that reads the image's layers: they stay until it is
// done, whoever removes the image.
func use(ctx context.Context, env *Env, ref, platform string) (Image, error) {
	img, err := env.Store.Use(ctx, ref)
	if err != nil {
		return Image{}, imageError(ref, err)
	}
	return forPlatform(ctx, env, img, ref, platform)
}

// forPlatform chooses of what ref names, of which img is one image, the image
// for a platform.
func forPlatform(ctx context.Context, env *Env, img Image, ref, platform string) (Image, error) {
	if platform == "" {
		return img, nil
	}
	want, err := ParsePlatform(platform)
	if err != nil {
		return Image{}, err
	}
	root, err := env.Store.Resolve(ctx, ref)
	if err != nil {
		return Image{}, imageError(ref, err)
	}
	if !image.IsIndex(root.MediaType) {
		if matches(want, img.Platform()) {
			return img, nil
		}
		return Image{}, messageError{fmt.Sprintf("image with reference %s was found but its platform (%s) does not match the specified platform (%s)",
			familiar(ref), platforms.FormatAll(img.Platform()), platforms.FormatAll(want)), errdefs.ErrNotFound}
	}
	list, err := env.Store.Variants(ctx, root)
	if err != nil {
		return Image{}, err
	}
	if best := bestMatch(list, want); best != nil {
		return *best, nil
	}
	return Image{}, lacksPlatform(ref, want)
}

// lacksPlatform is docker's error for a platform that an image is not here for.
func lacksPlatform(ref string, want ocispec.Platform) error {
	return messageError{fmt.Sprintf("image with reference %s was found but does not provide the specified platform (%s)",
		familiar(ref), platforms.FormatAll(want)), errdefs.ErrNotFound}
}

// bestMatch is the image that fits the platform best, or nil.
func bestMatch(list []Image, want ocispec.Platform) *Image {
	var best *Image
	match := platforms.Only(want)
	for i := range list {
		img := &list[i]
		if matches(want, img.Platform()) && (best == nil || match.Less(img.Platform(), best.Platform())) {
			best = img
		}
	}
	return best
}

// matches reports whether an image for have runs where want is asked for. An
// image that says no variant is taken for any, as docker does.
func matches(want, have ocispec.Platform) bool {
	if platforms.Only(want).Match(have) {
		return true
	}
	want, normal := platforms.Normalize(want), platforms.Normalize(have)
	return have.Variant == "" && want.OS == normal.OS && want.Architecture == normal.Architecture
}
