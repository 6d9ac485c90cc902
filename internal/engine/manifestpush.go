package engine

import (
	"bytes"
	"context"
	"fmt"
	"io"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"strake/internal/image"
	"strake/internal/reference"
	"strake/internal/remote"
)

// PushManifestListOptions say which list is pushed.
type PushManifestListOptions struct {
	List   string
	Purge  bool // forget the list once it is pushed
	Pushed func(ref reference.Named)
}

// PushManifestList pushes a list in the making under its name. Manifests that
// are in other repositories of the registry are copied beside it first, and
// Pushed is told of each.
func PushManifestList(ctx context.Context, env *Env, opts PushManifestListOptions) (digest.Digest, error) {
	list, err := listReference(opts.List)
	if err != nil {
		return "", err
	}
	lists, err := listsOf(env)
	if err != nil {
		return "", err
	}
	manifests, err := lists.all(list)
	if err != nil {
		return "", err
	}
	for _, m := range manifests {
		if p := m.Descriptor.Platform; p == nil || p.OS == "" || p.Architecture == "" {
			return "", messageError{fmt.Sprintf("manifest %s must have an OS and Architecture to be pushed to a registry", m.Ref), errdefs.ErrInvalidArgument}
		}
	}
	b, mediaType, err := assemble(list, manifests)
	if err != nil {
		return "", err
	}
	repo, err := env.Remote.Repository(list)
	if err != nil {
		return "", err
	}
	for _, m := range manifests {
		if err := placeListed(ctx, env, repo, list, m, opts.Pushed); err != nil {
			return "", err
		}
	}
	root := image.Bytes(mediaType, b)
	open := func(_ context.Context, offset int64) (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(b[offset:])), nil
	}
	if err := repo.Push(ctx, root, open); err != nil {
		return "", err
	}
	if err := repo.Tag(ctx, root, list.TagOrDigest()); err != nil {
		return "", err
	}
	if opts.Purge {
		return root.Digest, lists.remove(list)
	}
	return root.Digest, nil
}

// placeListed copies a manifest and its blobs to the list's repository, unless
// it comes from there.
func placeListed(ctx context.Context, env *Env, repo *remote.Repository, list reference.Named, m ListedManifest, pushed func(reference.Named)) error {
	from, err := reference.Parse(m.Ref)
	if err != nil || from.Name() == list.Name() {
		return err
	}
	raw, err := m.exact()
	if err != nil {
		return err
	}
	src, err := env.Remote.Repository(from)
	if err != nil {
		return err
	}
	desc := ocispec.Descriptor{MediaType: m.Descriptor.MediaType, Digest: m.Descriptor.Digest, Size: int64(len(raw))}
	err = image.CopyGraph(ctx, src, repo, desc, image.CopyOptions{
		MountFrom: func(ocispec.Descriptor) []string { return []string{from.Path()} },
	})
	if err != nil {
		return fmt.Errorf("copy %s to %s: %w", m.Ref, list.Name(), copyError(err))
	}
	ref, err := list.Repository().WithDigest(desc.Digest)
	if err == nil && pushed != nil {
		pushed(ref)
	}
	return err
}
