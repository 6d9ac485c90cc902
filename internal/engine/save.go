package engine

import (
	"context"
	"fmt"
	"io"
	"maps"
	"slices"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"strake/internal/image"
	"strake/internal/layout"
	"strake/internal/reference"
)

// SaveOptions say what to save.
type SaveOptions struct {
	Refs      []string // a name without tag is all tags of its repository
	Platforms []string // only images for these; none is all that are here
	Format    string   // oci-archive (also "") or docker-archive
	Output    io.Writer
	NotIn     map[digest.Digest]bool // layers of an inventory, which are left out
}

// SaveResult says what was left out.
type SaveResult struct {
	Omitted      int   // layers
	OmittedBytes int64 // of them
}

// Save writes images to one tar that docker, podman and Load read: the same
// bytes for the same images and names. An index keeps its bytes, and with it go
// the images of it that are here; asked for one platform, or in a docker
// archive, it gives way to the one image. All refs are looked up before the
// first byte is written.
func Save(ctx context.Context, env *Env, opts SaveOptions) (result SaveResult, err error) {
	write := layout.WriteOptions{}
	switch opts.Format {
	case "", "oci-archive":
	case "docker-archive":
		write.Format = layout.FormatDocker
	default:
		return result, messageError{fmt.Sprintf("unknown archive format %q: neither oci-archive nor docker-archive", opts.Format), errdefs.ErrInvalidArgument}
	}
	if write.Format == layout.FormatDocker && len(opts.Platforms) > 1 {
		return result, messageError{"a docker-archive holds one platform of an image", errdefs.ErrInvalidArgument}
	}
	if write.Format == layout.FormatDocker && len(opts.NotIn) > 0 {
		return result, messageError{"a docker-archive cannot leave layers out", errdefs.ErrInvalidArgument}
	}
	list := savedList{at: map[digest.Digest]int{}, kept: map[digest.Digest]bool{}}
	for _, ref := range opts.Refs {
		if err := list.add(ctx, env, ref, opts); err != nil {
			return result, err
		}
	}
	write.Keep = func(desc ocispec.Descriptor) bool { return list.kept[desc.Digest] }
	if len(opts.NotIn) > 0 {
		write.Omit = result.omit(opts.NotIn)
	}
	if err := layout.WriteArchive(ctx, opts.Output, env.Store, list.images, write); err != nil {
		return result, err
	}
	for _, id := range list.ids {
		if err := env.Store.Tell(ctx, "save", id.String(), id.String(), id); err != nil {
			return result, err
		}
	}
	return result, nil
}

// omit leaves out what is in the list, and counts it.
func (r *SaveResult) omit(list map[digest.Digest]bool) func(ocispec.Descriptor) bool {
	seen := map[digest.Digest]bool{}
	return func(desc ocispec.Descriptor) bool {
		if !list[desc.Digest] || seen[desc.Digest] {
			return list[desc.Digest]
		}
		seen[desc.Digest] = true
		r.Omitted++
		r.OmittedBytes += desc.Size
		return true
	}
}

// savedList is what an archive is to hold: refs to one image are one entry with
// all their names.
type savedList struct {
	images []layout.ArchiveImage
	ids    []digest.Digest        // of the images
	at     map[digest.Digest]int  // places in images
	kept   map[digest.Digest]bool // the manifests of indexes that are saved
}

// add looks a ref up.
func (l *savedList) add(ctx context.Context, env *Env, ref string, opts SaveOptions) error {
	names, err := savedNames(ctx, env, ref)
	if err != nil {
		return err
	}
	for _, name := range names {
		img, err := env.Store.Use(ctx, name)
		if errdefs.IsNotFound(err) {
			return messageError{"No such image: " + ref, errdefs.ErrNotFound}
		}
		if err != nil {
			return imageError(ref, err)
		}
		desc, err := l.root(ctx, env, img, name, opts)
		if err != nil {
			return err
		}
		i, ok := l.at[desc.Digest]
		if !ok {
			i = len(l.images)
			l.at[desc.Digest] = i
			l.images, l.ids = append(l.images, layout.ArchiveImage{Desc: desc}), append(l.ids, img.ID)
		}
		if full := canonical(name); slices.Contains(img.Names, full) && !slices.Contains(l.images[i].Names, full) {
			l.images[i].Names = append(l.images[i].Names, full)
		}
	}
	return nil
}

// root is what of a name is saved: its index, or one image.
func (l *savedList) root(ctx context.Context, env *Env, img Image, name string, opts SaveOptions) (ocispec.Descriptor, error) {
	root, err := env.Store.Resolve(ctx, name)
	if err != nil {
		return root, imageError(name, err)
	}
	if !image.IsIndex(root.MediaType) || opts.Format == "docker-archive" || len(opts.Platforms) == 1 {
		for _, platform := range opts.Platforms {
			if img, err = forPlatform(ctx, env, img, name, platform); err != nil {
				return root, err
			}
		}
		return img.Manifest, nil
	}
	if len(opts.Platforms) == 0 {
		held, err := env.Store.Held(ctx, root.Digest)
		maps.Copy(l.kept, held)
		return root, err
	}
	for _, platform := range opts.Platforms {
		chosen, err := forPlatform(ctx, env, img, name, platform)
		if err != nil {
			return root, err
		}
		l.kept[chosen.Manifest.Digest] = true
	}
	return root, nil
}

// savedNames is what a ref stands for: names, or ref itself when it is none.
func savedNames(ctx context.Context, env *Env, ref string) ([]string, error) {
	named, err := reference.Parse(ref)
	if err != nil || !named.IsNameOnly() {
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
	named, err := reference.Parse(ref)
	if err != nil {
		return ""
	}
	return named.OrLatest().String()
}
