package main

import (
	"archive/tar"
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// start runs the command and returns its address, and what stops it and checks
// that it ends well.
func start(t *testing.T, args ...string) (host string, stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	r, w := io.Pipe()
	code := make(chan int, 1)
	go func() {
		code <- run(ctx, append([]string{"serve", "--addr", "127.0.0.1:0"}, args...), streams{nil, w, io.Discard})
	}()
	line, err := bufio.NewReader(r).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	_, host, ok := strings.Cut(strings.TrimSpace(line), "http://")
	if !ok {
		t.Fatalf("printed %q", line)
	}
	return host, func() {
		t.Helper()
		cancel()
		if got := <-code; got != 0 {
			t.Errorf("exit code %d", got)
		}
	}
}

func TestUsage(t *testing.T) {
	for args, want := range map[string]struct {
		code int
		text string
	}{
		"":                           {0, "Usage:"},
		"--help":                     {0, "Usage:"},
		"serve --help":               {0, "Usage:"},
		"serve":                      {2, "--data is required"},
		"serve --dta x":              {2, "not defined: --dta"},
		"serve --data":               {2, "flag needs an argument: --data"},
		"serve --data x y":           {2, "accepts no arguments"},
		"push":                       {2, "unknown command: push"},
		"serve --data /dev/null/x":   {1, "strake-hub: "},
		"serve --data=/tmp --addr=x": {1, "listen"},
	} {
		args = strings.Replace(args, "/tmp", t.TempDir(), 1)
		var out, errs bytes.Buffer
		code := run(t.Context(), strings.Fields(args), streams{nil, &out, &errs})
		if code != want.code || !strings.Contains(out.String()+errs.String(), want.text) {
			t.Errorf("%q: code %d, printed %s%s", args, code, &out, &errs)
		}
	}
}

func TestRestart(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	host, stop := start(t, "--data", dir)
	const dgst = "sha256:2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881" // of "x"
	post(t, "http://"+host+"/v2/a/blobs/uploads/?digest="+dgst, http.StatusCreated)
	stop()
	host, stop = start(t, "--data", dir, "--read-only")
	defer stop()
	post(t, "http://"+host+"/v2/a/blobs/uploads/?digest="+dgst, http.StatusMethodNotAllowed)
	resp, err := http.Get("http://" + host + "/v2/a/blobs/" + dgst)
	if err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(resp.Body)
	if err := errors.Join(err, resp.Body.Close()); err != nil || string(b) != "x" {
		t.Errorf("blob after restart: %q, %v", b, err)
	}
}

func post(t *testing.T, url string, status int) {
	t.Helper()
	resp, err := http.Post(url, "application/octet-stream", strings.NewReader("x"))
	if err != nil {
		t.Fatal(err)
	}
	if err := resp.Body.Close(); err != nil || resp.StatusCode != status {
		t.Errorf("POST: %s, %v, want %d", resp.Status, err, status)
	}
}

// TestSkopeo copies an image in and out with skopeo, and with podman where that
// works.
func TestSkopeo(t *testing.T) {
	skopeo, err := exec.LookPath("skopeo")
	if err != nil {
		t.Skip("needs skopeo")
	}
	host, stop := start(t, "--data", filepath.Join(t.TempDir(), "data"))
	defer stop()
	dir := t.TempDir()
	writeImage(t, filepath.Join(dir, "in.tar"))
	tool := func(args ...string) string {
		t.Helper()
		out, err := exec.CommandContext(t.Context(), skopeo, append([]string{"--insecure-policy"}, args...)...).CombinedOutput()
		if err != nil {
			t.Fatalf("skopeo %v: %v: %s", args, err, out)
		}
		return string(out)
	}
	for i, format := range []string{"v2s2", "oci"} {
		ref := fmt.Sprintf("docker://%s/team/app:v%d", host, i)
		tool("copy", "--format", format, "--dest-tls-verify=false", "docker-archive:"+filepath.Join(dir, "in.tar"), ref)
		tool("copy", "--src-tls-verify=false", ref, "oci:"+filepath.Join(dir, format)+":x")
		if out := tool("inspect", "--tls-verify=false", ref); !strings.Contains(out, `"Architecture": "amd64"`) {
			t.Errorf("inspect: %s", out)
		}
	}
	if out := tool("list-tags", "--tls-verify=false", "docker://"+host+"/team/app"); !strings.Contains(out, `"v0",`) {
		t.Errorf("tags: %s", out)
	}
	tool("delete", "--tls-verify=false", "docker://"+host+"/team/app:v0")
}

// writeImage writes a docker archive of one empty layer.
func writeImage(t *testing.T, path string) {
	t.Helper()
	const layer = "sha256:5f70bf18a086007016e948b04aed3b82103a36bea41755b6cddfaf10ace3c6ef" // of 1024 zeros
	files := [][2]string{
		{"l.tar", string(make([]byte, 1024))},
		{"c.json", `{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":["` + layer + `"]}}`},
		{"manifest.json", `[{"Config":"c.json","RepoTags":["x:y"],"Layers":["l.tar"]}]`},
	}
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, f := range files {
		err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: f[0], Size: int64(len(f[1])), Mode: 0o644})
		if err == nil {
			_, err = io.WriteString(w, f[1])
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(w.Close(), os.WriteFile(path, b.Bytes(), 0o600)); err != nil {
		t.Fatal(err)
	}
}
