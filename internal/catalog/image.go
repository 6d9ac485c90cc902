package catalog

import (
	"cmp"
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"strake/internal/registry"
	"strake/internal/scandb"
)

// Image is the page of an image, or of an artifact, which has no steps.
type Image struct {
	Repository   string
	Reference    string // as it was asked for
	Digest       digest.Digest
	Index        digest.Digest // that names it; "" when the reference does
	MediaType    string
	ArtifactType string
	Pushed       time.Time
	Pusher       string
	Held         bool
	Variants     []Variant // of the index
	Platform     string
	Created      time.Time
	Author       string
	ConfigDigest digest.Digest
	Config       ocispec.ImageConfig
	Size         int64 // of config and layers, as they are sent
	Steps        []Step
	Counted      bool // the steps say what their files are
	Annotations  map[string]string
	Referrers    []Referrer
}

// Step is a line of an image's history, and the layer that it made.
type Step struct {
	Instruction string
	Created     time.Time
	Layer       digest.Digest // "" when it made none
	MediaType   string
	Size        int64 // of the layer, as it is sent
	LayerFiles
}

// LayerFiles is what a layer does to those below it.
type LayerFiles = scandb.LayerFiles

// Waste is how many bytes of files the image carries that nobody sees.
func (i *Image) Waste() (waste, all int64) {
	for _, s := range i.Steps {
		waste, all = waste+s.Waste, all+s.Bytes
	}
	return waste, all
}

// Referrer is a manifest that says something of another one.
type Referrer struct {
	Digest       digest.Digest
	ArtifactType string
	Size         int64
	Annotations  map[string]string
}

const maxReferrers = 100

// Image describes what ref, a tag or a digest, names; of an index, the image for
// platform, or for linux/amd64 where it is there and none is asked for. It fails
// as registry.Reader's GetManifest does.
func (c *Catalog) Image(ctx context.Context, repo, ref, platform string) (*Image, error) {
	desc, err := c.source.StatManifest(ctx, repo, ref)
	if err != nil {
		return nil, err
	}
	im := &Image{Repository: repo, Reference: ref, Digest: desc.Digest, MediaType: desc.MediaType}
	if err := c.variants(ctx, im, platform); err != nil {
		return nil, err
	}
	if im.Index != "" && len(im.Variants) == 0 {
		if err := c.rows(ctx, im); err != nil { // an index of blobs
			return nil, err
		}
		return im, c.referrers(ctx, im)
	}
	raw, manifest, config, err := c.readImage(ctx, repo, im.Digest.String())
	if err != nil {
		return nil, err
	}
	im.MediaType = cmp.Or(manifest.MediaType, raw.MediaType)
	im.ArtifactType, im.Annotations = manifest.ArtifactType, manifest.Annotations
	im.ConfigDigest, im.Config, im.Author = manifest.Config.Digest, config.Config, config.Author
	im.Platform = platformText(config.OS, config.Architecture, config.Variant)
	if config.Created != nil {
		im.Created = *config.Created
	}
	if config.OS == "" {
		im.ArtifactType = cmp.Or(im.ArtifactType, manifest.Config.MediaType)
	}
	im.Steps = steps(manifest, config)
	im.Size = manifest.Config.Size
	for _, l := range manifest.Layers {
		im.Size += max(l.Size, 0)
	}
	if err := c.rows(ctx, im); err != nil {
		return nil, err
	}
	return im, c.referrers(ctx, im)
}

// variants chooses an image of the index that the reference names.
func (c *Catalog) variants(ctx context.Context, im *Image, platform string) error {
	if im.MediaType != ocispec.MediaTypeImageIndex && im.MediaType != mediaTypeDockerList {
		return nil
	}
	raw, err := c.source.GetManifest(ctx, im.Repository, im.Digest.String())
	if err != nil {
		return err
	}
	var index ocispec.Index
	if err := json.Unmarshal(raw.Bytes, &index); err != nil {
		return fmt.Errorf("index: %w", err)
	}
	im.Index = im.Digest
	chosen := -1
	for i, d := range index.Manifests {
		if !isManifest(d.MediaType) { // build cache in BuildKit's older form
			im.Size += max(d.Size, 0)
			continue
		}
		text, err := c.platformOf(ctx, d)
		if err != nil {
			return err
		}
		if text == "unknown/unknown" { // an attestation
			continue
		}
		im.Variants = append(im.Variants, Variant{Digest: d.Digest.String(), Platform: text})
		if text == cmp.Or(platform, "linux/amd64") || chosen < 0 && platform == "" {
			chosen = i
		}
	}
	if len(im.Variants) == 0 && im.Size > 0 {
		im.ArtifactType, im.Annotations = cmp.Or(index.ArtifactType, index.Manifests[len(index.Manifests)-1].MediaType), index.Annotations
		return nil
	}
	if chosen < 0 {
		return registry.Errorf(registry.ManifestUnknown, "manifest unknown")
	}
	im.Digest = index.Manifests[chosen].Digest
	slices.SortFunc(im.Variants, func(a, b Variant) int { return cmp.Compare(a.Platform, b.Platform) })
	return nil
}

// platformOf is the platform that an index gives for d, or that d's config does.
func (c *Catalog) platformOf(ctx context.Context, d ocispec.Descriptor) (string, error) {
	if p := d.Platform; p != nil {
		return platformText(p.OS, p.Architecture, p.Variant), nil
	}
	var os, architecture, variant string
	err := c.db.Get(ctx, `SELECT os, architecture, variant FROM images WHERE digest = $1`, []any{d.Digest.String()}, &os, &architecture, &variant)
	if err != nil && !errors.Is(err, sql.ErrNoRows) {
		return "", err
	}
	return platformText(os, architecture, variant), nil
}

const mediaTypeDockerList = "application/vnd.docker.distribution.manifest.list.v2+json"

// isManifest reports whether something of that type is a manifest, or an index of those.
func isManifest(mediaType string) bool {
	switch mediaType {
	case ocispec.MediaTypeImageManifest, ocispec.MediaTypeImageIndex, mediaTypeDockerList, "application/vnd.docker.distribution.manifest.v2+json":
		return true
	}
	return false
}

// steps joins an image's history with its layers. A history that has too few or
// too many steps with layers is taken from the bottom as far as it goes.
func steps(manifest ocispec.Manifest, config ocispec.Image) []Step {
	list := make([]Step, 0, len(manifest.Layers)+len(config.History))
	next := 0
	layer := func(s Step) Step {
		l := manifest.Layers[next]
		next++
		s.Layer, s.MediaType, s.Size = l.Digest, l.MediaType, l.Size
		return s
	}
	for _, h := range config.History {
		s := Step{Instruction: cmp.Or(h.CreatedBy, h.Comment)}
		if h.Created != nil {
			s.Created = *h.Created
		}
		if !h.EmptyLayer {
			if next == len(manifest.Layers) {
				continue
			}
			s = layer(s)
		}
		list = append(list, s)
	}
	for next < len(manifest.Layers) {
		list = append(list, layer(Step{}))
	}
	return list
}

// rows adds what the database knows of an image.
func (c *Catalog) rows(ctx context.Context, im *Image) error {
	var pushed int64
	var held int
	var layers string
	err := c.db.Get(ctx, `
		SELECT m.pushed, m.pusher, m.held, COALESCE(s.layers, '') FROM repositories r JOIN manifests m ON m.repository = r.id
		LEFT JOIN scan_images s ON s.image = m.digest WHERE r.name = $1 AND m.digest = $2`,
		[]any{im.Repository, im.Digest.String()}, &pushed, &im.Pusher, &held, &layers)
	if errors.Is(err, sql.ErrNoRows) {
		return registry.Errorf(registry.ManifestUnknown, "manifest unknown")
	}
	if err != nil {
		return err
	}
	im.Pushed, im.Held = unix(pushed), held == 1
	if layers == "" {
		return nil
	}
	var files []LayerFiles
	if err := json.Unmarshal([]byte(layers), &files); err != nil {
		return fmt.Errorf("layers of %s: %w", im.Digest, err)
	}
	for i := range im.Steps {
		if im.Steps[i].Layer == "" || len(files) == 0 {
			continue
		}
		im.Steps[i].LayerFiles, files = files[0], files[1:]
		im.Counted = true
	}
	return nil
}

// referrers adds what refers to the image and to the index that names it.
func (c *Catalog) referrers(ctx context.Context, im *Image) error {
	for _, subject := range []digest.Digest{im.Digest, im.Index} {
		if subject == "" {
			continue
		}
		for d, err := range c.source.Referrers(ctx, im.Repository, subject, "", "") {
			if err != nil {
				return err
			}
			if len(im.Referrers) == maxReferrers {
				return nil
			}
			im.Referrers = append(im.Referrers, Referrer{d.Digest, d.ArtifactType, d.Size, d.Annotations})
		}
	}
	return nil
}
