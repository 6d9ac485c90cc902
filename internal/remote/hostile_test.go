package remote_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"strake/internal/image"
	"strake/internal/registry"
	"strake/internal/remote"
)

var secret = remote.Credential{Username: "user", Password: "s3cr3t-w0rd"}

// spy is a host that must not see credentials.
type spy struct {
	host string

	mu   sync.Mutex
	seen []*http.Request
}

// newSpy serves answer and remembers the requests.
func newSpy(t *testing.T, answer http.HandlerFunc) *spy {
	t.Helper()
	s := &spy{}
	s.host = serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		s.seen = append(s.seen, r.Clone(context.WithoutCancel(r.Context())))
		s.mu.Unlock()
		answer(w, r)
	}))
	return s
}

// requests returns what came, and fails the test where a secret came along.
func (s *spy) requests(t *testing.T) int {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range s.seen {
		if auth := r.Header.Get("Authorization"); auth != "" {
			t.Errorf("%s %s got Authorization %q", r.Method, r.URL, auth)
		}
	}
	return len(s.seen)
}

// basicAuth wants the user and password of secret.
func basicAuth(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if u, p, _ := r.BasicAuth(); u != secret.Username || p != secret.Password {
			w.Header().Set("WWW-Authenticate", `Basic realm="here"`)
			http.Error(w, "{}", http.StatusUnauthorized)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// bearer challenges with a realm whatever comes.
func bearer(realm string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("WWW-Authenticate", fmt.Sprintf(`Bearer realm=%q,service="s"`, realm))
		http.Error(w, "{}", http.StatusUnauthorized)
	})
}

// wantNoSecret fails the test where an error tells a secret.
func wantNoSecret(t *testing.T, err error, secrets ...string) {
	t.Helper()
	for _, s := range append(secrets, secret.Password, "czNjcjN0") {
		if err != nil && strings.Contains(err.Error(), s) {
			t.Errorf("the error tells %q: %v", s, err)
		}
	}
}

func TestCVE_2014_5277_NoPlainHTTPFallback(t *testing.T) {
	name, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	addrs, err := net.DefaultResolver.LookupHost(t.Context(), name)
	if err != nil {
		t.Skipf("this machine's name does not resolve: %v", err)
	}
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", net.JoinHostPort(addrs[0], "0"))
	if err != nil {
		t.Skipf("no listening on %s: %v", addrs[0], err)
	}
	plain := 0
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { plain++ }))
	s.Listener.Close()
	s.Listener = l
	s.Start()
	defer s.Close()
	_, port, _ := net.SplitHostPort(l.Addr().String())
	r, err := newClient(t, name+":"+port, secret).Registry(name + ":" + port)
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Check(t.Context()); err == nil || plain > 0 {
		t.Errorf("check: %v, %d plain requests", err, plain)
	}
}

func TestCVE_2026_33540_RealmDowngrade(t *testing.T) {
	token := newSpy(t, func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, `{"token":"t"}`) })
	s := httptest.NewTLSServer(bearer("http://" + token.host + "/token"))
	defer s.Close()
	host := strings.TrimPrefix(s.URL, "https://")
	r, err := newClient(t, host, secret).Registry(host)
	if err != nil {
		t.Fatal(err)
	}
	err = r.Check(t.Context())
	if !errors.Is(err, errdefs.ErrPermissionDenied) {
		t.Errorf("check: %v", err)
	}
	wantNoSecret(t, err)
	if n := token.requests(t); n > 0 {
		t.Errorf("%d requests by http", n)
	}
}

func TestCVE_2026_33990_RealmLinkLocal(t *testing.T) {
	for _, realm := range []string{"http://169.254.169.254/token", "https://[fe80::1]/token", "http://[::ffff:169.254.169.254]/", "ftp://x/", "http://", "//x", "http://u:p@127.0.0.1/"} {
		host := serve(t, bearer(realm))
		r, err := newClient(t, host, secret).Registry(host)
		if err != nil {
			t.Fatal(err)
		}
		if err := r.Check(t.Context()); err == nil || errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%s: %v", realm, err)
		}
	}
}

func TestGGCR_2291_TokenServerRedirect(t *testing.T) {
	thief := newSpy(t, func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, `{"token":"t"}`) })
	for _, cred := range []remote.Credential{secret, {IdentityToken: secret.Password}} {
		token := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "http://"+thief.host+"/", http.StatusTemporaryRedirect)
		}))
		host := serve(t, bearer("http://"+token+"/token"))
		r, err := newClient(t, host, cred).Registry(host)
		if err != nil {
			t.Fatal(err)
		}
		err = r.Check(t.Context())
		if err == nil || thief.requests(t) > 0 {
			t.Errorf("check: %v, %d requests to the other host", err, thief.requests(t))
		}
		wantNoSecret(t, err)
	}
}

func TestCVE_2019_10214_TokenServerCertificate(t *testing.T) {
	asked := 0
	token := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		asked++
		fmt.Fprint(w, `{"token":"t"}`)
	}))
	defer token.Close()
	s := httptest.NewTLSServer(bearer(token.URL)) // loopback: any certificate will do
	defer s.Close()
	host := strings.TrimPrefix(s.URL, "https://")
	r, err := newClient(t, host, secret).Registry(host)
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Check(t.Context()); err == nil || asked > 0 {
		t.Errorf("check: %v, %d requests", err, asked)
	}
}

// TestGHSA_vh4v_2xq2_g5cg_Redirect also is CVE-2024-45336 and CVE-2020-15157:
// the other host asks for a credential.
func TestGHSA_vh4v_2xq2_g5cg_Redirect(t *testing.T) {
	blob := []byte("blob behind a redirect")
	other := newSpy(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/greedy" {
			w.Header().Set("WWW-Authenticate", `Basic realm="give"`)
			http.Error(w, "{}", http.StatusUnauthorized)
			return
		}
		_, _ = w.Write(blob)
	})
	path := "/ok"
	host := newHub(t, func(h http.Handler) http.Handler {
		return basicAuth(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if strings.Contains(r.URL.Path, "/blobs/sha256:") && r.Method == http.MethodGet {
				http.Redirect(w, r, "http://"+other.host+path+"?X-Signature=signed", http.StatusTemporaryRedirect)
				return
			}
			h.ServeHTTP(w, r)
		}))
	})
	repo := repository(t, newClient(t, host, secret), host+"/a")
	desc := image.Bytes(ocispec.MediaTypeImageLayer, blob)
	desc.URLs = []string{"http://" + other.host + "/urls"}
	if got, err := image.ReadAll(t.Context(), repo, desc, 100); err != nil || string(got) != string(blob) {
		t.Errorf("fetch: %q, %v", got, err)
	}
	path = "/greedy"
	_, err := image.ReadAll(t.Context(), repo, desc, 100)
	if !errors.Is(err, errdefs.ErrUnauthenticated) {
		t.Errorf("fetch from the greedy: %v", err)
	}
	wantNoSecret(t, err, "signed")
	if n := other.requests(t); n != 2 {
		t.Errorf("%d requests to the other host", n)
	}
}

func TestCVE_2020_15157_ForeignURLs(t *testing.T) {
	other := newSpy(t, func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "x") })
	host := newHub(t, basicAuth)
	repo := repository(t, newClient(t, host, secret), host+"/a")
	desc := image.Bytes("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", []byte("x"))
	desc.URLs = []string{"http://" + other.host + "/x", "http://169.254.169.254/"}
	if _, err := image.ReadAll(t.Context(), repo, desc, 100); !errdefs.IsNotFound(err) {
		t.Errorf("fetch: %v", err)
	}
	if n := other.requests(t); n > 0 {
		t.Errorf("%d requests to the host in urls", n)
	}
}

func TestGGCR_2293_RedirectToLinkLocal(t *testing.T) {
	for _, to := range []string{"http://169.254.169.254/latest", "ftp://x/", "http://u:p@127.0.0.1/", ""} {
		host := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/v2/" {
				return
			}
			w.Header().Set("Location", to)
			w.WriteHeader(http.StatusTemporaryRedirect)
		}))
		_, err := newRegistry(t, host).StatBlob(t.Context(), "a", digest.FromString("x"))
		if err == nil {
			t.Errorf("redirect to %q was followed", to)
		}
	}
}

func TestCVE_2026_50151_UploadLocation(t *testing.T) {
	other := newSpy(t, func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		w.WriteHeader(http.StatusCreated)
	})
	host := newHub(t, func(h http.Handler) http.Handler {
		return basicAuth(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Method == http.MethodPost {
				w.Header().Set("Location", "http://"+other.host+"/upload?state=signed")
				w.WriteHeader(http.StatusAccepted)
				return
			}
			h.ServeHTTP(w, r)
		}))
	})
	r, err := newClient(t, host, secret).Registry(host)
	if err != nil {
		t.Fatal(err)
	}
	b := []byte("blob")
	if err := r.PushBlob(t.Context(), "a", image.Bytes("x/y", b), strings.NewReader(string(b))); err != nil {
		t.Errorf("push: %v", err)
	}
	if n := other.requests(t); n != 1 {
		t.Errorf("%d requests to the other host", n)
	}
}

// writeConfig makes a docker configuration directory.
func writeConfig(t *testing.T, text string) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "config.json"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestCVE_2021_41092_MissingHelper(t *testing.T) {
	for _, text := range []string{
		`{"credsStore":"strake-test-missing","auths":{"%s":{"auth":"dXNlcjpwYXNz"}}}`,
		`{"credHelpers":{"%s":"strake-test-missing"}}`,
	} {
		host := newHub(t, basicAuth)
		dir := writeConfig(t, fmt.Sprintf(text, host))
		t.Setenv("XDG_STATE_HOME", t.TempDir())
		c := remote.NewClient(remote.Options{Credentials: (&remote.Config{Dir: dir}).Get})
		r, err := c.Registry(host)
		if err != nil {
			t.Fatal(err)
		}
		if err := r.Check(t.Context()); err == nil || !strings.Contains(err.Error(), "docker-credential-strake-test-missing") {
			t.Errorf("check: %v", err)
		}
		if err := (&remote.Config{Dir: dir}).Set(t.Context(), host, secret, false); err == nil {
			t.Error("a credential was stored although its helper is missing")
		}
	}
}

func TestCVE_2024_35192_LookAlikeRegistry(t *testing.T) {
	dir := writeConfig(t, `{"auths":{"registry.example":{"auth":"dXNlcjpwYXNz"},"https://index.docker.io/v1/":{"auth":"aHViOnBhc3M="}}}`)
	c := &remote.Config{Dir: dir}
	for host, user := range map[string]string{
		"registry.example": "user", "docker.io": "hub", "index.docker.io": "hub",
		"registry.example.evil": "", "evil-registry.example": "", "registry.example:8443": "",
		"docker.io.evil": "", "registry.exampl": "", "index.docker.io.evil": "",
	} {
		got, err := c.Get(t.Context(), host)
		if err != nil || got.Username != user {
			t.Errorf("%s: %q, %v, want %q", host, got.Username, err, user)
		}
	}
}

func TestGHSA_qv35_3gw6_8q4j_PinnedDigest(t *testing.T) {
	body := `{"schemaVersion":2}`
	host := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", ocispec.MediaTypeImageManifest)
		if r.URL.Query().Get("lie") == "" {
			w.Header().Set("Docker-Content-Digest", digest.FromString(body).String())
		}
		fmt.Fprint(w, body)
	}))
	r := newRegistry(t, host)
	pinned := digest.FromString("what was asked for")
	if _, err := r.GetManifest(t.Context(), "a", pinned.String()); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("get: %v", err)
	}
	if _, err := r.StatManifest(t.Context(), "a", pinned.String()); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("stat: %v", err)
	}
}

func TestCVE_2024_3727_DigestFromRegistry(t *testing.T) {
	host := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", ocispec.MediaTypeImageManifest)
		w.Header().Set("Docker-Content-Digest", "sha256:../../../x")
		if r.URL.Path != "/v2/" {
			fmt.Fprint(w, `{}`)
		}
	}))
	got, err := newRegistry(t, host).StatManifest(t.Context(), "a", "tag")
	if err != nil || got.Digest != digest.FromString("{}") {
		t.Errorf("stat: %+v, %v", got, err)
	}
}

func TestUnboundedManifest(t *testing.T) {
	host := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", ocispec.MediaTypeImageManifest)
		for r.URL.Path != "/v2/" && r.Context().Err() == nil {
			if _, err := w.Write(make([]byte, 1<<20)); err != nil {
				return
			}
		}
	}))
	if _, err := newRegistry(t, host).GetManifest(t.Context(), "a", "tag"); !errdefs.IsResourceExhausted(err) {
		t.Errorf("get: %v", err)
	}
}

func TestErrorText(t *testing.T) {
	host := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/v2/" {
			return
		}
		w.WriteHeader(http.StatusForbidden)
		_ = json.NewEncoder(w).Encode(map[string]any{"errors": []any{map[string]any{
			"code": registry.Denied, "message": "\x1b[31mred\n" + strings.Repeat("x", 1<<20),
		}}})
	}))
	_, err := newRegistry(t, host).StatManifest(t.Context(), "a", "tag")
	if err == nil {
		t.Fatal("no error")
	}
	_, err = newRegistry(t, host).GetManifest(t.Context(), "a", "tag")
	if !errdefs.IsPermissionDenied(err) || len(err.Error()) > 2000 || strings.ContainsAny(err.Error(), "\x1b\n") {
		t.Errorf("get: %d bytes of error, %.100q", len(err.Error()), err)
	}
}

func TestCredentialIsNotPrinted(t *testing.T) {
	for _, s := range []string{fmt.Sprint(secret), fmt.Sprintf("%+v %#v %s", secret, secret, secret)} {
		if strings.Contains(s, secret.Password) {
			t.Errorf("printed: %s", s)
		}
	}
	host := newHub(t, func(h http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("WWW-Authenticate", `Basic realm="here"`)
			http.Error(w, "{}", http.StatusUnauthorized)
		})
	})
	err := newClient(t, "", remote.Credential{}).Login(t.Context(), host, secret)
	if !errors.Is(err, errdefs.ErrUnauthenticated) {
		t.Errorf("login: %v", err)
	}
	wantNoSecret(t, err, url.QueryEscape(secret.Password))
}
