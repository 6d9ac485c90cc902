package engine

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"strake/internal/attest"
	"strake/internal/build"
	"strake/internal/image"
	"strake/internal/layout"
	"strake/internal/reference"
	"strake/internal/sourcepolicy"
)

// baseImages finds the images that a build starts from. They are leased when the
// first step misses the cache: a build that finds all of its steps only reads,
// and that its image is whole is proved when it is named.
type baseImages struct {
	env    *Env
	policy build.Policy

	mu   sync.Mutex
	used []attest.Material
	held bool            // what is found is leased
	ids  []digest.Digest // found before
}

// Resolve implements build.Images. Where there is a policy it is asked twice, as BuildKit
// does: for what is named, and for what that is now, by its digest.
func (b *baseImages) Resolve(ctx context.Context, ref string, platform ocispec.Platform, pull bool) (build.Image, error) {
	if b.policy == nil {
		found, err := b.resolve(ctx, ref, platform, pull)
		return b.use(found, err)
	}
	name, err := b.admitImage(ctx, ref, platform)
	if denied := (*build.PolicyError)(nil); errors.As(err, &denied) {
		err = fmt.Errorf("could not resolve image due to policy: %w", denied.Err)
	}
	if err != nil {
		return build.Image{}, err
	}
	found, err := b.resolve(ctx, name, platform, pull)
	for times := 0; err == nil && !strings.Contains(name, "@"); times++ {
		pinned := name + "@" + found.material.Digest.String()
		other, denied := b.admitImage(ctx, pinned, platform)
		if times == maxRenamed {
			denied = &build.PolicyError{Err: fmt.Errorf("too many conversions of %q", ref)}
		}
		if denied != nil {
			return build.Image{}, denied
		}
		if other == pinned {
			break
		}
		name = other
		found, err = b.resolve(ctx, name, platform, pull)
	}
	if err != nil {
		return build.Image{}, err
	}
	if name != ref {
		found.image.Ref = name
	}
	return b.use(found, nil)
}

// maxRenamed is how often a policy may put another image in the place of one that was resolved.
const maxRenamed = 10

// admitImage asks the policy about an image, and returns the name of the one to use.
func (b *baseImages) admitImage(ctx context.Context, ref string, platform ocispec.Platform) (string, error) {
	src := sourcepolicy.Source{Identifier: ref, Platform: &platform}
	if !strings.HasPrefix(ref, layoutScheme) {
		src.Identifier = sourcepolicy.SchemeImage + "://" + ref
		src.Learn = func(ctx context.Context, now sourcepolicy.Source, look sourcepolicy.Look) (sourcepolicy.Facts, error) {
			return b.facts(ctx, now.Rest(), platform, look)
		}
	}
	got, err := b.policy.Admit(ctx, src, sourcepolicy.AttrImageChecksum)
	sum := got.Attrs[sourcepolicy.AttrImageChecksum]
	if err != nil || got.Identifier == src.Identifier && sum == "" {
		return ref, err
	}
	if src.Scheme() == sourcepolicy.SchemeLayout {
		return "", &build.PolicyError{Err: fmt.Errorf("source %q cannot be converted", src.Identifier)}
	}
	name := got.Rest()
	if sum != "" && !strings.HasSuffix(name, "@"+sum) {
		name += "@" + sum // a name with another digest is none
	}
	named, err := reference.Parse(name)
	if err != nil {
		return "", &build.PolicyError{Err: fmt.Errorf("%q: %w", sourcepolicy.SchemeImage+"://"+name, err)}
	}
	return named.OrLatest().String(), nil
}

// foundImage is an image that is here, and what the provenance says of it.
type foundImage struct {
	image    build.Image
	material attest.Material
}

// use keeps an image that was found for the provenance.
func (b *baseImages) use(found foundImage, err error) (build.Image, error) {
	if err == nil {
		b.add(found.material)
	}
	return found.image, err
}

// resolve finds an image, or pulls it.
func (b *baseImages) resolve(ctx context.Context, ref string, platform ocispec.Platform, pull bool) (foundImage, error) {
	if where, ok := strings.CutPrefix(ref, layoutScheme); ok {
		return b.fromLayout(ctx, where, platform)
	}
	img, err := b.find(ctx, ref, platforms.Format(platform))
	if errdefs.IsNotFound(err) && !pull {
		img, err = b.lone(ctx, ref)
	}
	if err != nil && !errdefs.IsNotFound(err) {
		return foundImage{}, err
	}
	if pull || err != nil {
		pulled, err := Pull(ctx, b.env, PullOptions{Ref: ref, Platforms: []string{platforms.Format(platform)}, Lone: true})
		if err != nil {
			return foundImage{}, err
		}
		img = pulled.Image
	}
	read, err := b.read(ctx, img.Manifest)
	return foundImage{read, materialOf(ref, img)}, err
}

// lone finds an image for another platform than was asked for that its registry has for no other: as for BuildKit it is the base,
// and a check warns. It fails with errdefs.ErrNotFound.
func (b *baseImages) lone(ctx context.Context, ref string) (Image, error) {
	named, err := reference.Parse(ref)
	if err != nil {
		return Image{}, errdefs.ErrNotFound
	}
	root, err := b.env.Store.Resolve(ctx, ref)
	if err != nil {
		return Image{}, err
	}
	img, err := b.find(ctx, ref, "")
	if err == nil && (image.IsIndex(root.MediaType) || !slices.Contains(img.RepoDigests, named.Name()+"@"+root.Digest.String())) {
		err = errdefs.ErrNotFound
	}
	return img, err
}

// read describes an image that is here.
func (b *baseImages) read(ctx context.Context, desc ocispec.Descriptor) (build.Image, error) {
	manifest, _, err := image.ReadManifest(ctx, b.env.Store, desc)
	if err != nil {
		return build.Image{}, err
	}
	config, raw, err := image.ReadConfig(ctx, b.env.Store, manifest.Config)
	if err != nil {
		return build.Image{}, err
	}
	return build.Image{Layers: config.RootFS.DiffIDs, Config: raw, Manifest: desc}, nil
}

// layoutScheme begins the name of an image in an OCI layout.
const layoutScheme = "oci-layout://"

// fromLayout takes an image of a layout in, DIR[:TAG][@DIGEST], without a name:
// this process's lease keeps it.
func (b *baseImages) fromLayout(ctx context.Context, where string, platform ocispec.Platform) (foundImage, error) {
	dir, dgst, pinned := strings.Cut(where, "@")
	dir, tag, _ := strings.Cut(dir, ":")
	ref := cmp.Or(dgst, tag, "latest")
	if pinned {
		if err := digest.Digest(dgst).Validate(); err != nil {
			return foundImage{}, fmt.Errorf("oci-layout reference %q: %w", where, err)
		}
	}
	if _, err := os.Stat(filepath.Join(dir, ocispec.ImageLayoutFile)); err != nil {
		return foundImage{}, fmt.Errorf("oci-layout reference %q could not be resolved: %w", where, err)
	}
	source, err := layout.Open(dir)
	if err != nil {
		return foundImage{}, err
	}
	root, err := source.Resolve(ctx, ref)
	if err != nil {
		return foundImage{}, fmt.Errorf("oci-layout reference %q could not be resolved: %w", where, err)
	}
	if err := image.CopyGraph(ctx, source, b.env.Store, root, image.CopyOptions{Select: image.Select(platform)}); err != nil {
		return foundImage{}, copyError(err)
	}
	named := root.Digest
	const deepest = 8
	for depth := 0; image.IsIndex(root.MediaType); depth++ {
		index, _, err := image.ReadIndex(ctx, b.env.Store, root)
		if err != nil {
			return foundImage{}, err
		}
		chosen, err := image.Select(platform)(index)
		if err != nil || len(chosen) == 0 || depth == deepest {
			return foundImage{}, errors.Join(fmt.Errorf("oci-layout reference %q has no image for %s", where, platforms.Format(platform)), err)
		}
		root = chosen[0]
	}
	if dir, err = filepath.Abs(dir); err != nil {
		return foundImage{}, fmt.Errorf("oci-layout reference %q: %w", where, err)
	}
	name := filepath.Base(dir)
	if tag != "" || !pinned {
		name += ":" + cmp.Or(tag, "latest")
	}
	if pinned {
		name += "@" + dgst
	}
	read, err := b.read(ctx, root)
	return foundImage{read, attest.Material{Ref: name, Layout: true, Platform: platform, Digest: named}}, err
}

// names lists the images that are here, as they are written; none where that fails.
func (b *baseImages) names(ctx context.Context) (names []string) {
	images, _ := b.env.Store.Overview(ctx) // for a hint
	for _, img := range images {
		for _, name := range img.Names {
			short := familiar(name)
			names = append(names, short, strings.TrimSuffix(short, ":latest"))
		}
	}
	return names
}

// fetched keeps a file or a commit for the provenance.
func (b *baseImages) fetched(f build.Fetched) {
	b.add(attest.Material{URI: f.URI, Digest: f.Digest, Commit: f.Commit})
}

func (b *baseImages) add(m attest.Material) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.used = append(b.used, m)
}

// materialOf is an image for the provenance: under the digest that its repository has
// it by, where it came from one.
func materialOf(ref string, img Image) attest.Material {
	m := attest.Material{Ref: familiar(ref), Platform: img.Platform(), Digest: img.Manifest.Digest}
	if named, err := reference.Parse(ref); err == nil {
		for _, repo := range img.RepoDigests {
			if dgst, ok := strings.CutPrefix(repo, named.Name()+"@"); ok {
				m.Digest = digest.Digest(dgst)
			}
		}
	}
	return m
}

// materials are the images that were found and what was fetched, each once, in the
// order of their names.
func (b *baseImages) materials() []attest.Material {
	b.mu.Lock()
	defer b.mu.Unlock()
	list := slices.Clone(b.used)
	order := func(a, b attest.Material) int {
		return cmp.Or(
			cmp.Compare(a.URI, b.URI), cmp.Compare(a.Ref, b.Ref), cmp.Compare(platforms.Format(a.Platform), platforms.Format(b.Platform)),
			cmp.Compare(a.Digest, b.Digest), cmp.Compare(a.Commit, b.Commit),
		)
	}
	slices.SortFunc(list, order)
	return slices.CompactFunc(list, func(a, b attest.Material) bool { return order(a, b) == 0 })
}

func (b *baseImages) find(ctx context.Context, ref, platform string) (Image, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.held {
		return use(ctx, b.env, ref, platform)
	}
	img, err := find(ctx, b.env, ref, platform)
	if err == nil {
		b.ids = append(b.ids, img.ID)
	}
	return img, err
}

// hold leases what was found, and what will be. It fails with
// errdefs.ErrNotFound when an image was removed since.
func (b *baseImages) hold(ctx context.Context) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.held = true
	for _, id := range b.ids {
		if _, err := b.env.Store.Use(ctx, id.String()); err != nil {
			return err
		}
	}
	return nil
}
