package image

import (
	"context"
	"fmt"

	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// referenceType is the annotation by which BuildKit marks a manifest that is
// not an image but tells something of one.
const referenceType = "vnd.docker.reference.type"

// noMatchError says, in docker's words, that an index has nothing for a platform.
type noMatchError struct{ platform ocispec.Platform }

func (e noMatchError) Error() string {
	return "no matching manifest for " + platforms.Format(e.platform) + " in the manifest list entries"
}

func (e noMatchError) Unwrap() error { return errdefs.ErrNotFound }

// IsAttestation reports whether the manifest desc of an index tells something of
// an image instead of being one.
func IsAttestation(desc ocispec.Descriptor) bool { return desc.Annotations[referenceType] != "" }

// Select returns a chooser for CopyOptions: of an index the one child that fits
// platform best. A child that names no platform is taken when none that names
// one fits. Nothing fitting fails with errdefs.ErrNotFound.
func Select(platform ocispec.Platform) func(ocispec.Index) ([]ocispec.Descriptor, error) {
	match := platforms.Only(platform)
	return func(index ocispec.Index) ([]ocispec.Descriptor, error) {
		var best, unnamed *ocispec.Descriptor
		for i := range index.Manifests {
			d := &index.Manifests[i]
			switch {
			case IsAttestation(*d) || !IsManifest(d.MediaType) && !IsIndex(d.MediaType):
			case d.Platform == nil || d.Platform.OS == "" && d.Platform.Architecture == "":
				if unnamed == nil {
					unnamed = d
				}
			case match.Match(*d.Platform) && (best == nil || match.Less(*d.Platform, *best.Platform)):
				best = d
			}
		}
		if best == nil {
			best = unnamed
		}
		if best == nil {
			return nil, noMatchError{platform}
		}
		return []ocispec.Descriptor{*best}, nil
	}
}

// FindManifest follows root to the one manifest for platform: root itself when
// it is a manifest, else what Select chooses, through nested indexes.
func FindManifest(ctx context.Context, src Source, root ocispec.Descriptor, platform ocispec.Platform) (ocispec.Descriptor, error) {
	choose := Select(platform)
	for range maxGraphDepth {
		if !IsIndex(root.MediaType) {
			return root, nil
		}
		index, _, err := ReadIndex(ctx, src, root)
		if err != nil {
			return root, err
		}
		chosen, err := choose(index)
		if err != nil {
			return root, err
		}
		root = chosen[0]
	}
	return root, fmt.Errorf("index %s: nested deeper than %d: %w", root.Digest, maxGraphDepth, errdefs.ErrInvalidArgument)
}
