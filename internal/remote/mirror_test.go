package remote_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"strake/internal/conformance"
	"strake/internal/image"
	"strake/internal/layout"
	"strake/internal/remote"
)

// TestMirrors pulls a repository of a registry that is nowhere (its mirrors
// have it all) past mirrors that refuse, hang, lie and lack it.
func TestMirrors(t *testing.T) {
	var served, tarpit atomic.Int64
	good := newHub(t, func(h http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			served.Add(1)
			h.ServeHTTP(w, r)
		})
	})
	g := conformance.NewGraph(1000, "amd64", "arm64")
	root, err := image.Copy(t.Context(), g, "", repository(t, newClient(t, good, remote.Credential{}), good+"/cache/team/app"), "v1", image.CopyOptions{})
	if err != nil {
		t.Fatal(err)
	}
	served.Store(0)
	failing := serve(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusBadGateway) }))
	lying := serve(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "<html>welcome") }))
	hanging, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer hanging.Close()
	go func() {
		for {
			c, err := hanging.Accept()
			if err != nil {
				return
			}
			tarpit.Add(1)
			defer c.Close()
		}
	}()
	conf := "[[registry]]\nprefix = 'registry.invalid'\nlocation = 'registry.invalid'\n"
	for _, m := range []string{freeAddress(t), failing, lying, newHub(t, nil), hanging.Addr().String(), good} {
		conf += fmt.Sprintf("[[registry.mirror]]\nlocation = '%s/cache'\ninsecure = true\n", m)
	}
	file := filepath.Join(t.TempDir(), "registries.conf")
	if err := os.WriteFile(file, []byte(conf), 0o600); err != nil {
		t.Fatal(err)
	}
	c := remote.NewClient(remote.Options{
		Credentials:    (&remote.Config{Dir: t.TempDir()}).Get,
		RegistriesConf: []string{file},
	})
	defer c.Close()
	repo := repository(t, c, "registry.invalid/team/app")
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
	if d := time.Since(start); d > 90*time.Second {
		t.Errorf("it took %v", d)
	}
	if _, err := repo.Resolve(t.Context(), "v2"); err == nil || !strings.Contains(err.Error(), "registry.invalid") {
		t.Errorf("a tag that nobody has: %v", err)
	}
}

// TestMirrorFailsInTheMiddle reads a blob from mirrors that break off for good,
// or send other bytes: the registry gives the rest, or the whole at another try.
func TestMirrorFailsInTheMiddle(t *testing.T) {
	b, desc := bigBlob(3 << 20)
	other := bytes.Repeat([]byte("x"), len(b))
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
	for name, mirror := range map[string]struct {
		serve http.HandlerFunc
		tries int // until the blob is right
	}{
		"breaks off": {func(w http.ResponseWriter, r *http.Request) {
			if r.Header.Get("Range") == "" {
				w.Header().Set("Content-Length", strconv.Itoa(len(b)))
				_, _ = w.Write(b[:1<<20])
			}
			panic(http.ErrAbortHandler)
		}, 1},
		"ends early": {func(w http.ResponseWriter, r *http.Request) {
			if r.Header.Get("Range") != "" {
				w.WriteHeader(http.StatusNotFound)
				return
			}
			w.(http.Flusher).Flush() // no Content-Length
			_, _ = w.Write(b[:1<<20])
		}, 1},
		"lies": {func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(other) }, 2},
	} {
		fromRegistry.Store(0)
		at := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if strings.Contains(r.URL.Path, "/blobs/") {
				mirror.serve(w, r)
			}
		}))
		file := filepath.Join(t.TempDir(), "registries.conf")
		conf := fmt.Sprintf("[[registry]]\nprefix = 'registry.invalid'\nlocation = '%s'\n[[registry.mirror]]\nlocation = '%s'\ninsecure = true\n", host, at)
		if err := os.WriteFile(file, []byte(conf), 0o600); err != nil {
			t.Fatal(err)
		}
		repo := repository(t, client(t, remote.Options{RegistriesConf: []string{file}}), "registry.invalid/a")
		for try := 1; try <= mirror.tries; try++ {
			rc, err := repo.Fetch(t.Context(), desc, 0)
			if err != nil {
				t.Fatal(err)
			}
			got, err := io.ReadAll(rc)
			if err := errors.Join(err, rc.Close()); err != nil {
				t.Errorf("%s: %v", name, err)
			}
			if right := bytes.Equal(got, b); right != (try == mirror.tries) {
				t.Errorf("%s, try %d: right: %v (%d bytes)", name, try, right, len(got))
			}
		}
		if fromRegistry.Load() != 1 {
			t.Errorf("%s: %d requests to the registry", name, fromRegistry.Load())
		}
	}
}
