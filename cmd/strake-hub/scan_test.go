package main

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"strake/internal/hubdb"
	"strake/internal/scandb"
)

// send makes a request whose answer has to be 201 or 202.
func send(t *testing.T, method, url, mediaType string, body []byte) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", mediaType)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	text, _ := io.ReadAll(resp.Body)
	if err := resp.Body.Close(); err != nil || resp.StatusCode != http.StatusCreated && resp.StatusCode != http.StatusAccepted {
		t.Fatalf("%s %s: %s %s %v", method, url, resp.Status, text, err)
	}
}

// An image is scanned once it is pushed, and matched again when vulnerability data is read.
func TestScan(t *testing.T) {
	dir := t.TempDir()
	host, stop := start(t, "--data", dir)
	defer stop()
	at := "http://" + host + "/v2/team/app/"
	blob := func(mediaType string, b []byte) ocispec.Descriptor {
		desc := ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(b), Size: int64(len(b))}
		send(t, http.MethodPost, at+"blobs/uploads/?digest="+desc.Digest.String(), "application/octet-stream", b)
		return desc
	}
	var layer bytes.Buffer
	w := tar.NewWriter(&layer)
	for name, text := range map[string]string{"app/node_modules/lodash/package.json": `{"name": "lodash", "version": "4.17.20"}`, "root/.netrc": "machine x login y password z\n"} {
		if err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(text))}); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, text); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	m := ocispec.Manifest{MediaType: ocispec.MediaTypeImageManifest, Layers: []ocispec.Descriptor{blob(ocispec.MediaTypeImageLayer, layer.Bytes())}}
	m.SchemaVersion = 2
	m.Config = blob(ocispec.MediaTypeImageConfig, fmt.Appendf(nil, `{"os": "linux", "architecture": "amd64", "rootfs": {"type": "layers", "diff_ids": [%q]}}`, m.Layers[0].Digest))
	manifest, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	send(t, http.MethodPut, at+"manifests/1", m.MediaType, manifest)
	db, err := hubdb.Open(t.Context(), filepath.Join(dir, "hub.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	await := func(what string, ok func(r *scandb.Report, err error) bool) {
		t.Helper()
		for deadline := time.Now().Add(time.Minute); ; time.Sleep(20 * time.Millisecond) {
			r, err := scandb.Find(t.Context(), db, digest.FromBytes(manifest))
			if ok(&r, err) {
				return
			}
			if time.Now().After(deadline) {
				t.Fatalf("%s: %+v %v", what, r, err)
			}
		}
	}
	await("packages and secrets", func(r *scandb.Report, err error) bool {
		return err == nil && len(r.Packages) == 1 && len(r.Secrets) == 1 && r.Secrets[0].Rule == "netrc" && r.Matched.IsZero()
	})
	record := filepath.Join(dir, "lodash.json")
	if err := os.WriteFile(record, []byte(`{"id": "GHSA-35jh-r3h4-6jhm", "modified": "2024-04-17T18:39:19Z", "aliases": ["CVE-2021-23337"],
		"affected": [{"package": {"ecosystem": "npm", "name": "lodash"}, "ranges": [{"type": "SEMVER", "events": [{"introduced": "0"}, {"fixed": "4.17.21"}]}]}]}`), 0o600); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if code := run(t.Context(), []string{"vulnerabilities", "--data", dir, "--from", record}, streams{nil, &out, &out}); code != 0 || !strings.Contains(out.String(), "Read 1 records of npm, 1 of them new") {
		t.Fatalf("%d %s", code, &out)
	}
	await("vulnerabilities", func(r *scandb.Report, err error) bool {
		return err == nil && len(r.Findings) == 1 && r.Findings[0].ID == "CVE-2021-23337" && r.Findings[0].Fixed == "4.17.21"
	})
	send(t, http.MethodDelete, at+"manifests/"+digest.FromBytes(manifest).String(), "", nil)
	await("nothing", func(_ *scandb.Report, err error) bool { return err != nil })
}
