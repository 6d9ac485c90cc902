package engine

import (
	"context"
	"encoding/json"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"strake/internal/image"
	"strake/internal/reference"
	"strake/internal/remote"
	"strake/internal/store"
)

// PushOptions say what to push.
type PushOptions struct {
	Ref      string // a name with a tag, or latest
	Platform string // push only the manifest for it; "" is all that is here
	// Compression is how layers that were built here are compressed: "gzip" or
	// "zstd", with a level or not ("zstd:19"); "" is as they were before, or gzip.
	Compression string
	// Progress, when not nil, is told every step, from one goroutine at a time.
	Progress func(Event)
}

// PushResult says what was pushed.
type PushResult struct {
	Name reference.Named
	Root ocispec.Descriptor // the manifest or index that the tag names now
	// Index is set when Root is an image that was pushed in its place, because
	// not all that the index names is here.
	Index digest.Digest
}

// Push copies the image of a name to the registry that the name says. Layers
// that were built here are compressed while they are uploaded. Blobs that the registry has, here
// or in another repository that is known to hold them, are not sent.
func Push(ctx context.Context, env *Env, opts PushOptions) (PushResult, error) {
	named, err := ParseName(opts.Ref)
	if err != nil {
		return PushResult{}, err
	}
	recipe, err := parseCompression(opts.Compression)
	if err != nil {
		return PushResult{}, err
	}
	if named.Digest() != "" {
		return PushResult{}, messageError{"cannot push a digest reference", errdefs.ErrInvalidArgument}
	}
	img, err := env.Store.Use(ctx, named.String())
	if errdefs.IsNotFound(err) {
		return PushResult{}, missingName(ctx, env, named)
	}
	if err != nil {
		return PushResult{}, err
	}
	repo, err := env.Remote.Repository(named)
	if err != nil {
		return PushResult{}, err
	}
	streams := &streams{repo: repo, next: opts.Progress}
	how := store.CompressOptions{
		Recipe: recipe,
		Tee:    func(layer ocispec.Descriptor) store.Tee { return streams.open(ctx, layer, opts.Compression) },
	}
	root, index, err := pushRoot(ctx, env, img, named, opts.Platform, how)
	streams.wait()
	if err != nil {
		return PushResult{}, err
	}
	if err := upload(ctx, env, env.Store, repo, named, root, streams.record); err != nil {
		return PushResult{}, err
	}
	return PushResult{Name: named, Root: root, Index: index}, recordPush(ctx, env, named, img.ID, root)
}

// upload copies root to its repository and tags it there, unless
// named has a digest. Where its layers are then is noted.
func upload(ctx context.Context, env *Env, src image.Source, repo *remote.Repository, named reference.Named, root ocispec.Descriptor, progress func(Event)) error {
	layers := layerRecorder{next: progress}
	err := image.CopyGraph(ctx, src, repo, root, image.CopyOptions{
		Concurrency: pushConcurrency,
		MountFrom:   func(desc ocispec.Descriptor) []string { return mountSources(ctx, env, named, desc) },
		Progress:    layers.record,
	})
	if err == nil {
		err = layers.complete(ctx, src, root)
	}
	if err == nil && named.Digest() == "" {
		err = repo.Tag(ctx, root, named.TagOrDigest())
	}
	if err != nil {
		return pushError(named, err)
	}
	return env.Store.RecordSource(ctx, named.Name(), layers.digests...)
}

// CheckCompression fails unless PushOptions may have this Compression.
func CheckCompression(compression string) error {
	_, err := parseCompression(compression)
	return err
}

func parseCompression(s string) (recipe store.Recipe, err error) {
	if s == "" {
		return recipe, nil
	}
	if recipe, err = store.ParseRecipe(s); err != nil {
		err = messageError{strings.TrimSuffix(err.Error(), ": "+errdefs.ErrInvalidArgument.Error()), errdefs.ErrInvalidArgument}
	}
	return recipe, err
}

// pushConcurrency is how many blobs are pushed at once, as docker does.
const pushConcurrency = 5

// pushRoot is what of a name is pushed: its index when all of that is here, else
// an image with compressed layers: the one for the platform, the only one that
// is here, or this machine's. Instead of which index it is, is returned too.
func pushRoot(ctx context.Context, env *Env, img Image, named reference.Named, platform string, how store.CompressOptions) (root ocispec.Descriptor, index digest.Digest, err error) {
	top, err := env.Store.Resolve(ctx, named.String())
	if err != nil {
		return top, "", err
	}
	if platform != "" {
		if img, err = forPlatform(ctx, env, img, named.String(), platform); err != nil {
			return top, "", err
		}
	} else if image.IsIndex(top.MediaType) {
		whole, err := complete(ctx, env, top)
		if err == nil && whole {
			top, err = compressIndex(ctx, env, top, how)
		}
		if err != nil || whole {
			return top, "", err
		}
		list, err := env.Store.Variants(ctx, top)
		if err != nil {
			return top, "", err
		}
		if len(list) > 1 && !matches(platforms.DefaultSpec(), img.Platform()) {
			return top, "", messageError{"multiple matching manifests found but no specific platform requested", errdefs.ErrConflict}
		}
		index = top.Digest
	}
	root, err = env.Store.PushManifest(ctx, img, how)
	return root, index, err
}

// compressIndex is the index with which all of root is pushed: root itself, unless it
// names layers as they were built here. Those are compressed.
func compressIndex(ctx context.Context, env *Env, root ocispec.Descriptor, how store.CompressOptions) (ocispec.Descriptor, error) {
	index, _, err := image.ReadIndex(ctx, env.Store, root)
	if err != nil {
		return root, err
	}
	list, err := env.Store.Variants(ctx, root)
	if err != nil {
		return root, err
	}
	changed := false
	for i, desc := range index.Manifests {
		at := slices.IndexFunc(list, func(img Image) bool { return img.Manifest.Digest == desc.Digest })
		if at < 0 {
			continue
		}
		pushed, err := env.Store.PushManifest(ctx, list[at], how)
		if err != nil {
			return root, err
		}
		changed = changed || pushed.Digest != desc.Digest
		pushed.Platform, pushed.Annotations = desc.Platform, desc.Annotations
		index.Manifests[i] = pushed
	}
	if !changed {
		return root, nil
	}
	b, err := json.Marshal(index)
	if err != nil {
		return root, fmt.Errorf("index %s: %w", root.Digest, err)
	}
	return env.Store.PutBlob(ctx, root.MediaType, b)
}

// complete reports whether all that an index names is here.
func complete(ctx context.Context, env *Env, root ocispec.Descriptor) (bool, error) {
	held, err := env.Store.Held(ctx, root.Digest)
	if err != nil {
		return false, err
	}
	whole := true
	err = image.Walk(ctx, env.Store, root, func(desc ocispec.Descriptor, b []byte) error {
		if desc.Digest != root.Digest {
			whole = whole && held[desc.Digest]
		}
		if !whole || !image.IsIndex(desc.MediaType) {
			return fs.SkipDir
		}
		return nil
	})
	if errdefs.IsNotFound(err) {
		return false, nil
	}
	return whole, err
}

// mountSources lists repositories of named's registry that hold desc.
func mountSources(ctx context.Context, env *Env, named reference.Named, desc ocispec.Descriptor) []string {
	sources, err := env.Store.Sources(ctx, desc.Digest)
	if err != nil {
		return nil // mounting only saves time
	}
	var paths []string
	for _, source := range sources {
		if path, ok := strings.CutPrefix(source, named.Domain()+"/"); ok && source != named.Name() {
			paths = append(paths, path)
		}
	}
	return paths
}

// missingName is docker's error for a name that no image has.
func missingName(ctx context.Context, env *Env, named reference.Named) error {
	tags, err := LocalTags(ctx, env, named.Name())
	if err != nil {
		return err
	}
	text := "An image does not exist locally with the tag: " + named.Familiar().Name()
	if len(tags) > 0 {
		text = "tag does not exist: " + named.Familiar().String()
	}
	return messageError{text, errdefs.ErrNotFound}
}

// LocalTags lists the tags that images here have in a repository, sorted.
func LocalTags(ctx context.Context, env *Env, ref string) ([]string, error) {
	named, err := reference.Parse(ref)
	if err != nil {
		return nil, messageError{err.Error(), errdefs.ErrInvalidArgument}
	}
	images, err := env.Store.Overview(ctx)
	if err != nil {
		return nil, err
	}
	var tags []string
	for _, img := range images {
		for _, name := range img.Names {
			if tag, ok := strings.CutPrefix(name, named.Name()+":"); ok {
				tags = append(tags, tag)
			}
		}
	}
	slices.Sort(tags)
	return tags, nil
}
