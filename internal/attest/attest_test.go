package attest

import (
	"encoding/base64"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"strake/internal/scan"
)

// TestNoSecret looks for secrets in all that is said, however much that is.
func TestNoSecret(t *testing.T) {
	b := Build{
		Invocation: "1", Started: time.Unix(1, 0), Finished: time.Unix(2, 0), Dockerfile: "Dockerfile",
		Source:    []byte("FROM a\nARG DB_PASSWORD=hunter2\nENV X=1 TOKEN='hunter2'\nADD https://joe:hunter2@example.com/x /x\nRUN echo swordfish\n"),
		Args:      map[string]string{"API_KEY": "swordfish", "URL": "https://hunter2@example.com", "VERSION": "3"},
		Labels:    map[string]string{"auth": "hunter2", "from": "ssh://joe:hunter2@host/x", "copy": "swordfish"},
		Materials: []Material{{Ref: "debian:bookworm", Digest: digest.FromString("x"), Platform: ocispec.Platform{OS: "linux", Architecture: "arm64", Variant: "v8"}}},
	}
	for _, full := range []bool{false, true} {
		p, err := Provenance(b, ProvenanceOptions{Full: full})
		if err != nil {
			t.Fatal(err)
		}
		var said struct {
			RunDetails struct{ Metadata metadata }
		}
		if err := json.Unmarshal(p.JSON, &said); err != nil {
			t.Fatal(err)
		}
		text := string(p.JSON)
		if s := said.RunDetails.Metadata.BuildKit.Source; s != nil {
			text += string(s.Infos[0].Data)
		}
		if strings.Contains(text, "hunter2") || strings.Contains(text, "swordfish") {
			t.Errorf("a secret is told: %s", text)
		}
		if strings.Contains(text, `"build-arg:VERSION":"3"`) != full {
			t.Errorf("full %v: %s", full, text)
		}
		if !strings.Contains(text, "pkg:docker/debian@bookworm?platform=linux%2Farm64") {
			t.Errorf("no material: %s", text)
		}
	}
}

// TestCleanSource: what is given to a name that looks like a secret is left out as the shell reads it, and nothing else.
func TestCleanSource(t *testing.T) {
	values := telling([]string{"1", "true", "1.21", "12345678.5", "short", "swordfish", "swordfish-and-chips", ""})
	for in, want := range map[string]string{
		"ARG VERSION=1.21 USE=true":          "ARG VERSION=1.21 USE=true",
		"RUN echo short 12345678.5":          "RUN echo short 12345678.5",
		"RUN echo swordfish-and-chips; echo": "RUN echo xxxxx; echo",
		`RUN TOKEN=ab"cd" make`:              "RUN TOKEN=xxxxx make",
		`RUN TOKEN=a\ b make`:                "RUN TOKEN=xxxxx make",
		`RUN TOKEN="a\" b"'c d' make`:        "RUN TOKEN=xxxxx make",
		"RUN TOKEN=\"a\nb\" make":            "RUN TOKEN=xxxxx make",
		"RUN TOKEN=\"a b\nRUN make":          "RUN TOKEN=xxxxx\nRUN make",
		`RUN OPTS="-x TOKEN=abc" make`:       `RUN OPTS="-x TOKEN=xxxxx" make`,
		`RUN TOKEN= make`:                    "RUN TOKEN= make",
	} {
		if got := string(cleanSource([]byte(in), values)); got != want {
			t.Errorf("%s:\ngot  %s\nwant %s", in, got, want)
		}
	}
}

// TestShortSecretArgument: the value of a switch is not taken out of all that is said.
func TestShortSecretArgument(t *testing.T) {
	p, err := Provenance(Build{
		Source: []byte("ARG VERSION=1.21\n"), Args: map[string]string{"USE_TOKEN": "1", "KEY": "true", "VERSION": "1.21"},
	}, ProvenanceOptions{Full: true})
	if err != nil {
		t.Fatal(err)
	}
	source := base64.StdEncoding.EncodeToString([]byte("ARG VERSION=1.21\n"))
	for _, want := range []string{`"build-arg:VERSION":"1.21"`, `"build-arg:USE_TOKEN":"xxxxx"`, source} {
		if !strings.Contains(string(p.JSON), want) {
			t.Errorf("no %s in %s", want, p.JSON)
		}
	}
}

func TestSBOM(t *testing.T) {
	p, err := SBOM("img", "1", "", []scan.Package{{Type: scan.TypeDeb, Name: "libstdc++6", Version: "1:12.2-14", Arch: "amd64", Source: "gcc-12"}}, time.Unix(0, 0))
	if err != nil || p.Type != TypeSPDX {
		t.Fatal(p.Type, err)
	}
	for _, want := range []string{
		`"spdxVersion":"SPDX-2.3"`, `"created":"1970-01-01T00:00:00Z"`, `pkg:deb/debian/libstdc++6@1:12.2-14?arch=amd64`,
		`"relationshipType":"CONTAINS"`,
	} {
		if !strings.Contains(string(p.JSON), want) {
			t.Errorf("no %s in %s", want, p.JSON)
		}
	}
}

func TestPackageURLs(t *testing.T) {
	for want, p := range map[string]scan.Package{
		"pkg:deb/debian/a@1":                                {Type: scan.TypeDeb, Name: "a", Version: "1"},
		"pkg:npm/%40types/node@20.1.0":                      {Type: scan.TypeNPM, Name: "@types/node", Version: "20.1.0"},
		"pkg:golang/github.com/a/b@v1.2.3":                  {Type: scan.TypeGo, Name: "github.com/a/b", Version: "1.2.3"},
		"pkg:golang/stdlib@1.26.8":                          {Type: scan.TypeGo, Name: "stdlib", Version: "1.26.8"},
		"pkg:maven/com.fasterxml.jackson.core/databind@2.9": {Type: scan.TypeMaven, Name: "com.fasterxml.jackson.core:databind", Version: "2.9"},
		"pkg:pypi/jinja2@3.0":                               {Type: scan.TypePyPI, Name: "jinja2", Version: "3.0"},
	} {
		if got := packageURL(p, ""); got != want {
			t.Errorf("%s, want %s", got, want)
		}
	}
}

// TestProvenanceNeeds: what steps ask for is told in full; a build is hermetic that had neither the network nor a directory.
func TestProvenanceNeeds(t *testing.T) {
	remote := Build{
		Dockerfile: "Dockerfile", Config: Material{URI: "https://example.com/r.git", Commit: strings.Repeat("1", 40)}, Language: "1.2.3",
		Secrets: []Need{{ID: "a"}, {ID: "b", Optional: true}}, Agents: []Need{{ID: "default", Optional: true}},
	}
	local, online := remote, remote
	local.Locals, online.Network = []string{"context"}, true
	asked := `"secrets":[{"id":"a"},{"id":"b","optional":true}],"ssh":[{"id":"default","optional":true}]`
	hermetic, complete := `"buildkit_hermetic":true`, `"resolvedDependencies":true`
	for name, c := range map[string]struct {
		build    Build
		full     bool
		has, not []string
	}{
		"min":    {remote, false, []string{hermetic, complete, `"dockerfileVersion":"1.2.3"`}, []string{asked, `"secrets"`}},
		"max":    {remote, true, []string{hermetic, complete, asked}, nil},
		"local":  {local, true, []string{`"resolvedDependencies":false`}, []string{hermetic}},
		"online": {online, true, []string{complete}, []string{hermetic}},
	} {
		p, err := Provenance(c.build, ProvenanceOptions{Full: c.full})
		if err != nil {
			t.Fatal(err)
		}
		for _, text := range c.has {
			if !strings.Contains(string(p.JSON), text) {
				t.Errorf("%s: no %s in %s", name, text, p.JSON)
			}
		}
		for _, text := range c.not {
			if strings.Contains(string(p.JSON), text) {
				t.Errorf("%s: %s in %s", name, text, p.JSON)
			}
		}
	}
}
