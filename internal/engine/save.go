package engine

import (
	"context"
	"fmt"
	"io"
	"slices"

	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"

	"strake/internal/image"
	"strake/internal/layout"
)

// SaveOptions say what to save.
type SaveOptions struct {
	Refs     []string // a name without tag is all tags of its repository
	Platform string   // the images must fit it; "" is any
	Format   string   // oci-archive (also "") or docker-archive
	Output   io.Writer
}

// Save writes images to one tar that docker, podman and Load read: the same
// bytes for the same images and names. All refs are looked up before the first
// byte is written.
func Save(ctx context.Context, env *Env, opts SaveOptions) error {
	write := layout.WriteOptions{}
	switch opts.Format {
	case "", "oci-archive":
	case "docker-archive":
		write.Format = layout.FormatDocker
	default:
		return messageError{fmt.Sprintf("unknown archive format %q: neither oci-archive nor docker-archive", opts.Format), errdefs.ErrInvalidArgument}
	}
	platform, err := parsePlatform(opts.Platform)
	if err != nil {
		return err
	}
	if opts.Platform != "" || write.Format == layout.FormatDocker {
		write.Select = image.Select(platform)
	}
	images, err := savedImages(ctx, env, opts)
	if err != nil {
		return err
	}
	return layout.WriteArchive(ctx, opts.Output, env.Store, images, write)
}

// savedImages looks the refs up; refs to one image are one entry with all
// their names.
func savedImages(ctx context.Context, env *Env, opts SaveOptions) ([]layout.ArchiveImage, error) {
	var list []layout.ArchiveImage
	at := map[digest.Digest]int{}
	for _, ref := range opts.Refs {
		names, err := savedNames(ctx, env, ref)
		if err != nil {
			return nil, err
		}
		for _, name := range names {
			img, err := env.Store.Use(ctx, name)
			if errdefs.IsNotFound(err) {
				return nil, messageError{"No such image: " + ref, errdefs.ErrNotFound}
			}
			if err != nil {
				return nil, imageError(ref, err)
			}
			if err := fits(img, ref, opts.Platform); err != nil {
				return nil, err
			}
			desc := img.Manifest
			root, err := env.Store.Resolve(ctx, name)
			if err != nil {
				return nil, err
			}
			if image.IsIndex(root.MediaType) && complete(ctx, env, root) {
				desc = root
			}
			i, ok := at[desc.Digest]
			if !ok {
				i = len(list)
				at[desc.Digest] = i
				list = append(list, layout.ArchiveImage{Desc: desc})
			}
			if full := canonical(name); slices.Contains(img.Names, full) && !slices.Contains(list[i].Names, full) {
				list[i].Names = append(list[i].Names, full)
			}
		}
	}
	return list, nil
}

// savedNames is what a ref stands for: names, or ref itself when it is none.
func savedNames(ctx context.Context, env *Env, ref string) ([]string, error) {
	named, err := reference.ParseNormalizedNamed(ref)
	if err != nil || !reference.IsNameOnly(named) {
		return []string{ref}, nil //nolint:nilerr // an ID
	}
	tags, err := LocalTags(ctx, env, named.Name())
	if err != nil || len(tags) == 0 {
		return []string{ref}, err
	}
	names := make([]string, len(tags))
	for i, tag := range tags {
		names[i] = named.Name() + ":" + tag
	}
	return names, nil
}

// canonical is a name written out, or "" where ref is none.
func canonical(ref string) string {
	named, err := reference.ParseNormalizedNamed(ref)
	if err != nil {
		return ""
	}
	return reference.TagNameOnly(named).String()
}
