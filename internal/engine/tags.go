package engine

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"strake/internal/image"
	"strake/internal/reference"
	"strake/internal/remote"
)

// TagsOptions say which tags of a repository are listed, and how.
type TagsOptions struct {
	Repository string
	Sort       string // semver (also ""), date or name
	Limit      int    // 0 is all
	NamesOnly  bool   // leave out what takes a request per tag, unless Sort needs it
}

// TagsResult is the list.
type TagsResult struct {
	Tags  []RemoteTag
	Total int // how many the repository has
}

// RemoteTag is a tag of a registry and what it names.
type RemoteTag struct {
	Name      string
	Root      ocispec.Descriptor // manifest or index; zero with NamesOnly
	Platforms []string           // empty for what is no image
	Created   time.Time          // of the image for this machine, else of the first; zero where it does not say
	Size      int64              // bytes of the same image's layers and config as they are transferred
}

// Tags lists the tags of a repository in a registry. By semver the highest
// version comes first, and before what is no version; by date the latest.
// Tags that name the same are asked for once; of tags beyond the limit nothing
// is asked, unless the order depends on it.
func Tags(ctx context.Context, env *Env, opts TagsOptions) (TagsResult, error) {
	names, err := RemoteTags(ctx, env, opts.Repository)
	if err != nil {
		return TagsResult{}, err
	}
	switch opts.Sort {
	case "", "semver":
		slices.SortStableFunc(names, func(a, b string) int { return compareVersions(b, a) })
	case "date", "name":
	default:
		return TagsResult{}, messageError{fmt.Sprintf("invalid sort order %q: must be one of semver, date, name", opts.Sort), errdefs.ErrInvalidArgument}
	}
	result := TagsResult{Total: len(names)}
	byDate := opts.Sort == "date"
	if opts.Limit > 0 && !byDate {
		names = names[:min(opts.Limit, len(names))]
	}
	result.Tags = make([]RemoteTag, len(names))
	for i, name := range names {
		result.Tags[i].Name = name
	}
	if opts.NamesOnly && !byDate {
		return result, nil
	}
	if err := describeTags(ctx, env, opts.Repository, result.Tags); err != nil {
		return result, err
	}
	if byDate {
		slices.SortStableFunc(result.Tags, func(a, b RemoteTag) int { return b.Created.Compare(a.Created) })
		if opts.Limit > 0 {
			result.Tags = result.Tags[:min(opts.Limit, len(result.Tags))]
		}
	}
	return result, nil
}

// tagConcurrency is how many manifests are asked for at once.
const tagConcurrency = 8

// describeTags fills in what the names do not say.
func describeTags(ctx context.Context, env *Env, repository string, tags []RemoteTag) error {
	named, err := reference.Parse(repository)
	if err != nil {
		return messageError{err.Error(), errdefs.ErrInvalidArgument}
	}
	repo, err := env.Remote.Repository(named)
	if err != nil {
		return err
	}
	heads, headCtx := errgroup.WithContext(ctx)
	heads.SetLimit(tagConcurrency)
	for i := range tags {
		heads.Go(func() (err error) {
			tags[i].Root, err = repo.Resolve(headCtx, tags[i].Name)
			if errdefs.IsNotFound(err) { // deleted meanwhile
				return nil
			}
			return err
		})
	}
	if err := heads.Wait(); err != nil {
		return pullError(named, err)
	}
	roots := map[digest.Digest][]int{}
	for i, t := range tags {
		roots[t.Root.Digest] = append(roots[t.Root.Digest], i)
	}
	delete(roots, "")
	reads, readCtx := errgroup.WithContext(ctx)
	reads.SetLimit(tagConcurrency)
	for _, at := range roots {
		reads.Go(func() error {
			described := tags[at[0]]
			if err := describeTag(readCtx, repo, &described); err != nil {
				return err
			}
			for _, i := range at {
				described.Name = tags[i].Name
				tags[i] = described
			}
			return nil
		})
	}
	if err := reads.Wait(); err != nil {
		return pullError(named, err)
	}
	return nil
}

// describeTag reads the manifest that tag.Root leads to for this machine, else
// the first one.
func describeTag(ctx context.Context, repo *remote.Repository, tag *RemoteTag) error {
	desc := tag.Root
	if image.IsIndex(desc.MediaType) {
		index, _, err := image.ReadIndex(ctx, repo, desc)
		if err != nil {
			return err
		}
		images := imagesIn(index)
		for _, d := range images {
			if d.Platform != nil {
				tag.Platforms = append(tag.Platforms, platforms.Format(platforms.Normalize(*d.Platform)))
			}
		}
		chosen, err := image.Select(platforms.DefaultSpec())(index)
		switch {
		case err == nil:
			desc = chosen[0]
		case len(images) > 0:
			desc = images[0]
		default:
			return nil
		}
		if !image.IsManifest(desc.MediaType) {
			return nil
		}
	}
	manifest, _, err := image.ReadManifest(ctx, repo, desc)
	if err != nil {
		return err
	}
	tag.Size = manifest.Config.Size
	for _, l := range manifest.Layers {
		tag.Size += l.Size
	}
	if !image.IsConfig(manifest.Config.MediaType) {
		return nil
	}
	config, _, err := image.ReadConfig(ctx, repo, manifest.Config)
	if err != nil {
		return err
	}
	if config.Created != nil {
		tag.Created = *config.Created
	}
	if len(tag.Platforms) == 0 {
		tag.Platforms = []string{platforms.Format(platforms.Normalize(config.Platform))}
	}
	return nil
}

// imagesIn lists the children of an index that are images, not statements
// about them.
func imagesIn(index ocispec.Index) []ocispec.Descriptor {
	return slices.DeleteFunc(slices.Clone(index.Manifests), func(d ocispec.Descriptor) bool {
		return image.IsAttestation(d) || !image.IsManifest(d.MediaType) && !image.IsIndex(d.MediaType)
	})
}
