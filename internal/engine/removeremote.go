package engine

import (
	"context"
	"fmt"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"

	"strake/internal/reference"
	"strake/internal/registry"
)

// RemoveRemote removes from its registry what ref names: the tag and not what
// it names, or, given a digest, the manifest and with it all its tags. Blobs
// are left to the registry's collection.
func RemoveRemote(ctx context.Context, env *Env, ref string) (RemoveResult, error) {
	named, err := ParseName(ref)
	if err != nil {
		return RemoveResult{}, err
	}
	repo, err := env.Remote.Repository(named)
	if err != nil {
		return RemoveResult{}, err
	}
	if named.Digest() != "" {
		if err := repo.Registry().DeleteManifest(ctx, repo.Name(), named.Digest()); err != nil {
			return RemoveResult{}, deleteError(named, err)
		}
		return RemoveResult{Deleted: []digest.Digest{named.Digest()}}, nil
	}
	err = repo.Registry().DeleteTag(ctx, repo.Name(), named.TagOrDigest())
	if isCode(err, registry.Unsupported) || isCode(err, registry.DigestInvalid) || isCode(err, registry.TagInvalid) {
		root, resolveErr := repo.Resolve(ctx, named.TagOrDigest())
		if resolveErr != nil {
			return RemoveResult{}, pullError(named, resolveErr)
		}
		return RemoveResult{}, messageError{fmt.Sprintf(
			"registry %s does not remove tags alone; %s@%s removes the manifest, if it allows that, with every tag of it",
			named.Domain(), named.Familiar().Name(), root.Digest), errdefs.ErrNotImplemented}
	}
	if err != nil {
		return RemoveResult{}, deleteError(named, err)
	}
	return RemoveResult{Untagged: []string{named.Familiar().String()}}, nil
}

// deleteError says plainly what a registry answers to a deletion.
func deleteError(named reference.Named, err error) error {
	switch {
	case isCode(err, registry.Unsupported):
		return messageError{fmt.Sprintf("registry %s does not allow deletion", named.Domain()), errdefs.ErrNotImplemented}
	case errdefs.IsNotFound(err):
		return pullError(named, err)
	}
	return pushError(named, err)
}
