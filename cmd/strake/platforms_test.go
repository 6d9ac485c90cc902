package main_test

import (
	"os/exec"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
)

// An index that podman made keeps its bytes from one registry to the next, and
// each of its platforms its image ID.
func TestIndexKeepsItsDigest(t *testing.T) {
	w := newWorld(t)
	w.need("skopeo")
	podman := w.podman()
	first, second := w.dockerRegistry(), w.hub()
	podman("manifest", "create", "multi")
	for _, arch := range []string{"amd64", "arm64"} {
		podman("import", "--arch", arch, "--message", arch, w.busyboxTar(), "one:"+arch)
		podman("manifest", "add", "multi", "containers-storage:localhost/one:"+arch)
	}
	from, to := first+"/team/multi:1", second+"/other/multi:2"
	podman("manifest", "push", "--all", "--tls-verify=false", "multi", "docker://"+from)
	raw := func(ref string) string {
		return w.run("skopeo", "inspect", "--raw", "--tls-verify=false", "docker://"+ref)
	}
	want := raw(from)

	w.strake("a", "pull", "--all-platforms", from)
	w.strake("a", "tag", from, to)
	w.strake("a", "push", to)
	if got := raw(to); got != want {
		t.Errorf("index pushed as\n%s\nwas\n%s", got, want)
	}
	for _, arch := range []string{"amd64", "arm64"} {
		id := w.strake("a", "image", "inspect", "--platform", "linux/"+arch, "--format", "{{.Id}}", from)
		config := w.run("skopeo", "inspect", "--raw", "--tls-verify=false", "--override-arch", arch, "--config", "docker://"+to)
		if !strings.Contains(config, `"`+arch+`"`) || digest.FromString(config).String() != id {
			t.Errorf("%s: image %s, its config in the registry\n%s", arch, id, config)
		}
	}

	// through an archive, whole and in parts
	w.strake("a", "save", "-o", w.path("multi.tar"), from)
	w.strake("b", "load", "-i", w.path("multi.tar"))
	w.strake("b", "tag", from, second+"/loaded/multi:1")
	w.strake("b", "push", second+"/loaded/multi:1")
	if got := raw(second + "/loaded/multi:1"); got != want {
		t.Errorf("index loaded and pushed as\n%s\nwas\n%s", got, want)
	}
	w.strake("c", "pull", "--platform", "linux/arm64", from)
	w.strake("c", "save", "-o", w.path("part.tar"), from)
	w.strake("d", "load", "-i", w.path("part.tar"))
	w.strake("d", "pull", "--platform", "linux/amd64", from)
	w.strake("d", "tag", from, second+"/parts/multi:1")
	w.strake("d", "push", second+"/parts/multi:1")
	if got := raw(second + "/parts/multi:1"); got != want {
		t.Errorf("index of two parts pushed as\n%s\nwas\n%s", got, want)
	}
	if out, err := exec.Command("skopeo", "--insecure-policy", "copy", "--all", "oci-archive:"+w.path("multi.tar"), "dir:"+w.path("copied")).CombinedOutput(); err != nil {
		t.Errorf("skopeo copies the archive: %s", out)
	}
}
