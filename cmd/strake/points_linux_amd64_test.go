package main_test

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"strake/internal/usertest"
)

// faultCase is a command that is interrupted at each of its points.
type faultCase struct {
	name     string
	template string   // the store that it begins with, "" is none
	args     []string // the command
	result   string   // the image that is there once it succeeded
	gone     string   // the image that is not
}

// faultPoints are the numbers of the calls of one command, of total, that are
// tried: all of them in a soak, else a few.
func faultPoints(t *testing.T, total int) []int {
	step := 1
	if os.Getenv("STRAKE_SOAK") == "" {
		step = max(total/5, 1)
	}
	var points []int
	for at := 1 + (step-1)*(len(t.Name())%3)/2; at <= total; at += step {
		points = append(points, at)
	}
	return points
}

// Every call of a command that changes a file is in turn the last before a kill
// -9, the one that fails with EIO, the first on a full disk. After each the store
// is undamaged, no image is lost, and the same command succeeds.
func TestKillPoints(t *testing.T) {
	if usertest.IDs(t) > 1 {
		usertest.NeedRoot(t, "to filter the calls of newuidmap")
	}
	w := newWorld(t)
	w.busybox("src")
	w.write("app/Dockerfile", "FROM busybox\nCOPY a /a\nRUN cat /a > /b\n")
	w.write("app/a", strings.Repeat("a", 300000))
	ref := w.hub() + "/team/app:1"
	w.strake("src", "build", "-t", ref, "app")
	w.strake("src", "push", ref)
	w.strake("src", "save", "-o", w.path("app.tar"), ref)
	w.strake("kept", "import", "--message", "kept", w.busyboxTar(), "busybox")
	w.strake("kept", "tag", "busybox", "kept:1")
	w.run("cp", "-a", w.path("kept"), w.path("full"))
	w.strake("full", "load", "-i", w.path("app.tar"))
	w.run("cp", "-a", w.path("full"), w.path("dangling"))
	w.strake("dangling", "build", "-t", "moved:1", "app")
	w.write("app/a", "moved")
	w.strake("dangling", "build", "-t", "moved:1", "app")
	cases := []faultCase{
		{"pull", "kept", []string{"pull", ref}, ref, ""},
		{"first", "", []string{"pull", ref}, ref, ""},
		{"load", "kept", []string{"load", "-i", w.path("app.tar")}, ref, ""},
		{"build", "kept", []string{"build", "-t", "built:1", "app"}, "built:1", ""},
		{"import", "kept", []string{"import", w.path("busybox.tar"), "imported:1"}, "imported:1", ""},
		{"tag", "kept", []string{"tag", "busybox", "tagged:1"}, "tagged:1", ""},
		{"save", "full", []string{"save", "-o", w.path("saved.tar"), ref}, ref, ""},
		{"rmi", "full", []string{"rmi", ref}, "", ref},
		{"prune", "dangling", []string{"image", "prune", "-f"}, "moved:1", ""},
		{"builder", "dangling", []string{"builder", "prune", "-a", "-f"}, "moved:1", ""},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			for _, mode := range []injectMode{injectKill, injectEIO, injectFull} {
				t.Run(mode.String(), func(t *testing.T) {
					t.Parallel()
					w := &world{T: t, dir: w.dir}
					w.faultsAt(c, mode)
				})
			}
		})
	}
}

// faultsAt interrupts a command at all its points, in one way.
func (w *world) faultsAt(c faultCase, mode injectMode) {
	store := fmt.Sprintf("%s-%s", c.name, mode)
	fresh := func() {
		w.run("rm", "-rf", w.path(store))
		if c.template != "" {
			w.run("cp", "-a", w.path(c.template), w.path(store))
		}
	}
	fresh()
	calls, out, err := w.inject(store, 0, mode, c.args...)
	if err != nil || len(calls) == 0 {
		w.Fatalf("without a fault: %d calls: %v\n%s", len(calls), err, out)
	}
	points := faultPoints(w.T, len(calls))
	w.Logf("%s: %d points of %d", store, len(points), len(calls))
	for _, at := range points {
		fresh()
		calls, out, err := w.inject(store, at, mode, c.args...)
		what := fmt.Sprintf("%s at call %d", mode, at)
		if at <= len(calls) {
			what += ", " + calls[at-1]
		}
		if err == nil {
			w.done(c, store, what)
		} else if mode != injectKill {
			w.oneLine(what, out)
		}
		if report, err := w.try(store, "store", "check"); err != nil {
			w.Errorf("%s: the store is damaged: %v\n%s", what, err, report)
		}
		if c.template != "" {
			if _, err := w.try(store, "image", "inspect", "kept:1"); err != nil {
				w.Errorf("%s: an image is lost: %v", what, err)
			}
		}
		if _, err := w.try(store, c.args...); err != nil && !w.removedAlready(c, store) {
			w.Errorf("%s: the same command again: %v", what, err)
		}
		w.done(c, store, what)
		report, err := w.try(store, "store", "check", "--repair")
		if err != nil || strings.Contains(report, "Left:") {
			w.Errorf("%s: at the end: %v\n%s", what, err, report)
		}
	}
}

// removedAlready reports whether a removal that was interrupted had succeeded.
func (w *world) removedAlready(c faultCase, store string) bool {
	if c.gone == "" {
		return false
	}
	_, err := w.try(store, "image", "inspect", c.gone)
	return err != nil
}

// done fails the test unless what the command does is done.
func (w *world) done(c faultCase, store, what string) {
	w.Helper()
	if c.result != "" {
		if _, err := w.try(store, "image", "inspect", c.result); err != nil {
			w.Errorf("%s: the command succeeded, and %s is not there: %v", what, c.result, err)
		}
	}
	if c.gone != "" && !w.removedAlready(c, store) {
		w.Errorf("%s: the command succeeded, and %s is still there", what, c.gone)
	}
}

// oneLine fails the test unless a command said why it failed, and no more than
// that.
func (w *world) oneLine(what, out string) {
	w.Helper()
	out = strings.TrimSpace(out)
	last := out[strings.LastIndexByte(out, '\n')+1:]
	if !strings.Contains(last, "no space left") && !strings.Contains(last, "not enough space") && !strings.Contains(last, "input/output error") &&
		!strings.Contains(last, "disk I/O error") && !strings.Contains(last, "database or disk is full") && !strings.Contains(last, "unable to open") {
		w.Errorf("%s: does not say why it failed:\n%s", what, out)
	}
	if strings.Contains(out, "panic") || strings.Contains(out, "goroutine ") {
		w.Errorf("%s: %s", what, out)
	}
}
