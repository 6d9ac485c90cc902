package main_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"strake/internal/usertest"
)

// screen is a terminal with a shell in it, whose prompt is "ready> ".
type screen struct {
	*world
	tmux func(args ...string) string
}

func (w *world) screen(width, height string) *screen {
	w.Helper()
	s := &screen{w, w.tmux()}
	s.tmux("new-session", "-d", "-x", width, "-y", height, "env", "PS1=ready> ", "TERM=screen-256color", "sh")
	return s
}

// types sends a line.
func (s *screen) types(line string) {
	s.Helper()
	s.tmux("send-keys", "-l", line)
	s.tmux("send-keys", "Enter")
}

// shows waits until the screen has all of what.
func (s *screen) shows(what ...string) {
	s.Helper()
	var text string
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(30 * time.Millisecond) {
		text = s.tmux("capture-pane", "-p")
		if !slices.ContainsFunc(what, func(part string) bool { return !strings.Contains(text, part) }) {
			return
		}
	}
	s.Fatalf("the screen does not show %q:\n%s", what, text)
}

// restored fails the test where the terminal is not as it was.
func (s *screen) restored() {
	s.Helper()
	s.types("clear; stty -a | tr ';' '\\n' | grep -ow -e icanon -e -echo -e isig -e opost; echo en''d")
	s.shows("opost\nisig\nicanon\nend")
}

// A shell in a step that failed: its files, mounts, user, directory, environment
// and secrets as the command had them, alone on the terminal, and nothing of it
// afterwards but the step's failure.
func TestShellOnError(t *testing.T) {
	usertest.NeedIDs(t)
	w := newWorld(t)
	w.busybox("a")
	w.write("app/Dockerfile", `FROM busybox AS other
RUN sleep 100
FROM busybox
RUN mkdir -m 777 /work
WORKDIR /work
ENV SEEN=yes
USER 7:8
RUN --mount=type=secret,id=key,env=KEY --mount=type=secret,id=key,mode=0444 --mount=type=cache,target=/cache,mode=0777 --mount=type=tmpfs,target=/mem \
    --network=none echo left > /cache/left; echo memory > /mem/made; echo partial > /work/made; false
COPY --from=other / /
`)
	w.write("key", "hunter22-value\n")
	s := w.screen("250", "40")
	build := "clear; " + w.onStore("a") + " build --secret id=key,src=" + w.path("key") + " --shell-on-error"
	s.types(build + " -t app " + w.path("app") + "; echo status $?")
	s.shows("RUN --mount=type=secret", "did not complete successfully: exit code: 1", "This shell is in the step as it failed", "/work $")
	s.types("clear; id; pwd; cat /work/made /cache/left /mem/made; stat -c %a /mem; mount | grep -c 'on /mem '; cat /run/secrets/key; echo $SEEN $KEY; tty; ls /sys/class/net | wc -l")
	s.shows("uid=7 gid=8", "/work", "partial", "left", "memory\n1777\n1\n", "hunter22-value", "yes hunter22-value", "/dev/", "\n1\n")
	s.types("clear; echo shell > /work/shell; echo sle''ep; sleep 100")
	s.shows("sleep")
	s.tmux("send-keys", "C-c") // ends what runs in the shell, not the build
	s.types("echo ag''ain")
	s.shows("again")
	s.types("clear; exit 3")
	s.shows("CANCELED [other 2/2] RUN sleep 100", "ERROR: failed to build: failed to solve: process", "exit code: 1", "status 1")

	// Nothing of it stays; the terminal is as before.
	if screen := s.tmux("capture-pane", "-p"); strings.Contains(screen, "hunter22") {
		t.Errorf("the secret is on the screen:\n%s", screen)
	}
	s.restored()
	logs := w.strake("a", "build", "history", "logs")
	if out := w.strake("a", "build", "history", "inspect", "--format", "json") + logs; strings.Contains(out, "hunter22") || strings.Contains(out, "again") {
		t.Errorf("the history has what the shell showed:\n%s", out)
	}
	w.write("app/Dockerfile", "FROM busybox\nRUN mkdir -m 777 /work\nWORKDIR /work\nUSER 7:8\nRUN test ! -e /work/shell && test ! -e /work/made\n")
	w.strake("a", "build", "-q", w.path("app"))

	// Another shell; one that is not there.
	w.write("app/Dockerfile", "FROM busybox\nSHELL [\"/bin/busybox\", \"sh\", \"-c\"]\nRUN false\n")
	s.types(build + "=busybox\\ ash --progress plain " + w.path("app") + "; echo status $?")
	s.shows("This shell", "/ #")
	s.types("clear; echo shell $0")
	s.shows("shell ash")
	s.types("clear; exit")
	s.shows("#4 ERROR: process", "status 1")
	s.types(build + "=/nowhere --progress plain " + w.path("app") + "; echo status $?")
	s.shows("no shell: ", "status 1")

	// Killed, the build takes the shell with it.
	s.types(build + "=sh -q " + w.path("app") + "; echo status $?")
	s.shows("This shell", "/ #")
	w.run("sh", "-c", "read pid rest < /proc/$1/task/$1/children; kill -TERM $pid", "sh", s.tmux("display-message", "-p", "#{pane_pid}"))
	s.shows("status 143")
	s.restored()
	w.clean("a")

	if out, err := w.try("a", "build", "--shell-on-error", w.path("app")); err == nil || !strings.Contains(out, "--shell-on-error needs a terminal") {
		t.Errorf("without a terminal: %v\n%s", err, out)
	}
}
