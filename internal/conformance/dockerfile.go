package conformance

import (
	"flag"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
	"github.com/rogpeppe/go-internal/txtar"
)

// Built is what a builder made of a DockerfileCase.
type Built struct {
	// Err is why it failed, as it is shown after "failed to solve: ", with the
	// lines of the Dockerfile in front; "" if it did not.
	Err      string
	Warnings []string // of the checks, one line each
	Shown    string   // of a case that calls something other than a build

	Config []byte                                     // the image config
	Layer  func(digest.Digest) (io.ReadCloser, error) // the tar of a layer
}

// Dockerfiles builds each case of dir and compares with what is recorded in it,
// which record writes. A builder that is known to differ in some of the cases
// says so: then it must differ.
func Dockerfiles(t *testing.T, dir string, known, record bool, build func(t *testing.T, c *DockerfileCase) Built) {
	files, err := filepath.Glob(filepath.Join(dir, "*.txtar"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no cases in %s: %v", dir, err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txtar"), func(t *testing.T) {
			t.Parallel()
			runDockerfile(t, file, known, record, build)
		})
	}
}

func runDockerfile(t *testing.T, file string, known, record bool, build func(t *testing.T, c *DockerfileCase) Built) {
	c := openDockerfileCase(t, file)
	built := build(t, c)
	got, err := c.describe(built)
	ok(t, err)
	if record {
		c.record(t, file, got)
		return
	}
	diff := cmp.Diff(strings.Split(c.want, "\n"), strings.Split(got, "\n"))
	known = known && c.Differs != ""
	switch {
	case diff == "" && known:
		t.Errorf("no difference any more: drop the line %q", "differs "+c.Differs)
	case known:
		t.Logf("known to differ, %s (-recorded +got):\n%s", c.Differs, diff)
	case diff != "":
		t.Errorf("-recorded +got:\n%s", diff)
	}
}

// record writes what a builder did into the case.
func (c *DockerfileCase) record(t *testing.T, file, got string) {
	t.Helper()
	kept := c.archive.Files[:0]
	for _, f := range c.archive.Files {
		if f.Name != wantFile {
			kept = append(kept, f)
		}
	}
	c.archive.Files = append(kept, txtar.File{Name: wantFile, Data: []byte(got)})
	ok(t, os.WriteFile(file, txtar.Format(c.archive), 0o644))
}

// Record is the flag that has the corpus written by the builder it comes from.
func Record() *bool { return flag.Bool("record", false, "write the recorded results") }
