package engine

import (
	"slices"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	imagespec "github.com/moby/docker-image-spec/specs-go/v1"
	containertypes "github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/mount"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

func TestFamiliar(t *testing.T) {
	for name, want := range map[string]string{
		"docker.io/library/debian:bookworm": "debian:bookworm",
		"docker.io/a/b@sha256:0":            "a/b@sha256:0",
		"quay.io/a/b:c":                     "quay.io/a/b:c",
	} {
		if got := familiar(name); got != want {
			t.Errorf("familiar(%q) = %q, want %q", name, got, want)
		}
	}
}

func TestRepository(t *testing.T) {
	for name, want := range map[string]string{
		"localhost:5000/a":         "localhost:5000/a",
		"localhost:5000/a:b":       "localhost:5000/a",
		"debian@sha256:0":          "debian",
		"debian:bookworm@sha256:0": "debian",
	} {
		if got := Repository(name); got != want {
			t.Errorf("Repository(%q) = %q, want %q", name, got, want)
		}
	}
}

func TestMatchReference(t *testing.T) {
	img := func() *Image {
		return &Image{Names: []string{"docker.io/library/bb:1", "docker.io/library/bb:2", "quay.io/a/b:1"}}
	}
	for _, c := range []struct {
		patterns []string
		want     []string
	}{
		{[]string{"bb"}, []string{"docker.io/library/bb:1", "docker.io/library/bb:2"}},
		{[]string{"bb:2"}, []string{"docker.io/library/bb:2"}},
		{[]string{"*/*/*:1", "bb:1"}, []string{"docker.io/library/bb:1", "quay.io/a/b:1"}},
		{[]string{"b"}, nil},
		{[]string{"["}, nil},
	} {
		i := img()
		ok := matchReference(i, c.patterns)
		if diff := cmp.Diff(c.want, append([]string(nil), i.Names...)); diff != "" || ok != (len(c.want) > 0) {
			t.Errorf("%q: %v, names differ (-want +got):\n%s", c.patterns, ok, diff)
		}
	}
}

func TestParseTime(t *testing.T) {
	now := time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)
	for value, want := range map[string]time.Time{
		"24h":                  now.Add(-24 * time.Hour),
		"2026-11-20T10:00:00Z": time.Date(2026, 11, 20, 10, 0, 0, 0, time.UTC),
		"2026-11-20":           time.Date(2026, 11, 20, 0, 0, 0, 0, time.Local),
		"1700000000":           time.Unix(1700000000, 0),
		"1700000000.5":         time.Unix(1700000000, 5e8),
	} {
		if got, err := parseTime(value, now); err != nil || !got.Equal(want) {
			t.Errorf("parseTime(%q) = %v, %v, want %v", value, got, err, want)
		}
	}
	for _, value := range []string{"", "yesterday", "1.x"} {
		if _, err := parseTime(value, now); !errdefs.IsInvalidArgument(err) {
			t.Errorf("parseTime(%q): %v, want an invalid argument", value, err)
		}
	}
}

func TestCommand(t *testing.T) {
	type config = containertypes.Config
	for name, c := range map[string]struct {
		own  config
		want []string
	}{
		"image":                {config{}, []string{"entry", "cmd"}},
		"arguments":            {config{Cmd: []string{"a", "b"}}, []string{"entry", "a", "b"}},
		"entry point":          {config{Entrypoint: []string{"given"}}, []string{"given"}},
		"both":                 {config{Entrypoint: []string{"given"}, Cmd: []string{"a"}}, []string{"given", "a"}},
		"no entry point":       {config{Entrypoint: []string{""}, Cmd: []string{"a"}}, []string{"a"}},
		"nothing is left over": {config{Entrypoint: []string{""}}, nil},
	} {
		mergeConfig(&c.own, imagespec.DockerOCIImageConfig{ImageConfig: ocispec.ImageConfig{Entrypoint: []string{"entry"}, Cmd: []string{"cmd"}}})
		if diff := cmp.Diff(c.want, slices.Concat(c.own.Entrypoint, c.own.Cmd)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}

func TestMergeEnv(t *testing.T) {
	got := mergeEnv([]string{"A=1", "B=2", "C=3"}, []string{"B=x", "D=4", "C", "MISSING"})
	if diff := cmp.Diff([]string{"A=1", "B=x", "D=4"}, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

func TestParseBind(t *testing.T) {
	got, mode, err := parseBind("/new/:/data/../x:ro,z")
	want := mount.Mount{Type: mount.TypeBind, Source: "/new", Target: "/data/../x", ReadOnly: true, BindOptions: &mount.BindOptions{}}
	if diff := cmp.Diff(want, got); err != nil || diff != "" || mode != "ro,z" {
		t.Errorf("%v, mode %q (-want +got):\n%s", err, mode, diff)
	}
	for _, v := range []string{"", ":/b", "/a:b", "/a:/", "/a:/b/..", "/a:/b:c:d", "/a:/b:nonsense", "/a:ro", "name:/b:rshared", "/a:/b:ro,rw"} {
		m, _, err := parseBind(v)
		if err == nil {
			err = checkMount(m)
		}
		if err == nil {
			t.Errorf("parseBind(%q) = %+v, want an error", v, m)
		}
	}
}
