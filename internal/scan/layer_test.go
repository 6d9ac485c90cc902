package scan

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"compress/zlib"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"

	"strake/internal/layer"
)

// member is one of a layer: a name that ends with / is a directory's, one with " -> " a symlink's.
type member struct {
	name, text string
}

func makeTar(t testing.TB, members ...member) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, m := range members {
		h := &tar.Header{Name: m.name, Mode: 0o644, Size: int64(len(m.text)), Typeflag: tar.TypeReg}
		if name, target, ok := strings.Cut(m.name, " -> "); ok {
			h.Name, h.Linkname, h.Typeflag = name, target, tar.TypeSymlink
		}
		if strings.HasSuffix(m.name, "/") {
			h.Typeflag = tar.TypeDir
		}
		if strings.HasPrefix(m.text, "\x7fELF") || strings.HasPrefix(m.text, "#!") {
			h.Mode = 0o755
		}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, m.text); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// onlyReader hides that a reader is an io.ReaderAt.
type onlyReader struct{ io.Reader }

// record looks at a layer in the three ways, which have to agree.
func record(t *testing.T, members ...member) Record {
	t.Helper()
	b := makeTar(t, members...)
	r, err := Tar(t.Context(), onlyReader{bytes.NewReader(b)})
	if err != nil {
		t.Fatal(err)
	}
	inPlace, err := Tar(t.Context(), bytes.NewReader(b))
	if diff := cmp.Diff(r, inPlace, cmp.AllowUnexported(Record{})); diff != "" || err != nil {
		t.Errorf("in place: %v %s", err, diff)
	}
	dir := t.TempDir()
	files := layer.Files{Tar: filepath.Join(dir, "tar"), Index: filepath.Join(dir, "index")}
	index, err := os.Create(files.Index)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := layer.WriteIndex(t.Context(), bytes.NewReader(b), index, nil); err != nil {
		t.Fatal(err)
	}
	if err := index.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(files.Tar, b, 0o600); err != nil {
		t.Fatal(err)
	}
	l, err := layer.Open(files)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	indexed, err := Layer(l)
	// A directory that is deleted and made again is empty to begin with: the index says only that.
	for _, name := range r.Hidden {
		if i := slices.Index(indexed.Opaque, name); i >= 0 {
			indexed.Opaque = slices.Delete(indexed.Opaque, i, i+1)
			indexed.Hidden = append(indexed.Hidden, name)
		}
	}
	slices.Sort(indexed.Hidden)
	if diff := cmp.Diff(r, indexed, cmp.AllowUnexported(Record{})); diff != "" || err != nil {
		t.Errorf("of the index: %v %s", err, diff)
	}
	text, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	var again Record
	if err := json.Unmarshal(text, &again); err != nil || !again.Current() {
		t.Fatal(err)
	}
	return again
}

// names are the packages, as type:name version@layer file.
func names(list []Package) []string {
	out := []string{}
	for _, p := range list {
		out = append(out, fmt.Sprintf("%s:%s %s@%d %s", p.Type, p.Name, p.Version, p.Layer, p.File))
	}
	return out
}

func makeJar(t testing.TB, members ...member) string {
	t.Helper()
	var b bytes.Buffer
	z := zip.NewWriter(&b)
	for _, m := range members {
		w, err := z.Create(m.name)
		if err == nil {
			_, err = io.WriteString(w, m.text)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func TestLanguages(t *testing.T) {
	inner := makeJar(t, member{"META-INF/maven/com.fasterxml/databind/pom.properties", "groupId=com.fasterxml\nartifactId=databind\nversion=2.9.1\n"})
	plain := makeJar(t, member{"META-INF/MANIFEST.MF", "Manifest-Version: 1.0\r\nBundle-SymbolicName: org.ow2.asm;singleton:=true\r\nBundle-Version: 9.2\r\n"})
	r := record(
		t,
		member{"app/node_modules/lodash/package.json", `{"name": "lodash", "version": "4.17.20"}`},
		member{"app/node_modules/@types/node/package.json", `{"name": "@types/node", "version": "20.1.0"}`},
		member{"app/node_modules/lodash/fp/package.json", `{"name": "inner", "version": "1"}`},
		member{"app/package.json", `{"name": "mine", "version": "1.0.0"}`},
		member{"app/package-lock.json", `{"packages": {"": {"version": "1"}, "node_modules/lodash": {"version": "4.17.20"}, "node_modules/a/node_modules/b": {"version": "2"}, "node_modules/jest": {"version": "1", "dev": true}}}`},
		member{"old/package-lock.json", `{"dependencies": {"c": {"version": "1", "dependencies": {"d": {"version": "2"}}}, "e": {"version": "3", "dev": true}}}`},
		member{"usr/local/lib/python3.11/site-packages/Jinja2-3.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: Jinja_2\nVersion: 3.0\n\nName: other\n"},
		member{"usr/local/lib/python3.11/site-packages/six.egg-info/PKG-INFO", "Name: six\nVersion: 1.16.0\n"},
		member{"usr/local/bundle/specifications/rack-2.2.3.gemspec", "Gem::Specification.new do |s|\n  s.name = \"rack\".freeze\n  s.version = \"2.2.3\"\n"},
		member{"app/vendor/composer/installed.json", `{"packages": [{"name": "Monolog/Monolog", "version": "v2.0.0"}]}`},
		member{"v1/vendor/composer/installed.json", `[{"name": "a/b", "version": "1.0"}]`},
		member{"app/web.deps.json", `{"libraries": {"Newtonsoft.Json/12.0.1": {"type": "package"}, "web/1.0.0": {"type": "project"}}}`},
		member{"app/app.jar", makeJar(t, member{"BOOT-INF/lib/databind.jar", inner}, member{"META-INF/maven/x/pom.properties", "version=1\n"})},
		member{"app/asm.jar", plain},
		member{"app/broken.jar", "PK\x03\x04 nothing"}, member{"app/node_modules/bad/package.json", `{"name": 1}`},
		member{"app/node_modules/evil/package.json", `{"name": "a\nb", "version": "1"}`},
	)
	want := []string{
		"composer:a/b 1.0@1 v1/vendor/composer/installed.json", "composer:monolog/monolog 2.0.0@1 app/vendor/composer/installed.json",
		"gem:rack 2.2.3@1 usr/local/bundle/specifications/rack-2.2.3.gemspec",
		"maven:com.fasterxml:databind 2.9.1@1 app/app.jar", "maven:org.ow2:asm 9.2@1 app/asm.jar",
		"npm:@types/node 20.1.0@1 app/node_modules/@types/node/package.json", "npm:b 2@1 app/package-lock.json",
		"npm:c 1@1 old/package-lock.json", "npm:d 2@1 old/package-lock.json", "npm:lodash 4.17.20@1 app/node_modules/lodash/package.json",
		"nuget:Newtonsoft.Json 12.0.1@1 app/web.deps.json",
		"pypi:jinja-2 3.0@1 usr/local/lib/python3.11/site-packages/Jinja2-3.0.dist-info/METADATA",
		"pypi:six 1.16.0@1 usr/local/lib/python3.11/site-packages/six.egg-info/PKG-INFO",
	}
	if diff := cmp.Diff(want, names(Merge([]Record{r}).Packages)); diff != "" {
		t.Error(diff)
	}
}

// The Hub and a program of Rust's say what they are made of.
func TestPrograms(t *testing.T) {
	dir := t.TempDir()
	built := filepath.Join(dir, "go")
	if out, err := exec.Command("go", "build", "-ldflags=-s -w", "-o", built, "strake/cmd/strake-hub").CombinedOutput(); err != nil {
		t.Fatalf("%v %s", err, out)
	}
	program, err := os.ReadFile(built)
	if err != nil {
		t.Fatal(err)
	}
	var packed bytes.Buffer
	z := zlib.NewWriter(&packed)
	fmt.Fprint(z, `{"packages": [{"name": "mine", "version": "0.1.0", "source": "local"}, {"name": "smallvec", "version": "1.6.0", "source": "crates.io"}, {"name": "cc", "version": "1.0", "source": "crates.io", "kind": "build"}]}`)
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	section, rust := filepath.Join(dir, "section"), filepath.Join(dir, "rust")
	if err := os.WriteFile(section, packed.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("objcopy", "--add-section", ".dep-v0="+section, "/bin/bash", rust).CombinedOutput(); err != nil {
		t.Fatalf("%v %s", err, out)
	}
	audited, err := os.ReadFile(rust)
	if err != nil {
		t.Fatal(err)
	}
	r := record(t, member{"app/go", string(program)}, member{"app/rust", string(audited)}, member{"app/elf", "\x7fELF" + strings.Repeat("\xff", 1<<17)})
	got := names(Merge([]Record{r}).Packages)
	for _, want := range []string{"cargo:smallvec 1.6.0@1 app/rust", "golang:modernc.org/sqlite 1.60.1@1 app/go"} {
		if !slices.Contains(got, want) {
			t.Errorf("no %s in %q", want, got)
		}
	}
	if text := strings.Join(got, "\n"); !strings.Contains(text, "golang:stdlib 1.") || strings.Contains(text, "cargo:cc") || strings.Contains(text, "cargo:mine") {
		t.Error(text)
	}
}

// What dpkg and apk installed is theirs, not pip's.
func TestOwnedFiles(t *testing.T) {
	metadata := "Name: six\nVersion: 1.16.0\n"
	r := record(
		t,
		member{"var/lib/dpkg/status", dpkgStatus}, member{"var/lib/dpkg/info/python3-six.list", "/.\n/usr/lib/python3/dist-packages/six-1.16.0.egg-info\n"},
		member{"usr/lib/python3/dist-packages/six-1.16.0.egg-info", metadata},
		member{"lib/apk/db/installed", "P:py3-six\nV:1.16.0-r0\nF:usr/lib/python3.11/site-packages/six.dist-info\nR:METADATA\n"},
		member{"usr/lib/python3.11/site-packages/six.dist-info/METADATA", metadata},
		member{"usr/local/six.dist-info/METADATA", metadata},
	)
	want := []string{
		"apk:py3-six 1.16.0-r0@1 lib/apk/db/installed", "deb:held 2:3~rc1-4@1 var/lib/dpkg/status", "deb:libc6 2.36-9+deb12u8@1 var/lib/dpkg/status",
		"pypi:six 1.16.0@1 usr/local/six.dist-info/METADATA",
	}
	if diff := cmp.Diff(want, names(Merge([]Record{r}).Packages)); diff != "" {
		t.Error(diff)
	}
}

// Upper layers replace and delete what lower ones have installed.
func TestMerge(t *testing.T) {
	module := func(dir, name, version string) member {
		return member{dir + "/node_modules/" + name + "/package.json", `{"name": "` + name + `", "version": "` + version + `"}`}
	}
	status := func(version string) member {
		return member{"var/lib/dpkg/status", "Package: a\nVersion: 1\n\nPackage: b\nVersion: " + version + "\n"}
	}
	token := "ghp_" + "aB3dE5gH7jK9mN1pQ3sT5vW7yZ9bD2fG4hJ6"
	records := []Record{
		record(t, module("a", "one", "1"), module("a", "two", "1"), module("b", "three", "1"), module("c", "four", "1"), module("d", "five", "1"), module("e", "six", "1"),
			status("1"), member{"etc/os-release", "ID=debian\nVERSION_CODENAME=trixie\n"}, member{"root/x", "token " + token + "\n"}),
		record(t, member{"a/node_modules/.wh.one", ""}, module("a", "two", "2"), member{"b/", ""}, member{"b/.wh..wh..opq", ""}, module("b", "seven", "1"),
			member{"c -> /elsewhere", ""}, member{".wh.e", ""}, module("e", "eight", "1"), status("2"), member{"root/.wh.x", ""}),
		record(t, member{"d/node_modules/five/package.json", "none any more"}),
	}
	im := Merge(records)
	want := []string{
		"deb:a 1@1 var/lib/dpkg/status", "deb:b 2@2 var/lib/dpkg/status", "npm:eight 1@2 e/node_modules/eight/package.json",
		"npm:seven 1@2 b/node_modules/seven/package.json", "npm:two 2@2 a/node_modules/two/package.json",
	}
	if diff := cmp.Diff(want, names(im.Packages)); diff != "" {
		t.Error(diff)
	}
	if im.Packages[0].Ecosystem != "Debian:13" || im.Release.ID != "debian" {
		t.Errorf("%+v %+v", im.Packages[0], im.Release)
	}
	if len(im.Secrets) != 1 || !im.Secrets[0].Deleted || im.Secrets[0].Layer != 1 || im.Secrets[0].File != "root/x" || im.Secrets[0].Line != 1 || strings.Contains(fmt.Sprint(im), token) {
		t.Errorf("%+v", im.Secrets)
	}
	emptied := Merge(append(records, record(t, member{".wh..wh..opq", ""})))
	if len(emptied.Packages) != 0 || emptied.Release != nil {
		t.Errorf("%+v", emptied)
	}
}

func TestRelease(t *testing.T) {
	for text, want := range map[string]string{
		"ID=debian\nVERSION_ID=\"12\"": "Debian:12", "ID=\"debian\"\nVERSION_CODENAME=forky": "Debian:14", "ID=raspbian\nVERSION_ID=11": "Debian:11",
		"ID=ubuntu\nVERSION_ID=\"22.04\"\nVERSION=\"22.04.3 LTS (Jammy)\"": "Ubuntu:22.04:LTS", "ID=ubuntu\nVERSION_ID=23.10": "Ubuntu:23.10", "ID=devuan\nVERSION_ID=5": "", "": "",
	} {
		r, err := ReadRelease(strings.NewReader(text))
		if got := r.ecosystem(TypeDeb); got != want || err != nil {
			t.Errorf("%q: %q %v, want %q", text, got, err, want)
		}
	}
	for text, want := range map[string]string{"ID=alpine\nVERSION_ID=3.20.0_alpha2024": "Alpine:v3.20", "ID=wolfi": "Wolfi", "ID=chainguard": "Chainguard", "ID=alpine": ""} {
		r, err := ReadRelease(strings.NewReader(text))
		if got := r.ecosystem(TypeAPK); got != want || err != nil {
			t.Errorf("%q: %q %v, want %q", text, got, err, want)
		}
	}
}

// Hostile layers end in an error or in less, never in more memory (CVE-2026-54448, CVE-2021-3762).
func TestHostileLayers(t *testing.T) {
	zeros := strings.Repeat("\x00", 8<<20)
	bomb := makeJar(t, member{"a.jar", makeJar(t, member{"b.jar", makeJar(t, member{"c.jar", makeJar(t, member{"d.jar", zeros})})})}, member{"META-INF/maven/a/b/pom.properties", "groupId=g\nartifactId=" + zeros + "\nversion=1\n"})
	dirs := strings.Builder{}
	z := zip.NewWriter(&dirs)
	for i := range 120_000 {
		if _, err := z.Create(fmt.Sprintf("%0160d", i)); err != nil {
			t.Fatal(err)
		}
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	r, err := Tar(t.Context(), bytes.NewReader(makeTar(
		t, member{"bomb.jar", bomb}, member{"many.jar", dirs.String()},
		member{"x/node_modules/y/package.json", `{"name": "y", "version": "1", "z": "` + strings.Repeat("z", 2<<20) + `"}`},
		member{"app/package-lock.json", strings.Repeat(`{"dependencies":{"a":`, 100_000)},
		member{"app/composer/installed.json", strings.Repeat("[", 1<<20)},
		member{"long/node_modules/y/package.json", `{"name": "` + strings.Repeat("y", 1000) + `", "version": "1"}`},
	)))
	if err != nil {
		t.Fatal(err)
	}
	im := Merge([]Record{r})
	if len(im.Packages) != 0 || !slices.Contains(im.Skipped, "/x/node_modules/y/package.json: too large") {
		t.Errorf("%v %v", names(im.Packages), im.Skipped)
	}
	if _, err := Tar(t.Context(), strings.NewReader("not a tar at all"+strings.Repeat(" ", 1000))); err == nil {
		t.Error("what is no tar is a layer")
	}
	whole := makeTar(t, member{"var/lib/dpkg/status", dpkgStatus})
	if _, err := Tar(t.Context(), bytes.NewReader(whole[:600])); !errdefs.IsDataLoss(err) {
		t.Errorf("cut short: %v", err)
	}
	if _, err := Tar(t.Context(), bytes.NewReader(makeTar(t, member{"a/.wh...", ""}))); !errdefs.IsInvalidArgument(err) {
		t.Errorf("a whiteout that climbs: %v", err)
	}
}

// FuzzTar holds that any layer is read, and that what is found is sound.
func FuzzTar(f *testing.F) {
	f.Add(makeTar(f, member{"var/lib/dpkg/status", dpkgStatus}, member{"a/node_modules/b/package.json", `{"name":"b","version":"1"}`}, member{".wh.x", ""}))
	f.Add(makeTar(f, member{"a.jar", makeJar(f, member{"META-INF/MANIFEST.MF", "Bundle-SymbolicName: a\nBundle-Version: 1\n"})}, member{"s/specifications/x.gemspec", "s.name='x'\ns.version='1'"}))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := Tar(t.Context(), bytes.NewReader(b))
		if err != nil {
			return
		}
		for _, p := range Merge([]Record{r, r}).Packages {
			if p.Type == "" || !sound(p.Name) || !sound(p.Version) || p.File == "" || p.Layer != 1 {
				t.Errorf("%+v", p)
			}
		}
	})
}
