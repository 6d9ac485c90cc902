package engine

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	imagespec "github.com/moby/docker-image-spec/specs-go/v1"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"strake/internal/image"
	"strake/internal/layer"
	"strake/internal/reference"
)

// LookOptions say which image to look into. One that is not in the store is
// read from its registry: its layers come into the store, where the next pull
// finds them, but it becomes no image there and GC may collect them.
type LookOptions struct {
	Ref      string
	Platform string // the image must fit it; "" is any, from a registry this machine's
	Remote   bool   // read it from its registry even when it is in the store

	// Reading, when not nil, is told that the image is read from its registry.
	Reading func(name string)
	// Progress, when not nil, is told every step of that, from one goroutine
	// at a time.
	Progress func(Event)
}

// view is an image opened for looking into.
type view struct {
	id     digest.Digest
	config imagespec.DockerOCIImage
	layers layer.Chain // bottom first; none if only the config was asked for
	files  *layer.FS   // the union
}

// look opens an image; the caller closes it.
func look(ctx context.Context, env *Env, opts LookOptions) (*view, error) {
	v, err := lookAtConfig(ctx, env, opts, true)
	if err != nil {
		return nil, err
	}
	if v.layers, err = openChain(ctx, env, v.config.RootFS.DiffIDs); err != nil {
		return nil, err
	}
	v.files = layer.Union(v.layers)
	return v, nil
}

// openChain opens layers of the store; the caller closes them.
func openChain(ctx context.Context, env *Env, ids []digest.Digest) (layer.Chain, error) {
	files, err := chainFiles(ctx, env, ids)
	if err != nil {
		return nil, err
	}
	return layer.OpenChain(files)
}

// chainFiles finds layers of the store.
func chainFiles(ctx context.Context, env *Env, ids []digest.Digest) ([]layer.Files, error) {
	files := make([]layer.Files, len(ids))
	for i, id := range ids {
		var err error
		if files[i], err = env.Store.Layer(ctx, id); err != nil {
			return nil, err
		}
	}
	return files, nil
}

func (v *view) close() error { return v.layers.Close() }

// lookAtConfig finds the image and reads its config. Its layers are in the store
// then, and leased, if they are asked for.
func lookAtConfig(ctx context.Context, env *Env, opts LookOptions, layers bool) (*view, error) {
	if opts.Remote {
		return lookRemote(ctx, env, opts, layers)
	}
	img, err := use(ctx, env, opts.Ref, opts.Platform)
	if errdefs.IsNotFound(err) {
		if _, parseErr := reference.Parse(opts.Ref); parseErr == nil {
			return lookRemote(ctx, env, opts, layers)
		}
	}
	if err != nil {
		return nil, err
	}
	return readView(ctx, env.Store, img.Manifest)
}

// lookRemote is lookAtConfig in the image's registry.
func lookRemote(ctx context.Context, env *Env, opts LookOptions, layers bool) (*view, error) {
	named, err := ParseName(opts.Ref)
	if err != nil {
		return nil, err
	}
	var wanted []ocispec.Platform
	if opts.Platform != "" {
		platform, err := ParsePlatform(opts.Platform)
		if err != nil {
			return nil, err
		}
		wanted = []ocispec.Platform{platform}
	}
	repo, err := env.Remote.Repository(named)
	if err != nil {
		return nil, err
	}
	if opts.Reading != nil {
		opts.Reading(named.Familiar().String())
	}
	root, err := repo.Resolve(ctx, named.TagOrDigest())
	if err != nil {
		return nil, pullError(named, err)
	}
	chosen, err := choose(ctx, repo, root, named, wanted)
	if err != nil {
		return nil, err
	}
	manifest := chosen[0]
	if !layers {
		return readView(ctx, repo, manifest)
	}
	copied := image.CopyOptions{Concurrency: pullConcurrency, Progress: opts.Progress}
	if err := image.CopyGraph(ctx, repo, env.Store, manifest, copied); err != nil {
		return nil, pullError(named, err)
	}
	return readView(ctx, env.Store, manifest)
}

func readView(ctx context.Context, src image.Source, desc ocispec.Descriptor) (*view, error) {
	manifest, _, err := image.ReadManifest(ctx, src, desc)
	if err != nil {
		return nil, err
	}
	config, _, err := image.ReadConfig(ctx, src, manifest.Config)
	if err != nil {
		return nil, err
	}
	if len(config.RootFS.DiffIDs) != len(manifest.Layers) {
		return nil, fmt.Errorf("manifest %s: its config names %d layers, it has %d: %w",
			desc.Digest, len(config.RootFS.DiffIDs), len(manifest.Layers), errdefs.ErrInvalidArgument)
	}
	return &view{id: manifest.Config.Digest, config: config, files: layer.Union(nil)}, nil
}

// shortID is how many digits of a digest are shown; fewer may be a number.
const shortID = 12

// layer finds a layer by its number, from 1 at the bottom, or by its diffID or
// the beginning of it.
func (v *view) layer(which string) (*layer.Layer, error) {
	var found *layer.Layer
	n, err := strconv.Atoi(which)
	number := err == nil && len(which) < shortID
	if number && n >= 1 && n <= len(v.layers) {
		found = v.layers[n-1]
	}
	for _, l := range v.layers {
		id := l.Files().DiffID
		if number || which == "" || !strings.HasPrefix(id.String(), which) && !strings.HasPrefix(id.Encoded(), which) {
			continue
		}
		if found != nil && found.Files().DiffID != id {
			return nil, messageError{"several layers begin with " + which, errdefs.ErrInvalidArgument}
		}
		found = l
	}
	if found == nil {
		return nil, messageError{fmt.Sprintf("no layer %s: the image has %d", which, len(v.layers)), errdefs.ErrNotFound}
	}
	return found, nil
}

// inside makes a path of an image, however it is written, a name of package io/fs.
func inside(name string) string {
	if name = path.Clean("/" + name)[1:]; name == "" {
		return "."
	}
	return name
}

// shownPath is a name of package io/fs as a path of the image.
func shownPath(name string) string {
	if name == "." {
		return "/"
	}
	return "/" + name
}

// pathError says what is wrong with a path of the image, in the system's words.
func pathError(name string, err error) error {
	failed, ok := errors.AsType[*fs.PathError](err)
	switch {
	case ok && strings.HasPrefix(failed.Err.Error(), "not a directory"):
		return messageError{name + ": Not a directory", errdefs.ErrInvalidArgument}
	case errors.Is(err, fs.ErrNotExist):
		return messageError{name + ": No such file or directory", errdefs.ErrNotFound}
	case ok && errors.Is(failed.Err, fs.ErrInvalid):
		return messageError{name + ": Invalid argument", errdefs.ErrInvalidArgument}
	case ok && strings.HasPrefix(failed.Err.Error(), "too many symlinks"):
		return messageError{name + ": Too many levels of symbolic links", errdefs.ErrInvalidArgument}
	}
	return err
}
