package engine

import (
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"strake/internal/auth"
	"strake/internal/hub"
	"strake/internal/registry"
)

// TestPushedNameMoves has another build take the name while the first is pushed:
// what was pushed is noted with the image that it is.
func TestPushedNameMoves(t *testing.T) {
	t.Setenv("DOCKER_CONFIG", t.TempDir())
	env := testEnv(t)
	reg, err := hub.Open(t.Context(), hub.Options{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	defer reg.Close()
	contexts := map[string]string{"a": t.TempDir(), "b": t.TempDir()}
	for text, dir := range contexts {
		if err := os.WriteFile(filepath.Join(dir, "Dockerfile"), []byte("FROM scratch\nLABEL l="+text+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	var second BuildResult
	var name string
	serve, once := auth.Open(registry.NewHandler(reg, registry.Options{})), sync.Once{}
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPut && strings.HasSuffix(r.URL.Path, "/manifests/1") {
			once.Do(func() { //nolint:contextcheck // the second build is not the request's
				var err error
				if second, err = Build(t.Context(), env, BuildOptions{Context: contexts["b"], Names: []string{name}}); err != nil {
					t.Error(err)
				}
			})
		}
		serve.ServeHTTP(w, r)
	}))
	defer srv.Close()
	name = strings.TrimPrefix(srv.URL, "http://") + "/t:1"
	pushed := Output{Type: OutputImage, Attrs: map[string]string{"push": "true"}}
	first, err := Build(t.Context(), env, BuildOptions{Context: contexts["a"], Names: []string{name}, Outputs: []Output{pushed}})
	if err != nil {
		t.Fatal(err)
	}
	for result, want := range map[*BuildResult]int{&first: 1, &second: 0} {
		img, err := env.Store.Image(t.Context(), result.ID.String())
		if err != nil {
			t.Fatal(err)
		}
		if len(img.RepoDigests) != want {
			t.Errorf("first %v: %v is known as %q", result == &first, img.ID, img.RepoDigests)
		}
	}
}
