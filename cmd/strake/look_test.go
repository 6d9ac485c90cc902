package main_test

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"strake/internal/usertest"
)

// debianImage is Debian's minbase with a layer that changes and deletes, and its
// tree as tar and a shell make it: "image" in the store "a", and the directory "root".
func (w *world) debianImage() {
	w.Helper()
	usertest.NeedRoot(w, "to make device nodes")
	w.strake("a", "import", w.debianTar(), "debian:bookworm")
	w.write("app/Dockerfile", `FROM debian:bookworm
RUN rm -rf /usr/share/doc/apt /etc/issue && rm -r /opt && mkdir -m 0711 /opt && ln -s ../etc/passwd /opt/users && \
    echo changed > /etc/motd && touch -d @1 /etc/motd && ln /etc/motd /opt/same && chmod 04755 /bin/ls && dpkg -P --force-all tzdata >/dev/null 2>&1
`)
	w.strake("a", "build", "--network", "host", "-q", "-t", "image", "app")
	w.path("root", "x")
	w.strake("a", "save", "--format", "docker-archive", "-o", w.path("image.tar"), "image")
	for _, layer := range strings.Split(strings.Trim(w.layers("a", "image"), "[]"), ",") {
		hex := strings.TrimPrefix(strings.Trim(layer, `"`), "sha256:")
		w.run("sh", "-c", `cd "$1" && tar --list -f "$2" | grep -E '(^|/)\.wh\.' | while read -r f; do
			case $f in *.wh..wh..opq) find "${f%/*}" -mindepth 1 -delete;; *) rm -rf "$(dirname "$f")/$(basename "$f" | sed 's/^\.wh\.//')";; esac
			done; tar --xattrs -xpf "$2" --exclude='.wh.*'`, "sh", w.path("root"), filepath.Join(w.path("a"), "blobs", "sha256", hex))
	}
}

// What is read of an image without a container is what tar extracts.
func TestLookInsideDebian(t *testing.T) {
	w := newWorld(t)
	w.debianImage()
	root := w.path("root")

	want := w.run("sh", "-c", `cd "$1" && find . -mindepth 1 | sed 's,^\.,,' | LC_ALL=C sort`, "sh", root)
	got := strings.Split(w.strake("a", "image", "ls-files", "-R", "image"), "\n")
	slices.Sort(got)
	if strings.Join(got, "\n") != want {
		t.Errorf("ls-files -R differs from find:\n%s", w.diff(want, strings.Join(got, "\n")))
	}
	const long = `cd "$1" && TZ=UTC stat -c '%A %h %u %g %s %y %n' etc/motd etc/passwd usr/bin/ls usr/bin/passwd | sed -E 's/:[0-9]{2}\.[0-9]+ \+0000//'`
	var lines []string
	for _, name := range []string{"etc/motd", "etc/passwd", "usr/bin/ls", "usr/bin/passwd"} {
		lines = append(lines, w.strake("a", "image", "ls-files", "-l", "image", name))
	}
	if want := w.run("sh", "-c", long, "sh", root); strings.Join(lines, "\n") != want {
		t.Errorf("ls-files -l:\n%s\nstat:\n%s", strings.Join(lines, "\n"), want)
	}
	for _, name := range []string{"/etc/os-release", "/opt/users", "/opt/same", "/bin/bash", "/var/lib/dpkg/status"} {
		target := filepath.Join(root, w.run("chroot", root, "readlink", "-f", name))
		w.run("sh", "-c", `"$1" image cat image "$2" | cmp - "$3"`, "sh", w.onStore("a"), name, target)
	}
	w.strake("a", "image", "cp", "-a", "image:/", w.path("copied"))
	const list = `cd "$1" && find . -mindepth 1 -printf '%p %y %m %u %g %n %l %T@ ' \( -type f -printf '%s' -o -printf '' \) -printf '\n' | sed -E 's/ d ([0-9]+) ([^ ]+) ([^ ]+) [0-9]+/ d \1 \2 \3/' | LC_ALL=C sort`
	if want, got := w.run("sh", "-c", list, "sh", root), w.run("sh", "-c", list, "sh", w.path("copied")); got != want {
		t.Errorf("cp -a differs from tar -x:\n%s", w.diff(want, got))
	}
	w.run("diff", "-r", "--no-dereference", filepath.Join(root, "usr"), filepath.Join(w.path("copied"), "usr"))
	w.run("sh", "-c", `"$1" image cp image:/etc - | tar -C "$2" -df -`, "sh", w.onStore("a"), root)
}

// onStore makes a script that is strake on the named store.
func (w *world) onStore(store string) string {
	w.Helper()
	return w.write("strake-"+store, "#!/bin/sh\nSTRAKE_ROOT="+w.path(store)+" exec "+filepath.Join(bin, "strake")+" \"$@\"\n")
}

// diff is what diff says of two texts.
func (w *world) diff(a, b string) string {
	w.Helper()
	out, _ := exec.Command("diff", w.write("diff-a", a+"\n"), w.write("diff-b", b+"\n")).Output() // fails when they differ
	return tail(string(out))
}

// The packages of an image are those that its own dpkg lists, and diff tells which
// are gone.
func TestPackagesAsDpkg(t *testing.T) {
	w := newWorld(t)
	w.debianImage()
	w.write("empty/Dockerfile", "FROM scratch\nCOPY Dockerfile /\n")
	w.strake("a", "build", "-q", "-t", "empty", "empty")
	var diff struct {
		Packages []struct{ Kind, Name, New string }
	}
	if err := json.Unmarshal([]byte(w.strake("a", "image", "diff", "--packages", "--format", "json", "empty", "image")), &diff); err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, p := range diff.Packages {
		got = append(got, p.Kind+" "+p.Name+" "+p.New)
	}
	want := strings.Split(w.run("chroot", w.path("root"), "dpkg-query", "-W", "-f", `A ${Package}:${Architecture} ${Version} ${db:Status-Status}\n`), "\n")
	want = slices.DeleteFunc(want, func(line string) bool { return !strings.HasSuffix(line, " installed") })
	for i := range want {
		want[i] = strings.TrimSuffix(want[i], " installed")
	}
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("packages differ from dpkg's:\n%s", w.diff(strings.Join(want, "\n"), strings.Join(got, "\n")))
	}
	if out := w.strake("a", "image", "diff", "--packages", "debian:bookworm", "image"); !strings.HasPrefix(out, "Packages:\nD tzdata:all ") || strings.Count(out, "\n") != 1 {
		t.Errorf("diff: %s", out)
	}
}

// tmux returns a tmux command for a server of its own.
func (w *world) tmux() func(args ...string) string {
	w.Helper()
	w.need("tmux")
	dir, err := os.MkdirTemp("", "t") // a socket's path has to be short
	if err != nil {
		w.Fatal(err)
	}
	base := []string{"-S", dir + "/s", "-f", "/dev/null"}
	w.Cleanup(func() {
		_ = exec.Command("tmux", append(base, "kill-server")...).Run()
		os.RemoveAll(dir)
	})
	return func(args ...string) string {
		w.Helper()
		return w.run("tmux", append(slices.Clone(base), args...)...)
	}
}

// The browser in a real terminal: it shows, follows keys and resizes, and leaves
// the terminal as it was, however it ends.
func TestBrowse(t *testing.T) {
	w := newWorld(t)
	w.busybox("a")
	w.write("app/Dockerfile", "FROM busybox\nRUN echo 2 > /new && rm /etc/group && printf x > \"$(printf 'odd\\033[31m')\"\nWORKDIR /last\n")
	w.strake("a", "build", "-q", "-t", "app", "app")
	s := w.screen("100", "24")
	tmux, shows := s.tmux, s.shows
	start := func() {
		t.Helper()
		tmux("send-keys", "clear; "+w.onStore("a")+" layers -i app; echo status $?", "Enter")
		shows("3 layers, ", "CREATED BY", "q quit", "A   1.98MB  + bin/")
	}
	restored := func(status string) {
		t.Helper()
		shows("status "+status, "ready>")
		s.restored()
	}
	start()
	tmux("send-keys", "Down")
	shows("D      41B      group", "A       2B    new", `odd\x1b[31m`, "1 deleted")
	tmux("send-keys", "Tab", "c")
	shows("+ bin/")
	tmux("send-keys", "/", "etc/pass", "Enter")
	shows("filter: etc/pass", "      passwd")
	tmux("resize-window", "-x", "60", "-y", "12")
	shows("      passwd", "tab switch")
	tmux("resize-window", "-x", "20", "-y", "5")
	shows("too small")
	tmux("resize-window", "-x", "100", "-y", "24")
	shows("3 layers, ", "filter: etc/pass")
	tmux("send-keys", "q")
	restored("0")
	start()
	tmux("send-keys", "C-c")
	restored("0")
	start()
	w.run("sh", "-c", `kill -TERM $(pgrep -f "^`+filepath.Join(bin, "strake")+` layers -i app$")`)
	restored("143")
}
