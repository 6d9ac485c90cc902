package engine

import (
	"context"
	"fmt"
	"io"
	"os"

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
	Input    io.Reader // an archive of any form, compressed or not
	Platform string    // the one to take of an index; "" is this machine's
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
// names: whole or not at all.
func Load(ctx context.Context, env *Env, opts LoadOptions) (result LoadResult, err error) {
	platform, err := parsePlatform(opts.Platform)
	if err != nil {
		return LoadResult{}, err
	}
	dir, err := env.Store.TempDir(ctx)
	if err != nil {
		return LoadResult{}, err
	}
	defer closing(&err, func() error { return os.RemoveAll(dir) })
	archive, err := layout.ReadArchive(ctx, opts.Input, layout.ReadOptions{TempDir: dir})
	if err != nil {
		return LoadResult{}, err
	}
	defer closing(&err, archive.Close)
	for _, entry := range archive.Images() {
		if err := loadImage(ctx, env, archive, entry, platform, opts, &result); err != nil {
			return result, err
		}
	}
	return result, nil
}

func loadImage(ctx context.Context, env *Env, archive *layout.Archive, entry layout.ArchiveImage, platform ocispec.Platform, opts LoadOptions, result *LoadResult) error {
	manifest, err := image.FindManifest(ctx, archive, entry.Desc, platform)
	if errdefs.IsNotFound(err) && opts.Platform != "" {
		return messageError{fmt.Sprintf("requested platform (%s) not found", platforms.Format(platform)), errdefs.ErrNotFound}
	}
	if err != nil {
		return err
	}
	err = image.CopyGraph(ctx, archive, env.Store, entry.Desc, image.CopyOptions{
		Select: image.Select(platform), Progress: opts.Progress,
	})
	if err != nil {
		return err
	}
	before := map[string]digest.Digest{}
	for _, name := range entry.Names {
		if old, err := env.Store.Image(ctx, name); err == nil {
			before[name] = old.ID
		}
	}
	img, err := env.Store.AddImage(ctx, store.AddImageOptions{Root: entry.Desc, Manifest: manifest, Names: entry.Names})
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
