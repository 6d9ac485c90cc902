package engine

import (
	"context"
	"fmt"

	"github.com/containerd/errdefs"

	"strake/internal/reference"
)

// CreateManifestListOptions say which manifests a list is begun with.
type CreateManifestListOptions struct {
	List      string
	Manifests []string // names in registries
	Amend     bool     // the list may exist
}

// CreateManifestList begins a manifest list, on this machine, and returns its
// name. What it says of the manifests comes from their registry.
func CreateManifestList(ctx context.Context, env *Env, opts CreateManifestListOptions) (reference.Named, error) {
	list, err := listReference(opts.List)
	if err != nil {
		return reference.Named{}, fmt.Errorf("error parsing name for manifest list %s: %w", opts.List, err)
	}
	lists, err := listsOf(env)
	if err != nil {
		return reference.Named{}, err
	}
	if _, err := lists.all(list); err == nil && !opts.Amend {
		return reference.Named{}, messageError{"refusing to amend an existing manifest list with no --amend flag", errdefs.ErrAlreadyExists}
	} else if err != nil && !errdefs.IsNotFound(err) {
		return reference.Named{}, err
	}
	for _, ref := range opts.Manifests {
		named, err := listReference(ref)
		if err != nil {
			return reference.Named{}, err
		}
		m, err := lists.get(list, named)
		if errdefs.IsNotFound(err) || err == nil && len(m.Raw) == 0 {
			m, err = fetchOne(ctx, env, named)
		}
		if err != nil {
			return reference.Named{}, err
		}
		if err := lists.save(list, named, m); err != nil {
			return reference.Named{}, err
		}
	}
	return list, nil
}

// fetchOne reads a manifest of a registry that is no list.
func fetchOne(ctx context.Context, env *Env, named reference.Named) (ListedManifest, error) {
	manifests, list, err := fetchListed(ctx, env, named)
	if list {
		return ListedManifest{}, messageError{named.String() + " is a manifest list", errdefs.ErrInvalidArgument}
	}
	if err != nil {
		return ListedManifest{}, err
	}
	return manifests[0], nil
}
