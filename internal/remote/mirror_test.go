package remote_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"

	"strake/internal/auth"
	"strake/internal/conformance"
	"strake/internal/hub"
	"strake/internal/image"
	"strake/internal/layout"
	"strake/internal/registry"
	"strake/internal/remote"
)

// TestMirrors pulls a repository of a registry that is nowhere (its mirrors
// have it all) past mirrors that refuse, hang, lie and lack it.
func TestMirrors(t *testing.T) { synctest.Test(t, testMirrors) }

func testMirrors(t *testing.T) {
	var mem memNet
	var served, tarpit atomic.Int64
	h, err := hub.Open(t.Context(), hub.Options{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	api := auth.Open(registry.NewHandler(h, registry.Options{}))
	good := mem.serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		served.Add(1)
		api.ServeHTTP(w, r)
	}))
	g := conformance.NewGraph(1000, "amd64", "arm64")
	root, err := image.Copy(t.Context(), g, "", mem.repository(t, remote.Options{}, good+"/cache/team/app"), "v1", image.CopyOptions{})
	if err != nil {
		t.Fatal(err)
	}
	served.Store(0)
	failing := mem.serve(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusBadGateway) }))
	lying := mem.serve(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "<html>welcome") }))
	lacking := mem.serve(t, http.NotFoundHandler())
	hanging := mem.listen("127.0.0.1:6000")
	defer hanging.Close()
	go func() {
		for {
			c, err := hanging.Accept()
			if err != nil {
				return
			}
			tarpit.Add(1)
			go io.Copy(io.Discard, c) // ends with the connection
		}
	}()
	repo := mem.repository(t, remote.Options{
		RegistriesConf: mirrored(t, "127.0.0.1:1", "127.0.0.1:2/cache", failing+"/cache", lying+"/cache", lacking+"/cache", "127.0.0.1:6000/cache", good+"/cache"),
	}, "registry.invalid/team/app")
	l, err := layout.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	got, err := image.Copy(t.Context(), repo, "v1", l, "v1", image.CopyOptions{})
	if err != nil || got.Digest != root.Digest {
		t.Fatalf("%+v, %v", got, err)
	}
	if want := good + "/cache/team/app"; repo.Source() != want {
		t.Errorf("source %q, want %q", repo.Source(), want)
	}
	if served.Load() == 0 || tarpit.Load() != 2 { // https and http of one request
		t.Errorf("%d requests to the good mirror, %d to the one that hangs", served.Load(), tarpit.Load())
	}
	if d := time.Since(start); d > 15*time.Second {
		t.Errorf("it took %v", d)
	}
	if _, err := repo.Resolve(t.Context(), "v2"); err == nil || !strings.Contains(err.Error(), "127.0.0.1:1") {
		t.Errorf("a tag that nobody has: %v", err)
	}
}

// TestMirrorFailsInTheMiddle reads a blob from mirrors that break off for good:
// the registry gives the rest.
func TestMirrorFailsInTheMiddle(t *testing.T) {
	b, desc := bigBlob(3 << 20)
	var fromRegistry atomic.Int64
	host := newHub(t, func(h http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Method == http.MethodGet && strings.Contains(r.URL.Path, "/blobs/sha256:") {
				fromRegistry.Add(1)
			}
			h.ServeHTTP(w, r)
		})
	})
	if err := repository(t, client(t, remote.Options{}), host+"/a").Push(t.Context(), desc, opener(b)); err != nil {
		t.Fatal(err)
	}
	for name, mirror := range map[string]http.HandlerFunc{
		"breaks off": func(w http.ResponseWriter, r *http.Request) {
			if r.Header.Get("Range") == "" {
				w.Header().Set("Content-Length", strconv.Itoa(len(b)))
				_, _ = w.Write(b[:1<<20])
			}
			panic(http.ErrAbortHandler)
		},
		"ends early": func(w http.ResponseWriter, r *http.Request) {
			if r.Header.Get("Range") != "" {
				w.WriteHeader(http.StatusNotFound)
				return
			}
			w.(http.Flusher).Flush() // no Content-Length
			_, _ = w.Write(b[:1<<20])
		},
	} {
		fromRegistry.Store(0)
		at := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if strings.Contains(r.URL.Path, "/blobs/") {
				mirror(w, r)
			}
		}))
		repo := repository(t, client(t, remote.Options{RegistriesConf: mirrored(t, host, at)}), "registry.invalid/a")
		if got, err := read(t, repo, desc); err != nil || !bytes.Equal(got, b) {
			t.Errorf("%s: %d bytes, %v", name, len(got), err)
		}
		if fromRegistry.Load() != 1 {
			t.Errorf("%s: %d requests to the registry", name, fromRegistry.Load())
		}
	}
}

// mirrored is a registries.conf in which registry.invalid is at host, behind
// mirrors.
func mirrored(t *testing.T, host string, mirrors ...string) []string {
	t.Helper()
	conf := fmt.Sprintf("[[registry]]\nprefix = 'registry.invalid'\nlocation = '%s'\n", host)
	for _, m := range mirrors {
		conf += fmt.Sprintf("[[registry.mirror]]\nlocation = '%s'\ninsecure = true\n", m)
	}
	file := filepath.Join(t.TempDir(), "registries.conf")
	if err := os.WriteFile(file, []byte(conf), 0o600); err != nil {
		t.Fatal(err)
	}
	return []string{file}
}

// TestLyingMirror copies a blob that mirrors give other bytes for, from its
// beginning and from where an earlier pull stopped: the next site is asked, the
// target never holds them, and it is told who gave them. What the registry
// itself gives wrong fails, and the error says so.
func TestLyingMirror(t *testing.T) {
	b, desc := bigBlob(3 << 20)
	flipped := bytes.Clone(b)
	flipped[2<<20] ^= 1
	synctest.Test(t, func(t *testing.T) {
		var mem memNet
		honest, liar, html := mem.serve(t, blobHandler(b)), mem.serve(t, blobHandler(flipped)), mem.serve(t, blobHandler(make([]byte, len(b))))
		for name, c := range map[string]struct {
			host    string
			mirrors []string
			part    int // bytes that the target has already
			err     string
			lied    []string
		}{
			"one mirror":     {honest, []string{liar}, 0, "", []string{liar}},
			"two mirrors":    {honest, []string{liar, html}, 0, "", []string{liar, html}},
			"a part is here": {honest, []string{liar}, 1 << 20, "", []string{liar}},
			"the registry":   {liar, nil, 0, "bytes from " + liar + "/a: ", nil},
			"all":            {html, []string{liar}, 0, "bytes from " + html + "/a: ", []string{liar}},
		} {
			var log bytes.Buffer
			repo := mem.repository(t, remote.Options{
				RegistriesConf: mirrored(t, c.host, c.mirrors...),
				Log:            slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelWarn})),
			}, "registry.invalid/a")
			dir := t.TempDir()
			l, err := layout.Open(dir)
			if err != nil {
				t.Fatal(err)
			}
			if c.part > 0 {
				err := l.Push(t.Context(), desc, func(context.Context, int64) (io.ReadCloser, error) {
					return io.NopCloser(io.MultiReader(bytes.NewReader(b[:c.part]), iotest.ErrReader(io.ErrUnexpectedEOF))), nil
				})
				if !errors.Is(err, io.ErrUnexpectedEOF) {
					t.Fatal(err)
				}
			}
			err = image.CopyGraph(t.Context(), repo, l, desc, image.CopyOptions{})
			if c.err == "" && err != nil || c.err != "" && (err == nil || !strings.Contains(err.Error(), c.err)) {
				t.Errorf("%s: %v, want %q", name, err, c.err)
			}
			got, err := os.ReadFile(filepath.Join(dir, "blobs", "sha256", desc.Digest.Encoded()))
			if c.err == "" && !bytes.Equal(got, b) || c.err != "" && !errors.Is(err, os.ErrNotExist) {
				t.Errorf("%s: %d bytes are there, %v", name, len(got), err)
			}
			if n := strings.Count(log.String(), "wrong bytes"); n != len(c.lied) {
				t.Errorf("%s: %d liars, want %d: %s", name, n, len(c.lied), &log)
			}
			for _, host := range c.lied {
				if !strings.Contains(log.String(), "mirror="+host+"/a ") {
					t.Errorf("%s: nothing about %s: %s", name, host, &log)
				}
			}
		}
	})
}
