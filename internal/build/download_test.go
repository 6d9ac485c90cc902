package build

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
)

func TestDownload(t *testing.T) {
	body, etag := "hello", `"1"`
	var full, same int
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/moved" {
			http.Redirect(w, r, "/d/file.txt", http.StatusFound)
			return
		}
		w.Header().Set("ETag", etag)
		w.Header().Set("Last-Modified", "Thu, 01 Jan 2015 00:00:00 GMT")
		if r.Header.Get("If-None-Match") == etag {
			same++
			w.WriteHeader(http.StatusNotModified)
			return
		}
		full++
		if _, err := w.Write([]byte(body)); err != nil {
			t.Error(err)
		}
	}))
	defer srv.Close()
	s := newDirStore(t)
	add := func(u URL) (Result, error) {
		op := &Copy{Sources: []Source{{URL: &u}}, Dest: "/x/", Instruction: "ADD /x/"}
		return NewSolver(Options{Store: s}).Solve(t.Context(), &Vertex{Op: op, Inputs: []*Vertex{{Op: &Base{}}}})
	}
	file := URL{Address: srv.URL + "/d/file.txt", Name: "file.txt"}
	res, err := add(file)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"x/ 755", "x/file.txt 600 data=hello"}, contents(t, s, res.Layers[0])); diff != "" {
		t.Error(diff)
	}
	if res, err = add(file); err != nil || !res.Cached || full != 1 || same != 1 {
		t.Errorf("unchanged: %v %v, %d full, %d same", res, err, full, same)
	}
	body, etag = "world", `"2"`
	if res, err = add(file); err != nil || res.Cached || full != 2 {
		t.Errorf("changed: %v %v, %d full", res, err, full)
	}
	file.Checksum = digest.FromString("world")
	srv.Config.Handler = http.NotFoundHandler()
	if res, err = add(file); err != nil || !res.Cached {
		t.Errorf("a known checksum needs no server: %v %v", res, err)
	}
	if _, err = add(URL{Address: srv.URL + "/none", Name: "n"}); err == nil || !strings.Contains(err.Error(), "404") {
		t.Errorf("missing: %v", err)
	}
	srv.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if _, err := w.Write([]byte("other")); err != nil {
			t.Error(err)
		}
	})
	if _, err = add(URL{Address: srv.URL + "/o", Name: "o", Checksum: digest.FromString("x")}); err == nil || !strings.Contains(err.Error(), "digest mismatch") {
		t.Errorf("wrong checksum: %v", err)
	}
}
