package engine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"strake/internal/image"
	"strake/internal/layout"
	"strake/internal/reference"
	"strake/internal/store"
)

// CopyOptions say what goes where. A place is a transport and what is there:
//
//	[docker://]NAME[:TAG|@DIGEST]  a registry
//	store:NAME or store:ID         this store
//	oci:DIR[:TAG]                  an OCI layout
//	oci-archive:FILE[:NAME]        a tar of one
//	docker-archive:FILE[:NAME]     what docker save wrote before version 25
type CopyOptions struct {
	Source, Target string
	Platform       string // only the manifest for it; "" is all that the source has
	// Write makes the file of an archive whole or not at all.
	Write func(path string, write func(io.Writer) error) error
	// Progress, when not nil, is told every step, from one goroutine at a time.
	Progress func(Event)
}

// CopyResult says what was copied.
type CopyResult struct {
	Root ocispec.Descriptor // as it is at the target: the digest is the source's
}

// Copy copies an image from one place to another, bit by bit: what the target
// has is not read again, blobs of a repository beside the target's are mounted,
// and what a broken copy finished is used by the next. An image that was built
// here is compressed on its way to a registry, as Push does.
func Copy(ctx context.Context, env *Env, opts CopyOptions) (CopyResult, error) {
	from, err := parsePlace(opts.Source)
	if err != nil {
		return CopyResult{}, err
	}
	to, err := parsePlace(opts.Target)
	if err != nil {
		return CopyResult{}, err
	}
	src, err := openSource(ctx, env, from, opts.Platform, to.transport == "docker")
	if err != nil {
		return CopyResult{}, err
	}
	root, err := copyFrom(ctx, env, src, to, opts)
	return CopyResult{root}, errors.Join(err, src.close())
}

// place is one end of a copy.
type place struct {
	transport string
	path      string // of the archive or layout
	name      string // in it: may be ""
}

func parsePlace(text string) (place, error) {
	transport, rest, _ := strings.Cut(text, ":")
	switch transport {
	case "oci", "oci-archive", "docker-archive":
		path, name, _ := strings.Cut(rest, ":")
		if path == "" {
			return place{}, messageError{fmt.Sprintf("%q names no file", text), errdefs.ErrInvalidArgument}
		}
		return place{transport, path, name}, nil
	case "store":
		return place{transport: transport, name: rest}, nil
	case "docker":
		if name, ok := strings.CutPrefix(rest, "//"); ok {
			return place{transport: transport, name: name}, nil
		}
	}
	return place{transport: "docker", name: text}, nil
}

// copySource is an open source of a copy.
type copySource struct {
	image.Source
	root  ocispec.Descriptor
	named reference.Named // nil where it is not in a registry
	close func() error
}

// openSource opens a place and finds the image in it. Of an image of the store
// that is to go to a registry, compressed tells, the layers are compressed.
func openSource(ctx context.Context, env *Env, from place, platform string, compressed bool) (src copySource, err error) {
	src.close = func() error { return nil }
	switch from.transport {
	case "docker":
		if src.named, err = ParseName(from.name); err != nil {
			return src, err
		}
		repo, err := env.Remote.Repository(src.named)
		if err != nil {
			return src, err
		}
		src.Source = repo
		if src.root, err = repo.Resolve(ctx, src.named.TagOrDigest()); err != nil {
			return src, pullError(src.named, err)
		}
		return src, nil
	case "store":
		src.Source = env.Store
		src.root, err = storeRoot(ctx, env, from.name, platform, compressed)
		return src, err
	case "oci":
		if _, err := os.Stat(filepath.Join(from.path, ocispec.ImageLayoutFile)); errors.Is(err, fs.ErrNotExist) {
			return src, messageError{fmt.Sprintf("%s is not an OCI layout", from.path), errdefs.ErrNotFound}
		}
		dir, err := layout.Open(from.path)
		if err != nil {
			return src, err
		}
		src.Source = dir
	default:
		if src.Source, src.close, err = openArchive(ctx, env, from.path); err != nil {
			return src, err
		}
	}
	if src.root, err = src.Resolve(ctx, from.name); err != nil {
		err = errors.Join(fmt.Errorf("%s:%s: %w", from.transport, from.path, err), src.close())
	}
	return src, err
}

// openArchive opens an archive; what has to be unpacked for that goes to the
// store's scratch.
func openArchive(ctx context.Context, env *Env, path string) (image.Source, func() error, error) {
	dir, err := env.Store.TempDir(ctx)
	if err != nil {
		return nil, nil, err
	}
	drop := func() error { return os.RemoveAll(dir) }
	free, err := env.Store.Free()
	if err != nil {
		return nil, nil, errors.Join(err, drop())
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, nil, errors.Join(err, drop())
	}
	archive, err := layout.ReadArchive(ctx, f, layout.ReadOptions{TempDir: dir, MaxCopy: free + 1})
	if err != nil {
		return nil, nil, errors.Join(err, f.Close(), drop())
	}
	return archive, func() error { return errors.Join(archive.Close(), f.Close(), drop()) }, nil
}

// storeRoot is what of a name of the store is copied: its index when all of that
// is here, else one image; compressed, when the target asks for that or what the
// image's own manifest names is not here any more.
func storeRoot(ctx context.Context, env *Env, ref, platform string, compressed bool) (ocispec.Descriptor, error) {
	img, err := use(ctx, env, ref, platform)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	root, err := env.Store.Resolve(ctx, ref)
	if err != nil {
		return root, imageError(ref, err)
	}
	if platform == "" && image.IsIndex(root.MediaType) {
		whole, err := complete(ctx, env, root)
		if err != nil || whole {
			return root, err
		}
	}
	if !compressed {
		whole, err := complete(ctx, env, img.Manifest)
		if err != nil || whole {
			return img.Manifest, err
		}
	}
	return env.Store.PushManifest(ctx, img, store.CompressOptions{})
}

// onePlatform finds of root the manifest for a platform, and fails where it has
// none.
func onePlatform(ctx context.Context, src image.Source, root ocispec.Descriptor, platform string) (ocispec.Descriptor, error) {
	want, err := ParsePlatform(platform)
	if err != nil {
		return root, err
	}
	if image.IsIndex(root.MediaType) {
		return image.FindManifest(ctx, src, root, want)
	}
	have, err := configPlatform(ctx, src, root)
	if err != nil {
		return root, err
	}
	if !matches(want, have) {
		return root, messageError{fmt.Sprintf("the image is for %s, not for %s",
			platforms.FormatAll(have), platforms.FormatAll(want)), errdefs.ErrNotFound}
	}
	return root, nil
}

// copyFrom copies an open source to its target.
func copyFrom(ctx context.Context, env *Env, src copySource, to place, opts CopyOptions) (ocispec.Descriptor, error) {
	root := src.root
	if opts.Platform != "" {
		var err error
		if root, err = onePlatform(ctx, src, root, opts.Platform); err != nil {
			return root, err
		}
	}
	how := image.CopyOptions{Concurrency: pushConcurrency, Progress: opts.Progress}
	switch to.transport {
	case "docker":
		return root, copyToRegistry(ctx, env, src, root, to.name, how)
	case "store":
		named, err := ParseTarget(to.name)
		if err != nil {
			return root, err
		}
		how.Admit = func(ctx context.Context, blobs []ocispec.Descriptor) error { return hasRoom(ctx, env, blobs) }
		return root, copyTo(ctx, src, env.Store, root, named.String(), how)
	case "oci":
		dir, err := layout.Open(to.path)
		if err != nil {
			return root, err
		}
		name := to.name
		if name == "" {
			name = "latest"
		}
		return root, copyTo(ctx, src, dir, root, name, how)
	}
	write := layout.WriteOptions{}
	if to.transport == "docker-archive" {
		write.Format = layout.FormatDocker
		if image.IsIndex(root.MediaType) {
			return root, messageError{"a docker-archive holds one platform of an image: say which with --platform", errdefs.ErrInvalidArgument}
		}
	}
	entry := layout.ArchiveImage{Desc: root}
	if to.name != "" {
		named, err := ParseTarget(to.name)
		if err != nil {
			return root, err
		}
		entry.Names = []string{named.String()}
	}
	return root, opts.Write(to.path, func(w io.Writer) error {
		return layout.WriteArchive(ctx, w, src, []layout.ArchiveImage{entry}, write)
	})
}

// copyToRegistry copies root to the name that a user wrote; without a tag it is
// latest, and by a digest it gets no tag. Where its layers are then is noted:
// the next copy to that registry mounts them.
func copyToRegistry(ctx context.Context, env *Env, src copySource, root ocispec.Descriptor, name string, how image.CopyOptions) error {
	named, err := ParseName(name)
	if err != nil {
		return err
	}
	repo, err := env.Remote.Repository(named)
	if err != nil {
		return err
	}
	how.MountFrom = func(desc ocispec.Descriptor) []string {
		known := mountSources(ctx, env, named, desc)
		if !src.named.IsZero() && src.named.Domain() == named.Domain() {
			return append([]string{src.named.Path()}, known...)
		}
		return known
	}
	layers := layerRecorder{next: how.Progress}
	how.Progress = layers.record
	if err := copyTo(ctx, src, repo, root, named.TagOrDigest(), how); err != nil {
		return pushError(named, err)
	}
	return env.Store.RecordSource(ctx, named.Name(), layers.digests...)
}

func copyTo(ctx context.Context, src image.Source, dst image.Target, root ocispec.Descriptor, ref string, how image.CopyOptions) error {
	if err := image.CopyGraph(ctx, src, dst, root, how); err != nil {
		return copyError(err)
	}
	return dst.Tag(ctx, root, ref)
}
