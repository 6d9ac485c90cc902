package build

import (
	"archive/tar"
	"bytes"
	"context"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
)

// tarFile writes an archive into dir.
func tarFile(t *testing.T, dir, name string, headers ...tar.Header) {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range headers {
		content := ""
		if h.Typeflag == tar.TypeReg {
			content = "pwned"
			h.Size = int64(len(content))
		}
		if h.Mode == 0 {
			h.Mode = 0o644
		}
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte(content)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, name), b.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
}

// addTar is an ADD of an archive to /x/ of a stage.
func addTar(t *testing.T, stage []string, headers ...tar.Header) ([]string, error) {
	t.Helper()
	s, dir := newDirStore(t), t.TempDir()
	tarFile(t, dir, "a.tar", headers...)
	res, err := runCopy(t, s, dir, copyCase{stage: stage, sources: []string{"a.tar"}, dest: "/x/", unpack: true})
	if err != nil {
		return nil, err
	}
	return contents(t, s, res.Layers[len(res.Layers)-1]), nil
}

// TestCVE_2014_9356 adds archives whose links lead out of the stage: what is
// written through them stays in it.
func TestCVE_2014_9356(t *testing.T) {
	host := t.TempDir()
	for name, headers := range map[string][]tar.Header{
		"absolute link": {{Name: "l", Typeflag: tar.TypeSymlink, Linkname: host}, {Name: "l/pwned", Typeflag: tar.TypeReg}},
		"relative link": {
			{Name: "l", Typeflag: tar.TypeSymlink, Linkname: "../../../../../../../../" + host}, {Name: "l/pwned", Typeflag: tar.TypeReg},
		},
		"link to a link": {
			{Name: "a", Typeflag: tar.TypeSymlink, Linkname: "/"},
			{Name: "b", Typeflag: tar.TypeSymlink, Linkname: "a" + host},
			{Name: "b/pwned", Typeflag: tar.TypeReg},
		},
	} {
		got, err := addTar(t, nil, headers...)
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if !slices.Contains(got, strings.TrimPrefix(host, "/")+"/pwned 644 data=pwned") {
			t.Errorf("%s: %q", name, got)
		}
		if _, err := os.Lstat(filepath.Join(host, "pwned")); err == nil {
			t.Fatalf("%s wrote on the host", name)
		}
	}
}

// TestCVE_2026_28406 adds archives whose names lead out, as kaniko's contexts did.
func TestCVE_2026_28406(t *testing.T) {
	for _, name := range []string{"../pwned", "a/../../pwned", "../../../../../../../../tmp/pwned"} {
		if got, err := addTar(t, nil, tar.Header{Name: name, Typeflag: tar.TypeReg}); err == nil {
			t.Errorf("%s: %q", name, got)
		}
	}
	got, err := addTar(t, []string{"etc/", "etc/shadow data=secret"}, tar.Header{Name: "h", Typeflag: tar.TypeLink, Linkname: "../etc/shadow"})
	if err == nil {
		t.Errorf("hard link out of the archive: %q", got)
	}
	if got, err := addTar(t, []string{"x/", "x/s data=secret"}, tar.Header{Name: "h", Typeflag: tar.TypeLink, Linkname: "s"}); err == nil {
		t.Errorf("hard link to a file of the stage: %q", got)
	}
}

// TestAddWhiteouts adds archives that would delete files of the stage's layers.
func TestAddWhiteouts(t *testing.T) {
	for _, name := range []string{".wh.etc", "d/.wh..wh..opq", ".wh..wh.plnk"} {
		if got, err := addTar(t, nil, tar.Header{Name: name, Typeflag: tar.TypeReg}); err == nil {
			t.Errorf("%s: %q", name, got)
		}
	}
}

// TestAddDeep adds an archive of more directories in each other than any path has.
func TestAddDeep(t *testing.T) {
	deep := tar.Header{Name: strings.Repeat("d/", 5000) + "f", Typeflag: tar.TypeReg, Format: tar.FormatPAX}
	if got, err := addTar(t, nil, deep); err == nil {
		t.Errorf("5,000 directories: %d entries", len(got))
	}
}

// TestCVE_2022_4122 has an ignore file that is a link to a file of the host.
func TestCVE_2022_4122(t *testing.T) {
	dir, host := t.TempDir(), t.TempDir()
	writeFiles(t, host, "secret data=hunter2[\n")
	writeFiles(t, dir, "a", ".dockerignore -> "+filepath.Join(host, "secret"))
	s := newDirStore(t)
	l := NewSolver(Options{Store: s}).LazyContext(LazyContextOptions{Dir: dir})
	_, err := l.Load(t.Context())
	if err == nil || strings.Contains(err.Error(), "hunter2") || !strings.Contains(err.Error(), ".dockerignore") {
		t.Errorf("got %v", err)
	}
}

// TestCVE_2026_44517 reads through links of the context: neither out of it, nor
// what is ignored.
func TestCVE_2026_44517(t *testing.T) {
	host := t.TempDir()
	writeFiles(t, host, "secret data=hunter2")
	for _, tc := range []copyCase{
		{context: []string{"l -> " + filepath.Join(host, "secret")}, sources: []string{"l"}},
		{context: []string{"l -> " + host}, sources: []string{"l/secret"}},
		{context: []string{"l -> " + host}, sources: []string{"l/*"}},
		{context: []string{"l -> ../../../../../../../.." + host}, sources: []string{"l/secret"}},
		{context: []string{"l -> " + host}, sources: []string{"/./l/secret"}, parents: true},
		{context: []string{"a/f", "a/l -> " + host}, sources: []string{"a"}},
		{context: []string{"secret data=hunter2", "l -> secret"}, ignore: []string{"secret"}, sources: []string{"l"}},
		{context: []string{"d/secret data=hunter2", "d/l -> ../d/secret"}, ignore: []string{"d/secret"}, sources: []string{"d/l"}},
		{context: []string{"f"}, sources: []string{filepath.Join("../../../../../..", host, "secret")}},
	} {
		s, dir := newDirStore(t), t.TempDir()
		tc.dest = "/x/"
		writeFiles(t, dir, tc.context...)
		res, err := runCopy(t, s, dir, tc)
		if err != nil {
			continue
		}
		if got := contents(t, s, res.Layers[0]); strings.Contains(strings.Join(got, "\n"), "hunter2") {
			t.Errorf("%q of %q: %q", tc.sources, tc.context, got)
		}
	}
}

// TestCVE_2018_15664 swaps files and directories of the context for links after
// they were hashed.
func TestCVE_2018_15664(t *testing.T) {
	host := t.TempDir()
	writeFiles(t, host, "a data=hunter2")
	for _, swap := range []func(dir string) error{
		func(dir string) error {
			return firstError(os.Remove(filepath.Join(dir, "d/a")), os.Symlink(filepath.Join(host, "a"), filepath.Join(dir, "d/a")))
		},
		func(dir string) error {
			return firstError(os.RemoveAll(filepath.Join(dir, "d")), os.Symlink(host, filepath.Join(dir, "d")))
		},
		func(dir string) error { return os.WriteFile(filepath.Join(dir, "d/a"), []byte("hunter2"), 0o600) },
	} {
		s, dir := newDirStore(t), t.TempDir()
		writeFiles(t, dir, "d/a data=harmles")
		c, err := LoadContext(t.Context(), ContextOptions{Dir: dir})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Close() })
		if err := swap(dir); err != nil {
			t.Fatal(err)
		}
		op := &Copy{Sources: []Source{{Context: func(context.Context) (*Context, error) { return c, nil }, Path: "d"}}, Dest: "/"}
		if _, err := NewSolver(Options{Store: s}).Solve(t.Context(), &Vertex{Op: op, Inputs: []*Vertex{{Op: &Base{}}}}); err == nil {
			t.Error("what was swapped in was copied")
		}
	}
}

func firstError(first, second error) error {
	if first != nil {
		return first
	}
	return second
}

// TestStageLinks copies from a stage whose links lead out of it.
func TestStageLinks(t *testing.T) {
	s := newDirStore(t)
	stage := tarOf(t, s, "root -> /", "up -> ../../../../../../etc/hostname", "abs -> /proc/self/environ", "loop -> loop")
	for _, name := range []string{"/up", "/abs", "/root/etc/hostname", "/loop", "/root/root/root/proc/version"} {
		op := &Copy{Sources: []Source{{Stage: 1, Path: name}}, Dest: "/x"}
		v := &Vertex{Op: op, Inputs: []*Vertex{{Op: &Base{}}, {Op: &Base{Layers: []digest.Digest{stage}}, Name: "stage"}}}
		if res, err := NewSolver(Options{Store: s}).Solve(t.Context(), v); err == nil {
			t.Errorf("%s: %q", name, contents(t, s, res.Layers[0]))
		}
	}
}

// TestDownloadRedirects follows redirects with credentials in the address, to
// other hosts and to addresses that no server may name.
func TestDownloadRedirects(t *testing.T) {
	var seen []string
	other := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		seen = append(seen, r.Header.Get("Authorization")+r.Header.Get("Referer")+r.Header.Get("Cookie"))
		_, _ = w.Write([]byte("x"))
	}))
	defer other.Close()
	to := strings.Replace(other.URL, "127.0.0.1", "localhost", 1) + "/f"
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if _, password, _ := r.BasicAuth(); password != "hunter2" {
			t.Error("the host itself got no credentials")
		}
		http.Redirect(w, r, to, http.StatusFound)
	}))
	defer srv.Close()
	add := func() error {
		u := &URL{Address: strings.Replace(srv.URL, "http://", "http://user:hunter2@", 1), Name: "f"}
		op := &Copy{Sources: []Source{{URL: u}}, Dest: "/"}
		_, err := NewSolver(Options{Store: newDirStore(t)}).Solve(t.Context(), &Vertex{Op: op, Inputs: []*Vertex{{Op: &Base{}}}})
		return err
	}
	if err := add(); err != nil || len(seen) != 1 || strings.Contains(seen[0], "hunter2") || strings.Contains(seen[0], "Basic") {
		t.Errorf("the other host saw %q: %v", seen, err)
	}
	for _, to = range []string{"http://169.254.169.254/latest", "http://[fe80::1]/", "file:///etc/passwd", "gopher://127.0.0.1/"} {
		if err := add(); err == nil || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("redirected to %s: %v", to, err)
		}
	}
}
