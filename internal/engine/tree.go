package engine

import (
	"context"
	"slices"

	"github.com/containerd/platforms"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"strake/internal/image"
	"strake/internal/store"
)

// TreeImage is an image with its platforms.
type TreeImage struct {
	Image
	store.Footprint          // of all its platforms that are here
	Children        []Branch // in the order of the index
}

// Branch is one platform of an image.
type Branch struct {
	ID       digest.Digest // of the image; of the manifest where that is not here
	Platform string
	Here     bool
	store.Footprint
}

// ImageTree lists images with their platforms, those that are here and those
// that their indexes name besides. Images are told apart by what their names
// point to. The newest are first.
func ImageTree(ctx context.Context, env *Env, opts ImagesOptions) ([]TreeImage, error) {
	opts.Whole = true
	list, err := Images(ctx, env, opts)
	if err != nil {
		return nil, err
	}
	var tree []TreeImage
	for _, img := range list {
		roots, err := rootsOf(ctx, env, img)
		if err != nil {
			return nil, err
		}
		for _, r := range roots {
			one, err := treeImage(ctx, env, img, r)
			if err != nil {
				return nil, err
			}
			tree = append(tree, one)
		}
	}
	return tree, nil
}

// rootNames is what some names of an image point to.
type rootNames struct {
	root  ocispec.Descriptor
	names []string
}

func rootsOf(ctx context.Context, env *Env, img Image) ([]rootNames, error) {
	var list []rootNames
	refs := img.Names
	if len(refs) == 0 {
		refs = []string{img.ID.String()}
	}
	for _, ref := range refs {
		root, err := env.Store.Resolve(ctx, ref)
		if err != nil {
			return nil, err
		}
		at := slices.IndexFunc(list, func(r rootNames) bool { return r.root.Digest == root.Digest })
		if at < 0 {
			at = len(list)
			list = append(list, rootNames{root: root})
		}
		if len(img.Names) > 0 {
			list[at].names = append(list[at].names, ref)
		}
	}
	return list, nil
}

func treeImage(ctx context.Context, env *Env, img Image, r rootNames) (TreeImage, error) {
	img.Names = r.names
	one := TreeImage{Image: img}
	manifests, variants := []ocispec.Descriptor{r.root}, []Image{img}
	if image.IsIndex(r.root.MediaType) {
		index, _, err := image.ReadIndex(ctx, env.Store, r.root)
		if err != nil {
			return one, err
		}
		if variants, err = env.Store.Variants(ctx, r.root); err != nil {
			return one, err
		}
		manifests = index.Manifests
	} else {
		variants[0].Manifest = r.root
	}
	all := []digest.Digest{r.root.Digest}
	for _, desc := range manifests {
		if image.IsAttestation(desc) || !image.IsManifest(desc.MediaType) {
			continue
		}
		branch := Branch{ID: desc.Digest}
		if desc.Platform != nil {
			branch.Platform = platforms.Format(*desc.Platform)
		}
		for _, v := range variants {
			if v.Manifest.Digest != desc.Digest {
				continue
			}
			used, err := store.Measure(ctx, env.Store, desc.Digest)
			if err != nil {
				return one, err
			}
			branch = Branch{ID: v.ID, Platform: platforms.Format(v.Platform()), Here: true, Footprint: used}
			all = append(all, desc.Digest)
		}
		one.Children = append(one.Children, branch)
	}
	var err error
	one.Footprint, err = store.Measure(ctx, env.Store, all...)
	return one, err
}
