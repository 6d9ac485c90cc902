package engine

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"strake/internal/image"
	"strake/internal/reference"
)

// CreateIndexOptions say of what an index is made, in registries.
type CreateIndexOptions struct {
	// Sources are names, digests in the one repository that is named anywhere,
	// or descriptors as JSON.
	Sources     []string
	Tags        []string // the new index's names
	Append      bool     // the first tag's index is a source too
	Annotations []string // [index:|manifest-descriptor[PLATFORM]:]key=value
	Platforms   []string // only the manifests for these
	NoIndex     bool     // the only source, a manifest, stays what it is
	DryRun      bool     // push nothing
	// Log, when not nil, is told what is pushed.
	Log func(line string)
}

// CreateIndexResult is the index.
type CreateIndexResult struct {
	Desc  ocispec.Descriptor
	Bytes []byte
}

// CreateIndex makes one index of images in registries, copies what it names to
// the repositories of its tags, and pushes it under them. A single index that
// nothing is to change keeps its bytes.
func CreateIndex(ctx context.Context, env *Env, opts CreateIndexOptions) (result CreateIndexResult, err error) {
	tags := make([]reference.Named, len(opts.Tags))
	for i, tag := range opts.Tags {
		if tags[i], err = listReference(tag); err != nil {
			return result, err
		}
	}
	if opts.Append && len(opts.Tags) > 0 {
		opts.Sources = slices.Insert(slices.Clone(opts.Sources), 0, opts.Tags[0])
	}
	sources, err := indexSources(opts.Sources, tags)
	if err != nil {
		return result, err
	}
	combined := combination{env: env, at: map[digest.Digest]int{}}
	for i := range sources {
		if err := combined.add(ctx, &sources[i]); err != nil {
			return result, err
		}
	}
	if err := combined.keep(opts.Platforms); err != nil {
		return result, err
	}
	if err := combined.annotate(opts.Annotations); err != nil {
		return result, err
	}
	only := len(sources) == 1 && len(opts.Annotations) == 0 && len(opts.Platforms) == 0 && sources[0].given == nil
	if only && (opts.NoIndex || image.IsIndex(sources[0].desc.MediaType)) {
		result.Desc, result.Bytes = sources[0].desc, sources[0].raw
	} else if result.Bytes, err = combined.index(); err == nil {
		result.Desc = image.Bytes(combined.mediaType, result.Bytes)
	}
	if err != nil || opts.DryRun {
		return result, err
	}
	for _, tag := range tags {
		if err := pushIndex(ctx, env, combined.children, tag, result, opts.Log); err != nil {
			return result, err
		}
	}
	return result, nil
}

// indexSource is one source of an index.
type indexSource struct {
	ref   reference.Named
	given *ocispec.Descriptor // what the user says of it
	desc  ocispec.Descriptor
	raw   []byte
}

// indexSources parses sources. A digest alone is in the only repository that
// the sources and tags name.
func indexSources(texts []string, tags []reference.Named) ([]indexSource, error) {
	repositories := map[string]bool{}
	for _, tag := range tags {
		repositories[tag.Name()] = true
	}
	sources := make([]indexSource, len(texts))
	for i, text := range texts {
		s := &sources[i]
		if err := s.parse(text); err != nil {
			return nil, messageError{fmt.Sprintf("failed to parse source %q, valid sources are digests, references and descriptors: %v", text, err), errdefs.ErrInvalidArgument}
		}
		if !s.ref.IsZero() {
			repositories[s.ref.Name()] = true
		}
	}
	if len(repositories) == 0 {
		return nil, messageError{"no repositories specified, please set a reference in tag or source", errdefs.ErrInvalidArgument}
	}
	for i := range sources {
		s := &sources[i]
		if !s.ref.IsZero() {
			continue
		}
		if len(repositories) > 1 {
			return nil, messageError{fmt.Sprintf("multiple repositories specified, cannot infer repository for %q", texts[i]), errdefs.ErrInvalidArgument}
		}
		for name := range repositories {
			named, err := reference.Parse(name)
			if err != nil {
				return nil, err
			}
			if s.ref, err = named.WithDigest(s.given.Digest); err != nil {
				return nil, err
			}
		}
	}
	return sources, nil
}

func (s *indexSource) parse(text string) (err error) {
	if strings.HasPrefix(text, "{") {
		s.given = &ocispec.Descriptor{}
		if err := json.Unmarshal([]byte(text), s.given); err != nil {
			return err
		}
		return image.CheckDigest(s.given.Digest)
	}
	if dgst := digest.Digest(text); strings.HasPrefix(text, "sha256:") {
		s.given = &ocispec.Descriptor{Digest: dgst}
		return image.CheckDigest(dgst)
	}
	s.ref, err = listReference(text)
	return err
}

// combination is what an index is made of.
type combination struct {
	env       *Env
	children  []indexChild
	at        map[digest.Digest]int
	mediaType string
	notes     map[string]string // annotations of the index
}

// indexChild is a manifest and where it is.
type indexChild struct {
	ref  reference.Named
	desc ocispec.Descriptor
}

// add reads a source and takes its manifests.
func (c *combination) add(ctx context.Context, s *indexSource) error {
	repo, err := c.env.Remote.Repository(s.ref)
	if err != nil {
		return err
	}
	if s.desc, err = repo.Resolve(ctx, s.ref.TagOrDigest()); err != nil {
		return pullError(s.ref, err)
	}
	if s.raw, err = image.ReadAll(ctx, repo, s.desc, image.MaxManifestSize); err != nil {
		return err
	}
	switch s.desc.MediaType {
	case ocispec.MediaTypeImageIndex, ocispec.MediaTypeImageManifest:
		c.mediaType = ocispec.MediaTypeImageIndex
	}
	if image.IsIndex(s.desc.MediaType) {
		index, err := image.ParseIndex(s.desc.MediaType, s.raw)
		if err != nil {
			return err
		}
		for _, d := range index.Manifests {
			c.put(indexChild{s.ref, d})
		}
		return nil
	}
	listed, err := describeListed(ctx, repo, s.ref, s.desc)
	if err != nil {
		return err
	}
	desc := listed.Descriptor
	if g := s.given; g != nil {
		if g.Size != 0 && g.Size != desc.Size {
			return messageError{fmt.Sprintf("invalid size mismatch for %s, %d != %d", desc.Digest, g.Size, desc.Size), errdefs.ErrInvalidArgument}
		}
		desc.Annotations = g.Annotations
		if g.Platform != nil {
			desc.Platform = g.Platform
		}
	}
	c.put(indexChild{s.ref, desc})
	return nil
}

// put adds a manifest, or what a later source says of one that is there.
func (c *combination) put(child indexChild) {
	i, ok := c.at[child.desc.Digest]
	if !ok {
		c.at[child.desc.Digest] = len(c.children)
		c.children = append(c.children, child)
		return
	}
	old := &c.children[i].desc
	if child.desc.Platform != nil {
		old.Platform = child.desc.Platform
	}
	if len(child.desc.Annotations) > 0 {
		merged := map[string]string{}
		maps.Copy(merged, old.Annotations)
		maps.Copy(merged, child.desc.Annotations)
		old.Annotations = merged
	}
}

// keep drops what is for none of the platforms, and what tells of what is
// dropped.
func (c *combination) keep(wanted []string) error {
	if len(wanted) == 0 {
		return nil
	}
	list, err := parsePlatforms(wanted)
	if err != nil {
		return err
	}
	kept := map[string]bool{}
	for _, child := range c.children {
		if p := child.desc.Platform; p != nil && !image.IsAttestation(child.desc) &&
			slices.ContainsFunc(list, func(want ocispec.Platform) bool { return matches(want, *p) }) {
			kept[child.desc.Digest.String()] = true
		}
	}
	c.children = slices.DeleteFunc(c.children, func(child indexChild) bool {
		return !kept[child.desc.Digest.String()] && !kept[child.desc.Annotations[attestedDigest]]
	})
	if len(c.children) == 0 {
		return messageError{"none of the manifests match the provided platforms: " + strings.Join(wanted, ", "), errdefs.ErrNotFound}
	}
	return nil
}

// annotate sets annotations of the index and of its descriptors.
func (c *combination) annotate(annotations []string) error {
	for _, text := range annotations {
		attrs, value, err := annotationAttrs(text)
		if err != nil {
			return err
		}
		for _, attr := range attrs {
			k, _, err := parseAnnotationKey(attr)
			if err == nil {
				err = c.annotateOne(k, text, value)
			}
			if err != nil {
				return err
			}
		}
	}
	return nil
}

func (c *combination) annotateOne(k annotationKey, text, value string) error {
	switch k.of {
	case ofIndex:
		if c.notes == nil {
			c.notes = map[string]string{}
		}
		c.notes[k.key] = value
		c.mediaType = ocispec.MediaTypeImageIndex
		return nil
	case ofManifestDescriptor:
		return c.annotateChildren(k.platform, k.key, value)
	case ofIndexDescriptor:
		return messageError{`"index-descriptor" annotations are invalid while creating an image`, errdefs.ErrInvalidArgument}
	}
	return messageError{fmt.Sprintf("annotation %q: say index:%[1]s or manifest-descriptor:%[1]s; manifests are not changed", text), errdefs.ErrNotImplemented}
}

func (c *combination) annotateChildren(platform, key, value string) error {
	wanted, err := ParsePlatform(platform)
	if err != nil {
		return err
	}
	for i := range c.children {
		d := &c.children[i].desc
		if platform == "" || d.Platform != nil && matches(wanted, *d.Platform) {
			notes := map[string]string{key: value}
			for k, v := range d.Annotations {
				if k != key {
					notes[k] = v
				}
			}
			d.Annotations = notes
		}
	}
	return nil
}

// index is the index's bytes.
func (c *combination) index() ([]byte, error) {
	if c.mediaType == "" {
		c.mediaType = image.MediaTypeDockerManifestList
	}
	index := ocispec.Index{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: c.mediaType,
		Manifests: []ocispec.Descriptor{}, Annotations: c.notes,
	}
	for _, child := range c.children {
		index.Manifests = append(index.Manifests, child.desc)
	}
	return json.MarshalIndent(index, "", "  ")
}

// pushIndex copies what an index names beside tag, and pushes it.
func pushIndex(ctx context.Context, env *Env, children []indexChild, tag reference.Named, made CreateIndexResult, log func(string)) error {
	say := func(format string, args ...any) {
		if log != nil {
			log(fmt.Sprintf(format, args...))
		}
	}
	repo, err := env.Remote.Repository(tag)
	if err != nil {
		return err
	}
	for _, child := range children {
		if child.ref.Name() == tag.Name() {
			continue
		}
		say("copying %s from %s to %s", child.desc.Digest, child.ref, tag)
		src, err := env.Remote.Repository(child.ref)
		if err != nil {
			return err
		}
		how := image.CopyOptions{Concurrency: pushConcurrency}
		if child.ref.Domain() == tag.Domain() {
			how.MountFrom = func(ocispec.Descriptor) []string { return []string{child.ref.Path()} }
		}
		plain := ocispec.Descriptor{MediaType: child.desc.MediaType, Digest: child.desc.Digest, Size: child.desc.Size}
		if err := image.CopyGraph(ctx, src, repo, plain, how); err != nil {
			return pushError(tag, err)
		}
	}
	say("pushing %s to %s", made.Desc.Digest, tag)
	open := func(_ context.Context, offset int64) (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(made.Bytes[offset:])), nil
	}
	if err := repo.Push(ctx, made.Desc, open); err != nil {
		return pushError(tag, err)
	}
	if err := repo.Tag(ctx, made.Desc, tag.TagOrDigest()); err != nil {
		return pushError(tag, err)
	}
	return nil
}
