package build

import (
	"encoding/base64"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"

	"github.com/containerd/errdefs"
)

// given are secrets.
type given map[string]string

func (g given) Secret(id string) ([]byte, error) {
	if v, ok := g[id]; ok {
		return []byte(v), nil
	}
	return nil, errdefs.ErrNotFound
}

// heard is a server that notes what it is told of who asks.
type heard struct {
	*httptest.Server
	mu     sync.Mutex
	values map[string]bool
}

func hear(t *testing.T, next http.Handler) *heard {
	t.Helper()
	h := &heard{values: map[string]bool{}}
	h.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h.mu.Lock()
		h.values[r.Header.Get("Authorization")] = true
		h.mu.Unlock()
		next.ServeHTTP(w, r)
	}))
	t.Cleanup(h.Close)
	return h
}

// only reports whether all that asked told that, and somebody did.
func (h *heard) only(value string) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.values) == 1 && h.values[value]
}

// needs answers who tells value, and nobody else.
func needs(value string, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != value {
			w.Header().Set("WWW-Authenticate", `Basic realm="here"`)
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// TestDownloadAuthorization: HTTP_AUTH_HEADER_host and HTTP_AUTH_TOKEN_host go to that host, with no redirect to another, and to no other host.
func TestDownloadAuthorization(t *testing.T) {
	file := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "content") })
	elsewhere := hear(t, file)
	mux := http.NewServeMux()
	mux.Handle("/file", needs("Bearer hunter2", file))
	mux.Handle("/here", needs("Bearer hunter2", http.RedirectHandler("/file", http.StatusFound)))
	mux.Handle("/away", needs("Bearer hunter2", http.RedirectHandler(strings.Replace(elsewhere.URL, "127.0.0.1", "localhost", 1)+"/", http.StatusFound)))
	mux.Handle("/port", needs("Bearer hunter2", http.RedirectHandler(elsewhere.URL, http.StatusFound)))
	mux.Handle("/custom", needs("Custom hunter2", file))
	srv := hear(t, mux)
	token := given{"HTTP_AUTH_TOKEN_127.0.0.1": "hunter2\n"}
	for name, tc := range map[string]struct {
		secrets given
		path    string
		fails   string
	}{
		"token":             {token, "/file", ""},
		"same server":       {token, "/here", ""},
		"another host":      {token, "/away", ""},
		"another port":      {token, "/port", ""},
		"header":            {given{"HTTP_AUTH_HEADER_127.0.0.1": "Custom hunter2"}, "/custom", ""},
		"token before it":   {given{"HTTP_AUTH_HEADER_127.0.0.1": "Custom hunter2", "HTTP_AUTH_TOKEN_127.0.0.1": "hunter2"}, "/file", ""},
		"none":              {nil, "/file", "401"},
		"of another host":   {given{"HTTP_AUTH_TOKEN_localhost": "hunter2", "HTTP_AUTH_TOKEN_": "hunter2", "GIT_AUTH_TOKEN": "hunter2"}, "/file", "401"},
		"several lines":     {given{"HTTP_AUTH_TOKEN_127.0.0.1": "hunter2\r\nX: y"}, "/file", "not one line"},
		"nothing but space": {given{"HTTP_AUTH_TOKEN_127.0.0.1": " \n"}, "/file", "not one line"},
	} {
		s := newDirStore(t)
		copied := &Copy{Sources: []Source{{URL: &URL{Address: srv.URL + tc.path, Name: "f"}}}, Dest: "/", Instruction: "ADD"}
		_, err := NewSolver(Options{Store: s, Secrets: tc.secrets}).Solve(t.Context(), &Vertex{Op: copied})
		if (err == nil) != (tc.fails == "") || err != nil && (!strings.Contains(err.Error(), tc.fails) || strings.Contains(err.Error(), "hunter2")) {
			t.Errorf("%s: %v", name, err)
		}
		for _, b := range s.cache {
			if strings.Contains(string(b), "hunter2") {
				t.Errorf("%s: the cache holds it: %s", name, b)
			}
		}
	}
	if !elsewhere.only("") {
		t.Errorf("another server was told %v", elsewhere.values)
	}
}

// TestGitAuthorization: GIT_AUTH_TOKEN and GIT_AUTH_HEADER, of all servers or of one, go to the repository alone: not with a redirect, not to a
// submodule elsewhere, and into no error, key or checkout.
func TestGitAuthorization(t *testing.T) {
	srv := newGitServer(t)
	srv.commit(t, "sub", "s data=1")
	base, err := url.Parse(srv.url)
	if err != nil {
		t.Fatal(err)
	}
	repositories := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { // with the header, which CGI leaves out
		r.URL.Scheme, r.URL.Host, r.RequestURI = base.Scheme, base.Host, ""
		r.Header.Del("Authorization")
		forward(w, r)
	})
	elsewhere := hear(t, repositories)
	srv.commit(t, "r", "a data=1")
	srv.git(t, "r", "submodule", "add", "-q", elsewhere.URL+"/sub/.git", "vendor")
	srv.commit(t, "r")
	basic := "basic " + base64.StdEncoding.EncodeToString([]byte("x-access-token:hunter2hunter2"))
	mux := http.NewServeMux()
	mux.Handle("/", needs(basic, repositories))
	mux.Handle("/custom/", needs("Custom hunter2hunter2", http.StripPrefix("/custom", repositories)))
	mux.Handle("/away/", http.StripPrefix("/away", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, elsewhere.URL+r.URL.String(), http.StatusFound)
	})))
	own := hear(t, mux)
	host := strings.TrimPrefix(own.URL, "http://")
	for name, tc := range map[string]struct {
		secrets given
		path    string
		fails   string
	}{
		"token":           {given{"GIT_AUTH_TOKEN": "hunter2hunter2\n"}, "/r/.git", ""},
		"of the host":     {given{"GIT_AUTH_TOKEN." + host: "hunter2hunter2", "GIT_AUTH_TOKEN": "wrong", "GIT_AUTH_HEADER": "wrong"}, "/r/.git", ""},
		"header":          {given{"GIT_AUTH_HEADER": "Custom hunter2hunter2", "GIT_AUTH_TOKEN": "wrong"}, "/custom/r/.git", ""},
		"header of it":    {given{"GIT_AUTH_HEADER." + host: "Custom hunter2hunter2", "GIT_AUTH_TOKEN." + host: "wrong"}, "/custom/r/.git", ""},
		"none":            {nil, "/r/.git", "failed"},
		"of another host": {given{"GIT_AUTH_TOKEN.localhost": "hunter2hunter2", "HTTP_AUTH_TOKEN_127.0.0.1": "hunter2hunter2"}, "/r/.git", "failed"},
		"wrong":           {given{"GIT_AUTH_TOKEN": "hunter2hunter3"}, "/r/.git", "failed"},
		"redirect":        {given{"GIT_AUTH_TOKEN": "hunter2hunter2"}, "/away/r/.git", "credentials do not follow redirects"},
	} {
		s := newDirStore(t)
		op := &Git{Remote: own.URL + tc.path, KeepGitDir: true}
		res, err := NewSolver(Options{Store: s, Secrets: tc.secrets}).Solve(t.Context(), &Vertex{Op: op})
		if (err == nil) != (tc.fails == "") || err != nil && (!strings.Contains(err.Error(), tc.fails) || strings.Contains(err.Error(), "hunter2") || strings.Contains(err.Error(), basic)) {
			t.Errorf("%s: %v", name, err)
		}
		told := fmt.Sprint(s.cache)
		if err == nil {
			told += fmt.Sprint(contents(t, s, res.Layers[0]))
		}
		if strings.Contains(told, "hunter2") || strings.Contains(told, basic[len("basic "):]) {
			t.Errorf("%s: the layer or its record holds it", name)
		}
	}
	if !elsewhere.only("") {
		t.Errorf("another server was told %v", elsewhere.values)
	}
}

// forward asks another server.
func forward(w http.ResponseWriter, r *http.Request) {
	resp, err := http.DefaultTransport.RoundTrip(r)
	if err != nil {
		w.WriteHeader(http.StatusBadGateway)
		return
	}
	defer resp.Body.Close()
	for k, v := range resp.Header {
		w.Header()[k] = v
	}
	w.WriteHeader(resp.StatusCode)
	_, _ = io.Copy(w, resp.Body) // the client sees what is cut short
}
