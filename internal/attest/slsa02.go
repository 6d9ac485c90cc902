package attest

import (
	"encoding/json"
	"fmt"
	"time"
)

// buildType02 is what buildType is in version 0.2.
const buildType02 = "https://mobyproject.org/buildkit@v1"

// predicate02 is a predicate in SLSA's version 0.2: the same fields under other names.
type predicate02 struct {
	Builder    builder      `json:"builder"`
	BuildType  string       `json:"buildType"`
	Materials  []dependency `json:"materials,omitempty"`
	Invocation struct {
		ConfigSource struct {
			URI        string            `json:"uri,omitempty"`
			Digest     map[string]string `json:"digest,omitempty"`
			EntryPoint string            `json:"entryPoint,omitempty"`
		} `json:"configSource"`
		Parameters  request `json:"parameters"`
		Environment struct {
			Platform          string `json:"platform"`
			DockerfileVersion string `json:"dockerfileVersion,omitempty"`
		} `json:"environment"`
	} `json:"invocation"`
	Metadata *metadata02 `json:"metadata,omitempty"`
}

type metadata02 struct {
	InvocationID string    `json:"buildInvocationID"`
	StartedOn    time.Time `json:"buildStartedOn"`
	FinishedOn   time.Time `json:"buildFinishedOn"`
	Completeness struct {
		Parameters  bool `json:"parameters"`
		Environment bool `json:"environment"`
		Materials   bool `json:"materials"`
	} `json:"completeness"`
	Reproducible bool             `json:"reproducible"`
	BuildKit     buildKitMetadata `json:"https://mobyproject.org/buildkit@v1#metadata"`
	Hermetic     bool             `json:"https://mobyproject.org/buildkit@v1#hermetic,omitempty"`
}

// in02 is p in version 0.2, as BuildKit turns one into the other.
func (p *predicate) in02() *predicate02 {
	def, meta := &p.BuildDefinition, &p.RunDetails.Metadata
	old := &predicate02{Builder: p.RunDetails.Builder, BuildType: buildType02, Materials: def.ResolvedDependencies}
	from, to := &def.ExternalParameters.ConfigSource, &old.Invocation.ConfigSource
	to.URI, to.Digest, to.EntryPoint = from.URI, from.Digest, from.Path
	old.Invocation.Parameters = def.ExternalParameters.Request
	environment := &old.Invocation.Environment
	environment.Platform, environment.DockerfileVersion = def.InternalParameters.BuilderPlatform, def.InternalParameters.DockerfileVersion
	old.Metadata = &metadata02{
		InvocationID: meta.InvocationID, StartedOn: meta.StartedOn, FinishedOn: meta.FinishedOn,
		Reproducible: meta.Reproducible, BuildKit: meta.BuildKit, Hermetic: meta.Hermetic,
	}
	complete := &old.Metadata.Completeness
	complete.Parameters, complete.Environment, complete.Materials = meta.Completeness.Request, true, meta.Completeness.ResolvedDependencies
	return old
}

// Summary is the provenance that buildx's metadata file has of a build: in version 0.2, with all parameters, and with
// metadata (times, the Dockerfile) only where full is true.
func Summary(b Build, builderID string, full bool) (json.RawMessage, error) {
	old := newPredicate(b, ProvenanceOptions{Full: true, BuilderID: builderID}).in02()
	if !full {
		old.Metadata = nil
	}
	out, err := json.Marshal(old)
	if err != nil {
		return nil, fmt.Errorf("provenance: %w", err)
	}
	return out, nil
}
