package main_test

import (
	"bytes"
	"errors"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestManifestAsDocker runs docker's client and strake through the same
// commands, each with its own configuration: every answer is the same, and so
// are the files that they keep.
func TestManifestAsDocker(t *testing.T) {
	w := newWorld(t)
	w.need("docker", "diff")
	r := w.dockerRegistry()
	for _, arch := range []string{"amd64", "arm64"} {
		w.strake("store", "import", "--platform", "linux/"+arch, "-m", arch, w.busyboxTar(), r+"/t/"+arch+":1")
		w.strake("store", "push", "-q", r+"/t/"+arch+":1")
	}
	run := func(program, config string, args []string) (string, int) {
		cmd := exec.CommandContext(t.Context(), program, append([]string{"--config", w.path(config, "x", "..")}, args...)...)
		var stdout, stderr bytes.Buffer
		cmd.Stdout, cmd.Stderr = &stdout, &stderr
		if err := cmd.Run(); err != nil && !errors.As(err, new(*exec.ExitError)) {
			t.Fatal(err)
		}
		return stdout.String() + stderr.String(), cmd.ProcessState.ExitCode()
	}
	for _, line := range []string{
		"inspect --insecure R/t/amd64:1",
		"inspect --insecure -v R/t/amd64:1",
		"create --insecure R/t/all:1 R/t/amd64:1 R/t/arm64:1",
		"create --insecure R/t/all:1 R/t/amd64:1 R/t/arm64:1",
		"create --insecure -a R/t/all:1 R/t/amd64:1 R/t/arm64:1",
		"annotate --arch arm64 --variant v8 --os-features a,b R/t/all:1 R/t/arm64:1",
		"annotate --arch foo R/t/all:1 R/t/arm64:1",
		"annotate --arch arm R/t/all:1 R/t/arm64:2",
		"annotate --arch arm BAD R/t/arm64:2",
		"inspect R/t/all:1", "inspect -v R/t/all:1",
		"inspect R/t/all:1 R/t/arm64:1", "inspect -v R/t/all:1 R/t/arm64:1", "inspect -v R/t/all:1 R/t/arm64:3",
		"FILES",
		"push --insecure R/t/all:1",
		"push --insecure -p R/t/all:1", "push --insecure -p R/t/all:1",
		"inspect --insecure R/t/all:1", "inspect --insecure -v R/t/all:1",
		"inspect --insecure R/t/nosuch:1", "inspect --insecure BAD",
		"create --insecure R/t/other:1 R/t/all:1",
		"create --insecure other.example/list:1 R/t/amd64:1", "push --insecure other.example/list:1",
		"rm other.example/list:1 other.example/list:1 BAD",
	} {
		if line == "FILES" {
			w.run("diff", "-r", w.path("docker", "manifests"), w.path("ours", "manifests"))
			continue
		}
		args := append([]string{"manifest"}, strings.Fields(strings.ReplaceAll(line, "R/", r+"/"))...)
		want, wantCode := run("docker", "docker", args)
		got, gotCode := run(filepath.Join(bin, "strake"), "ours", args)
		if got != want || gotCode != wantCode {
			t.Errorf("manifest %s: exit %d, docker %d\n%s\ndocker:\n%s", line, gotCode, wantCode, got, want)
		}
	}
}
