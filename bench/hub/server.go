//go:build linux

package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// A kind is a server program.
type kind struct {
	name    string
	version []string
	// start returns the command that serves addr with its data below dir.
	start func(o options, addr, dir string) ([]string, error)
}

var kinds = []kind{
	{"strake-hub", nil, func(o options, addr, dir string) ([]string, error) {
		args := []string{o.hub, "serve", "--addr", addr, "--data", dir, "--log-level", "warn"}
		return args, nil
	}},
	{"docker-registry", []string{"docker-registry", "--version"}, func(_ options, addr, dir string) ([]string, error) {
		config := filepath.Join(dir, "config.yml")
		text := fmt.Sprintf("version: 0.1\nlog: {level: error, accesslog: {disabled: true}}\n"+
			"storage: {filesystem: {rootdirectory: %s}, cache: {blobdescriptor: inmemory}, delete: {enabled: true}}\nhttp: {addr: %s}\n", filepath.Join(dir, "data"), addr)
		return []string{"docker-registry", "serve", config}, os.WriteFile(config, []byte(text), 0o600)
	}},
	{"zot", []string{"zot", "--version"}, func(_ options, addr, dir string) ([]string, error) {
		host, port, err := net.SplitHostPort(addr)
		if err != nil {
			return nil, err
		}
		config := filepath.Join(dir, "config.json")
		text := fmt.Sprintf(`{"distSpecVersion":"1.1.1","storage":{"rootDirectory":%q},"http":{"address":%q,"port":%q},"log":{"level":"error"}}`,
			filepath.Join(dir, "data"), host, port)
		return []string{"zot", "serve", config}, os.WriteFile(config, []byte(text), 0o600)
	}},
}

// A server is a running one.
type server struct {
	name    string
	version string
	addr    string
	cmd     *exec.Cmd
	content content
}

// content is what a server was filled with.
type content struct {
	manifests []string // paths, by their tags
	byDigest  []string // the same, by their digests
	manifest  []byte   // one of them
	size      int      // of each manifest
	blobs     []string
}

const (
	blobSize = 64 << 10 // of the blobs that are read
	putSize  = 16 << 10 // of those that are written
	images   = 100
)

func startServer(ctx context.Context, k kind, o options, dir string) (*server, error) {
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0") // a free port
	if err != nil {
		return nil, err
	}
	s := &server{name: k.name, addr: l.Addr().String(), version: "of this tree"}
	if err := errors.Join(l.Close(), os.MkdirAll(dir, 0o700)); err != nil {
		return nil, err
	}
	args, err := k.start(o, s.addr, dir)
	if err != nil {
		return nil, err
	}
	if k.version != nil {
		out, err := exec.CommandContext(ctx, k.version[0], k.version[1:]...).CombinedOutput() // #nosec G204 -- of the table above
		if err != nil {
			return nil, err
		}
		s.version = strings.TrimSpace(string(out))
	}
	s.cmd = exec.CommandContext(ctx, args[0], args[1:]...) // #nosec G204 -- of the table above
	s.cmd.Env = append(os.Environ(), "OTEL_TRACES_EXPORTER=none")
	s.cmd.Stderr = os.Stderr
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := s.cmd.Start(); err != nil {
		return nil, err
	}
	for range 100 {
		if _, err = s.do(ctx, "GET", "/v2/", "", nil); err == nil {
			return s, nil
		}
		time.Sleep(50 * time.Millisecond)
	}
	return nil, errors.Join(err, s.Close())
}

// Close ends the server.
func (s *server) Close() error {
	if err := s.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	_ = s.cmd.Wait() // how it ends is no figure
	return nil
}

// do sends a request that must succeed and returns the Location of its answer.
func (s *server) do(ctx context.Context, method, path, mediaType string, body []byte) (string, error) {
	if strings.HasPrefix(path, "/") {
		path = "http://" + s.addr + path
	}
	r, err := http.NewRequestWithContext(ctx, method, path, bytes.NewReader(body)) // #nosec G704 -- the server started here
	if err != nil {
		return "", err
	}
	if mediaType != "" {
		r.Header.Set("Content-Type", mediaType)
	}
	resp, err := http.DefaultClient.Do(r) // #nosec G704 -- the same
	if err != nil {
		return "", err
	}
	text, err := io.ReadAll(resp.Body)
	if err := errors.Join(err, resp.Body.Close()); err != nil {
		return "", err
	}
	if resp.StatusCode/100 != 2 {
		return "", fmt.Errorf("%s %s: %s: %.200s", method, path, resp.Status, text)
	}
	return resp.Header.Get("Location"), nil
}

func digestOf(b []byte) string { return fmt.Sprintf("sha256:%x", sha256.Sum256(b)) }

func (s *server) push(ctx context.Context, repo string, b []byte) (string, error) {
	at, err := s.do(ctx, "POST", "/v2/"+repo+"/blobs/uploads/", "", nil)
	if err != nil {
		return "", err
	}
	_, err = s.do(ctx, "PUT", withDigest(at, digestOf(b)), "application/octet-stream", b)
	return digestOf(b), err
}

func withDigest(location, digest string) string {
	sep := "?"
	if strings.Contains(location, "?") {
		sep = "&"
	}
	return location + sep + "digest=" + digest
}

const manifestType = "application/vnd.docker.distribution.manifest.v2+json"

type descriptor struct {
	MediaType string `json:"mediaType"`
	Digest    string `json:"digest"`
	Size      int    `json:"size"`
}

// fill puts images of one layer into the repository team/app, and tags one of them often in team/tags.
func (s *server) fill(ctx context.Context, tags int) error {
	manifest := func(repo string, seed int) ([]byte, error) {
		config := fmt.Appendf(nil, `{"architecture":"amd64","os":"linux","created":"%03d","rootfs":{"type":"layers","diff_ids":[]}}`, seed)
		layer := bytes.Repeat(fmt.Appendf(nil, "%08d", seed), blobSize/8)
		c, err := s.push(ctx, repo, config)
		if err != nil {
			return nil, err
		}
		l, err := s.push(ctx, repo, layer)
		if err != nil {
			return nil, err
		}
		s.content.blobs = append(s.content.blobs, "/v2/"+repo+"/blobs/"+l)
		return json.Marshal(map[string]any{
			"schemaVersion": 2, "mediaType": manifestType,
			"config": descriptor{"application/vnd.docker.container.image.v1+json", c, len(config)},
			"layers": []descriptor{{"application/vnd.docker.image.rootfs.diff.tar.gzip", l, len(layer)}},
		})
	}
	for i := range images {
		b, err := manifest("team/app", i)
		if err != nil {
			return err
		}
		path := fmt.Sprintf("/v2/team/app/manifests/v%d", i)
		if _, err := s.do(ctx, "PUT", path, manifestType, b); err != nil {
			return err
		}
		s.content.manifests, s.content.size, s.content.manifest = append(s.content.manifests, path), len(b), b
		s.content.byDigest = append(s.content.byDigest, "/v2/team/app/manifests/"+digestOf(b))
	}
	b, err := manifest("team/tags", 0)
	for i := 0; err == nil && i < tags; i++ {
		_, err = s.do(ctx, "PUT", fmt.Sprintf("/v2/team/tags/manifests/v%05d", i), manifestType, b)
	}
	s.content.blobs = s.content.blobs[:images]
	return err
}

// cpu is the processor time that the server has used.
func (s *server) cpu() (time.Duration, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", s.cmd.Process.Pid))
	if err != nil {
		return 0, err
	}
	_, rest, _ := strings.Cut(string(b), ") ")
	fields := strings.Fields(rest)
	if len(fields) < 13 {
		return 0, fmt.Errorf("malformed stat of %s", s.name)
	}
	user, err1 := strconv.ParseInt(fields[11], 10, 64)
	system, err2 := strconv.ParseInt(fields[12], 10, 64)
	return time.Duration(user+system) * 10 * time.Millisecond, errors.Join(err1, err2)
}

// peak resets the peak of the server's resident memory, or returns it.
func (s *server) resetPeak() error {
	return os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", s.cmd.Process.Pid), []byte("5"), 0)
}

func (s *server) peak() (int64, error) {
	f, err := os.Open(fmt.Sprintf("/proc/%d/status", s.cmd.Process.Pid))
	if err != nil {
		return 0, err
	}
	defer f.Close() //nolint:errcheck // only read
	for sc := bufio.NewScanner(f); sc.Scan(); {
		var kb int64
		if _, err := fmt.Sscanf(sc.Text(), "VmHWM: %d kB", &kb); err == nil {
			return kb << 10, nil
		}
	}
	return 0, fmt.Errorf("no VmHWM of %s", s.name)
}
