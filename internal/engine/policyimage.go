package engine

import (
	"context"
	"fmt"
	"io"
	"slices"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"strake/internal/image"
	"strake/internal/reference"
	"strake/internal/remote"
	"strake/internal/sourcepolicy"
)

// facts are what a policy asks of an image.
func (b *baseImages) facts(ctx context.Context, ref string, platform ocispec.Platform, look sourcepolicy.Look) (facts sourcepolicy.Facts, err error) {
	found, err := b.resolve(ctx, ref, platform, false)
	if err != nil {
		return facts, err
	}
	facts.Image = &sourcepolicy.ImageFacts{Digest: found.material.Digest.String(), Config: found.image.Config}
	if look.Attested {
		facts.Image.Attested, err = b.attested(ctx, ref, found, look.Signatures)
	}
	return facts, err
}

// provenanceTypes are the types of what is read for policies.
var provenanceTypes = []string{"https://slsa.dev/provenance/v0.2", "https://slsa.dev/provenance/v1"}

// attested reads what the index of an image says of how it was made. Only manifests that are
// not here are asked of the registry. With signatures it fails where there are some: what
// verifies them fetches its keys from sigstore.
func (b *baseImages) attested(ctx context.Context, ref string, found foundImage, signatures bool) (*sourcepolicy.Attested, error) {
	said := &sourcepolicy.Attested{}
	root, err := b.env.Store.Resolve(ctx, ref)
	if err != nil || !image.IsIndex(root.MediaType) {
		return said, err
	}
	index, _, err := image.ReadIndex(ctx, b.env.Store, root)
	if err != nil {
		return nil, err
	}
	at := slices.IndexFunc(index.Manifests, func(d ocispec.Descriptor) bool {
		return image.IsAttestation(d) && d.Annotations[attestedDigest] == found.image.Manifest.Digest.String()
	})
	if at < 0 {
		return said, nil
	}
	desc := index.Manifests[at]
	named, err := reference.Parse(ref)
	if err != nil {
		return nil, err
	}
	source := hereOrThere{b.env, named}
	manifest, _, err := image.ReadManifest(ctx, source, desc)
	if err != nil {
		return nil, fmt.Errorf("attestations of %s: %w", ref, err)
	}
	said.Manifest = desc.Digest.String()
	for _, l := range manifest.Layers {
		kind := l.Annotations["in-toto.io/predicate-type"]
		if !slices.Contains(provenanceTypes, kind) {
			continue
		}
		text, err := image.ReadAll(ctx, source, l, maxStatement)
		if err != nil {
			return nil, fmt.Errorf("provenance of %s: %w", ref, err)
		}
		said.Statements = append(said.Statements, sourcepolicy.Statement{Type: kind, Data: text})
	}
	if signatures {
		err = source.unsigned(ctx, desc.Digest)
	}
	return said, err
}

// hereOrThere is an image.Fetcher: the store, and the registry for what is not in it.
type hereOrThere struct {
	env   *Env
	named reference.Named
}

// Fetch implements image.Fetcher.
func (h hereOrThere) Fetch(ctx context.Context, desc ocispec.Descriptor, offset int64) (io.ReadCloser, error) {
	rc, err := h.env.Store.Fetch(ctx, desc, offset)
	if !errdefs.IsNotFound(err) {
		return rc, err
	}
	repo, err := h.env.Remote.Repository(h.named)
	if err != nil {
		return nil, err
	}
	return repo.Fetch(ctx, desc, offset)
}

// signatureTypes are those of the signatures that docker buildx verifies.
var signatureTypes = []string{"application/vnd.dev.sigstore.bundle.v0.3+json", "application/vnd.dev.cosign.artifact.sig.v1+json"}

// unsigned fails where the registry has a signature of a manifest, or cannot be asked.
func (h hereOrThere) unsigned(ctx context.Context, dgst digest.Digest) error {
	repo, err := h.env.Remote.Repository(h.named)
	if err != nil {
		return err
	}
	list, err := referrers(ctx, repo, dgst)
	if err != nil {
		return fmt.Errorf("signatures of %s: %w", h.named, err)
	}
	if slices.ContainsFunc(list, func(d ocispec.Descriptor) bool { return slices.Contains(signatureTypes, d.ArtifactType) }) {
		return invalid("the policy asks for the signatures of %s, which is signed: to verify them is not supported", h.named)
	}
	return nil
}

// referrers are what a repository has about a manifest: by a tag where the registry keeps no
// list of them.
func referrers(ctx context.Context, repo *remote.Repository, dgst digest.Digest) (list []ocispec.Descriptor, err error) {
	for d, err := range repo.Registry().Referrers(ctx, repo.Name(), dgst, "", "") {
		if errdefs.IsNotFound(err) {
			return taggedReferrers(ctx, repo, dgst)
		}
		if err != nil {
			return nil, err
		}
		list = append(list, d)
	}
	return list, nil
}

func taggedReferrers(ctx context.Context, repo *remote.Repository, dgst digest.Digest) ([]ocispec.Descriptor, error) {
	desc, err := repo.Resolve(ctx, dgst.Algorithm().String()+"-"+dgst.Encoded())
	if errdefs.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	index, _, err := image.ReadIndex(ctx, repo, desc)
	return index.Manifests, err
}
