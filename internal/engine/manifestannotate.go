package engine

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// AnnotateManifestOptions say what a list is to say of one of its manifests.
type AnnotateManifestOptions struct {
	List, Manifest string
	Platform       ocispec.Platform // what is not empty replaces; features are added
}

// AnnotateManifest changes the platform that a manifest list in the making has
// for a manifest.
func AnnotateManifest(env *Env, opts AnnotateManifestOptions) error {
	list, err := listReference(opts.List)
	if err != nil {
		return fmt.Errorf("annotate: error parsing name for manifest list %s: %w", opts.List, err)
	}
	named, err := listReference(opts.Manifest)
	if err != nil {
		return fmt.Errorf("annotate: error parsing name for manifest %s: %w", opts.Manifest, err)
	}
	lists, err := listsOf(env)
	if err != nil {
		return err
	}
	m, err := lists.get(list, named)
	if errdefs.IsNotFound(err) {
		return messageError{fmt.Sprintf("manifest for image %s does not exist in %s", opts.Manifest, opts.List), errdefs.ErrNotFound}
	}
	if err != nil {
		return err
	}
	if m.Descriptor.Platform == nil {
		m.Descriptor.Platform = &ocispec.Platform{}
	}
	p := m.Descriptor.Platform
	p.OS = cmp.Or(opts.Platform.OS, p.OS)
	p.Architecture = cmp.Or(opts.Platform.Architecture, p.Architecture)
	p.Variant = cmp.Or(opts.Platform.Variant, p.Variant)
	p.OSVersion = cmp.Or(opts.Platform.OSVersion, p.OSVersion)
	for _, feature := range opts.Platform.OSFeatures {
		if !slices.Contains(p.OSFeatures, feature) {
			p.OSFeatures = append(p.OSFeatures, feature)
		}
	}
	if !knownPlatform(p.OS, p.Architecture) {
		return messageError{fmt.Sprintf("manifest entry for image has unsupported os/arch combination: %s/%s",
			opts.Platform.OS, opts.Platform.Architecture), errdefs.ErrInvalidArgument}
	}
	return lists.save(list, named, m)
}

// knownPlatform reports whether docker's client takes a platform.
func knownPlatform(os, arch string) bool {
	known := map[string]string{
		"darwin":    "386 amd64 arm arm64",
		"dragonfly": "amd64",
		"freebsd":   "386 amd64 arm",
		"linux":     "386 amd64 arm arm64 ppc64le mips64 mips64le riscv64 s390x",
		"netbsd":    "386 amd64 arm",
		"openbsd":   "386 amd64 arm",
		"plan9":     "386 amd64",
		"solaris":   "amd64",
		"windows":   "386 amd64",
	}
	return slices.Contains(strings.Fields(known[os]), arch)
}
