package main_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"strake/internal/usertest"
)

// A Debian root file system becomes an image; a real application is built on
// it, run, pushed to two registries, pulled into empty stores and run again.
func TestDebianApplication(t *testing.T) {
	w := newWorld(t)
	w.strake("a", "import", "--change", `CMD ["bash"]`, w.debianTar(), "debian:bookworm")
	if usertest.IDs(t) == 1 { // apt becomes another user to download
		w.write("one/Dockerfile", "FROM debian:bookworm\nRUN echo 'APT::Sandbox::User \"root\";' >/etc/apt/apt.conf.d/sandbox\n")
		w.strake("a", "build", "-t", "debian:bookworm", "one")
	}
	w.write("app/Dockerfile", `FROM debian:bookworm
RUN apt-get update && apt-get install -y --no-install-recommends python3 && rm -rf /var/lib/apt/lists/*
WORKDIR /srv
COPY app.py .
EXPOSE 8000
CMD ["python3", "app.py"]
`)
	w.write("app/app.py", "import json, platform\nprint(json.dumps({'hello': 'from', 'python': platform.python_implementation()}))\n")
	w.strake("a", "build", "--network", "host", "-t", "app", "app")

	const want = `{"hello": "from", "python": "CPython"}`
	if got := w.strake("a", "run", "--rm", "app"); got != want {
		t.Fatalf("run printed %q, want %q", got, want)
	}
	if got := w.strake("a", "inspect", "--format", "{{json .Config.ExposedPorts}}", "app"); got != `{"8000/tcp":{}}` {
		t.Errorf("exposed ports: %s", got)
	}
	for name, addr := range map[string]string{"hub": w.hub(), "docker-registry": w.dockerRegistry()} {
		ref := addr + "/team/app:1.0"
		w.strake("a", "tag", "app", ref)
		w.strake("a", "push", ref)
		w.strake("b-"+name, "pull", ref)
		if got := w.strake("b-"+name, "run", "--rm", ref); got != want {
			t.Errorf("%s: run printed %q, want %q", name, got, want)
		}
		if got, want := w.id("b-"+name, ref), w.id("a", "app"); got != want {
			t.Errorf("%s: image ID %s, want %s", name, got, want)
		}
		if got, want := w.layers("b-"+name, ref), w.layers("a", "app"); got != want {
			t.Errorf("%s: layers %s, want %s", name, got, want)
		}
		w.clean("b-" + name)
	}
	w.clean("a")
}

// What Strake pushes, skopeo reads and copies and podman runs.
func TestPeersReadWhatIsPushed(t *testing.T) {
	w := newWorld(t)
	w.need("skopeo")
	podman := w.podman()
	w.busybox("a")
	w.write("app/Dockerfile", "FROM busybox\nRUN echo hello > /greeting\nLABEL team=blue\nCMD [\"cat\", \"/greeting\"]\n")
	ref := w.hub() + "/team/app:1"
	w.strake("a", "build", "-t", ref, "app")
	w.strake("a", "push", ref)

	if got := w.run("skopeo", "inspect", "--tls-verify=false", "--format", "{{.Labels.team}}", "docker://"+ref); got != "blue" {
		t.Errorf("skopeo inspect: label %q", got)
	}
	w.run("skopeo", "--insecure-policy", "copy", "--src-tls-verify=false", "docker://"+ref, "oci:"+w.path("copied")+":1")
	podman("pull", "--tls-verify=false", ref)
	if got := podman("run", "--rm", "--network", "host", ref); got != "hello" {
		t.Errorf("podman run printed %q", got)
	}
	if got, want := podman("inspect", "--format", "{{.Id}}", ref), strings.TrimPrefix(w.id("a", ref), "sha256:"); got != want {
		t.Errorf("podman: image ID %s, want %s", got, want)
	}
}

// Archives go both ways between Strake, docker and podman.
func TestArchives(t *testing.T) {
	w := newWorld(t)
	docker, podman := w.dockerd(), w.podman()
	w.busybox("a")
	w.write("app/Dockerfile", "FROM busybox\nRUN echo hello > /greeting && ln /greeting /same\nCMD [\"cat\", \"/same\"]\n")
	w.strake("a", "build", "-t", "app:1", "app")
	id := w.id("a", "app:1")

	for _, format := range []string{"oci-archive", "docker-archive"} {
		out := w.path(format + ".tar")
		w.strake("a", "save", "--format", format, "-o", out, "app:1")
		docker("load", "-i", out)
		if got := docker("inspect", "--format", "{{.Id}}", "app:1"); got != id {
			t.Errorf("docker load of %s: ID %s, want %s", format, got, id)
		}
		podman("load", "-i", out)
		if got := podman("run", "--rm", "--network", "host", "app:1"); got != "hello" {
			t.Errorf("podman run after load of %s printed %q", format, got)
		}
		w.strake("from-self-"+format, "load", "-i", out)
		if got := w.id("from-self-"+format, "app:1"); got != id {
			t.Errorf("own load of %s: ID %s, want %s", format, got, id)
		}
	}

	docker("save", "-o", w.path("from-docker.tar"), "app:1")
	podman("save", "--format", "docker-archive", "-o", w.path("from-podman-docker.tar"), "app:1")
	podman("save", "--format", "oci-archive", "-o", w.path("from-podman-oci.tar"), "app:1")
	for _, from := range []string{"from-docker", "from-podman-docker", "from-podman-oci"} {
		w.strake(from, "load", "-i", w.path(from+".tar"))
		name := "app:1"
		if got := w.strake(from, "images", "--format", "{{.Repository}}:{{.Tag}}"); got != name {
			name = got // podman keeps localhost/
		}
		if got := w.strake(from, "run", "--rm", name); got != "hello" {
			t.Errorf("run of what %s wrote printed %q", from, got)
		}
		w.clean(from)
	}
}

// The Dockerfile of docker's tutorials, unchanged.
func TestTutorial(t *testing.T) {
	w := newWorld(t)
	w.strake("a", "import", w.busyboxTar(), "alpine:3.14")
	w.write("tutorial/Dockerfile", "FROM alpine:3.14\nWORKDIR /app\nCOPY . .\nEXPOSE 8080\nCMD [\"./myapp\"]\n")
	w.write("tutorial/myapp", "#!/bin/sh\necho my app in $PWD\n")
	w.strake("a", "build", "-t", "myapp", "tutorial")
	if got := w.strake("a", "run", "--rm", "myapp"); got != "my app in /app" {
		t.Errorf("run printed %q", got)
	}
}

// A second build runs nothing; a touched file is the same file; a changed one
// runs what depends on it and no more.
func TestBuildCache(t *testing.T) {
	w := newWorld(t)
	w.busybox("a")
	w.write("app/Dockerfile", `FROM busybox
RUN echo one > /one
COPY first /first
RUN cat /first > /copy
COPY second /second
RUN cat /second > /copy2
`)
	w.write("app/first", "1\n")
	second := w.write("app/second", "2\n")
	build := func() (cached int, id string) {
		out, err := w.try("a", "build", "--progress", "plain", "-t", "app", "app")
		if err != nil {
			t.Fatal(err)
		}
		return strings.Count(out, " CACHED\n") - 1, w.id("a", "app") // FROM always is
	}
	_, id := build()
	if cached, again := build(); cached != 5 || again != id {
		t.Errorf("second build: %d steps of 5 cached, ID %s, first %s", cached, again, id)
	}
	w.run("touch", second)
	if cached, again := build(); cached != 5 || again != id {
		t.Errorf("after touch: %d steps of 5 cached, ID %s, first %s", cached, again, id)
	}
	if err := os.WriteFile(second, []byte("3\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if cached, again := build(); cached != 3 || again == id {
		t.Errorf("after a change: %d steps of 3 cached, ID %s, first %s", cached, again, id)
	}
	if err := os.WriteFile(filepath.Join(w.dir, "app", "first"), []byte("9\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	out, err := w.try("a", "build", "--explain", "--progress", "plain", "app")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(out, "first") || !strings.Contains(out, "changed") {
		t.Errorf("--explain does not name the file that changed:\n%s", out)
	}
	w.clean("a")
}

// RUN leaves nothing of its sandbox in the layer but, as with BuildKit, the empty
// directories /dev, /proc and /sys that the base does not have.
func TestRunLeavesNoTrace(t *testing.T) {
	w := newWorld(t)
	w.busybox("a")
	w.write("app/Dockerfile", "FROM busybox\n"+
		"RUN cat /etc/resolv.conf /etc/hosts > /dev/null && test -e /proc/self && echo x > /made\n"+
		"RUN cat /etc/resolv.conf /etc/hosts > /dev/null && test -e /proc/self && echo x > /again\n")
	w.strake("a", "build", "-t", "app", "app")
	layers := strings.Split(strings.Trim(w.layers("a", "app"), "[]"), ",")
	for i, want := range []string{"dev/\nmade\nproc/\nsys/", "again"} {
		id := strings.TrimPrefix(strings.Trim(layers[len(layers)-2+i], `"`), "sha256:")
		if got := w.run("tar", "-tf", filepath.Join(w.path("a"), "blobs", "sha256", id)); got != want {
			t.Errorf("layer %d of 2 holds:\n%s\nwant:\n%s", i+1, got, want)
		}
	}
}

// Layers that docker made, with whiteouts, opaque directories and hard links,
// show the tree that docker shows.
func TestDockerLayers(t *testing.T) {
	w := newWorld(t)
	docker := w.dockerd()
	docker("import", w.busyboxTar(), "base")
	w.write("app/Dockerfile", `FROM base
RUN mkdir -p /d/sub /e && echo 1 > /d/gone && echo 1 > /d/kept && echo 1 > /d/sub/old && echo 1 > /e/f && ln /e/f /e/same
RUN rm /d/gone && rm -r /d/sub && mkdir -m 0711 /d/sub && echo 2 > /d/sub/new && chmod 0600 /e/f
RUN rm -r /e && ln -s /d/kept /e && mkfifo /pipe && mknod /null c 1 3 && touch -d '2001-02-03 04:05:06' /d/kept
CMD ["cat", "/d/kept"]
`)
	docker("build", "--network", "host", "-q", "-t", "made", w.path("app"))
	docker("save", "-o", w.path("made.tar"), "made")
	container := docker("create", "made")
	docker("export", "-o", w.path("export.tar"), container)
	w.strake("a", "load", "-i", w.path("made.tar"))

	// The size of a directory and the count of its links are the file system's business.
	const list = `cd "$1" && for what in "-type d -exec stat -c %n|%F|%a|%u:%g|%Y" "! -type d -exec stat -c %n|%F|%a|%u:%g|%s|%Y|%h|%t:%T"
		do find bin d e null pipe etc/passwd $what {} +; done | sort`
	w.path("export", "x")
	w.run("tar", "-C", w.path("export"), "-xf", w.path("export.tar"))
	want := w.run("busybox", "sh", "-c", list, "sh", w.path("export"))
	got := w.strake("a", "run", "--rm", "made", "sh", "-c", list, "sh", "/")
	if got != want {
		t.Errorf("docker's tree:\n%s\nhere:\n%s", tail(want), tail(got))
	}
}
