package scan_test

import (
	"archive/tar"
	"cmp"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"

	"strake/internal/conformance"
	"strake/internal/scan"
)

// Debian's minbase has the packages that dpkg says, of the sources that dpkg says, and no secrets.
func TestDebian(t *testing.T) {
	f, err := os.Open(conformance.DebianTar(t))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	r, err := scan.Tar(t.Context(), f)
	if err != nil {
		t.Fatal(err)
	}
	im := scan.Merge([]scan.Record{r})
	if len(im.Secrets) > 0 || len(im.Skipped) > 0 {
		t.Errorf("%+v %q", im.Secrets, im.Skipped)
	}
	got := []string{}
	for _, p := range im.Packages {
		if p.Ecosystem != "Debian:12" {
			t.Errorf("%+v", p)
		}
		got = append(got, fmt.Sprintf("%s %s %s %s", p.Name, p.Version, p.Source, p.SourceVersion))
	}
	cmd := exec.Command("dpkg-query", "--admindir="+adminDir(t, f), "-W", "-f", "${Package} ${Version} ${source:Package} ${source:Version}\n")
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	want := strings.Split(strings.TrimSpace(string(out)), "\n")
	slices.Sort(want)
	slices.SortFunc(got, cmp.Compare)
	if diff := gocmp.Diff(want, got); diff != "" || len(got) < 50 {
		t.Errorf("(-dpkg-query +scan):\n%s", diff)
	}
}

// adminDir makes a directory that dpkg-query reads of what a tar has in dpkg's.
func adminDir(t *testing.T, f io.ReadSeeker) string {
	t.Helper()
	dir := t.TempDir()
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		t.Fatal(err)
	}
	for r := tar.NewReader(f); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return dir
		}
		if err != nil {
			t.Fatal(err)
		}
		if strings.TrimPrefix(h.Name, "./") != "var/lib/dpkg/status" {
			continue
		}
		b, err := io.ReadAll(r)
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, "status"), b, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}
