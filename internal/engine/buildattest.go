package engine

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"strake/internal/attest"
	"strake/internal/build"
	"strake/internal/dockerfile"
	"strake/internal/layer"
	"strake/internal/scan"
	"strake/internal/secret"
)

// Attestation asks for one kind of attestation of what is built, or for none.
type Attestation struct {
	Type     string // provenance or sbom
	Disabled bool
	Attrs    map[string]string
}

// ParseAttestation parses an attestation as buildx's --attest has it.
func ParseAttestation(text string) (Attestation, error) {
	a := Attestation{Attrs: map[string]string{}}
	fields, err := splitFields(text)
	if err != nil {
		return a, err
	}
	for _, field := range fields {
		key, value, ok := strings.Cut(field, "=")
		if !ok {
			return a, invalid("invalid value %s", field)
		}
		switch strings.TrimSpace(strings.ToLower(key)) {
		case "type":
			a.Type = value
		case "disabled":
			if a.Disabled, err = strconv.ParseBool(value); err != nil {
				return a, invalid("invalid value %s: %v", field, err)
			}
		default:
			a.Attrs[key] = value
		}
	}
	switch a.Type {
	case "":
		return a, invalid("attestation type not specified")
	case "provenance", "sbom":
		_, err := newAttestations([]Attestation{a})
		return a, err
	}
	return a, invalid("unknown attestation type %q", a.Type)
}

// attestations are what is said of the image.
type attestations struct {
	provenance *attest.ProvenanceOptions
	pushedOnly bool // of the provenance: nobody asked for it
	sbom       bool
	generator  *generator // of the SBOM; nil: packages are read here
}

// newAttestations settles what is said: without a word of the user, where the
// environment does not forbid it, a provenance of what is pushed.
func newAttestations(list []Attestation) (set attestations, err error) {
	var provenance, sbom *Attestation
	for i, a := range list { // the last of a kind wins
		if a.Type == "provenance" {
			provenance = &list[i]
		} else {
			sbom = &list[i]
		}
	}
	if provenance == nil {
		off := false
		if v := os.Getenv("BUILDX_NO_DEFAULT_ATTESTATIONS"); v != "" {
			if off, err = strconv.ParseBool(v); err != nil {
				return set, invalid("invalid BUILDX_NO_DEFAULT_ATTESTATIONS: %v", err)
			}
		}
		if !off {
			set.provenance, set.pushedOnly = &attest.ProvenanceOptions{}, true
		}
	} else if !provenance.Disabled {
		if set.provenance, set.pushedOnly, err = provenance.provenance(); err != nil {
			return set, err
		}
	}
	if sbom == nil || sbom.Disabled {
		return set, nil
	}
	set.sbom = true
	set.generator, err = newGenerator(sbom.Attrs)
	return set, err
}

// stored reports whether something is said of an image that is not pushed. It names
// the image's manifest, which has to be the one that is pushed later.
func (a attestations) stored() bool { return a.sbom || a.provenance != nil && !a.pushedOnly }

// provenance reads the attributes of a provenance.
func (a Attestation) provenance() (opts *attest.ProvenanceOptions, pushedOnly bool, err error) {
	opts = &attest.ProvenanceOptions{Full: true, File: "provenance.json"}
	for key, value := range a.Attrs {
		switch key {
		case "mode":
			if value != "min" && value != "max" && value != "full" {
				return nil, false, invalid("invalid mode %q", value)
			}
			opts.Full = value != "min"
		case "builder-id":
			opts.BuilderID = value
		case "reproducible":
			if opts.Reproducible, err = strconv.ParseBool(value); err != nil {
				return nil, false, invalid("failed to parse reproducible flag %q: %v", value, err)
			}
		case "inline-only":
			pushedOnly, err = strconv.ParseBool(value)
			if err != nil {
				return nil, false, invalid("failed to parse inline-only flag %q: %v", value, err)
			}
		case "version":
			if value != "v1" && value != "v0.2" {
				return nil, false, invalid("invalid provenance SLSA version: %s", value)
			}
			opts.SLSA02 = value == "v0.2"
		case "filename":
			opts.File = path.Base(value)
		default:
			return nil, false, invalid("provenance has no attribute %q", key)
		}
	}
	return opts, pushedOnly, nil
}

// statements is what an exporter says of what was built.
type statements struct{ *exporter }

// predicates are what is said of an image for one platform. The same is said
// everywhere.
func (x statements) predicates(ctx context.Context, b build.Built, pushed bool) (list []attest.Predicate, err error) {
	if x.attest.sbom {
		if list, err = x.sbom(ctx, b); err != nil {
			return nil, err
		}
		list = slices.Clone(list)
	}
	if x.attest.provenance == nil || x.attest.pushedOnly && !pushed {
		return list, nil
	}
	p, err := attest.Provenance(x.madeFor(b.Platform), *x.attest.provenance)
	return append(list, p), err
}

// madeFor is what is known of how the image for a platform was built.
func (x statements) madeFor(platform ocispec.Platform) attest.Build {
	made := x.made
	made.VCS, made.Materials = x.vcs(), nil
	for _, m := range x.made.Materials {
		if m.URI != "" || len(x.built) == 1 || platforms.OnlyStrict(platform).Match(m.Platform) || platforms.OnlyStrict(platforms.DefaultSpec()).Match(m.Platform) {
			made.Materials = append(made.Materials, m)
		}
	}
	return made
}

// sbom lists the packages in an image and in what the Dockerfile has scanned besides it, a list each, once, unless a
// generator did.
func (x statements) sbom(ctx context.Context, b build.Built) (list []attest.Predicate, err error) {
	platform := platforms.FormatAll(b.Platform)
	if list, ok := x.sboms[platform]; ok {
		return list, nil
	}
	step := x.solver.Begin("generating sbom for " + platform)
	defer func() { err = step.End(ctx, err) }()
	p, err := x.packages(ctx, step, b.ID.String(), layersOf(b))
	if err != nil {
		return nil, err
	}
	p.File = "sbom.spdx.json"
	list = append(list, p)
	for _, name := range slices.Sorted(maps.Keys(b.Scanned)) {
		res, err := x.solver.Solve(ctx, b.Scanned[name])
		if err != nil {
			return nil, err
		}
		if p, err = x.packages(ctx, step, b.ID.String()+"-"+name, res.Layers); err != nil {
			return nil, err
		}
		p.File = "sbom-" + name + ".spdx.json"
		list = append(list, p)
	}
	x.sboms[platform] = list
	return list, nil
}

// packages is the list, called name, of the packages in a chain of layers.
func (x statements) packages(ctx context.Context, step *build.Reporter, name string, layers []digest.Digest) (p attest.Predicate, err error) {
	chain, err := openChain(ctx, x.env, layers)
	if err != nil {
		return p, err
	}
	defer closing(&err, chain.Close)
	files := layer.Union(chain)
	found, err := scan.Packages(files)
	if errdefs.IsNotImplemented(err) {
		step.Warn("the SBOM is not complete: %v\n", err)
	} else if err != nil {
		return p, err
	}
	distro, err := distribution(files)
	if err != nil {
		return p, err
	}
	created := x.made.Finished
	if x.epoch != nil {
		created = *x.epoch
	}
	return attest.SBOM(name, x.env.Version, distro, found, created)
}

// distribution is the ID that os-release gives an image's system, or "".
func distribution(files fs.FS) (id string, err error) {
	f, err := files.Open("etc/os-release")
	if errors.Is(err, fs.ErrNotExist) {
		f, err = files.Open("usr/lib/os-release")
	}
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("read os-release: %w", err)
	}
	defer closing(&err, f.Close)
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() {
		return "", err
	}
	release, err := scan.ReadRelease(f)
	return release.ID, err
}

// attestManifests adds the manifest of what is said of each image, to be listed
// behind the images.
func (x statements) attestManifests(ctx context.Context, a *assembled, images []ocispec.Descriptor, how forms) (list []ocispec.Descriptor, err error) {
	if how.docker && x.attest.pushedOnly && !x.attest.sbom {
		return nil, nil // nobody asked for what docker's types cannot say
	}
	names := make([]string, len(how.names))
	for i, name := range how.names {
		named, err := ParseTarget(name)
		if err != nil {
			return nil, err
		}
		names[i] = named.Familiar().String()
	}
	for i, b := range x.built {
		predicates, err := x.predicates(ctx, b, how.pushed)
		if err != nil || len(predicates) == 0 {
			return nil, err
		}
		if how.docker {
			return nil, invalid(`cannot export attestations with "oci-mediatypes=false"`)
		}
		subjects := attest.Subjects(names, b.Platform, images[i].Digest)
		blobs, err := attest.Manifest(images[i], subjects, predicates, how.artifact)
		if err != nil {
			return nil, err
		}
		for _, blob := range blobs {
			a.add(blob.Desc.MediaType, blob.Bytes)
		}
		list = append(list, blobs[len(blobs)-1].Desc)
	}
	return list, nil
}

// tellProvenance keeps what the metadata file has of the build.
func (x statements) tellProvenance() error {
	mode := os.Getenv("BUILDX_METADATA_PROVENANCE")
	if mode == "disabled" || mode == "false" || mode == "0" {
		return nil
	}
	builder := ""
	if x.attest.provenance != nil {
		builder = x.attest.provenance.BuilderID
	}
	x.result.Provenance = map[string]json.RawMessage{}
	for _, b := range x.built {
		p, err := attest.Summary(x.madeFor(b.Platform), builder, mode == "max")
		if err != nil {
			return err
		}
		key := ""
		if x.multi {
			key = platforms.FormatAll(b.Platform)
		}
		x.result.Provenance[key] = p
	}
	return nil
}

// newInvocation is an ID for a build.
func newInvocation() (string, error) {
	var b [16]byte
	if _, err := rand.Read(b[:]); err != nil {
		return "", fmt.Errorf("name the build: %w", err)
	}
	return hex.EncodeToString(b[:]), nil
}

// knownOf begins what is known of a build.
func knownOf(opts BuildOptions, input *buildInput, started time.Time) (attest.Build, error) {
	id, err := newInvocation()
	return attest.Build{
		Locals: slices.Sorted(maps.Keys(input.locals)), Invocation: id, Started: started, Dockerfile: input.name, Target: opts.Target, StopAt: opts.StopAt, Args: opts.BuildArgs, Labels: opts.Labels,
	}, err
}

// learn adds what is known of a build when it is over.
func (x *exporter) learn(ctx context.Context, file *dockerfile.File, bases *baseImages, input *buildInput) {
	x.vcs = sync.OnceValue(func() map[string]string { return gitFacts(ctx, input.locals) })
	made := &x.made
	made.Finished, made.Materials = time.Now(), bases.materials()
	made.Source, made.Language = file.Redacted(secret.Variable, attest.Redacted), dockerfile.LanguageVersion()
	made.Config, made.Network = input.config(made.Materials), input.needs.Network
	for _, n := range input.needs.Secrets {
		made.Secrets = append(made.Secrets, attest.Need(n))
	}
	for _, n := range input.needs.Agents {
		made.Agents = append(made.Agents, attest.Need(n))
	}
}
