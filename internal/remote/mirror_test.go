package remote_test

import (
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
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
