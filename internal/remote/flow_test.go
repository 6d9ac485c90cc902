package remote_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"strake/internal/conformance"
	"strake/internal/image"
	"strake/internal/layout"
	"strake/internal/remote"
)

// tokenServer gives tokens for the scopes that are asked, to who has secret: by
// password or, as an identity token, for secret.Password.
func tokenServer(t *testing.T) string {
	t.Helper()
	return serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		user, password, _ := r.BasicAuth()
		scopes := r.URL.Query()["scope"]
		if r.Method == http.MethodPost {
			user, password = secret.Username, r.PostFormValue("refresh_token")
			scopes = strings.Fields(r.PostFormValue("scope"))
		}
		if user != "" && (user != secret.Username || password != secret.Password) {
			http.Error(w, "{}", http.StatusUnauthorized)
			return
		}
		_ = json.NewEncoder(w).Encode(map[string]any{"token": strings.Join(append(scopes, "user="+user), "+"), "expires_in": 300})
	}))
}

// bearerAuth wants a token of tokenServer that allows what is asked.
func bearerAuth(realm string) func(http.Handler) http.Handler {
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			token, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
			need := ""
			if r.URL.Path != "/v2/" {
				need = "repository:team/app:pull"
				if r.Method != http.MethodGet && r.Method != http.MethodHead {
					need = "repository:team/app:pull,push"
				}
			}
			if !ok || !strings.Contains(token, need) || !strings.Contains(token, "user="+secret.Username) {
				w.Header().Set("WWW-Authenticate", fmt.Sprintf(`Bearer realm="http://%s/token",service="hub",scope=%q`, realm, need))
				http.Error(w, "{}", http.StatusUnauthorized)
				return
			}
			next.ServeHTTP(w, r)
		})
	}
}

func TestBearer(t *testing.T) {
	for name, cred := range map[string]remote.Credential{
		"password": secret, "identity token": {IdentityToken: secret.Password},
	} {
		t.Run(name, func(t *testing.T) {
			host := newHub(t, bearerAuth(tokenServer(t)))
			repo := repository(t, newClient(t, host, cred), host+"/team/app")
			g := conformance.NewGraph(1000, "amd64", "arm64")
			root, err := image.Copy(t.Context(), g, "", repo, "v1", image.CopyOptions{})
			if err != nil {
				t.Fatal(err)
			}
			l, err := layout.Open(t.TempDir())
			if err != nil {
				t.Fatal(err)
			}
			if got, err := image.Copy(t.Context(), repo, "v1", l, "v1", image.CopyOptions{}); err != nil || got.Digest != root.Digest {
				t.Errorf("copy back: %+v, %v", got, err)
			}
		})
	}
	host := newHub(t, bearerAuth(tokenServer(t)))
	if _, err := repository(t, newClient(t, host, remote.Credential{}), host+"/team/app").Resolve(t.Context(), "v1"); !errdefs.IsUnauthorized(err) {
		t.Errorf("without a credential: %v", err)
	}
}

// TestSearch: a registry that asks for no login at a search shows more to who has one.
func TestSearch(t *testing.T) {
	realm := tokenServer(t)
	for _, c := range []struct {
		cred remote.Credential
		want int
	}{{secret, 1}, {remote.Credential{}, 0}} {
		base := bearerAuth(realm)(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
		host := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path != "/v1/search" {
				base.ServeHTTP(w, r)
				return
			}
			results := "[]"
			if strings.Contains(r.Header.Get("Authorization"), "user="+secret.Username) {
				results = `[{"name":"team/app"}]`
			}
			fmt.Fprintf(w, `{"results":%s}`, results)
		}))
		r, err := newClient(t, host, c.cred).Registry(host)
		if err != nil {
			t.Fatal(err)
		}
		if found, err := r.Search(t.Context(), "app", 10); err != nil || len(found) != c.want {
			t.Errorf("found %v, %v, want %d", found, err, c.want)
		}
	}
}

func TestLogin(t *testing.T) {
	token := tokenServer(t)
	for name, wrap := range map[string]func(http.Handler) http.Handler{"basic": basicAuth, "bearer": bearerAuth(token)} {
		host := newHub(t, wrap)
		c := newClient(t, host, remote.Credential{})
		if err := c.Login(t.Context(), host, secret); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if err := c.Login(t.Context(), host, remote.Credential{Username: secret.Username, Password: "wrong"}); !errdefs.IsUnauthorized(err) {
			t.Errorf("%s, wrong password: %v", name, err)
		}
	}
}

func TestConfig(t *testing.T) {
	t.Setenv("DOCKER_CONFIG", filepath.Join(t.TempDir(), "none", "yet"))
	t.Setenv("XDG_STATE_HOME", t.TempDir())
	c := &remote.Config{}
	ctx := t.Context()
	if got, err := c.Get(ctx, "r.example"); err != nil || got != (remote.Credential{}) {
		t.Errorf("before: %v, %v", got, err)
	}
	for _, host := range []string{"r.example", "docker.io"} {
		if err := c.Set(ctx, host, secret, false); err != nil {
			t.Fatal(err)
		}
		if got, err := c.Get(ctx, host); err != nil || got != secret {
			t.Errorf("%s: %v, %v", host, got, err)
		}
	}
	if err := c.Erase(ctx, "r.example"); err != nil {
		t.Fatal(err)
	}
	if got, err := c.Get(ctx, "r.example"); err != nil || got != (remote.Credential{}) {
		t.Errorf("after: %v, %v", got, err)
	}
}

func TestCredentialHelper(t *testing.T) {
	dir := t.TempDir()
	script := "#!/bin/sh\nread host\n[ \"$host\" = r.example ] || { echo 'credentials not found in native keychain'; exit 1; }\n" +
		`echo '{"ServerURL":"r.example","Username":"user","Secret":"s3cr3t-w0rd"}'` + "\n"
	if err := os.WriteFile(filepath.Join(dir, "docker-credential-fake"), []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	c := &remote.Config{Dir: writeConfig(t, `{"credsStore":"fake"}`)}
	if got, err := c.Get(t.Context(), "r.example"); err != nil || got != secret {
		t.Errorf("%v, %v", got, err)
	}
	if got, err := c.Get(t.Context(), "other.example"); err != nil || got != (remote.Credential{}) {
		t.Errorf("another host: %v, %v", got, err)
	}
}

// flaky fails some requests: with 503 every second one, and by cutting off a
// blob's body after a while.
func flaky(failures, cuts *atomic.Int64) func(http.Handler) http.Handler {
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path != "/v2/" && failures.Add(-1) >= 0 {
				w.Header().Set("Retry-After", "0")
				w.WriteHeader(http.StatusServiceUnavailable)
				return
			}
			if strings.Contains(r.URL.Path, "/blobs/") && (r.Method == http.MethodPatch || r.Method == http.MethodGet) && cuts.Add(-1) >= 0 {
				if r.Method == http.MethodPatch {
					r.Body = io.NopCloser(io.MultiReader(io.LimitReader(r.Body, 5<<20), abort{}))
				} else {
					w = &cutWriter{w, 5 << 20}
				}
			}
			next.ServeHTTP(w, r)
		})
	}
}

type abort struct{}

func (abort) Read([]byte) (int, error) { panic(http.ErrAbortHandler) }

type cutWriter struct {
	http.ResponseWriter
	left int
}

func (c *cutWriter) Write(p []byte) (int, error) {
	if len(p) > c.left {
		panic(http.ErrAbortHandler)
	}
	c.left -= len(p)
	return c.ResponseWriter.Write(p)
}

// TestBrokenConnections pushes and pulls over a server that fails and breaks
// off, and counts what had to be sent again.
func TestBrokenConnections(t *testing.T) {
	var failures, cuts atomic.Int64
	host := newHub(t, flaky(&failures, &cuts))
	repo := repository(t, newClient(t, host, remote.Credential{}), host+"/a")
	g := conformance.NewGraph(20<<20, "amd64")
	failures.Store(3)
	cuts.Store(4)
	var moved atomic.Int64
	opts := image.CopyOptions{Progress: func(e image.Event) {
		if e.State == image.StateCopying {
			moved.Add(1)
		}
	}}
	root, err := image.Copy(t.Context(), g, "", repo, "v1", opts)
	if err != nil {
		t.Fatalf("push: %v", err)
	}
	l, err := layout.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	failures.Store(3)
	cuts.Store(4)
	if got, err := image.Copy(t.Context(), repo, "v1", l, "v1", opts); err != nil || got.Digest != root.Digest {
		t.Fatalf("pull: %+v, %v", got, err)
	}
	if cuts.Load() > 0 || failures.Load() > 0 {
		t.Errorf("not all faults happened: %d cuts, %d failures left", cuts.Load(), failures.Load())
	}
}

func TestRetryAfterIsBounded(t *testing.T) {
	host := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/v2/" {
			w.Header().Set("Retry-After", "86400")
			w.WriteHeader(http.StatusTooManyRequests)
		}
	}))
	start := time.Now()
	_, err := newRegistry(t, host).StatManifest(t.Context(), "a", "b")
	if !errdefs.IsResourceExhausted(err) || time.Since(start) > 10*time.Second {
		t.Errorf("%v after %v", err, time.Since(start))
	}
}

func TestMountBlob(t *testing.T) {
	host := newHub(t, nil)
	c := newClient(t, host, remote.Credential{})
	g := conformance.NewGraph(1000, "amd64")
	if _, err := image.Copy(t.Context(), g, "", repository(t, c, host+"/first"), "v1", image.CopyOptions{}); err != nil {
		t.Fatal(err)
	}
	mounted := 0
	_, err := image.Copy(t.Context(), g, "", repository(t, c, host+"/second"), "v1", image.CopyOptions{
		MountFrom: func(ocispec.Descriptor) []string { return []string{"none", "first"} },
		Progress: func(e image.Event) {
			if e.State == image.StateMounted && e.From == "first" {
				mounted++
			}
		},
	})
	if err != nil || mounted != 3 {
		t.Errorf("%d mounted, %v", mounted, err)
	}
}

// TestDockerRegistry pushes to and pulls from Debian's docker-registry, with a
// password.
func TestDockerRegistry(t *testing.T) {
	program, err := exec.LookPath("docker-registry")
	if err != nil {
		t.Skip("needs docker-registry")
	}
	dir := t.TempDir()
	host := freeAddress(t)
	files := map[string]string{
		"htpasswd": "user:$2y$05$abcdefghijklmnopqrstuuswOJ.QUCpuyZO9HSy3fJrzByYtDTJTK\n", // bcrypt of secret
		"config.yml": fmt.Sprintf("version: 0.1\nlog: {level: error}\nstorage: {filesystem: {rootdirectory: %s/data}, delete: {enabled: true}}\n"+
			"http: {addr: '%s'}\nauth: {htpasswd: {realm: basic, path: %s/htpasswd}}\n", dir, host, dir),
	}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	var log bytes.Buffer
	cmd := exec.CommandContext(context.WithoutCancel(t.Context()), program, "serve", filepath.Join(dir, "config.yml"))
	cmd.Stdout, cmd.Stderr = &log, &log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if t.Failed() {
			t.Logf("docker-registry: %s", log.Bytes())
		}
	}()
	waitFor(t, host)
	conformance.Target(t, func(t *testing.T) conformance.Images {
		name := strings.ToLower(strings.ReplaceAll(t.Name(), "_", ""))
		return repository(t, newClient(t, host, secret), host+"/"+name)
	})
}

// freeAddress returns a loopback address that nobody listens on.
func freeAddress(t *testing.T) string {
	t.Helper()
	s := httptest.NewServer(nil)
	s.Close()
	return strings.TrimPrefix(s.URL, "http://")
}

func waitFor(t *testing.T, host string) {
	t.Helper()
	for range 200 {
		resp, err := http.Get("http://" + host + "/v2/")
		if err == nil {
			_ = resp.Body.Close()
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
	t.Fatalf("nothing serves at %s", host)
}
