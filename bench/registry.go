//go:build linux

package main

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

const (
	manifestType = "application/vnd.docker.distribution.manifest.v2+json"
	ociManifest  = "application/vnd.oci.image.manifest.v1+json"
	configType   = "application/vnd.docker.container.image.v1+json"
	layerType    = "application/vnd.docker.image.rootfs.diff.tar.gzip"
)

// A registry is a docker-registry on loopback, plain HTTP.
type registry struct {
	addr   string
	daemon *daemon
}

type descriptor struct {
	MediaType string `json:"mediaType"`
	Digest    string `json:"digest"`
	Size      int64  `json:"size"`
}

type manifest struct {
	SchemaVersion int          `json:"schemaVersion"`
	MediaType     string       `json:"mediaType,omitempty"`
	Config        descriptor   `json:"config"`
	Layers        []descriptor `json:"layers"`
}

// startRegistry serves an empty registry that stores below dir.
func startRegistry(ctx context.Context, dir string) (*registry, error) {
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0") // a free port
	if err != nil {
		return nil, err
	}
	r := &registry{addr: l.Addr().String()}
	if err := errors.Join(l.Close(), os.MkdirAll(dir, 0o700)); err != nil {
		return nil, err
	}
	config := filepath.Join(dir, "config.yml")
	text := fmt.Sprintf("version: 0.1\nlog: {level: error, accesslog: {disabled: true}}\n"+
		"storage: {filesystem: {rootdirectory: %s}}\nhttp: {addr: %s}\n", filepath.Join(dir, "data"), r.addr)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		return nil, err
	}
	r.daemon, err = startDaemon(ctx, []string{"docker-registry", "serve", config}, []string{"OTEL_TRACES_EXPORTER=none"}, func() error {
		return r.do(ctx, http.MethodGet, "/v2/", nil, nil)
	})
	return r, err
}

func (r *registry) Close() error { return r.daemon.Close() }

// ref is the reference of a repository's tag 1.
func (r *registry) ref(repo string) string { return r.addr + "/" + repo + ":1" }

func (r *registry) pid() int { return r.daemon.cmd.Process.Pid }

// wire is how many bytes the registry's process has written so far: what it sent, and what it stored of what it received.
func (r *registry) wire() int64 {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/io", r.pid()))
	if err != nil {
		return 0
	}
	_, rest, _ := strings.Cut(string(b), "wchar: ")
	n, _, _ := strings.Cut(rest, "\n")
	v, err := strconv.ParseInt(n, 10, 64)
	if err != nil {
		return 0
	}
	return v
}

// do sends a request and hands the body of a 2xx response to read.
func (r *registry) do(ctx context.Context, method, url string, body io.Reader, read func(*http.Response) error) (err error) {
	if strings.HasPrefix(url, "/") {
		url = "http://" + r.addr + url
	}
	req, err := http.NewRequestWithContext(ctx, method, url, body) // #nosec G704 -- the registry started here
	if err != nil {
		return err
	}
	if method == http.MethodPut {
		req.Header.Set("Content-Type", manifestType)
	}
	req.Header.Add("Accept", manifestType)
	req.Header.Add("Accept", ociManifest)
	resp, err := http.DefaultClient.Do(req) // #nosec G704 -- the same
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, resp.Body.Close()) }()
	if resp.StatusCode/100 != 2 {
		return fmt.Errorf("%s %s: %s", method, url, resp.Status)
	}
	if read == nil {
		return nil
	}
	return read(resp)
}

func (r *registry) get(ctx context.Context, url string, limit int64) (b []byte, err error) {
	err = r.do(ctx, http.MethodGet, url, nil, func(resp *http.Response) error {
		b, err = io.ReadAll(io.LimitReader(resp.Body, limit))
		return err
	})
	return b, err
}

func (r *registry) putBlob(ctx context.Context, repo, digest string, body io.Reader) error {
	var to string
	err := r.do(ctx, http.MethodPost, "/v2/"+repo+"/blobs/uploads/", nil, func(resp *http.Response) error {
		to = resp.Header.Get("Location")
		return nil
	})
	if err != nil {
		return err
	}
	sep := "?"
	if strings.Contains(to, "?") {
		sep = "&"
	}
	return r.do(ctx, http.MethodPut, to+sep+"digest="+digest, body, nil)
}

// uploadInputs puts the base image into the registry as base:1 and, where it was made, the big image as big:1 and that of its
// second layer as small:1.
func uploadInputs(ctx context.Context, r *registry, in *inputs) error {
	base := []inputLayer{in.Base}
	err := r.upload(ctx, baseRepo, imageConfig(base), base)
	if len(in.Layers) > 0 {
		err = errors.Join(err, r.upload(ctx, bigRepo, in.Config, in.Layers), r.upload(ctx, smallRepo, in.Small, in.Layers[1:]))
	}
	return err
}

// upload puts an image into the registry as repo:1.
func (r *registry) upload(ctx context.Context, repo string, config []byte, layers []inputLayer) error {
	m := manifest{SchemaVersion: 2, MediaType: manifestType}
	m.Config = descriptor{MediaType: configType, Digest: digestOf(config), Size: int64(len(config))}
	if err := r.putBlob(ctx, repo, m.Config.Digest, bytes.NewReader(config)); err != nil {
		return err
	}
	for _, l := range layers {
		f, err := os.Open(l.Path)
		if err != nil {
			return err
		}
		err = r.putBlob(ctx, repo, l.Digest, f)
		if err := errors.Join(err, f.Close()); err != nil && !errors.Is(err, os.ErrClosed) {
			return err
		}
		m.Layers = append(m.Layers, descriptor{MediaType: layerType, Digest: l.Digest, Size: l.Size})
	}
	b, err := json.Marshal(m)
	if err != nil {
		return err
	}
	return r.do(ctx, http.MethodPut, "/v2/"+repo+"/manifests/1", bytes.NewReader(b), nil)
}

// verify checks that repo:1 is the image id; whole reads its layers too and compares them with the config's diffIDs.
func (r *registry) verify(ctx context.Context, repo, id string, whole bool) error {
	b, err := r.get(ctx, "/v2/"+repo+"/manifests/1", smallFile)
	if err != nil {
		return err
	}
	var m manifest
	if err := json.Unmarshal(b, &m); err != nil {
		return fmt.Errorf("manifest: %w", err)
	}
	if m.Config.Digest != id {
		return fmt.Errorf("the pushed config is %s, the image %s", m.Config.Digest, id)
	}
	if !whole {
		return nil
	}
	b, err = r.get(ctx, "/v2/"+repo+"/blobs/"+id, smallFile)
	if err != nil {
		return err
	}
	var config struct {
		RootFS struct {
			DiffIDs []string `json:"diff_ids"`
		} `json:"rootfs"`
	}
	if err := json.Unmarshal(b, &config); err != nil {
		return fmt.Errorf("config: %w", err)
	}
	if len(config.RootFS.DiffIDs) != len(m.Layers) {
		return fmt.Errorf("%d layers for %d diffIDs", len(m.Layers), len(config.RootFS.DiffIDs))
	}
	for i, l := range m.Layers {
		got := sha256.New()
		err := r.do(ctx, http.MethodGet, "/v2/"+repo+"/blobs/"+l.Digest, nil, func(resp *http.Response) error {
			z, err := gzip.NewReader(resp.Body)
			if err != nil {
				return err
			}
			_, err = io.Copy(got, z) // #nosec G110 -- pushed a moment ago, hashed and dropped
			return err
		})
		if err != nil {
			return fmt.Errorf("layer %s: %w", l.Digest, err)
		}
		if hexDigest(got) != config.RootFS.DiffIDs[i] {
			return fmt.Errorf("layer %s is %s, not %s", l.Digest, hexDigest(got), config.RootFS.DiffIDs[i])
		}
	}
	return nil
}
