package image

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Media types of docker's image format, which mean the same as the OCI ones.
const (
	MediaTypeDockerManifest     = "application/vnd.docker.distribution.manifest.v2+json"
	MediaTypeDockerManifestList = "application/vnd.docker.distribution.manifest.list.v2+json"
	MediaTypeDockerConfig       = "application/vnd.docker.container.image.v1+json"
	MediaTypeDockerLayer        = "application/vnd.docker.image.rootfs.diff.tar"
	MediaTypeDockerLayerGzip    = "application/vnd.docker.image.rootfs.diff.tar.gzip"
	MediaTypeDockerLayerZstd    = "application/vnd.docker.image.rootfs.diff.tar.zstd"
)

// Bounds on what is read into memory.
const (
	MaxManifestSize = 4 << 20 // bytes of a manifest or an index
	MaxConfigSize   = 8 << 20 // bytes of an image config
	maxJSONDepth    = 32
)

// IsManifest reports whether mediaType is an image manifest.
func IsManifest(mediaType string) bool {
	return mediaType == ocispec.MediaTypeImageManifest || mediaType == MediaTypeDockerManifest
}

// IsIndex reports whether mediaType is an index or a manifest list.
func IsIndex(mediaType string) bool {
	return mediaType == ocispec.MediaTypeImageIndex || mediaType == MediaTypeDockerManifestList
}

// IsConfig reports whether mediaType is that of an image's config: a manifest
// with any other is an artifact, which nothing runs.
func IsConfig(mediaType string) bool {
	return mediaType == ocispec.MediaTypeImageConfig || mediaType == MediaTypeDockerConfig
}

// ManifestTypes lists the media types that are manifests or indexes, the
// preferred ones first.
func ManifestTypes() []string {
	return []string{
		ocispec.MediaTypeImageIndex, ocispec.MediaTypeImageManifest,
		MediaTypeDockerManifestList, MediaTypeDockerManifest,
	}
}

// CheckDigest fails with errdefs.ErrInvalidArgument unless dgst is a well
// formed sha256 or sha512 digest: one that is safe to be part of a path.
func CheckDigest(dgst digest.Digest) error {
	alg, enc, ok := strings.Cut(string(dgst), ":")
	size := map[string]int{"sha256": 64, "sha512": 128}[alg]
	if !ok || size == 0 || len(enc) != size || strings.Trim(enc, "0123456789abcdef") != "" {
		return fmt.Errorf("digest %q: %w", clip(string(dgst)), errdefs.ErrInvalidArgument)
	}
	return nil
}

// CheckDescriptor fails with errdefs.ErrInvalidArgument unless desc has a well
// formed digest and a size.
func CheckDescriptor(desc ocispec.Descriptor) error {
	if err := CheckDigest(desc.Digest); err != nil {
		return err
	}
	if desc.Size < 0 {
		return fmt.Errorf("descriptor %s: size %d: %w", desc.Digest, desc.Size, errdefs.ErrInvalidArgument)
	}
	return nil
}

// ParseManifest parses an image manifest that came as mediaType. What more than
// one parser could read in more than one way is refused with
// errdefs.ErrInvalidArgument: a manifest that is an index too, keys given twice
// or in another case, data after the end, deep nesting, a mediaType inside that
// differs from the one outside, descriptors with malformed digests.
func ParseManifest(mediaType string, b []byte) (ocispec.Manifest, error) {
	var m ocispec.Manifest
	if !IsManifest(mediaType) {
		return m, fmt.Errorf("media type %q is not an image manifest: %w", clip(mediaType), errdefs.ErrInvalidArgument)
	}
	if err := decodeGraph(mediaType, b, &m, "manifests", "fsLayers", "history", "signatures"); err != nil {
		return m, fmt.Errorf("manifest: %w", err)
	}
	if m.SchemaVersion != 2 {
		return m, fmt.Errorf("manifest: schemaVersion %d: %w", m.SchemaVersion, errdefs.ErrInvalidArgument)
	}
	for _, d := range append([]ocispec.Descriptor{m.Config}, m.Layers...) {
		if err := CheckDescriptor(d); err != nil {
			return m, fmt.Errorf("manifest: %w", err)
		}
		if IsManifest(d.MediaType) || IsIndex(d.MediaType) {
			return m, fmt.Errorf("manifest: blob %s is a %q: %w", d.Digest, d.MediaType, errdefs.ErrInvalidArgument)
		}
	}
	if m.Subject != nil {
		if err := CheckDescriptor(*m.Subject); err != nil {
			return m, fmt.Errorf("manifest: subject: %w", err)
		}
	}
	return m, nil
}

// ParseIndex parses an index or manifest list that came as mediaType, as
// strictly as ParseManifest.
func ParseIndex(mediaType string, b []byte) (ocispec.Index, error) {
	var x ocispec.Index
	if !IsIndex(mediaType) {
		return x, fmt.Errorf("media type %q is not an index: %w", clip(mediaType), errdefs.ErrInvalidArgument)
	}
	if err := decodeGraph(mediaType, b, &x, "config", "layers", "fsLayers", "history", "signatures"); err != nil {
		return x, fmt.Errorf("index: %w", err)
	}
	if x.SchemaVersion != 2 {
		return x, fmt.Errorf("index: schemaVersion %d: %w", x.SchemaVersion, errdefs.ErrInvalidArgument)
	}
	for _, d := range x.Manifests {
		if err := CheckDescriptor(d); err != nil {
			return x, fmt.Errorf("index: %w", err)
		}
	}
	return x, nil
}

// Children returns what the manifest or index b, which came as mediaType,
// refers to and cannot do without: the config and the layers, or the manifests.
// The bytes of any other media type have no children.
func Children(mediaType string, b []byte) ([]ocispec.Descriptor, error) {
	switch {
	case IsManifest(mediaType):
		m, err := ParseManifest(mediaType, b)
		if err != nil {
			return nil, err
		}
		return append([]ocispec.Descriptor{m.Config}, m.Layers...), nil
	case IsIndex(mediaType):
		x, err := ParseIndex(mediaType, b)
		return x.Manifests, err
	}
	return nil, nil
}

// SniffMediaType tells what a manifest whose media type got lost is: by its own
// mediaType, else by its keys. It returns "" for anything else.
func SniffMediaType(b []byte) string {
	var probe struct {
		MediaType string          `json:"mediaType"`
		Layers    json.RawMessage `json:"layers"`
		Manifests json.RawMessage `json:"manifests"`
	}
	if len(b) > MaxManifestSize || json.Unmarshal(b, &probe) != nil {
		return ""
	}
	switch {
	case slices.Contains(ManifestTypes(), probe.MediaType):
		return probe.MediaType
	case probe.MediaType != "":
		return ""
	case probe.Manifests != nil && probe.Layers == nil:
		return ocispec.MediaTypeImageIndex
	case probe.Layers != nil && probe.Manifests == nil:
		return ocispec.MediaTypeImageManifest
	}
	return ""
}

// decodeGraph decodes a manifest or index into v after the checks that
// ParseManifest lists; none of the foreign keys may occur at the top.
func decodeGraph(mediaType string, b []byte, v any, foreign ...string) error {
	if len(b) > MaxManifestSize {
		return fmt.Errorf("%d bytes, more than %d: %w", len(b), MaxManifestSize, errdefs.ErrResourceExhausted)
	}
	top, err := checkJSON(b)
	if err != nil {
		return err
	}
	for _, key := range foreign {
		if top[key] {
			return fmt.Errorf("has %q, which another kind of manifest has: %w", key, errdefs.ErrInvalidArgument)
		}
	}
	var own struct {
		MediaType string `json:"mediaType"`
	}
	if err := json.Unmarshal(b, &own); err != nil {
		return fmt.Errorf("%w: %w", err, errdefs.ErrInvalidArgument)
	}
	if own.MediaType != "" && own.MediaType != mediaType {
		return fmt.Errorf("says it is %q, came as %q: %w", clip(own.MediaType), mediaType, errdefs.ErrInvalidArgument)
	}
	if err := json.Unmarshal(b, v); err != nil {
		return fmt.Errorf("%w: %w", err, errdefs.ErrInvalidArgument)
	}
	return nil
}

// checkJSON reports the top keys of the one JSON object that b is. It refuses
// data after it, nesting beyond maxJSONDepth, and objects in which one key
// occurs twice: in any case of letters, but in those whose keys are free text.
func checkJSON(b []byte) (map[string]bool, error) {
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.UseNumber()
	top := map[string]bool{}
	if err := checkValue(dec, 0, "", top); err != nil {
		return nil, fmt.Errorf("%w: %w", err, errdefs.ErrInvalidArgument)
	}
	if rest := bytes.TrimLeft(b[dec.InputOffset():], " \t\r\n"); len(rest) > 0 {
		return nil, fmt.Errorf("data after the end: %w", errdefs.ErrInvalidArgument)
	}
	return top, nil
}

// checkValue reads one value; name is the key that it is the value of.
func checkValue(dec *json.Decoder, depth int, name string, top map[string]bool) error {
	tok, err := dec.Token()
	if err != nil {
		return err
	}
	delim, nested := tok.(json.Delim)
	if !nested && depth == 0 {
		return fmt.Errorf("not an object")
	}
	if !nested {
		return nil
	}
	if depth >= maxJSONDepth {
		return fmt.Errorf("nested deeper than %d", maxJSONDepth)
	}
	if delim == '[' {
		if depth == 0 {
			return fmt.Errorf("not an object")
		}
		for dec.More() {
			if err := checkValue(dec, depth+1, "", nil); err != nil {
				return err
			}
		}
		_, err = dec.Token()
		return err
	}
	return checkObject(dec, depth, freeKeys(name), top)
}

// checkObject reads the members of an object after its brace. In free objects
// keys differ by case.
func checkObject(dec *json.Decoder, depth int, free bool, top map[string]bool) error {
	seen := map[string]bool{}
	for dec.More() {
		tok, err := dec.Token()
		if err != nil {
			return err
		}
		key, _ := tok.(string)
		if top != nil {
			top[key] = true
		}
		folded := key
		if !free {
			folded = strings.ToLower(strings.ToUpper(key)) // both: ſ and K fold as encoding/json folds them
			if want, ok := knownKeys[folded]; ok && want != key && depth < 3 {
				return fmt.Errorf("key %q written as %q", want, clip(key))
			}
		}
		if seen[folded] {
			return fmt.Errorf("key %q twice", clip(key))
		}
		seen[folded] = true
		if err := checkValue(dec, depth+1, key, nil); err != nil {
			return err
		}
	}
	_, err := dec.Token()
	return err
}

// freeKeys tells whether the keys of the object named name are users' text.
func freeKeys(name string) bool {
	switch strings.ToLower(name) {
	case "annotations", "labels", "exposedports", "volumes":
		return true
	}
	return false
}

// knownKeys maps the keys that manifests, indexes and descriptors give a
// meaning from lower case to how they are written.
var knownKeys = func() map[string]string {
	m := map[string]string{}
	for _, k := range []string{
		"schemaVersion", "mediaType", "artifactType", "layers", "manifests", "subject",
		"annotations", "digest", "size", "urls", "data", "platform",
	} {
		m[strings.ToLower(k)] = k
	}
	return m
}()

// clip bounds hostile text that goes into an error.
func clip(s string) string {
	if len(s) > 100 {
		return s[:100] + "..."
	}
	return s
}
