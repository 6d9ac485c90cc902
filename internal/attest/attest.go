// Package attest says of a built image how it was made and what is in it: in-toto
// statements, in the forms that BuildKit gives them.
//
// A statement is a predicate and its subjects, the images that it is about, by
// digest. A provenance is the predicate of SLSA that says from what and by whom an
// image was built; an SBOM is SPDX's list of the packages in it. The manifest that
// holds the statements of an image is listed beside it in its index, and refers to
// it, so that a registry lists it among the image's referrers too.
//
// Statements go to places where the image's secrets must not: the values of build
// arguments that look like secrets, and credentials in URLs, are left out.
package attest

import (
	"cmp"
	"encoding/json"
	"fmt"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/platforms"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"strake/internal/secret"
)

// Media and predicate types.
const (
	TypeStatement  = "application/vnd.in-toto+json"
	TypeProvenance = "https://slsa.dev/provenance/v1"
	TypeSPDX       = "https://spdx.dev/Document"

	typeProvenance02 = "https://slsa.dev/provenance/v0.2"

	typeManifest    = "application/vnd.docker.attestation.manifest.v1+json"
	statementFormat = "https://in-toto.io/Statement/v1"
	predicateKey    = "in-toto.io/predicate-type"
)

// Statement is an in-toto statement.
type Statement struct {
	Type          string          `json:"_type"`
	PredicateType string          `json:"predicateType"`
	Subject       []Subject       `json:"subject"`
	Predicate     json.RawMessage `json:"predicate"`
}

// Subject is what a statement is about.
type Subject struct {
	Name   string            `json:"name"`
	Digest map[string]string `json:"digest"`
}

// Predicate is what is said.
type Predicate struct {
	Type string
	JSON json.RawMessage
	// Subjects are what it is about; none: the image.
	Subjects []Subject
	File     string // what the statement is called where it is a file
}

// statement says p of its subjects, or else of others.
func (p Predicate) statement(others []Subject) Statement {
	if len(p.Subjects) > 0 {
		others = p.Subjects
	}
	return Statement{Type: statementFormat, PredicateType: p.Type, Subject: others, Predicate: p.JSON}
}

// Indented is the statement as a file beside the files that it is about, unless it has subjects of its own.
func (p Predicate) Indented(files []Subject) ([]byte, error) {
	b, err := json.MarshalIndent(p.statement(files), "", "  ")
	if err != nil {
		return nil, fmt.Errorf("statement: %w", err)
	}
	return b, nil
}

// FileSubject is a file, by its path, as what a statement is about.
func FileSubject(name string, content digest.Digest) Subject {
	return Subject{Name: name, Digest: digestSet(content)}
}

// Subjects are an image under its names (written out); without a name it has no
// subject, and stands beside the manifest that it refers to.
func Subjects(names []string, platform ocispec.Platform, manifest digest.Digest) []Subject {
	subjects := []Subject{}
	for _, name := range names {
		subjects = append(subjects, Subject{Name: PackageURL(name, &platform), Digest: digestSet(manifest)})
	}
	return subjects
}

func digestSet(d digest.Digest) map[string]string {
	return map[string]string{d.Algorithm().String(): d.Encoded()}
}

// PackageURL is the package URL of an image's name, which is familiar.
func PackageURL(name string, platform *ocispec.Platform) string {
	name, dgst, _ := strings.Cut(name, "@")
	slash := strings.LastIndex(name, "/")
	version := ""
	if colon := strings.LastIndex(name, ":"); colon > slash {
		name, version = name[:colon], "@"+url.PathEscape(name[colon+1:])
	}
	query := []string{}
	if dgst != "" {
		query = append(query, "digest="+url.QueryEscape(dgst))
	}
	if platform != nil {
		query = append(query, "platform="+url.QueryEscape(platforms.Format(platforms.Normalize(*platform))))
	}
	text := "pkg:docker/" + strings.ReplaceAll(name, ":", "%3A") + version
	if len(query) > 0 {
		text += "?" + strings.Join(query, "&")
	}
	return text
}

// Blob is a blob to store.
type Blob struct {
	Desc  ocispec.Descriptor
	Bytes []byte
}

// Manifest makes the manifest of the statements about image, and their blobs,
// children before parents. The last is the manifest, described as an index lists
// it. An artifact refers to its image and has no config; the other form has one,
// for registries that take only images.
func Manifest(image ocispec.Descriptor, subjects []Subject, predicates []Predicate, artifact bool) ([]Blob, error) {
	var blobs []Blob
	m := ocispec.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest}
	var ids []digest.Digest
	for _, p := range predicates {
		b, err := json.Marshal(p.statement(subjects))
		if err != nil {
			return nil, fmt.Errorf("statement: %w", err)
		}
		desc := describe(TypeStatement, b)
		blobs, ids = append(blobs, Blob{desc, b}), append(ids, desc.Digest)
		desc.Annotations = map[string]string{predicateKey: p.Type}
		m.Layers = append(m.Layers, desc)
	}
	config := Blob{ocispec.DescriptorEmptyJSON, ocispec.DescriptorEmptyJSON.Data}
	if artifact {
		m.ArtifactType = typeManifest
		m.Subject = &ocispec.Descriptor{MediaType: image.MediaType, Digest: image.Digest, Size: image.Size}
	} else {
		b, err := json.Marshal(ocispec.Image{Platform: unknown, RootFS: ocispec.RootFS{Type: "layers", DiffIDs: ids}})
		if err != nil {
			return nil, fmt.Errorf("statements: %w", err)
		}
		config = Blob{describe(ocispec.MediaTypeImageConfig, b), b}
	}
	m.Config = config.Desc
	b, err := json.Marshal(m)
	if err != nil {
		return nil, fmt.Errorf("statements: %w", err)
	}
	desc := describe(m.MediaType, b)
	desc.Platform = &unknown
	desc.Annotations = map[string]string{
		"vnd.docker.reference.type": "attestation-manifest", "vnd.docker.reference.digest": image.Digest.String(),
	}
	return append(blobs, config, Blob{desc, b}), nil
}

// unknown is the platform of what is no image.
var unknown = ocispec.Platform{OS: "unknown", Architecture: "unknown"}

func describe(mediaType string, b []byte) ocispec.Descriptor {
	return ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(b), Size: int64(len(b))}
}

// Redacted stands where a secret was.
const Redacted = "xxxxx"

// minValue is the length from which a value is looked for elsewhere, in bytes: a shorter one is in much that is no secret.
const minValue = 8

var (
	urlUserInfo = regexp.MustCompile(`([a-zA-Z][a-zA-Z0-9+.-]*://)[^/@\s"']+@`)
	assignment  = regexp.MustCompile(`[A-Za-z_][A-Za-z0-9_]*=`)
	// word is a word of a shell: parts that are quoted in some way or not at all.
	word = regexp.MustCompile(`(?s)^(?:(?:\\.|"(?:\\.|[^"\\])*"|'[^']*'|[^\s"'\\])+|["'][^\n]*)`)
)

// Clean is the value of a variable without secrets.
func Clean(name, value string) string {
	if value != "" && secret.Variable(name) {
		return Redacted
	}
	return cleanURLs(value)
}

// cleanURLs takes the credentials out of URLs in a text.
func cleanURLs(text string) string { return urlUserInfo.ReplaceAllString(text, "${1}"+Redacted+"@") }

// cleanSource takes secrets out of a Dockerfile: the values of variables that look
// like them, credentials in URLs, and the values given.
func cleanSource(source []byte, values []string) []byte {
	text := cleanAssignments(cleanURLs(string(source)))
	for _, v := range values {
		text = strings.ReplaceAll(text, v, Redacted)
	}
	return []byte(text)
}

// cleanAssignments takes the values of variables that look like secrets out of a text.
func cleanAssignments(text string) string {
	var out strings.Builder
	for at := assignment.FindStringIndex(text); at != nil; at = assignment.FindStringIndex(text) {
		name, rest := text[at[0]:at[1]-1], text[at[1]:]
		out.WriteString(text[:at[1]])
		if value := word.FindString(rest); value != "" && secret.Variable(name) {
			out.WriteString(Redacted)
			rest = rest[len(value):]
		}
		text = rest
	}
	return out.String() + text
}

// telling are the values by which secrets can be found in a text, the longest first.
func telling(values []string) []string {
	values = slices.DeleteFunc(values, func(v string) bool {
		_, notNumber := strconv.ParseFloat(v, 64)
		_, notBool := strconv.ParseBool(v)
		return len(v) < minValue || notNumber == nil || notBool == nil
	})
	slices.SortFunc(values, func(a, b string) int { return cmp.Compare(len(b), len(a)) })
	return values
}
