package main_test

import (
	"bytes"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestManySteps: 500 steps, in two stages of which the second reads the first, need no more open files than a shell has.
func TestManySteps(t *testing.T) {
	w := newWorld(t)
	w.busybox("many")
	var file strings.Builder
	for _, stage := range []string{"a", "b"} {
		fmt.Fprintf(&file, "FROM busybox AS %s\n", stage)
		for i := range 250 {
			fmt.Fprintf(&file, "RUN echo %s%d > /%s%d\n", stage, i, stage, i)
		}
	}
	file.WriteString("COPY --from=a /a0 /a249 /\n")
	w.write("many-steps/Dockerfile", file.String())
	build := w.command(t.Context(), "many", "build", "-q", "-t", "many", "many-steps")
	limited := exec.CommandContext(t.Context(), "sh", append([]string{"-c", `ulimit -n 1024 && exec "$@"`, "sh", filepath.Join(bin, "strake")}, build.Args[1:]...)...)
	limited.Env, limited.Dir = build.Env, build.Dir
	var out bytes.Buffer
	limited.Stdout, limited.Stderr = &out, &out
	if err := limited.Run(); err != nil {
		t.Fatalf("%v\n%s", err, tail(out.String()))
	}
	if got := w.strake("many", "run", "--rm", "many", "cat", "/a0", "/a249", "/b0", "/b249"); got != "a0\na249\nb0\nb249" {
		t.Errorf("the image has %q", got)
	}
	w.clean("many")
}
