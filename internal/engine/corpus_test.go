package engine

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"

	"strake/internal/conformance"
	"strake/internal/usertest"
)

// corpus is where the cases are.
const corpus = "../conformance/testdata/dockerfile"

// TestCorpus builds the corpus and compares with what BuildKit made of it.
func TestCorpus(t *testing.T) {
	archive := filepath.Join(t.TempDir(), "bases.tar")
	conformance.WriteBaseImages(t, archive)
	env, err := Open(t.Context(), OpenOptions{Root: filepath.Join(t.TempDir(), "store"), Config: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := Close(env); err != nil {
			t.Error(err)
		}
	})
	f, err := os.Open(archive)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := Load(t.Context(), env, LoadOptions{Input: f}); err != nil {
		t.Fatal(err)
	}
	conformance.Dockerfiles(t, corpus, true, false, func(t *testing.T, c *conformance.DockerfileCase) conformance.Built {
		if c.Root && os.Geteuid() != 0 {
			t.Skip("needs a user namespace, and the machine gives none")
		}
		if c.IDs {
			usertest.NeedIDs(t)
		}
		if strings.HasSuffix(t.Name(), "/run-special-files") {
			usertest.NeedRoot(t, "to make device nodes")
		}
		return buildCase(t, env, c)
	})
}

func buildCase(t *testing.T, env *Env, c *conformance.DockerfileCase) (built conformance.Built) {
	opts := BuildOptions{
		Context: c.Dir, Dockerfile: filepath.Join(c.Dir, c.Dockerfile), Target: c.Target, BuildArgs: c.Args, Labels: c.Labels,
	}
	for id, file := range c.Secrets {
		opts.Run.Secrets = append(opts.Run.Secrets, Secret{ID: id, File: file})
	}
	if c.Platform != "" {
		opts.Platforms = []string{c.Platform}
	}
	opts.Contexts = c.Contexts
	if c.Call != "" {
		answer, err := AskBuild(t.Context(), env, opts, c.Call)
		if err != nil {
			built.Err = errorText(err)
		}
		built.Shown = answer.Text
		return built
	}
	result, err := Build(t.Context(), env, opts)
	if failed := (*BuildError)(nil); errors.As(err, &failed) {
		result.Warnings = failed.Warnings
	}
	for _, w := range result.Warnings {
		built.Warnings = append(built.Warnings, w.String())
	}
	if err != nil {
		built.Err = errorText(err)
		return built
	}
	blob := func(id digest.Digest) string { return filepath.Join(env.Store.Root(), "blobs", "sha256", id.Encoded()) }
	if built.Config, err = os.ReadFile(blob(result.ID)); err != nil {
		t.Fatal(err)
	}
	built.Layer = func(id digest.Digest) (io.ReadCloser, error) { return os.Open(blob(id)) }
	return built
}

func errorText(err error) string {
	if failed := (*BuildError)(nil); errors.As(err, &failed) {
		return failed.Excerpt + err.Error()
	}
	return err.Error()
}

// TestCorpusDifferences looks for each known difference in the documents.
func TestCorpusDifferences(t *testing.T) {
	doc, err := os.ReadFile("../../docs/compatibility.md")
	if err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob(corpus + "/*.txtar")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		reason, differs := strings.CutPrefix(string(text), "differs ")
		reason, _, _ = strings.Cut(reason, "\n")
		name := strings.TrimSuffix(filepath.Base(file), ".txtar")
		row := regexp.MustCompile(`(?m)^\| ` + regexp.QuoteMeta(reason) + ` \|.*\b` + name + `\b`)
		if differs && !row.Match(doc) {
			t.Errorf("docs/compatibility.md has no row %q with %s", reason, name)
		}
	}
}
