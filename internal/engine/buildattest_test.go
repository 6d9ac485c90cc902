package engine

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
)

// provenanceOf builds and returns where the Dockerfile is said to be from, the local
// contexts, and the digest of each URI that was used.
func provenanceOf(t *testing.T, opts BuildOptions) (config string, locals []string, used map[string]string) {
	t.Helper()
	opts.Provenance, opts.Outputs = true, []Output{{Type: OutputImage}}
	res, err := Build(t.Context(), testEnv(t), opts)
	if err != nil {
		t.Fatal(err)
	}
	type dependency struct {
		URI    string
		Digest map[string]string
	}
	var said struct {
		Invocation struct {
			ConfigSource dependency
			Parameters   struct{ Locals []struct{ Name string } }
		}
		Materials []dependency
	}
	if err := json.Unmarshal(res.Provenance[""], &said); err != nil {
		t.Fatal(err)
	}
	digests := func(d dependency) (text string) {
		for name, value := range d.Digest {
			text += name + ":" + value
		}
		return text
	}
	used = map[string]string{}
	for _, d := range said.Materials {
		used[d.URI] += digests(d)
	}
	for _, l := range said.Invocation.Parameters.Locals {
		locals = append(locals, l.Name)
	}
	from := said.Invocation.ConfigSource
	return strings.TrimSpace(from.URI + " " + digests(from)), locals, used
}

// TestProvenanceSources: what a build takes from elsewhere is told with its digest and
// without credentials; directories are told of where there are some.
func TestProvenanceSources(t *testing.T) {
	if _, err := exec.LookPath("git"); err != nil {
		t.Skip("needs git")
	}
	dir := t.TempDir()
	srv := httptest.NewServer(http.FileServer(http.Dir(dir)))
	defer srv.Close()
	address := strings.Replace(srv.URL, "://", "://joe:hunter2@", 1)
	git := func(args ...string) string {
		cmd := exec.CommandContext(t.Context(), "git", append([]string{"-C", dir, "-c", "user.name=a", "-c", "user.email=a@b"}, args...)...)
		cmd.Env = append(os.Environ(), "GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_NOSYSTEM=1")
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("git %q: %v: %s", args, err, out)
		}
		return strings.TrimSpace(string(out))
	}
	write := func(name, text string) {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o750); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("file", "content")
	write("d/Dockerfile", "FROM scratch\nADD "+address+"/file?X-Amz-Signature=hunter2 /f\n")
	write("Dockerfile", "FROM scratch\nADD "+address+"/.git#main /r\n")
	git("init", "-q", "-b", "main")
	git("add", "-A")
	git("commit", "-q", "-m", "m")
	git("update-server-info")
	commit := "sha1:" + git("rev-parse", "HEAD")
	said := strings.Replace(srv.URL, "://", "://xxxxx@", 1)
	repo, file := said+"/.git#main", said+"/file?X-Amz-Signature=xxxxx"

	config, locals, used := provenanceOf(t, BuildOptions{Context: address + "/.git#main:d"})
	if want := repo + ":d " + commit; config != want || len(locals) > 0 {
		t.Errorf("from git: %q, want %q; locals %q", config, want, locals)
	}
	if diff := cmp.Diff(map[string]string{repo: commit, file: digest.FromString("content").String()}, used); diff != "" {
		t.Error("from git:", diff)
	}
	config, locals, used = provenanceOf(t, BuildOptions{Context: dir, Contexts: map[string]string{"other": dir}})
	if diff := cmp.Diff([]string{"context", "dockerfile", "other"}, locals); config != "" || diff != "" {
		t.Errorf("from a directory: %q, locals %s", config, diff)
	}
	if diff := cmp.Diff(map[string]string{repo: commit}, used); diff != "" {
		t.Error("from a directory:", diff)
	}
	write("Containerfile", "FROM scratch\nLABEL a=b\n")
	config, locals, _ = provenanceOf(t, BuildOptions{Context: address + "/Containerfile"})
	if want := said + "/Containerfile " + digest.FromString("FROM scratch\nLABEL a=b\n").String(); config != want || len(locals) > 0 {
		t.Errorf("from a URL: %q, want %q; locals %q", config, want, locals)
	}
}

// TestProvenanceLayout tells of the image of an OCI layout.
func TestProvenanceLayout(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "Dockerfile"), []byte("FROM scratch\nLABEL a=b\nCOPY Dockerfile /\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	made := filepath.Join(t.TempDir(), "made")
	out := Output{Type: OutputOCI, Dest: made, Attrs: map[string]string{"tar": "false"}}
	res, err := Build(t.Context(), testEnv(t), BuildOptions{Context: dir, Outputs: []Output{out}})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "Dockerfile"), []byte("FROM base\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, _, used := provenanceOf(t, BuildOptions{Context: dir, Contexts: map[string]string{"base": layoutScheme + made + "@" + res.Root.Digest.String()}, Platforms: []string{"linux/amd64"}})
	uri := "pkg:oci/made?digest=" + url.QueryEscape(res.Root.Digest.String()) + "&platform=linux%2Famd64"
	if diff := cmp.Diff(map[string]string{uri: res.Root.Digest.String()}, used); diff != "" {
		t.Error(diff)
	}
}
