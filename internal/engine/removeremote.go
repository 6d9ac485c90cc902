package engine

import (
	"context"
	"fmt"

	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"

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
	if digested, ok := named.(reference.Digested); ok {
		if err := repo.Registry().DeleteManifest(ctx, repo.Name(), digested.Digest()); err != nil {
			return RemoveResult{}, deleteError(named, err)
		}
		return RemoveResult{Deleted: []digest.Digest{digested.Digest()}}, nil
	}
	err = repo.Registry().DeleteTag(ctx, repo.Name(), tagOrDigest(named))
	if isCode(err, registry.Unsupported) || isCode(err, registry.DigestInvalid) || isCode(err, registry.TagInvalid) {
		root, resolveErr := repo.Resolve(ctx, tagOrDigest(named))
		if resolveErr != nil {
			return RemoveResult{}, pullError(named, resolveErr)
		}
		return RemoveResult{}, messageError{fmt.Sprintf(
			"registry %s does not remove tags alone; %s@%s removes the manifest, if it allows that, with every tag of it",
			reference.Domain(named), reference.FamiliarName(named), root.Digest), errdefs.ErrNotImplemented}
	}
	if err != nil {
		return RemoveResult{}, deleteError(named, err)
	}
	return RemoveResult{Untagged: []string{reference.FamiliarString(named)}}, nil
}

// deleteError says plainly what a registry answers to a deletion.
func deleteError(named reference.Named, err error) error {
	switch {
	case isCode(err, registry.Unsupported):
		return messageError{fmt.Sprintf("registry %s does not allow deletion", reference.Domain(named)), errdefs.ErrNotImplemented}
	case errdefs.IsNotFound(err):
		return pullError(named, err)
	}
	return pushError(named, err)
}
