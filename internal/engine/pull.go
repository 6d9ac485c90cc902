package engine

import (
	"context"
	"fmt"
	"slices"

	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"strake/internal/image"
	"strake/internal/reference"
)

// PullOptions say what to pull.
type PullOptions struct {
	Ref          string   // a name
	Platforms    []string // of an index; none is this machine's
	AllPlatforms bool     // all that an index names, attestations too
	// Lone takes an image that is for one platform and in no index, whatever that is.
	Lone bool

	// Found, when not nil, is told once that the registry has it.
	Found func(PullResult)
	// Progress, when not nil, is told every step, from one goroutine at a time.
	Progress func(Event)
}

// PullResult says what was pulled.
type PullResult struct {
	Name    reference.Named // with a tag or a digest
	Root    digest.Digest   // what the registry's name points to
	Image   Image           // for the first platform; unset when Found is told
	Updated bool            // the name was not there, or had not all of these images
}

// Pull makes what a registry holds under a name available for some platforms,
// and gives it that name: all of it or nothing. The platforms that the same
// index has here already stay. What an earlier try brought is used.
func Pull(ctx context.Context, env *Env, opts PullOptions) (PullResult, error) {
	named, err := ParseName(opts.Ref)
	if err != nil {
		return PullResult{}, err
	}
	wanted, err := parsePlatforms(opts.Platforms)
	if err != nil {
		return PullResult{}, err
	}
	repo, err := env.Remote.Repository(named)
	if err != nil {
		return PullResult{}, err
	}
	root, err := repo.Resolve(ctx, named.TagOrDigest())
	if err != nil {
		return PullResult{}, pullError(named, err)
	}
	result := PullResult{Name: named, Root: root.Digest}
	before, err := imagesOf(ctx, env, named.String())
	if err != nil {
		return PullResult{}, err
	}
	add := addOptions(named, root)
	add.Source = repo.Source()
	layers := layerRecorder{next: opts.Progress}
	how := image.CopyOptions{Concurrency: pullConcurrency, Progress: layers.record}
	how.Admit = func(ctx context.Context, blobs []ocispec.Descriptor) error { return hasRoom(ctx, env, blobs) }
	if !opts.AllPlatforms {
		asked := wanted
		if opts.Lone && !image.IsIndex(root.MediaType) {
			asked = nil
		}
		if add.Manifests, err = choose(ctx, repo, root, named, asked); err != nil {
			return PullResult{}, err
		}
		how.Select = selectAny(wanted)
	}
	if opts.Found != nil {
		opts.Found(result)
	}
	if err := image.CopyGraph(ctx, repo, env.Store, root, how); err != nil {
		return PullResult{}, pullError(named, err)
	}
	if result.Image, err = env.Store.AddImage(ctx, add); err != nil {
		return PullResult{}, err
	}
	list, err := env.Store.Variants(ctx, root)
	if err != nil {
		return PullResult{}, err
	}
	for i, img := range list {
		asked := slices.IndexFunc(add.Manifests, func(d ocispec.Descriptor) bool { return d.Digest == img.Manifest.Digest })
		if asked == 0 {
			result.Image = list[i]
		}
		if (asked >= 0 || opts.AllPlatforms) && !slices.ContainsFunc(before, func(old Image) bool { return old.ID == img.ID }) {
			result.Updated = true
		}
	}
	if err := env.Store.RecordSource(ctx, named.Name(), layers.digests...); err != nil {
		return result, err
	}
	return result, settle(ctx, env)
}

// pullConcurrency is how many blobs are pulled at once.
const pullConcurrency = 6

// imagesOf lists the images that a name has here, for all platforms.
func imagesOf(ctx context.Context, env *Env, name string) ([]Image, error) {
	root, err := env.Store.Resolve(ctx, name)
	if errdefs.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if image.IsIndex(root.MediaType) {
		return env.Store.Variants(ctx, root)
	}
	img, err := env.Store.Image(ctx, name)
	if errdefs.IsNotFound(err) { // removed in between
		return nil, nil
	}
	return []Image{img}, err
}

// selectAny selects of an index what fits any of the platforms best; of none,
// this machine's.
func selectAny(wanted []ocispec.Platform) func(ocispec.Index) ([]ocispec.Descriptor, error) {
	return func(index ocispec.Index) ([]ocispec.Descriptor, error) {
		var list []ocispec.Descriptor
		for _, p := range orDefault(wanted) {
			chosen, err := image.Select(p)(index)
			if err != nil {
				return nil, err
			}
			list = append(list, chosen...)
		}
		return list, nil
	}
}

func orDefault(wanted []ocispec.Platform) []ocispec.Platform {
	if len(wanted) == 0 {
		return []ocispec.Platform{platforms.DefaultSpec()}
	}
	return wanted
}

// choose finds the manifests for the platforms, and fails where the registry
// only has one for another than was asked for.
func choose(ctx context.Context, src image.Source, root ocispec.Descriptor, named reference.Named, wanted []ocispec.Platform) ([]ocispec.Descriptor, error) {
	var list []ocispec.Descriptor
	for _, platform := range orDefault(wanted) {
		desc, err := image.FindManifest(ctx, src, root, platform)
		if err != nil {
			return nil, pullError(named, err)
		}
		list = append(list, desc)
	}
	if image.IsIndex(root.MediaType) || len(wanted) == 0 {
		return list, nil
	}
	have, err := configPlatform(ctx, src, root)
	if err != nil {
		return nil, pullError(named, err)
	}
	for _, platform := range wanted {
		if !matches(platform, have) {
			return nil, messageError{fmt.Sprintf("image with reference %s was found but its platform (%s) does not match the specified platform (%s)",
				named.Familiar().String(), platforms.FormatAll(have), platforms.FormatAll(platform)), errdefs.ErrNotFound}
		}
	}
	return list, nil
}

// configPlatform is the platform that the config of an image's manifest says.
func configPlatform(ctx context.Context, src image.Source, desc ocispec.Descriptor) (ocispec.Platform, error) {
	manifest, _, err := image.ReadManifest(ctx, src, desc)
	if err != nil {
		return ocispec.Platform{}, err
	}
	config, _, err := image.ReadConfig(ctx, src, manifest.Config)
	return config.Platform, err
}

// layerRecorder notes the layers of a copy, which are at both ends then.
type layerRecorder struct {
	next    func(Event)
	digests []digest.Digest
}

// record is the copy's Progress.
func (r *layerRecorder) record(e Event) {
	if IsLayer(e.Desc) && (e.State == StateDone || e.State == StateExists || e.State == StateMounted) {
		r.digests = append(r.digests, e.Desc.Digest)
	}
	if r.next != nil {
		r.next(e)
	}
}

// complete tells of the layers of root that the copy passed over, because the
// other end had all of root.
func (r *layerRecorder) complete(ctx context.Context, src image.Source, root ocispec.Descriptor) error {
	return image.Walk(ctx, src, root, func(desc ocispec.Descriptor, _ []byte) error {
		if IsLayer(desc) && !slices.Contains(r.digests, desc.Digest) {
			r.record(Event{Desc: desc, State: StateExists})
		}
		return nil
	})
}

// RemoteTags lists the tags that the registry has of a repository, sorted.
func RemoteTags(ctx context.Context, env *Env, ref string) ([]string, error) {
	named, err := reference.Parse(ref)
	if err != nil {
		return nil, messageError{err.Error(), errdefs.ErrInvalidArgument}
	}
	if !named.IsNameOnly() {
		return nil, messageError{"tag can't be used with --all-tags/-a", errdefs.ErrInvalidArgument}
	}
	repo, err := env.Remote.Repository(named)
	if err != nil {
		return nil, err
	}
	var tags []string
	for tag, err := range repo.Registry().Tags(ctx, repo.Name(), "") {
		if err != nil {
			return nil, pullError(named, err)
		}
		tags = append(tags, tag)
	}
	return tags, nil
}
