package remote

import (
	"errors"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"

	"strake/internal/reference"
)

func writeConf(t *testing.T, name, text string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// sites are where a client with the configuration looks for a name: by tag and
// by digest.
func sites(t *testing.T, c *Client, name string) string {
	t.Helper()
	named, err := reference.Parse(name)
	if err != nil {
		t.Fatal(err)
	}
	r, err := c.Repository(named)
	if err != nil {
		return err.Error()
	}
	var out []string
	add := func(s site, kinds string) {
		if s.reg.key.insecure {
			kinds += "!"
		}
		out = append(out, s.reg.host+"/"+s.name+kinds)
	}
	for _, m := range r.mirrors {
		kinds := ":"
		if m.byTag {
			kinds += "t"
		}
		if m.byDigest {
			kinds += "d"
		}
		add(m.site, kinds)
	}
	add(r.site, "")
	return strings.Join(out, " ")
}

func TestRegistriesConf(t *testing.T) {
	first := writeConf(t, "registries.conf", `
unqualified-search-registries = ["elsewhere.example"]
short-name-mode = "enforcing"
[[registry]]
prefix = "docker.io"
location = "registry-1.docker.io"
[[registry.mirror]]
location = "cache.example:5000/hub/"
insecure = true
[[registry.mirror]]
location = "second.example"
pull-from-mirror = "digest-only"
[[registry]]
prefix = "docker.io/library/private"
location = "internal.example/moved"
[[registry]]
location = "lab.example:5000"
insecure = true
mirror-by-digest-only = true
[[registry.mirror]]
location = "m1.example"
[[registry.mirror]]
location = "m2.example"
pull-from-mirror = "tag-only"
[[registry]]
prefix = "*.wild.example"
location = "tame.example/all"
[[registry]]
location = "bad.example"
`)
	second := writeConf(t, "10-more.conf", "[[registry]]\nprefix = \"bad.example/team\"\nblocked = true\n[[registry]]\nlocation = \"bad.example\"\ninsecure = true\n")
	c := NewClient(Options{RegistriesConf: []string{first, second}})
	got := map[string]string{}
	want := map[string]string{
		"debian":                 "cache.example:5000/hub/library/debian:td! second.example/library/debian:d docker.io/library/debian",
		"private/x":              "cache.example:5000/hub/private/x:td! second.example/private/x:d docker.io/private/x",
		"private":                "internal.example/moved",
		"privateer":              "cache.example:5000/hub/library/privateer:td! second.example/library/privateer:d docker.io/library/privateer",
		"lab.example:5000/a/b":   "m1.example/a/b:d m2.example/a/b:t lab.example:5000/a/b!",
		"lab.example/a":          "lab.example/a",
		"a.b.wild.example/x":     "tame.example/all/x",
		"wild.example/x":         "wild.example/x",
		"bad.example/x":          "bad.example/x!",
		"bad.example/team/x":     "registry bad.example/team is blocked in " + second,
		"bad.example/teamster/x": "bad.example/teamster/x!",
		"bad.example.evil/x":     "bad.example.evil/x",
		"plain.example/deep/x":   "plain.example/deep/x",
	}
	for name := range want {
		got[name] = sites(t, c, name)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// TestBlockedRegistry is what is asked of a registry as a whole.
func TestBlockedRegistry(t *testing.T) {
	file := writeConf(t, "registries.conf", "[[registry]]\nlocation = 'bad.example'\nblocked = true\n[[registry]]\nlocation = 'some.example/team'\nblocked = true\n")
	c := NewClient(Options{RegistriesConf: []string{file}})
	if _, err := c.Registry("https://bad.example/v2"); err == nil || err.Error() != "registry bad.example is blocked in "+file {
		t.Error(err)
	}
	if err := c.Login(t.Context(), "bad.example", Credential{}); !errdefs.IsFailedPrecondition(err) {
		t.Error(err)
	}
	if _, err := c.Registry("some.example"); err != nil {
		t.Error(err)
	}
}

// TestPrintable is the words of a server on a terminal.
func TestPrintable(t *testing.T) {
	for s, want := range map[string]string{
		"": "", "plain ünïcode": "plain ünïcode", "a\x1b[2Jb": "a [2Jb", "\xff\n\t": "\ufffd  ",
		"a\u202eb\u2066\u2069\u2028\u2029": "a b    ", "\ufffd": "\ufffd", "\x7f\u009b1m": "  1m",
		strings.Repeat("ü", 501) + "x": strings.Repeat("ü", 500) + "...",
		"x" + strings.Repeat("ü", 501): "x" + strings.Repeat("ü", 499) + "...",
	} {
		if got := printable(s); got != want {
			t.Errorf("%q: %q, want %q", s, got, want)
		}
	}
	if got := place(&url.URL{Scheme: "https", Host: "h", Path: "/a\x1b[2J\u202e/sha256:b"}); got != "https://h/a%1B%5B2J%E2%80%AE/sha256:b" {
		t.Error(got)
	}
}

func TestRegistriesConfIsChecked(t *testing.T) {
	for text, is := range map[string]func(error) bool{
		"[registries.search]\nregistries = ['x']\n": errdefs.IsNotImplemented,
		"[[registry]\n":                                                        errdefs.IsInvalidArgument,
		"[[registry]]\ninsecure = true\n":                                      errdefs.IsInvalidArgument,
		"[[registry]]\nlocation = 'https://x.example'\n":                       errdefs.IsInvalidArgument,
		"[[registry]]\nlocation = 'x'\n[[registry.mirror]]\ninsecure = true\n": errdefs.IsInvalidArgument,
		"[[registry]]\nlocation='x'\n[[registry.mirror]]\nlocation='y'\npull-from-mirror='sometimes'\n": errdefs.IsInvalidArgument,
	} {
		c := NewClient(Options{RegistriesConf: []string{writeConf(t, "registries.conf", text)}})
		if _, err := c.Registry("x.example"); !is(err) || !strings.Contains(err.Error(), "registries.conf") {
			t.Errorf("%q: %v", text, err)
		}
	}
}

func TestRegistriesConfFiles(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "[a*") // no pattern
	t.Setenv("XDG_CONFIG_HOME", dir)
	t.Setenv("CONTAINERS_REGISTRIES_CONF", "")
	user := filepath.Join(dir, "containers")
	want := []string{filepath.Join(user, "registries.conf"), filepath.Join(user, "registries.conf.d", "a.conf"), filepath.Join(user, "registries.conf.d", "b.conf")}
	for _, file := range want {
		if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(filepath.Join(user, "registries.conf.d", "c.conf"), 0o700); err != nil {
		t.Fatal(err)
	}
	files, err := registriesConfFiles()
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, file := range files {
		if strings.HasPrefix(file, dir) {
			got = append(got, file)
		}
		if file == "/etc/containers/registries.conf" {
			t.Error("the system's file is read beside the user's")
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if err := errors.Join(os.RemoveAll(filepath.Join(user, "registries.conf.d")), os.WriteFile(filepath.Join(user, "registries.conf.d"), nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	if files, err := registriesConfFiles(); err == nil {
		t.Errorf("a directory that cannot be read is passed over: %q", files)
	}
	t.Setenv("CONTAINERS_REGISTRIES_CONF", "/some/file")
	files, err = registriesConfFiles()
	if diff := cmp.Diff([]string{"/some/file"}, files); diff != "" || err != nil {
		t.Errorf("%v %s", err, diff)
	}
}
