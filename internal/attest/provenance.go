package attest

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/platforms"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"strake/internal/secret"
)

// buildType names the schema of the parameters, which is BuildKit's.
const buildType = "https://github.com/moby/buildkit/blob/master/docs/attestations/slsa-definitions.md"

// Build is what is known of a build.
type Build struct {
	Invocation        string // its ID
	Started, Finished time.Time

	Dockerfile string // its name
	Source     []byte // its content
	Target     string
	StopAt     int // line of the Dockerfile; 0: the build went to its end
	Args       map[string]string
	Labels     map[string]string
	Secrets    []Need
	Agents     []Need // of SSH
	Network    bool   // a step had the network
	Language   string // version of the Dockerfile's language
	Materials  []Material
	Config     Material          // where the Dockerfile is from; the zero Material is this machine
	Locals     []string          // names of the contexts that are directories of this machine
	VCS        map[string]string // what is known of the repository that the contexts are a checkout of, under BuildKit's names
}

// Need is a secret or an SSH agent that steps ask for.
type Need struct {
	ID       string `json:"id"`
	Optional bool   `json:"optional,omitempty"` // the build goes on without it
}

// Material is what the build was made of: an image, a file or a commit.
type Material struct {
	Ref      string           // of an image, familiar
	Layout   bool             // the image is of an OCI layout
	Platform ocispec.Platform // of an image
	Digest   digest.Digest
	URI      string // of a file or a repository
	Commit   string // of a repository
}

func (m *Material) dependency() dependency {
	set := map[string]string{"sha1": m.Commit}
	if len(m.Commit) == 64 {
		set = map[string]string{"sha256": m.Commit}
	}
	if m.Commit == "" {
		set = digestSet(m.Digest)
	}
	if m.URI != "" {
		return dependency{cleanURI(m.URI), set}
	}
	uri := PackageURL(m.Ref, &m.Platform)
	if m.Layout {
		uri = "pkg:oci/" + strings.TrimPrefix(uri, "pkg:docker/")
	}
	return dependency{cleanURLs(uri), set}
}

// cleanURI takes the credentials out of a URI: the user's, and those of a signed one.
func cleanURI(uri string) string {
	address, fragment, has := strings.Cut(uri, "#")
	address, query, asked := strings.Cut(address, "?")
	address = cleanURLs(address)
	if asked {
		fields := strings.Split(query, "&")
		for i, field := range fields {
			name, _, _ := strings.Cut(field, "=")
			if secret.Variable(strings.ReplaceAll(name, "-", "_")) || strings.HasSuffix(strings.ToLower(name), "sig") || strings.HasSuffix(strings.ToLower(name), "signature") {
				fields[i] = name + "=" + Redacted
			}
		}
		address += "?" + strings.Join(fields, "&")
	}
	if has {
		address += "#" + fragment
	}
	return address
}

// ProvenanceOptions say what the provenance tells.
type ProvenanceOptions struct {
	Full         bool   // build arguments, labels, the Dockerfile; else none of them
	BuilderID    string // a URI
	Reproducible bool   // the user says that the build is
	SLSA02       bool   // in SLSA's version 0.2; else 1
	File         string // what it is called where it is a file
}

type predicate struct {
	BuildDefinition struct {
		BuildType          string `json:"buildType"`
		ExternalParameters struct {
			ConfigSource struct {
				URI    string            `json:"uri,omitempty"`
				Digest map[string]string `json:"digest,omitempty"`
				Path   string            `json:"path,omitempty"`
			} `json:"configSource"`
			Request request `json:"request"`
		} `json:"externalParameters"`
		InternalParameters struct {
			BuilderPlatform   string `json:"builderPlatform"`
			DockerfileVersion string `json:"dockerfileVersion,omitempty"`
		} `json:"internalParameters"`
		ResolvedDependencies []dependency `json:"resolvedDependencies,omitempty"`
	} `json:"buildDefinition"`
	RunDetails struct {
		Builder  builder  `json:"builder"`
		Metadata metadata `json:"metadata"`
	} `json:"runDetails"`
}

type builder struct {
	ID string `json:"id"`
}

type request struct {
	Frontend string            `json:"frontend,omitempty"`
	Args     map[string]string `json:"args,omitempty"`
	Secrets  []Need            `json:"secrets,omitempty"`
	SSH      []Need            `json:"ssh,omitempty"`
	Locals   []named           `json:"locals,omitempty"`
}

type named struct {
	Name string `json:"name"`
}

type dependency struct {
	URI    string            `json:"uri"`
	Digest map[string]string `json:"digest,omitempty"`
}

type metadata struct {
	InvocationID string           `json:"invocationId"`
	StartedOn    time.Time        `json:"startedOn"`
	FinishedOn   time.Time        `json:"finishedOn"`
	BuildKit     buildKitMetadata `json:"buildkit_metadata"`
	Hermetic     bool             `json:"buildkit_hermetic,omitempty"`
	Completeness struct {
		Request              bool `json:"request"`
		ResolvedDependencies bool `json:"resolvedDependencies"`
	} `json:"buildkit_completeness"`
	Reproducible bool `json:"buildkit_reproducible,omitempty"`
}

type buildKitMetadata struct {
	VCS    map[string]string `json:"vcs,omitempty"`
	Source *source           `json:"source,omitempty"`
}

type source struct {
	Infos []sourceInfo `json:"infos"`
}

type sourceInfo struct {
	Filename string `json:"filename"`
	Language string `json:"language"`
	Data     []byte `json:"data"`
}

// Provenance makes SLSA's predicate of a build.
func Provenance(b Build, opts ProvenanceOptions) (Predicate, error) {
	p := newPredicate(b, opts)
	said, kind := any(p), TypeProvenance
	if opts.SLSA02 {
		said, kind = p.in02(), typeProvenance02
	}
	out, err := json.Marshal(said)
	if err != nil {
		return Predicate{}, fmt.Errorf("provenance: %w", err)
	}
	return Predicate{Type: kind, JSON: out, File: opts.File}, nil
}

func newPredicate(b Build, opts ProvenanceOptions) *predicate {
	p := &predicate{}
	def, meta := &p.BuildDefinition, &p.RunDetails.Metadata
	def.BuildType = buildType
	def.ExternalParameters.ConfigSource.Path = b.Dockerfile
	if b.Config.URI != "" {
		from := b.Config.dependency()
		def.ExternalParameters.ConfigSource.URI, def.ExternalParameters.ConfigSource.Digest = from.URI, from.Digest
	}
	def.InternalParameters.BuilderPlatform = platforms.Format(platforms.Normalize(platforms.DefaultSpec()))
	def.InternalParameters.DockerfileVersion = b.Language
	req := &def.ExternalParameters.Request
	req.Frontend = "dockerfile.v0"
	for _, name := range b.Locals {
		req.Locals = append(req.Locals, named{Name: name})
	}
	args := map[string]string{}
	if b.Target != "" {
		args["target"] = b.Target
	}
	if b.StopAt > 0 {
		args["stop-at"] = strconv.Itoa(b.StopAt)
	}
	// What a directory holds is named nowhere.
	meta.Completeness.ResolvedDependencies = b.Config.URI != "" && len(b.Locals) == 0
	meta.Hermetic = meta.Completeness.ResolvedDependencies && !b.Network
	meta.Completeness.Request = opts.Full || len(b.Args)+len(b.Labels) == 0
	if opts.Full {
		p.addRequest(b, args)
	}
	if len(args) > 0 {
		req.Args = args
	}
	for _, m := range b.Materials {
		def.ResolvedDependencies = append(def.ResolvedDependencies, m.dependency())
	}
	p.RunDetails.Builder.ID = opts.BuilderID
	meta.InvocationID, meta.StartedOn, meta.FinishedOn = b.Invocation, b.Started.UTC(), b.Finished.UTC()
	meta.Reproducible, meta.BuildKit.VCS = opts.Reproducible, b.VCS
	return p
}

// addRequest adds what the user asked for, without secrets.
func (p *predicate) addRequest(b Build, args map[string]string) {
	var secrets []string
	for _, name := range slices.Sorted(maps.Keys(b.Args)) {
		value := Clean(name, b.Args[name])
		if value == Redacted {
			secrets = append(secrets, b.Args[name])
		}
		args["build-arg:"+name] = value
	}
	secrets = telling(secrets)
	for name, value := range b.Labels {
		args["label:"+name] = Clean(name, value)
	}
	for name, value := range args {
		args[name] = string(cleanSource([]byte(value), secrets))
	}
	req := &p.BuildDefinition.ExternalParameters.Request
	req.Secrets, req.SSH = b.Secrets, b.Agents
	p.RunDetails.Metadata.BuildKit.Source = &source{Infos: []sourceInfo{{
		Filename: b.Dockerfile, Language: "Dockerfile", Data: cleanSource(b.Source, secrets),
	}}}
}
