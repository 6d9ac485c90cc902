package attest

import (
	"encoding/json"
	"fmt"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/spdx/tools-golang/spdx/v2/common"
	"github.com/spdx/tools-golang/spdx/v2/v2_3"

	"strake/internal/scan"
)

// noAssertion says that nothing is said.
const noAssertion = "NOASSERTION"

// SBOM makes SPDX's list (version 2.3) of the packages of an image. Distro, such as
// "debian", is the ID of its operating system, and created the time that the list bears.
func SBOM(name, version, distro string, packages []scan.Package, created time.Time) (Predicate, error) {
	doc := &v2_3.Document{
		SPDXVersion: v2_3.Version, DataLicense: v2_3.DataLicense, SPDXIdentifier: "DOCUMENT", DocumentName: name,
		DocumentNamespace: "https://strake.invalid/sbom/" + url.PathEscape(name),
		CreationInfo: &v2_3.CreationInfo{
			Creators: []common.Creator{{CreatorType: "Tool", Creator: "strake-" + version}}, Created: created.UTC().Format(time.RFC3339),
		},
	}
	root := &v2_3.Package{
		PackageName: name, PackageSPDXIdentifier: "Image", PackageDownloadLocation: noAssertion,
		PackageLicenseConcluded: noAssertion, PackageLicenseDeclared: noAssertion, PrimaryPackagePurpose: "CONTAINER",
	}
	doc.Packages = append(doc.Packages, root)
	doc.Relationships = append(doc.Relationships, relation("DOCUMENT", common.TypeRelationshipDescribe, root.PackageSPDXIdentifier))
	for i, p := range packages {
		id := common.ElementID("Package-" + strconv.Itoa(i+1))
		doc.Packages = append(doc.Packages, &v2_3.Package{
			PackageName: p.Name, PackageSPDXIdentifier: id, PackageVersion: p.Version, PackageDownloadLocation: noAssertion,
			PackageLicenseConcluded: noAssertion, PackageLicenseDeclared: noAssertion, PackageCopyrightText: noAssertion,
			PackageExternalReferences: []*v2_3.PackageExternalReference{{
				Category: common.CategoryPackageManager, RefType: common.TypePackageManagerPURL, Locator: packageURL(p, distro),
			}},
		})
		doc.Relationships = append(doc.Relationships, relation(root.PackageSPDXIdentifier, common.TypeRelationshipContains, id))
	}
	b, err := json.Marshal(doc)
	if err != nil {
		return Predicate{}, fmt.Errorf("SBOM: %w", err)
	}
	return Predicate{Type: TypeSPDX, JSON: b}, nil
}

func relation(a common.ElementID, kind string, b common.ElementID) *v2_3.Relationship {
	return &v2_3.Relationship{RefA: common.DocElementID{ElementRefID: a}, RefB: common.DocElementID{ElementRefID: b}, Relationship: kind}
}

// packageURL is the package URL of a package.
func packageURL(p scan.Package, distro string) string {
	if !p.Distribution() {
		return languageURL(p)
	}
	if distro == "" {
		distro = map[string]string{scan.TypeDeb: "debian", scan.TypeAPK: "alpine"}[p.Type]
	}
	text := "pkg:" + p.Type + "/" + url.PathEscape(distro) + "/" + url.PathEscape(p.Name) + "@" + url.PathEscape(p.Version)
	query := url.Values{}
	if p.Arch != "" {
		query.Set("arch", p.Arch)
	}
	if p.Source != "" && p.Source != p.Name {
		query.Set("upstream", p.Source)
	}
	if len(query) == 0 {
		return text
	}
	return text + "?" + query.Encode()
}

// languageURL is the package URL of a language's package: a namespace and a name, where it has both.
func languageURL(p scan.Package) string {
	name, version := p.Name, p.Version
	switch p.Type {
	case scan.TypeMaven:
		name = strings.Replace(name, ":", "/", 1)
	case scan.TypeGo:
		if name != "stdlib" {
			version = "v" + version
		}
	}
	parts := strings.Split(name, "/")
	for i := range parts {
		parts[i] = strings.ReplaceAll(url.PathEscape(parts[i]), "@", "%40")
	}
	return "pkg:" + p.Type + "/" + strings.Join(parts, "/") + "@" + url.PathEscape(version)
}
