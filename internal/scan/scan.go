// Package scan finds what is installed in an image, and secrets that are in it.
//
// A package is what a package manager recorded as installed: of a distribution
// (dpkg, apk), of a language (npm, pip, gem, composer, NuGet), or what a program
// says that it was made of (Go, Rust, Java archives). A layer is looked at once, as
// it is, and gives a Record; Merge makes of the records of a chain what the image
// has. An ecosystem is a family of packages as OSV names it: "npm", "Debian:12".
//
// The records come from images, which may be hostile: what is read, kept and
// unpacked is bounded, and nothing of an image is run.
package scan

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"strings"

	"github.com/containerd/errdefs"
)

// Types of packages, as package URLs have them.
const (
	TypeDeb      = "deb"
	TypeAPK      = "apk"
	TypeNPM      = "npm"
	TypePyPI     = "pypi"
	TypeGo       = "golang"
	TypeMaven    = "maven"
	TypeGem      = "gem"
	TypeCargo    = "cargo"
	TypeComposer = "composer"
	TypeNuGet    = "nuget"
)

// ecosystems are OSV's names for the types that need no distribution for theirs.
var ecosystems = map[string]string{
	TypeNPM: "npm", TypePyPI: "PyPI", TypeGo: "Go", TypeMaven: "Maven", TypeGem: "RubyGems", TypeCargo: "crates.io", TypeComposer: "Packagist", TypeNuGet: "NuGet",
}

// Package is one installed package.
type Package struct {
	Type    string `json:"type"` // TypeDeb, ...
	Name    string `json:"name"` // of Maven: group:artifact
	Version string `json:"version"`
	Arch    string `json:"arch,omitempty"`
	// Source is the package that it was built of, and its version: those of the
	// package itself if the record has none.
	Source        string `json:"source,omitempty"`
	SourceVersion string `json:"sourceVersion,omitempty"`

	Ecosystem string `json:"ecosystem,omitempty"` // "" is one that is not known
	File      string `json:"file,omitempty"`      // where it was found
	Layer     int    `json:"layer,omitempty"`     // of the chain, from 1 at the bottom
}

// Distribution tells whether the package is one of the image's distribution.
func (p *Package) Distribution() bool { return p.Type == TypeDeb || p.Type == TypeAPK }

// Bounds on what is read of one layer.
const (
	maxBytes    = 64 << 20 // of all records of distributions
	maxLine     = 1 << 20  // of one line of them
	maxPackages = 200_000
	maxFiles    = 50_000  // records in status.d
	maxNames    = 200_000 // of what a layer hides
	maxText     = 512     // bytes of a name or a version
)

// Packages lists the packages that a whole file system has installed, by type, name,
// architecture, version and file. An image without records has none. A database of
// rpm is not read: the other packages come with an error of the kind NotImplemented
// then. Records that are larger than any real one fail with ResourceExhausted.
func Packages(fsys fs.FS) ([]Package, error) {
	r, err := walk(fsys, false)
	if err != nil {
		return nil, fmt.Errorf("find packages: %w", err)
	}
	im := Merge([]Record{r})
	for i := range im.Packages {
		im.Packages[i].Layer = 0
	}
	return im.Packages, im.Unread()
}

// Unread is what is known to be missing from the packages, an error of the kind
// NotImplemented, or nil.
func (im *Image) Unread() error {
	var errs []error
	for _, name := range im.RPM {
		errs = append(errs, fmt.Errorf("packages of rpm, in /%s: %w", name, errdefs.ErrNotImplemented))
	}
	return errors.Join(errs...)
}

func comparePackages(a, b Package) int {
	return cmp.Or(cmp.Compare(a.Type, b.Type), cmp.Compare(a.Name, b.Name), cmp.Compare(a.Arch, b.Arch), cmp.Compare(a.Version, b.Version), cmp.Compare(a.File, b.File))
}

// sound tells whether a name or version is one, and not the work of somebody who
// wants something else to be done with it.
func sound(text string) bool {
	return text != "" && len(text) <= maxText && strings.IndexFunc(text, func(r rune) bool { return r <= ' ' || r == 0x7f || r == 0xfffd }) < 0
}

// addPackage appends a package that has a sound name and version.
func addPackage(list []Package, p Package) []Package {
	if !sound(p.Name) || !sound(p.Version) || len(p.Arch) > maxText || len(p.Source) > maxText || len(p.SourceVersion) > maxText {
		return list
	}
	if p.Ecosystem == "" {
		p.Ecosystem = ecosystems[p.Type]
	}
	return append(list, p)
}

func tooLarge(name string) error {
	return fmt.Errorf("%s is too large: %w", name, errdefs.ErrResourceExhausted)
}

// Release says which distribution a system is.
type Release struct {
	ID      string `json:"id,omitempty"`      // "debian"
	Version string `json:"version,omitempty"` // "12", "3.19.1"
	Name    string `json:"name,omitempty"`    // "Debian GNU/Linux 12 (bookworm)"
	Code    string `json:"code,omitempty"`    // "bookworm"
	LTS     bool   `json:"lts,omitempty"`
}

// debians are the versions of Debian's releases that do not say theirs until they are stable.
var debians = map[string]string{"bullseye": "11", "bookworm": "12", "trixie": "13", "forky": "14"}

// ecosystem is OSV's name for the packages of the distribution, of a type, or "".
func (r *Release) ecosystem(kind string) string {
	if r == nil {
		return ""
	}
	switch {
	case kind == TypeDeb && (r.ID == "debian" || r.ID == "raspbian"):
		if version := cmp.Or(r.Version, debians[r.Code]); version != "" {
			version, _, _ = strings.Cut(version, ".")
			return "Debian:" + version
		}
	case kind == TypeDeb && r.ID == "ubuntu" && r.Version != "":
		if r.LTS {
			return "Ubuntu:" + r.Version + ":LTS"
		}
		return "Ubuntu:" + r.Version
	case kind == TypeAPK && r.ID == "alpine":
		if parts := strings.FieldsFunc(r.Version, func(c rune) bool { return c == '.' || c == '_' }); len(parts) >= 2 {
			return "Alpine:v" + parts[0] + "." + parts[1]
		}
	case kind == TypeAPK && r.ID == "wolfi":
		return "Wolfi"
	case kind == TypeAPK && r.ID == "chainguard":
		return "Chainguard"
	}
	return ""
}
