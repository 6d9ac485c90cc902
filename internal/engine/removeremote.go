package engine

import (
	"context"
	"fmt"

	"github.com/containerd/errdefs"
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
	if named.Digest() != "" {
		if err := repo.Registry().DeleteManifest(ctx, repo.Name(), named.Digest()); err != nil {
			return RemoveResult{}, deleteError(named, err)
		}
		return RemoveResult{Deleted: []digest.Digest{named.Digest()}}, nil
	}
	err = repo.Registry().DeleteTag(ctx, repo.Name(), named.TagOrDigest())
	if registry.HasCode(err, registry.Unsupported, registry.DigestInvalid, registry.TagInvalid) {
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
