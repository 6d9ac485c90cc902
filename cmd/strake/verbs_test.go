package main_test

import (
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"strake/internal/usertest"
)

// TestCopyBesidePeers copies what skopeo made, and has skopeo read what copy
// made: every digest on the way is the same.
func TestCopyBesidePeers(t *testing.T) {
	w := newWorld(t)
	w.need("skopeo")
	r, h := w.dockerRegistry(), w.hub()
	w.busybox("store")
	w.strake("store", "tag", "busybox", r+"/t/bb:1")
	w.strake("store", "push", "-q", r+"/t/bb:1")
	digestOf := func(place string) string {
		w.Helper()
		return w.run("skopeo", "inspect", "--tls-verify=false", "--format", "{{.Digest}}", place)
	}
	want := digestOf("docker://" + r + "/t/bb:1")
	for _, target := range []string{h + "/copied/bb:1", r + "/mounted/bb:1"} {
		if got := w.strake("other", "copy", "-q", r+"/t/bb:1", target); got != want {
			t.Errorf("copy to %s: %s, want %s", target, got, want)
		}
		if got := digestOf("docker://" + target); got != want {
			t.Errorf("skopeo finds %s at %s, want %s", got, target, want)
		}
	}
	w.strake("other", "copy", "-q", h+"/copied/bb:1", "oci:"+w.path("dir")+":1")
	w.strake("other", "copy", "-q", "oci:"+w.path("dir")+":1", "oci-archive:"+w.path("oci.tar")+":bb:1")
	for _, place := range []string{"oci:" + w.path("dir") + ":1", "oci-archive:" + w.path("oci.tar")} {
		if got := digestOf(place); got != want {
			t.Errorf("skopeo finds %s at %s, want %s", got, place, want)
		}
	}
	w.run("skopeo", "--insecure-policy", "copy", "--src-tls-verify=false", "docker://"+r+"/t/bb:1", "oci:"+w.path("theirs")+":1")
	w.run("skopeo", "--insecure-policy", "copy", "--src-tls-verify=false", "docker://"+r+"/t/bb:1", "docker-archive:"+w.path("theirs.tar")+":bb:1")
	if got := w.strake("other", "copy", "-q", "oci:"+w.path("theirs")+":1", h+"/theirs/bb:1"); got != want {
		t.Errorf("skopeo's layout: %s, want %s", got, want)
	}
	w.strake("other", "copy", "-q", "docker-archive:"+w.path("theirs.tar")+":bb:1", "store:theirs:1")
	if got, want := w.id("other", "theirs:1"), w.id("store", "busybox"); got != want {
		t.Errorf("skopeo's docker-archive: image %s, want %s", got, want)
	}
	w.clean("other")
}

// TestRemoteRemovalElsewhere: docker's registry removes no tag alone, and no
// manifest unless it is told to; what strake says of that helps.
func TestRemoteRemovalElsewhere(t *testing.T) {
	w := newWorld(t)
	r := w.dockerRegistry()
	w.busybox("store")
	w.strake("store", "tag", "busybox", r+"/t/bb:1")
	w.strake("store", "push", "-q", r+"/t/bb:1")
	_, err := w.try("store", "rmi", "--remote", r+"/t/bb:1")
	if err == nil || !strings.Contains(err.Error(), "does not remove tags alone; "+r+"/t/bb@sha256:") {
		t.Errorf("tag: %v", err)
	}
	named := w.strake("store", "image", "inspect", "--remote", "-f", "{{index .RepoDigests 0}}", r+"/t/bb:1")
	if _, err = w.try("store", "rmi", "--remote", named); err == nil || !strings.Contains(err.Error(), "Error: registry "+r+" does not allow deletion") {
		t.Errorf("manifest: %v", err)
	}
}

// TestSearchByDocker has docker's own daemon search the Hub.
func TestSearchByDocker(t *testing.T) {
	w := newWorld(t)
	docker := w.dockerd()
	h := w.hub()
	w.busybox("store")
	for _, name := range []string{"team/app", "team/wrapper", "team/other"} {
		w.strake("store", "tag", "busybox", h+"/"+name)
		w.strake("store", "push", "-q", h+"/"+name)
	}
	// The Hub's index follows within about a second.
	for end := time.Now().Add(20 * time.Second); strings.Count(w.strake("store", "search", h+"/team"), "team/") < 3; time.Sleep(100 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("what was pushed is not found")
		}
	}
	for _, args := range [][]string{{"search", h + "/app"}, {"search", "--limit", "1", "--format", "json", h + "/app"}, {"search", "--no-trunc", h + "/nosuch"}} {
		if got, want := w.strake("store", args...), docker(args...); got != want {
			t.Errorf("%v:\n%s\ndocker:\n%s", args, got, want)
		}
	}
}

// TestPullWithoutRoom: on a disk that is too small, a pull says so and fetches
// nothing.
func TestPullWithoutRoom(t *testing.T) {
	usertest.NeedRoot(t, "to mount a disk")
	w := newWorld(t)
	h := w.hub()
	big := w.path("big.tar")
	w.run("sh", "-c", "head -c 8000000 /dev/urandom > "+w.path("rootfs", "f")+" && tar -C "+w.path("rootfs")+" -cf "+big+" .")
	w.strake("store", "import", big, h+"/t/big:1")
	w.strake("store", "push", "-q", h+"/t/big:1")
	small := w.path("small")
	if err := os.MkdirAll(small, 0o700); err != nil {
		t.Fatal(err)
	}
	w.run("mount", "-t", "tmpfs", "-o", "size=12m", "tmpfs", small)
	t.Cleanup(func() {
		if out, err := exec.Command("umount", small).CombinedOutput(); err != nil {
			t.Errorf("umount: %v: %s", err, out)
		}
	})
	for _, args := range [][]string{{"pull", "--dry-run", h + "/t/big:1"}, {"pull", h + "/t/big:1"}, {"copy", h + "/t/big:1", "store:big:1"}} {
		_, err := w.try("small", args...)
		if err == nil || !strings.Contains(err.Error(), "Error: not enough space in "+small+": the missing layers take at least 16.") {
			t.Errorf("%v: %v", args, err)
		}
	}
	if entries, err := os.ReadDir(w.path("small", "ingest")); err != nil || len(entries) > 0 {
		t.Errorf("fetched %v, %v", entries, err)
	}
}
