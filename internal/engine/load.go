package engine

import (
	"context"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"strake/internal/image"
	"strake/internal/layout"
	"strake/internal/store"
)

// LoadOptions say what to load.
type LoadOptions struct {
	Input     io.Reader // an archive of any form, compressed or not
	Platforms []string  // only images for these; none is all that the archive holds
	// Progress, when not nil, is told every step, from one goroutine at a time.
	Progress func(Event)
}

// LoadResult says what was loaded.
type LoadResult struct {
	Images   []LoadedImage
	Replaced []LoadedImage // names that another image had, with that image's ID
}

// LoadedImage is one name of an image, or an image without one.
type LoadedImage struct {
	Name string // familiar; "" for none
	ID   digest.Digest
}

// Load takes the images of an archive in, one after the other, each with its
// names: whole or not at all. Of an index it takes what the archive holds. It
// fails with errdefs.ErrNotFound where no image is for the platforms.
func Load(ctx context.Context, env *Env, opts LoadOptions) (result LoadResult, err error) {
	wanted, err := parsePlatforms(opts.Platforms)
	if err != nil {
		return LoadResult{}, err
	}
	dir, err := env.Store.TempDir(ctx)
	if err != nil {
		return LoadResult{}, err
	}
	defer closing(&err, func() error { return os.RemoveAll(dir) })
	free, err := env.Store.Free()
	if err != nil {
		return LoadResult{}, err
	}
	// What an archive holds is stored once more: a copy of it that takes more
	// than half of what is free could not be loaded.
	archive, err := layout.ReadArchive(ctx, opts.Input, layout.ReadOptions{TempDir: dir, MaxCopy: free/2 + 1})
	if err != nil {
		return LoadResult{}, err
	}
	defer closing(&err, archive.Close)
	for _, entry := range archive.Images() {
		manifests, err := loaded(ctx, archive, entry.Desc, wanted, 0)
		if err != nil {
			return result, err
		}
		if len(manifests) == 0 && len(wanted) > 0 {
			continue
		}
		err = image.CopyGraph(ctx, archive, env.Store, entry.Desc, image.CopyOptions{
			Select: present(archive, wanted), Progress: opts.Progress,
			Admit: func(ctx context.Context, blobs []ocispec.Descriptor) error { return carried(ctx, env, archive, blobs) },
		})
		if err != nil {
			return result, copyError(err)
		}
		if err := nameLoaded(ctx, env, entry, manifests, &result); err != nil {
			return result, err
		}
	}
	if len(result.Images) == 0 && len(wanted) > 0 {
		return result, messageError{fmt.Sprintf("requested platform (%s) not found", platforms.FormatAll(wanted[0])), errdefs.ErrNotFound}
	}
	return result, settle(ctx, env)
}

// present selects of an index what the archive holds: all of it, or what fits
// the platforms.
func present(archive *layout.Archive, wanted []ocispec.Platform) func(ocispec.Index) ([]ocispec.Descriptor, error) {
	return func(index ocispec.Index) ([]ocispec.Descriptor, error) {
		index.Manifests = slices.DeleteFunc(index.Manifests, func(d ocispec.Descriptor) bool { return !archive.Has(d) })
		if len(wanted) == 0 {
			return index.Manifests, nil
		}
		var list []ocispec.Descriptor
		for _, p := range wanted {
			chosen, err := image.Select(p)(index)
			if err != nil && !errdefs.IsNotFound(err) {
				return nil, err
			}
			list = append(list, chosen...)
		}
		return list, nil
	}
}

// carried fails with errdefs.ErrNotFound where blobs are neither in the archive,
// which may have been saved without what another store has, nor here.
func carried(ctx context.Context, env *Env, archive *layout.Archive, blobs []ocispec.Descriptor) error {
	var missing []string
	for _, desc := range blobs {
		if archive.Has(desc) {
			continue
		}
		here, err := env.Store.Exists(ctx, desc)
		if err != nil {
			return err
		}
		if !here {
			missing = append(missing, desc.Digest.String())
		}
	}
	if len(missing) == 0 {
		return nil
	}
	return messageError{"neither the archive nor this store has " + strings.Join(missing, ", ") +
		": save it again with the inventory of this store, or without one", errdefs.ErrNotFound}
}

// loaded lists the manifests of an archive's image that are taken of it, through
// indexes in the index.
func loaded(ctx context.Context, archive *layout.Archive, root ocispec.Descriptor, wanted []ocispec.Platform, depth int) ([]ocispec.Descriptor, error) {
	if !image.IsIndex(root.MediaType) {
		if depth == 0 && len(wanted) > 0 {
			manifest, _, err := image.ReadManifest(ctx, archive, root)
			if err != nil {
				return nil, err
			}
			config, _, err := image.ReadConfig(ctx, archive, manifest.Config)
			if err != nil || !slices.ContainsFunc(wanted, func(p ocispec.Platform) bool { return matches(p, config.Platform) }) {
				return nil, err
			}
		}
		return []ocispec.Descriptor{root}, nil
	}
	const deepest = 8
	if depth > deepest {
		return nil, fmt.Errorf("index %s: nested deeper than %d: %w", root.Digest, deepest, errdefs.ErrInvalidArgument)
	}
	index, _, err := image.ReadIndex(ctx, archive, root)
	if err != nil {
		return nil, err
	}
	chosen, err := present(archive, wanted)(index)
	if err != nil {
		return nil, err
	}
	var list []ocispec.Descriptor
	for _, desc := range chosen {
		more, err := loaded(ctx, archive, desc, wanted, depth+1)
		if err != nil {
			return nil, err
		}
		list = append(list, more...)
	}
	return list, nil
}

// nameLoaded makes an image of an archive, whose blobs are here, reachable.
func nameLoaded(ctx context.Context, env *Env, entry layout.ArchiveImage, manifests []ocispec.Descriptor, result *LoadResult) error {
	before := map[string]digest.Digest{}
	for _, name := range entry.Names {
		if old, err := env.Store.Image(ctx, name); err == nil {
			before[name] = old.ID
		}
	}
	img, err := env.Store.AddImage(ctx, store.AddImageOptions{Action: "load", Root: entry.Desc, Manifests: manifests, Names: entry.Names})
	if err != nil {
		return err
	}
	if len(entry.Names) == 0 {
		result.Images = append(result.Images, LoadedImage{ID: img.ID})
	}
	for _, name := range entry.Names {
		if old, ok := before[name]; ok && old != img.ID {
			result.Replaced = append(result.Replaced, LoadedImage{familiar(name), old})
		}
		result.Images = append(result.Images, LoadedImage{familiar(name), img.ID})
	}
	return nil
}
