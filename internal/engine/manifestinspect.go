package engine

import (
	"context"

	"strake/internal/reference"
)

// InspectManifestOptions say which manifest.
type InspectManifestOptions struct {
	List string // of a list in the making; "" is none
	Ref  string
}

// InspectManifestResult is a manifest, or the manifests of a list.
type InspectManifestResult struct {
	Name      reference.Named
	Manifests []ListedManifest
	IsList    bool
}

// InspectManifest reads a manifest or a manifest list: the one in the making
// here, else the registry's.
func InspectManifest(ctx context.Context, env *Env, opts InspectManifestOptions) (InspectManifestResult, error) {
	named, err := listReference(opts.Ref)
	if err != nil {
		return InspectManifestResult{}, err
	}
	lists, err := listsOf(env)
	if err != nil {
		return InspectManifestResult{}, err
	}
	if opts.List != "" {
		list, err := listReference(opts.List)
		if err != nil {
			return InspectManifestResult{}, err
		}
		m, err := lists.get(list, named)
		return InspectManifestResult{Name: named, Manifests: []ListedManifest{m}}, err
	}
	if manifests, err := lists.all(named); err == nil {
		return InspectManifestResult{named, manifests, true}, nil
	}
	manifests, list, err := fetchListed(ctx, env, named)
	return InspectManifestResult{named, manifests, list}, err
}

// ManifestList is the list that a push would make of the manifests.
func (r InspectManifestResult) ManifestList() ([]byte, error) {
	b, _, err := assemble(r.Name, r.Manifests)
	return b, err
}
