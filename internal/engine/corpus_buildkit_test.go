package engine

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"strake/internal/conformance"
	"strake/internal/image"
	"strake/internal/layout"
	"strake/internal/progress"
)

var record = conformance.Record()

// TestCorpusBuildKit has BuildKit build the corpus: what is recorded must be what
// it does. With -record it is written down.
func TestCorpusBuildKit(t *testing.T) {
	k := conformance.StartBuildKit(t)
	k.Load()
	conformance.Dockerfiles(t, corpus, false, *record, k.Build)
}

// unsaid are the fields of BuildKit's provenance that Strake's has not, as docs/compatibility.md lists them: of LLB, and of requests
// in requests.
var unsaid = regexp.MustCompile(`[.](buildConfig|layers|locations|llbDefinition|digestMapping|compatibilityVersion|root)\b`)

// TestProvenanceBuildKit: what is said of how an image was made has BuildKit's fields, with its values where they are not of the moment.
func TestProvenanceBuildKit(t *testing.T) {
	k := conformance.StartBuildKit(t)
	busybox, err := exec.LookPath("busybox")
	if err != nil {
		t.Skipf("needs %v", err)
	}
	dir, secret := t.TempDir(), filepath.Join(t.TempDir(), "secret")
	program, err := os.ReadFile(busybox)
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{
		filepath.Join(dir, "Dockerfile"): `FROM scratch AS one
COPY busybox /
RUN --network=none --mount=type=secret,id=given --mount=type=secret,id=other --mount=type=ssh ["/busybox", "true"]
RUN --mount=type=secret,id=given,required --mount=type=secret,id=more,env=MORE ["/busybox", "true"]
FROM scratch
RUN --mount=type=secret,id=unused ["/busybox", "true"]
`,
		filepath.Join(dir, "busybox"): string(program),
		secret:                        "value",
	} {
		if err := os.WriteFile(name, []byte(text), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	args, labels := map[string]string{"V": "1"}, map[string]string{"l": "v"}
	c := &conformance.DockerfileCase{
		Dir: dir, Dockerfile: "Dockerfile", Target: "one", Args: args, Labels: labels, Secrets: map[string]string{"given": secret},
	}
	for _, version := range []string{"v1", "v0.2"} {
		for _, mode := range []string{"min", "max"} {
			theirs := k.Said(t, c, "attest:provenance=mode="+mode+",version="+version)
			out := filepath.Join(t.TempDir(), "out")
			_, err := Build(t.Context(), testEnv(t), BuildOptions{
				Context: dir, Target: "one", BuildArgs: args, Labels: labels, Run: BuildRun{Secrets: []Secret{{ID: "given", File: secret}}},
				Attestations: []Attestation{{Type: "provenance", Attrs: map[string]string{"mode": mode, "version": version}}},
				Outputs:      []Output{{Type: OutputOCI, Dest: out, Attrs: map[string]string{"tar": "false"}}},
			})
			if err != nil {
				t.Fatal(err)
			}
			ours := conformance.Predicates(t, out)
			if len(theirs) != 1 || len(ours) != 1 {
				t.Fatalf("BuildKit said %d, Strake %d", len(theirs), len(ours))
			}
			want := fields(t, bytes.ReplaceAll(theirs[0], []byte(`-dev"`), []byte(`"`))) // of a language that was not released
			maps.DeleteFunc(want, func(name, _ string) bool { return unsaid.MatchString(name) })
			if diff := cmp.Diff(want, fields(t, ours[0])); diff != "" {
				t.Errorf("mode=%s,version=%s (-BuildKit +Strake):\n%s", mode, version, diff)
			}
		}
	}
}

// TestCacheFormsBuildKit: a cache lists its blobs as BuildKit does, in each form, and both read what the other wrote: without an error, and
// without a hit.
func TestCacheFormsBuildKit(t *testing.T) {
	k := conformance.StartBuildKit(t)
	dir := t.TempDir()
	for name, text := range map[string]string{"Dockerfile": "FROM scratch\nCOPY a /a\nCOPY b /b\n", "a": "first", "b": "second"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	c := &conformance.DockerfileCase{Dir: dir, Dockerfile: "Dockerfile"}
	for _, form := range []map[string]string{
		{},
		{"image-manifest": "false"},
		{"oci-mediatypes": "false"},
		{"oci-mediatypes": "false", "compression": "zstd", "force-compression": "true"},
		{"compression": "estargz", "force-compression": "true"},
	} {
		theirs, ours, attrs := filepath.Join(t.TempDir(), "theirs"), filepath.Join(t.TempDir(), "ours"), ""
		to := Cache{Type: "local", Attrs: map[string]string{"dest": ours}}
		for key, value := range form {
			attrs += "," + key + "=" + value
			to.Attrs[key] = value
		}
		k.Cached(t, c, "--no-cache", "--export-cache", "type=local,mode=max,dest="+theirs+attrs)
		failed := false
		_, err := Build(t.Context(), testEnv(t), BuildOptions{
			Context: dir, CacheTo: []Cache{to}, CacheFrom: []Cache{{Type: "local", Attrs: map[string]string{"src": theirs}}},
			Progress: func(e progress.Event) { failed = failed || e.State == progress.Failed },
		})
		if err != nil || failed {
			t.Fatalf("%v: BuildKit's cache is not read: %v", form, err)
		}
		if diff := cmp.Diff(listed(t, theirs), listed(t, ours)); diff != "" {
			t.Errorf("%v (-BuildKit +Strake):\n%s", form, diff)
		}
		if text := k.Cached(t, c, "--no-cache", "--progress", "plain", "--import-cache", "type=local,src="+ours); strings.Contains(text, "ERROR") {
			t.Errorf("%v: BuildKit does not read the cache:\n%s", form, text)
		}
	}
}

// latest is what an OCI layout calls so.
func latest(t *testing.T, dir string) (*layout.Layout, ocispec.Descriptor) {
	t.Helper()
	src, err := layout.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	root, err := src.Resolve(t.Context(), "latest")
	if err != nil {
		t.Fatal(err)
	}
	return src, root
}

// listed are the media types of a cache in a directory: of its root, of its blobs in their order.
func listed(t *testing.T, dir string) (types []string) {
	t.Helper()
	src, root := latest(t, dir)
	b, err := image.ReadAll(t.Context(), src, root, image.MaxManifestSize)
	if err != nil {
		t.Fatal(err)
	}
	children, err := image.Children(root.MediaType, b)
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range append([]ocispec.Descriptor{root}, children...) {
		types = append(types, d.MediaType)
	}
	return types
}

// TestEstargzBuildKit: layers as eStargz have BuildKit's media types and annotations, and an image that says the same of their sizes.
func TestEstargzBuildKit(t *testing.T) {
	k := conformance.StartBuildKit(t)
	dir := t.TempDir()
	for name, text := range map[string]string{"Dockerfile": "FROM scratch\nCOPY a /a\nCOPY b /d/b\n", "a": "first", "b": strings.Repeat("second", 1<<20)} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	theirs, ours := filepath.Join(t.TempDir(), "theirs"), filepath.Join(t.TempDir(), "ours")
	c := &conformance.DockerfileCase{Dir: dir, Dockerfile: "Dockerfile"}
	k.Cached(t, c, "--no-cache", "--output", "type=oci,tar=false,compression=estargz,force-compression=true,dest="+theirs)
	_, err := Build(t.Context(), testEnv(t), BuildOptions{
		Context: dir, Outputs: []Output{{Type: OutputOCI, Dest: ours, Attrs: map[string]string{"tar": "false", "compression": "estargz", "force-compression": "true"}}},
	})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(described(t, theirs), described(t, ours)); diff != "" {
		t.Errorf("(-BuildKit +Strake):\n%s", diff)
	}
}

// described are the layers of the image in an OCI layout: their media types and the names of their annotations.
func described(t *testing.T, dir string) (layers []string) {
	t.Helper()
	src, root := latest(t, dir)
	manifest, _, err := image.ReadManifest(t.Context(), src, root)
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range manifest.Layers {
		layers = append(layers, l.MediaType+" "+strings.Join(slices.Sorted(maps.Keys(l.Annotations)), " "))
	}
	return layers
}

// TestGeneratorBuildKit: a generator of SBOMs finds the same with BuildKit and with Strake, but for what BuildKit traces it by.
func TestGeneratorBuildKit(t *testing.T) {
	k := conformance.StartBuildKit(t)
	busybox, err := exec.LookPath("busybox")
	if err != nil {
		t.Skipf("needs %v", err)
	}
	program, err := os.ReadFile(busybox)
	if err != nil {
		t.Fatal(err)
	}
	dir, env := t.TempDir(), testEnv(t)
	for name, text := range map[string]string{
		"busybox": string(program), "used": "a", "unused": "b",
		"generator/Dockerfile": "FROM scratch\nCOPY busybox scan.sh /\nENV A=b\nWORKDIR /work\nENTRYPOINT [\"/busybox\", \"sh\"]\nCMD [\"/scan.sh\"]\n",
		"Dockerfile": "ARG BUILDKIT_SBOM_SCAN_STAGE=one,two\nFROM scratch AS one\nCOPY used /d/one\nFROM scratch AS two\nCOPY used /two\nFROM scratch AS three\n" +
			"COPY used /three\nFROM one\nARG BUILDKIT_SBOM_SCAN_CONTEXT=true\nCOPY --from=three /three /\n",
		"scan.sh": `cd /run && files=$(/busybox find src -type f | /busybox sort | /busybox tr '\n' ' ')
environment=$(/busybox env | /busybox grep -v -E "^(PWD|OLDPWD|SHLVL|HOSTNAME|TRACEPARENT|OTEL_.*)=" | /busybox sort | /busybox tr '\n' ' ')
for name in sbom other; do
	echo '{"predicateType": "https://spdx.dev/Document", "predicate": {"name": "'$name $OLDPWD $environment$files$(/busybox id -u)'"}}' > $BUILDKIT_SCAN_DESTINATION$name.spdx.json
done
`,
	} {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	archive := filepath.Join(t.TempDir(), "generator.tar")
	write := func(dest string, write func(io.Writer) error) error {
		f, err := os.Create(dest)
		if err != nil {
			return err
		}
		return errors.Join(write(f), f.Close())
	}
	_, err = Build(t.Context(), env, BuildOptions{
		Context: dir, Dockerfile: filepath.Join(dir, "generator/Dockerfile"), Names: []string{"generator"}, Write: write,
		Outputs: []Output{{Type: OutputImage}, {Type: OutputOCI, Dest: archive}},
	})
	if err != nil {
		t.Fatal(err)
	}
	k.Put(archive, "generator")
	theirs := k.Said(t, &conformance.DockerfileCase{Dir: dir, Dockerfile: "Dockerfile"}, "attest:sbom=generator=generator,KEY=value")
	out := filepath.Join(t.TempDir(), "out")
	_, err = Build(t.Context(), env, BuildOptions{
		Context: dir, Outputs: []Output{{Type: OutputOCI, Dest: out, Attrs: map[string]string{"tar": "false"}}},
		Attestations: []Attestation{{Type: "sbom", Attrs: map[string]string{"generator": "generator", "KEY": "value"}}},
	})
	if err != nil {
		t.Fatal(err)
	}
	names := func(list []json.RawMessage) (names []string) {
		for _, p := range list {
			names = append(names, fields(t, p)[".name"])
		}
		slices.Sort(names)
		return names
	}
	if diff := cmp.Diff(names(theirs), names(conformance.Predicates(t, out))); diff != "" || len(theirs) != 2 {
		t.Errorf("(-BuildKit +Strake):\n%s", diff)
	}
}

// fields are the values in an object by their paths; those of the moment are left out.
func fields(t *testing.T, object []byte) map[string]string {
	t.Helper()
	var value any
	if err := json.Unmarshal(object, &value); err != nil {
		t.Fatal(err)
	}
	moment := regexp.MustCompile(`[.](invocationId|startedOn|finishedOn|buildInvocationID|buildStartedOn|buildFinishedOn)$`)
	found := map[string]string{}
	var walk func(path string, v any)
	walk = func(path string, v any) {
		switch v := v.(type) {
		case map[string]any:
			for _, name := range slices.Sorted(maps.Keys(v)) {
				walk(path+"."+name, v[name])
			}
		case []any:
			for _, element := range v {
				walk(path+"[]", element)
			}
		default:
			text, err := json.Marshal(v)
			if err != nil {
				t.Fatal(err)
			}
			if moment.MatchString(path) {
				text = nil
			}
			found[path] += string(text)
		}
	}
	walk("", value)
	return found
}
