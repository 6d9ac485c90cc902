package engine

import (
	"slices"

	"github.com/containerd/platforms"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// BuildPlatforms lists the platforms whose commands builds can run here: this
// machine's, with the older variants of its processor, then what it emulates.
func BuildPlatforms() []string {
	host := hostPlatform()
	list := []string{}
	add := func(p ocispec.Platform) {
		if name := platforms.FormatAll(platforms.Normalize(p)); !slices.Contains(list, name) {
			list = append(list, name)
		}
	}
	variants := []string{host.Variant}
	if host.Architecture == "amd64" {
		variants = []string{"", "v2", "v3", "v4"}
		variants = variants[:slices.Index(variants, host.Variant)+1]
	}
	for _, v := range variants {
		add(ocispec.Platform{OS: host.OS, Architecture: host.Architecture, Variant: v})
	}
	for _, architecture := range architectures {
		if p := (ocispec.Platform{OS: host.OS, Architecture: architecture}); architecture != host.Architecture && runs(host, p) {
			add(p)
		}
	}
	return list
}

// architectures are those that can be emulated.
var architectures = []string{"amd64", "386", "arm64", "arm", "riscv64", "ppc64", "ppc64le", "s390x", "mips64", "mips64le", "mipsle", "loong64"}
