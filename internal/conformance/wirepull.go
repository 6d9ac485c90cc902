package conformance

import (
	"fmt"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"strake/internal/registry"
)

// wirePull is the category Pull, and conditions and ranges as RFC 9110 has them.
var wirePull = []wireCase{
	{"Base", func(_ *testing.T, w *wire) { // end-1
		w.get("/v2/").want(200).has("Docker-Distribution-Api-Version", "registry/2.0")
		w.do("HEAD", "/v2/", nil).want(200)
	}},
	{"ManifestByTag", func(_ *testing.T, w *wire) { // end-3
		d, b := w.image("v1", "x")
		w.get("manifests/v1").want(200).is(string(b)).has("Content-Type", d.MediaType).
			has("Docker-Content-Digest", d.Digest.String()).has("Content-Length", fmt.Sprint(d.Size))
	}},
	{"ManifestByDigest", func(_ *testing.T, w *wire) {
		d, b := w.image("", "x")
		w.get("manifests/"+d.Digest.String()).want(200).is(string(b)).has("Content-Type", d.MediaType).
			has("Docker-Content-Digest", d.Digest.String())
	}},
	{"ManifestHead", func(_ *testing.T, w *wire) {
		d, _ := w.image("v1", "x")
		for _, ref := range []string{"v1", d.Digest.String()} {
			w.do("HEAD", "manifests/"+ref, nil).want(200).is("").has("Content-Length", fmt.Sprint(d.Size)).
				has("Docker-Content-Digest", d.Digest.String()).has("Content-Type", d.MediaType)
		}
	}},
	{"ManifestUnknown", func(_ *testing.T, w *wire) {
		w.get("manifests/nothing").want(404) // of a repository that is not there
		w.image("v1", "x")
		w.get("manifests/nothing").want(404).code(registry.ManifestUnknown)
		missing := "manifests/" + digest.FromString("missing").String()
		w.get(missing).want(404).code(registry.ManifestUnknown)
		w.do("HEAD", missing, nil).want(404).is("")
		w.do("HEAD", "manifests/nothing", nil).want(404).is("")
	}},
	{"ManifestBadReference", func(_ *testing.T, w *wire) {
		w.get("manifests/sha256:baddigeststring").want(400).code(registry.DigestInvalid)
		w.get("manifests/-tag").want(400).code(registry.TagInvalid)
		w.get("manifests/" + strings.Repeat("a", 129)).want(400).code(registry.TagInvalid)
	}},
	{"ManifestNotModified", func(_ *testing.T, w *wire) {
		d, b := w.image("v1", "x")
		etag := `"` + d.Digest.String() + `"`
		for _, ref := range []string{"v1", d.Digest.String()} {
			w.get("manifests/"+ref).want(200).has("ETag", etag)
			w.get("manifests/"+ref, "If-None-Match: "+etag).want(304).is("").has("ETag", etag).lacks("Content-Length")
			w.get("manifests/"+ref, `If-None-Match: "other", W/`+etag).want(304)
			w.do("HEAD", "manifests/"+ref, nil, "If-None-Match: *").want(304)
			w.get("manifests/"+ref, `If-None-Match: "other"`).want(200).is(string(b))
		}
		w.get("manifests/nothing", "If-None-Match: *").want(404)
		w.get("manifests/v1").has("Cache-Control", "no-cache")
		w.get("manifests/"+d.Digest.String()).has("Cache-Control", "max-age=31536000, immutable")
	}},
	{"ManifestMoves", func(_ *testing.T, w *wire) {
		w.image("v1", "first")
		second, b := w.image("v1", "second")
		w.get("manifests/v1").want(200).is(string(b)).has("Docker-Content-Digest", second.Digest.String())
	}},
	{"Blob", func(_ *testing.T, w *wire) { // end-2
		d := w.blob("0123456789")
		w.get("blobs/"+d.Digest.String()).want(200).is("0123456789").has("Docker-Content-Digest", d.Digest.String()).
			has("Content-Length", "10").has("Accept-Ranges", "bytes").has("ETag", `"`+d.Digest.String()+`"`).
			has("Cache-Control", "max-age=31536000, immutable").has("X-Content-Type-Options", "nosniff")
	}},
	{"BlobHead", func(_ *testing.T, w *wire) {
		d := w.blob("0123456789")
		w.do("HEAD", "blobs/"+d.Digest.String(), nil).want(200).is("").has("Content-Length", "10").
			has("Docker-Content-Digest", d.Digest.String())
	}},
	{"BlobUnknown", func(_ *testing.T, w *wire) {
		missing := "blobs/" + digest.FromString("missing").String()
		w.get(missing).want(404).code(registry.BlobUnknown)
		w.do("HEAD", missing, nil).want(404).is("")
		w.get("blobs/sha256:bad").want(400).code(registry.DigestInvalid)
	}},
	{"BlobEmpty", func(_ *testing.T, w *wire) {
		d := w.blob("")
		w.get("blobs/"+d.Digest.String()).want(200).is("").has("Content-Length", "0")
		w.get("blobs/"+d.Digest.String(), "Range: bytes=0-").want(416).has("Content-Range", "bytes */0")
	}},
	{"BlobRange", wireBlobRange},
	{"BlobIfRange", func(_ *testing.T, w *wire) {
		d := w.blob("0123456789")
		at, etag := "blobs/"+d.Digest.String(), `"`+d.Digest.String()+`"`
		w.get(at, "Range: bytes=2-4", "If-Range: "+etag).want(206).is("234")
		w.get(at, "Range: bytes=2-4", `If-Range: "other"`).want(200).is("0123456789")
		w.get(at, "Range: bytes=2-4", "If-Range: W/"+etag).want(200) // weak ones never match here
		w.get(at, "Range: bytes=2-4", "If-Range: Mon, 02 Jan 2006 15:04:05 GMT").want(200)
		w.get(at, "Range: bytes=90-", `If-Range: "other"`).want(200).is("0123456789")
	}},
	{"BlobNotModified", func(_ *testing.T, w *wire) {
		d := w.blob("x")
		at, etag := "blobs/"+d.Digest.String(), `"`+d.Digest.String()+`"`
		w.get(at, "If-None-Match: "+etag).want(304).is("").has("ETag", etag)
		w.get(at, "If-None-Match: "+etag, "Range: bytes=0-0").want(304)
		w.do("HEAD", at, nil, "If-None-Match: "+etag).want(304)
		w.get(at, `If-None-Match: "a", "b"`).want(200)
		w.get("blobs/"+digest.FromString("missing").String(), "If-None-Match: *").want(404)
	}},
	{"BlobOfOtherRepository", func(_ *testing.T, w *wire) { // CVE-2024-39897, CVE-2026-35172
		d := w.blob("secret of one")
		other := *w
		other.repo += "/other"
		other.blob("something")
		for _, method := range []string{"GET", "HEAD"} {
			other.do(method, "blobs/"+d.Digest.String(), nil).want(404)
			other.do(method, "blobs/"+d.Digest.String(), nil, `If-None-Match: "`+d.Digest.String()+`"`).want(404)
		}
		w.do("DELETE", "blobs/"+d.Digest.String(), nil).want(202)
		w.get("blobs/" + d.Digest.String()).want(404)
		w.get("blobs/"+d.Digest.String(), "Range: bytes=0-1").want(404)
	}},
	{"ManifestOfOtherRepository", func(_ *testing.T, w *wire) {
		d, _ := w.image("v1", "secret") // and so in the cache
		w.get("manifests/v1").want(200)
		other := *w
		other.repo += "/other"
		other.image("v1", "open")
		other.get("manifests/" + d.Digest.String()).want(404)
		w.do("DELETE", "manifests/"+d.Digest.String(), nil).want(202)
		w.get("manifests/" + d.Digest.String()).want(404)
		w.get("manifests/v1").want(404)
	}},
	{"DockerSchema2", func(_ *testing.T, w *wire) {
		const manifest, list = "application/vnd.docker.distribution.manifest.v2+json", "application/vnd.docker.distribution.manifest.list.v2+json"
		b := w.manifest("x", func(m *ocispec.Manifest) {
			m.MediaType, m.Config.MediaType = manifest, "application/vnd.docker.container.image.v1+json"
		})
		w.put("v1", b).want(201)
		w.get("manifests/v1", "Accept: "+manifest).want(200).is(string(b)).has("Content-Type", manifest)
		x := ocispec.Index{MediaType: list, Manifests: []ocispec.Descriptor{{MediaType: manifest, Digest: digest.FromBytes(b), Size: int64(len(b))}}}
		b = w.encode(&x, &x.Versioned)
		w.put("all", b).want(201)
		w.get("manifests/all").want(200).is(string(b)).has("Content-Type", list)
	}},
	{"Namespace", wireNamespace},
}

func wireBlobRange(t *testing.T, w *wire) {
	d := w.blob("0123456789")
	for _, c := range []struct {
		asked, body, contentRange string
		status                    int
	}{
		{"bytes=2-4", "234", "bytes 2-4/10", 206},
		{"bytes=0-", "0123456789", "bytes 0-9/10", 206},
		{"bytes=9-9", "9", "bytes 9-9/10", 206},
		{"bytes=5-100", "56789", "bytes 5-9/10", 206},
		{"bytes=0-99999999999999999999", "0123456789", "bytes 0-9/10", 206},
		{"bytes=-3", "789", "bytes 7-9/10", 206},
		{"bytes=-100", "0123456789", "bytes 0-9/10", 206},
		{"bytes=10-", "", "bytes */10", 416},
		{"bytes=50-100", "", "bytes */10", 416},
		{"bytes=5-0", "", "bytes */10", 416},
		{"bytes=-0", "", "bytes */10", 416},
		{"bytes=-", "", "bytes */10", 416},
		{"bytes=99999999999999999999-", "", "bytes */10", 416},
		{"bytes=+1-2", "", "bytes */10", 416},
		{"bytes=0-1,4-5", "0123456789", "", 200}, // several are ignored
		{"lines=0-1", "0123456789", "", 200},
	} {
		a := w.get("blobs/"+d.Digest.String(), "Range: "+c.asked)
		if got := a.header.Get("Content-Range"); a.status != c.status || got != c.contentRange {
			t.Errorf("%s: status %d, Content-Range %q", c.asked, a.status, got)
		}
		if a.status != 416 {
			a.is(c.body).has("Content-Length", fmt.Sprint(len(c.body)))
		}
	}
	w.get("blobs/"+digest.FromString("missing").String(), "Range: bytes=0-1").want(404)
}

// wireNamespace is the proxying of the specification to come: ns= and OCI-Namespace.
func wireNamespace(_ *testing.T, w *wire) {
	d, _ := w.image("v1", "x")
	host := strings.TrimPrefix(w.url, "http://")
	w.get("manifests/v1?ns="+host).want(200).has("OCI-Namespace", host)
	w.get("manifests/v1?ns=elsewhere.example").want(200).lacks("OCI-Namespace")
	w.get("manifests/v1").want(200).lacks("OCI-Namespace")
	front := w.with(registry.Options{Namespace: func(host string) registry.Registry {
		if host != "elsewhere.example" {
			return nil
		}
		return w.reg
	}})
	for _, path := range []string{"manifests/v1", "manifests/" + d.Digest.String(), "tags/list", "blobs/" + digest.FromString("layer of x").String()} {
		front.get(path+"?ns=elsewhere.example").want(200).has("OCI-Namespace", "elsewhere.example")
		front.get(path + "?ns=unknown.example").want(200).lacks("OCI-Namespace")
	}
}
