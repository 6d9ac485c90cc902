package conformance

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"strake/internal/auth"
	"strake/internal/registry"
)

// Wire tests what distribution-spec 1.1 and what is to follow it demand of a
// registry that is served over HTTP: each MUST and SHOULD that is about the
// registry is a case. newRegistry returns an empty registry.
func Wire(t *testing.T, newRegistry func(t *testing.T) registry.Registry) {
	WireThrough(t, newRegistry(t), Door{Serve: auth.Open, Client: http.DefaultTransport})
}

// Door is what is between clients and the API of a registry.
type Door struct {
	Serve  func(api http.Handler) http.Handler // asks who comes
	Client http.RoundTripper                   // says who comes
}

// WireThrough is Wire for a registry behind a door, for a caller who may do
// everything there.
func WireThrough(t *testing.T, reg registry.Registry, door Door) {
	open := (&wire{t: t, reg: reg, door: door}).with(registry.Options{})
	for _, group := range []struct {
		name  string
		cases []wireCase
	}{
		{"Pull", wirePull}, {"Push", wirePush}, {"Discovery", wireDiscovery}, {"Management", wireManagement}, {"Errors", wireErrors},
	} {
		t.Run(group.name, func(t *testing.T) {
			for _, c := range group.cases {
				t.Run(c.name, func(t *testing.T) {
					repo := "case/" + strings.ToLower(group.name+"/"+c.name)
					c.run(t, &wire{t: t, reg: reg, door: door, url: open.url, repo: repo})
				})
			}
		})
	}
}

type wireCase struct {
	name string
	run  func(t *testing.T, w *wire)
}

// wire speaks to a registry with a repository that nobody else uses.
type wire struct {
	t    *testing.T
	reg  registry.Registry
	door Door
	url  string
	repo string
}

// with is w on a server of other options.
func (w *wire) with(opts registry.Options) *wire {
	s := httptest.NewServer(w.door.Serve(registry.NewHandler(w.reg, opts)))
	w.t.Cleanup(s.Close)
	return &wire{t: w.t, reg: w.reg, door: w.door, url: s.URL, repo: w.repo}
}

// answer is a response, read to its end.
type answer struct {
	t      *testing.T
	what   string
	status int
	header http.Header
	body   []byte
}

// do sends a request; path is below the repository unless it begins with "/".
// headers are "Name: value".
func (w *wire) do(method, path string, body io.Reader, headers ...string) *answer {
	w.t.Helper()
	at := path
	if !strings.HasPrefix(path, "/") {
		at = "/v2/" + w.repo + "/" + path
	}
	r, err := http.NewRequestWithContext(w.t.Context(), method, w.url+at, body)
	if err != nil {
		w.t.Fatal(err)
	}
	for _, s := range headers {
		name, value, _ := strings.Cut(s, ": ")
		r.Header.Add(name, value)
	}
	client := http.Client{Transport: w.door.Client, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	resp, err := client.Do(r)
	if err != nil {
		w.t.Fatal(err)
	}
	b, err := io.ReadAll(resp.Body)
	if err := errors.Join(err, resp.Body.Close()); err != nil {
		w.t.Fatal(err)
	}
	return &answer{w.t, method + " " + path, resp.StatusCode, resp.Header, b}
}

func (w *wire) get(path string, headers ...string) *answer {
	w.t.Helper()
	return w.do("GET", path, nil, headers...)
}

// text sends a body of the type octet-stream.
func (w *wire) text(method, path, body string, headers ...string) *answer {
	w.t.Helper()
	return w.do(method, path, strings.NewReader(body), append(headers, "Content-Type: "+octets)...)
}

// want fails the test unless the status is one of statuses.
func (a *answer) want(statuses ...int) *answer {
	a.t.Helper()
	if !slices.Contains(statuses, a.status) {
		a.t.Fatalf("%s: status %d, want %v: %s", a.what, a.status, statuses, a.body)
	}
	return a
}

// has fails the test unless the header name has the value.
func (a *answer) has(name, value string) *answer {
	a.t.Helper()
	if got := a.header.Values(name); !slices.Contains(got, value) {
		a.t.Errorf("%s: %s %q, want %q", a.what, name, got, value)
	}
	return a
}

// lacks fails the test if there is a header name.
func (a *answer) lacks(name string) *answer {
	a.t.Helper()
	if got := a.header.Values(name); len(got) > 0 {
		a.t.Errorf("%s: %s %q", a.what, name, got)
	}
	return a
}

// is fails the test unless the body is b.
func (a *answer) is(b string) *answer {
	a.t.Helper()
	if string(a.body) != b {
		a.t.Errorf("%s: body %.200q, want %.200q", a.what, a.body, b)
	}
	return a
}

// code fails the test unless the body has an error with the code.
func (a *answer) code(code registry.Code) *answer {
	a.t.Helper()
	var body struct {
		Errors []struct {
			Code    registry.Code `json:"code"`
			Message string        `json:"message"`
		} `json:"errors"`
	}
	a.decode(&body)
	if len(body.Errors) == 0 || body.Errors[0].Code != code || body.Errors[0].Message == "" {
		a.t.Errorf("%s: errors %s, want %s", a.what, a.body, code)
	}
	return a
}

func (a *answer) decode(v any) {
	a.t.Helper()
	if err := json.Unmarshal(a.body, v); err != nil {
		a.t.Fatalf("%s: %v: %.300q", a.what, err, a.body)
	}
}

// location is where the answer sends the client to, as a path.
func (a *answer) location() string {
	a.t.Helper()
	u, err := url.Parse(a.header.Get("Location"))
	if err != nil || u.Path == "" {
		a.t.Fatalf("%s: Location %q", a.what, a.header.Get("Location"))
	}
	return u.RequestURI()
}

// next is where the next page is, or "".
func (a *answer) next() string {
	a.t.Helper()
	link := a.header.Get("Link")
	if link == "" {
		return ""
	}
	target, params, ok := strings.Cut(strings.TrimPrefix(link, "<"), ">")
	if !ok || params != `; rel="next"` {
		a.t.Fatalf("%s: Link %q", a.what, link)
	}
	return target
}

// withDigest is an upload's location with the digest that ends it.
func withDigest(location string, dgst digest.Digest) string {
	sep := "?"
	if strings.Contains(location, "?") {
		sep = "&"
	}
	return location + sep + "digest=" + dgst.String()
}

// start begins an upload and returns where it goes on.
func (w *wire) start(headers ...string) string {
	w.t.Helper()
	return w.do("POST", "blobs/uploads/", nil, headers...).want(202).location()
}

// blob pushes text.
func (w *wire) blob(text string) ocispec.Descriptor {
	w.t.Helper()
	d := ocispec.Descriptor{MediaType: octets, Digest: digest.FromString(text), Size: int64(len(text))}
	w.text("PUT", withDigest(w.start(), d.Digest), text).want(201)
	return d
}

// manifest returns the manifest of an image whose blobs are pushed; change, if not
// nil, changes it before.
func (w *wire) manifest(text string, change func(m *ocispec.Manifest)) []byte {
	w.t.Helper()
	config := w.blob(fmt.Sprintf(`{"architecture":"amd64","os":"linux","author":%q}`, text))
	config.MediaType = ocispec.MediaTypeImageConfig
	layer := w.blob("layer of " + text)
	layer.MediaType = ocispec.MediaTypeImageLayer
	m := ocispec.Manifest{Config: config, Layers: []ocispec.Descriptor{layer}, MediaType: ocispec.MediaTypeImageManifest}
	if change != nil {
		change(&m)
	}
	return w.encode(&m, &m.Versioned)
}

func (w *wire) encode(v any, version *specs.Versioned) []byte {
	w.t.Helper()
	version.SchemaVersion = 2
	b, err := json.Marshal(v)
	if err != nil {
		w.t.Fatal(err)
	}
	return b
}

// put puts a manifest as ref, or by its sha256 where ref is "".
func (w *wire) put(ref string, b []byte) *answer {
	w.t.Helper()
	if ref == "" {
		ref = digest.FromBytes(b).String()
	}
	var own struct {
		MediaType string `json:"mediaType"`
	}
	if err := json.Unmarshal(b, &own); err != nil {
		w.t.Fatal(err)
	}
	return w.do("PUT", "manifests/"+ref, bytes.NewReader(b), "Content-Type: "+own.MediaType)
}

// image pushes an image and tags it, unless tag is empty.
func (w *wire) image(tag, text string) (ocispec.Descriptor, []byte) {
	w.t.Helper()
	b := w.manifest(text, nil)
	w.put(tag, b).want(201)
	return ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: digest.FromBytes(b), Size: int64(len(b))}, b
}

// artifact pushes a manifest about subject.
func (w *wire) artifact(subject ocispec.Descriptor, artifactType, text string) (ocispec.Descriptor, *answer) {
	w.t.Helper()
	b := w.manifest(text, func(m *ocispec.Manifest) {
		m.ArtifactType, m.Subject = artifactType, &subject
		m.Annotations = map[string]string{"text": text}
	})
	a := w.put("", b).want(201)
	return ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: digest.FromBytes(b), Size: int64(len(b))}, a
}

// referrers lists what refers to dgst; query begins with "?" or is empty.
func (w *wire) referrers(dgst digest.Digest, query string) (ocispec.Index, *answer) {
	w.t.Helper()
	a := w.get("referrers/"+dgst.String()+query).want(200).has("Content-Type", ocispec.MediaTypeImageIndex)
	var x ocispec.Index
	a.decode(&x)
	if x.SchemaVersion != 2 || x.MediaType != ocispec.MediaTypeImageIndex || x.Manifests == nil {
		w.t.Errorf("referrers: no index: %.300s", a.body)
	}
	return x, a
}
