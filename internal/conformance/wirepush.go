package conformance

import (
	"bytes"
	"crypto/sha512"
	"encoding/json"
	"fmt"
	"io"
	"net/url"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"strake/internal/registry"
)

// sha512Of is the sha512 digest of text.
func sha512Of(text string) digest.Digest {
	return digest.NewDigestFromBytes(digest.SHA512, sha512sum(text))
}

func sha512sum(text string) []byte {
	sum := sha512.Sum512([]byte(text))
	return sum[:]
}

// wirePush is the category Push: blobs here, manifests below.
var wirePush = append([]wireCase{
	{"PostPut", func(t *testing.T, w *wire) { // end-4a, end-6
		at := w.start()
		if at == w.start() {
			t.Error("two uploads at one place")
		}
		d := digest.FromString("monolithic")
		a := w.text("PUT", withDigest(at, d), "monolithic").want(201).has("Docker-Content-Digest", d.String())
		w.get(a.location()).want(200).is("monolithic")
	}},
	{"PostOnly", func(_ *testing.T, w *wire) { // end-4b
		d := digest.FromString("single")
		a := w.text("POST", "blobs/uploads/?digest="+d.String(), "single").want(201)
		w.get(a.location()).want(200).is("single")
	}},
	{"PostOnlyOfUnknownLength", func(_ *testing.T, w *wire) {
		d := digest.FromString("streamed")
		body := struct{ io.Reader }{strings.NewReader("streamed")}
		w.do("POST", "blobs/uploads/?digest="+d.String(), body, "Content-Type: "+octets).want(201)
		w.get("blobs/" + d.String()).want(200).is("streamed")
	}},
	{"Sha512", func(_ *testing.T, w *wire) { // end-4c
		d := sha512Of("five hundred")
		at := w.do("POST", "blobs/uploads/?digest-algorithm=sha512", nil).want(202).location()
		a := w.text("PUT", withDigest(at, d), "five hundred").want(201).has("Docker-Content-Digest", d.String())
		w.get(a.location()).want(200).is("five hundred").has("Docker-Content-Digest", d.String())
		w.text("POST", "blobs/uploads/?digest="+sha512Of("single").String(), "single").want(201)
		w.text("POST", "blobs/uploads/?digest="+sha512Of("single").String(), "other").want(400).code(registry.DigestInvalid)
		w.do("POST", "blobs/uploads/?digest-algorithm=md5", nil).want(400).code(registry.DigestInvalid)
	}},
	{"Chunks", wireChunks},
	{"ChunkOutOfOrder", wireChunkOutOfOrder},
	{"ChunkMinLength", func(_ *testing.T, w *wire) {
		w.do("POST", "blobs/uploads/", nil).want(202).lacks("OCI-Chunk-Min-Length")
		w.with(registry.Options{MinChunk: 5 << 20}).do("POST", "blobs/uploads/", nil).want(202).has("OCI-Chunk-Min-Length", "5242880")
	}},
	{"Stream", func(_ *testing.T, w *wire) { // PATCH without a range
		a := w.text("PATCH", w.start(), "streamed ").want(202)
		a = w.text("PATCH", a.location(), "body").want(202)
		w.do("PUT", withDigest(a.location(), digest.FromString("streamed body")), nil).want(201)
	}},
	{"Status", func(_ *testing.T, w *wire) { // end-13
		at := w.text("PATCH", w.start(), "01234").want(202).location()
		for _, method := range []string{"GET", "HEAD"} {
			w.do(method, at, nil).want(204).has("Range", "0-4").has("Location", at)
		}
		w.get("blobs/uploads/nothing").want(404).code(registry.BlobUploadUnknown)
	}},
	{"Cancel", func(_ *testing.T, w *wire) { // end-14
		at := w.text("PATCH", w.start(), "01234").want(202).location()
		w.do("DELETE", at, nil).want(204)
		w.get(at).want(404).code(registry.BlobUploadUnknown)
		w.text("PATCH", at, "5").want(404)
		w.do("DELETE", at, nil).want(404)
	}},
	{"OtherRepositorysUpload", func(_ *testing.T, w *wire) {
		at := w.text("PATCH", w.start(), "01234").want(202).location()
		at = strings.Replace(at, w.repo, w.repo+"/other", 1)
		w.get(at).want(404)
		w.do("DELETE", at, nil).want(404)
		w.do("PUT", withDigest(at, digest.FromString("01234")), nil).want(404)
	}},
	{"BadDigest", func(_ *testing.T, w *wire) {
		d := digest.FromString("right")
		w.text("PUT", withDigest(w.start(), d), "wrong").want(400).code(registry.DigestInvalid)
		w.text("POST", "blobs/uploads/?digest="+d.String(), "wrong").want(400).code(registry.DigestInvalid)
		w.text("POST", "blobs/uploads/?digest="+d.String(), "right and more").want(400).code(registry.DigestInvalid)
		at := w.text("PATCH", w.start(), "wro").want(202).location()
		w.text("PUT", withDigest(at, d), "ng").want(400).code(registry.DigestInvalid)
		w.get("blobs/" + d.String()).want(404)
		at = w.start()
		w.text("PUT", at, "right").want(400).code(registry.DigestInvalid) // none
		w.text("PUT", withDigest(at, "sha256:short"), "right").want(400).code(registry.DigestInvalid)
		w.text("PUT", withDigest(at, "md5:d41d8cd98f00b204e9800998ecf8427e"), "right").want(400).code(registry.DigestInvalid)
		w.text("POST", "blobs/uploads/?digest=sha256:short", "right").want(400).code(registry.DigestInvalid)
	}},
	{"Mount", func(_ *testing.T, w *wire) { // end-11
		from := *w
		from.repo += "/from"
		d := from.blob("mounted")
		a := w.do("POST", "blobs/uploads/?mount="+d.Digest.String()+"&from="+url.QueryEscape(from.repo), nil).want(201)
		w.get(a.location()).want(200).is("mounted")
		from.do("DELETE", "blobs/"+d.Digest.String(), nil).want(202)
		w.get("blobs/" + d.Digest.String()).want(200).is("mounted")
	}},
	{"MountFromAnywhere", func(_ *testing.T, w *wire) {
		from := *w
		from.repo += "/from"
		d := from.blob("mounted from anywhere")
		for _, query := range []string{"", "&from="} {
			a := w.do("POST", "blobs/uploads/?mount="+d.Digest.String()+query, nil).want(201).has("Docker-Content-Digest", d.Digest.String())
			w.get(a.location()).want(200).is("mounted from anywhere")
		}
	}},
	{"MountNothing", func(_ *testing.T, w *wire) {
		d := digest.FromString("to be mounted")
		for _, query := range []string{"&from=no/such/repository", "&from=" + w.repo, "", "&from=../..", "&from="} {
			at := w.do("POST", "blobs/uploads/?mount="+d.String()+query, nil).want(202).location()
			w.do("DELETE", at, nil).want(204)
		}
		at := w.do("POST", "blobs/uploads/?mount="+d.String()+"&from=nowhere", nil).want(202).location()
		w.text("PUT", withDigest(at, d), "to be mounted").want(201)
		w.do("POST", "blobs/uploads/?mount=sha256:bad&from="+w.repo, nil).want(400).code(registry.DigestInvalid)
	}},
}, wirePushManifest...)

func wireChunks(t *testing.T, w *wire) { // end-5, end-6
	for _, last := range []string{"", "789"} {
		text := "012" + "3456" + last
		a := w.text("PATCH", w.start("Content-Length: 0"), "012", "Content-Range: 0-2").want(202).has("Range", "0-2")
		a = w.text("PATCH", a.location(), "3456", "Content-Range: 3-6").want(202).has("Range", "0-6")
		headers := []string{}
		if last != "" {
			headers = append(headers, "Content-Range: 7-9")
		}
		a = w.text("PUT", withDigest(a.location(), digest.FromString(text)), last, headers...).want(201)
		w.get(a.location()).want(200).is(text)
	}
	at := w.start()
	for _, malformed := range []string{"x", "0-", "-2", "2-0"} {
		w.text("PATCH", at, "012", "Content-Range: "+malformed).want(400).code(registry.BlobUploadInvalid)
	}
	w.text("PATCH", at, "012", "Content-Range: 0-9").want(400).code(registry.BlobUploadInvalid) // another length
	if got := w.get(at).want(204).header.Get("Range"); got != "0-0" {
		t.Errorf("Range %q after refused chunks", got)
	}
}

func wireChunkOutOfOrder(_ *testing.T, w *wire) {
	d := digest.FromString("0123456789")
	at := w.start()
	w.text("PATCH", at, "345", "Content-Range: 3-5").want(416).code(registry.RangeInvalid)
	at = w.text("PATCH", at, "012", "Content-Range: 0-2").want(202).location()
	for _, c := range []string{"6-8", "0-2", "2-4"} {
		a := w.text("PATCH", at, "xxx", "Content-Range: "+c).want(416).code(registry.RangeInvalid).has("Range", "0-2")
		w.get(a.location()).want(204).has("Range", "0-2")
	}
	w.text("PUT", withDigest(at, d), "789", "Content-Range: 7-9").want(416)
	at = w.get(at).want(204).has("Range", "0-2").location()
	at = w.text("PATCH", at, "3456", "Content-Range: 3-6").want(202).location()
	w.text("PUT", withDigest(at, d), "789", "Content-Range: 7-9").want(201)
	w.get("blobs/" + d.String()).want(200).is("0123456789")
}

var wirePushManifest = []wireCase{
	{"Manifest", func(_ *testing.T, w *wire) { // end-7a
		b := w.manifest("x", nil)
		d := digest.FromBytes(b).String()
		a := w.put("v1", b).want(201).has("Docker-Content-Digest", d).lacks("OCI-Subject").lacks("OCI-Tag")
		w.get(a.location()).want(200).is(string(b))
		w.put("", b).want(201).has("Docker-Content-Digest", d)
		w.put("v1", b).want(201) // again
	}},
	{"ManifestExactBytes", func(_ *testing.T, w *wire) {
		b := append([]byte(" \n\t"), w.manifest("x", nil)...)
		b = append(b, "\n\n"...)
		w.put("v1", b).want(201)
		w.get("manifests/v1").want(200).is(string(b))
	}},
	{"ManifestTypeWithParameters", func(_ *testing.T, w *wire) {
		b := w.manifest("x", nil)
		w.do("PUT", "manifests/v1", bytes.NewReader(b), "Content-Type: "+ocispec.MediaTypeImageManifest+"; charset=utf-8").want(201)
		w.get("manifests/v1").want(200).has("Content-Type", ocispec.MediaTypeImageManifest)
	}},
	{"ManifestWithoutType", func(_ *testing.T, w *wire) {
		w.do("PUT", "manifests/v1", bytes.NewReader(w.manifest("x", nil))).want(201)
		w.get("manifests/v1").want(200).has("Content-Type", ocispec.MediaTypeImageManifest)
	}},
	{"ManifestOf4MB", func(_ *testing.T, w *wire) {
		b := w.manifest("x", func(m *ocispec.Manifest) {
			m.Annotations = map[string]string{"a": strings.Repeat("A", 4_000_000)}
		})
		w.put("large", b).want(201)
		w.get("manifests/large").want(200).is(string(b))
		w.put("larger", append(b, bytes.Repeat([]byte(" "), 400_000)...)).want(413).code(registry.SizeInvalid)
	}},
	{"ManifestNoLayers", func(_ *testing.T, w *wire) {
		w.put("v1", w.manifest("x", func(m *ocispec.Manifest) { m.Layers = []ocispec.Descriptor{} })).want(201)
	}},
	{"ManifestUnknownFields", func(_ *testing.T, w *wire) {
		b := bytes.Replace(w.manifest("x", nil), []byte(`"schemaVersion"`), []byte(`"org.example.x":{"y":[1]},"schemaVersion"`), 1)
		w.put("v1", b).want(201)
		w.get("manifests/v1").want(200).is(string(b))
	}},
	{"ManifestLayersElsewhere", func(t *testing.T, w *wire) {
		b := w.manifest("x", func(m *ocispec.Manifest) {
			m.Layers = append(m.Layers, ocispec.Descriptor{
				MediaType: "application/vnd.oci.image.layer.nondistributable.v1.tar", Size: 12345,
				Digest: digest.FromString("elsewhere"), URLs: []string{"https://store.example.com/x"},
			})
		})
		a := w.put("v1", b).want(201)
		if got := a.header.Get("Warning"); !strings.HasPrefix(got, `299 - "`) || !strings.HasSuffix(got, `"`) {
			t.Errorf("Warning %q", got)
		}
	}},
	{"ManifestOfMissingBlob", func(_ *testing.T, w *wire) {
		b := w.manifest("x", func(m *ocispec.Manifest) { m.Layers[0].Digest = digest.FromString("missing") })
		w.put("v1", b).want(400, 404).code(registry.ManifestBlobUnknown)
		w.get("manifests/v1").want(404)
		w.get("manifests/" + digest.FromBytes(b).String()).want(404)
	}},
	{"ManifestRefused", func(_ *testing.T, w *wire) {
		w.do("PUT", "manifests/v1", strings.NewReader(`"totally wrong"`), "Content-Type: "+ocispec.MediaTypeImageManifest).want(400).code(registry.ManifestInvalid)
		w.do("PUT", "manifests/v1", strings.NewReader("blablabla"), "Content-Type: "+ocispec.MediaTypeImageManifest).want(400).code(registry.ManifestInvalid)
		w.do("PUT", "manifests/v1", strings.NewReader(""), "Content-Type: "+ocispec.MediaTypeImageManifest).want(400).code(registry.ManifestInvalid)
		b := w.manifest("x", nil)
		w.do("PUT", "manifests/v1", bytes.NewReader(b), "Content-Type: "+ocispec.MediaTypeImageIndex).want(400).code(registry.ManifestInvalid)
		w.do("PUT", "manifests/v1", bytes.NewReader(b), "Content-Type: text/plain").want(400).code(registry.ManifestInvalid)
	}},
	{"ManifestBadDigest", func(_ *testing.T, w *wire) {
		b := w.manifest("x", nil)
		w.put(digest.FromString("other").String(), b).want(400).code(registry.DigestInvalid)
		w.put("sha256:baddigeststring", b).want(400).code(registry.DigestInvalid)
		w.put(digest.FromBytes(b).String(), append(b, "  "...)).want(400).code(registry.DigestInvalid)
	}},
	{"ManifestBadName", func(_ *testing.T, w *wire) {
		b := w.manifest("x", nil)
		w.put("-v1", b).want(400).code(registry.TagInvalid)
		w.put(strings.Repeat("v", 129), b).want(400).code(registry.TagInvalid)
		w.put(strings.Repeat("v", 128), b).want(201)
		w.put("_V.-1", b).want(201)
		w.repo += "/UPPER"
		w.put("v1", b).want(400).code(registry.NameInvalid)
	}},
	{"ManifestSha512", func(_ *testing.T, w *wire) {
		b := w.manifest("x", nil)
		d := sha512Of(string(b)).String()
		a := w.put(d, b).want(201).has("Docker-Content-Digest", d)
		w.get(a.location()).want(200).is(string(b)).has("Docker-Content-Digest", d)
		w.put(d+"?tag=long", b).want(201).has("OCI-Tag", "long")
		w.get("manifests/long").want(200).has("Docker-Content-Digest", d)
		w.put(sha512Of("other").String(), b).want(400).code(registry.DigestInvalid)
		x := ocispec.Index{MediaType: ocispec.MediaTypeImageIndex, Manifests: []ocispec.Descriptor{
			{MediaType: ocispec.MediaTypeImageManifest, Digest: digest.Digest(d), Size: int64(len(b))},
		}}
		w.put("index", w.encode(&x, &x.Versioned)).want(201)
		w.do("DELETE", "manifests/"+d, nil).want(202)
		w.get("manifests/long").want(404)
	}},
	{"ManifestTags", wireManifestTags},
	{"Index", func(_ *testing.T, w *wire) {
		child, _ := w.image("", "child")
		x := ocispec.Index{MediaType: ocispec.MediaTypeImageIndex, Manifests: []ocispec.Descriptor{child}}
		inner := w.encode(&x, &x.Versioned)
		w.put("", inner).want(201)
		nested := ocispec.Index{MediaType: ocispec.MediaTypeImageIndex, Manifests: []ocispec.Descriptor{
			{MediaType: ocispec.MediaTypeImageIndex, Digest: digest.FromBytes(inner), Size: int64(len(inner))},
		}}
		w.put("nested", w.encode(&nested, &nested.Versioned)).want(201)
		empty := ocispec.Index{MediaType: ocispec.MediaTypeImageIndex, Manifests: []ocispec.Descriptor{}}
		w.put("empty", w.encode(&empty, &empty.Versioned)).want(201)
		x.Manifests[0].Digest = digest.FromString("missing")
		w.put("missing", w.encode(&x, &x.Versioned)).want(400, 404).code(registry.ManifestBlobUnknown)
	}},
	{"DescriptorData", func(_ *testing.T, w *wire) {
		w.put("v1", w.manifest("x", func(m *ocispec.Manifest) { m.Layers[0].Data = []byte("layer of x") })).want(201)
	}},
	{"Subject", func(_ *testing.T, w *wire) {
		subject, _ := w.image("v1", "subject")
		_, a := w.artifact(subject, "text/x", "about it")
		a.has("OCI-Subject", subject.Digest.String())
		missing := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: digest.FromString("missing"), Size: 123}
		_, a = w.artifact(missing, "text/x", "about nothing")
		a.has("OCI-Subject", missing.Digest.String())
	}},
}

// wireManifestTags is end-7b.
func wireManifestTags(t *testing.T, w *wire) {
	b := w.manifest("x", nil)
	query := url.Values{}
	for i := range 12 {
		query.Add("tag", fmt.Sprintf("t%02d", i))
	}
	d := digest.FromBytes(b).String()
	a := w.put(d+"?"+query.Encode(), b).want(201).has("Docker-Content-Digest", d)
	if got := a.header.Values("OCI-Tag"); len(got) != 12 {
		t.Errorf("OCI-Tag %q", got)
	}
	for _, tag := range query["tag"] {
		w.get("manifests/"+tag).want(200).has("Docker-Content-Digest", d)
	}
	w.put(d+"?tag=good&tag=-bad", b).want(400).code(registry.TagInvalid)
	w.get("manifests/good").want(404)
	w.put("also?tag=beside", b).want(201).has("OCI-Tag", "beside")
	w.get("manifests/also").want(200)
	w.get("manifests/beside").want(200)
	many := url.Values{}
	for i := range 1000 {
		many.Add("tag", fmt.Sprintf("t%d", i))
	}
	w.put(d+"?"+many.Encode(), b).want(413)
	var list struct{ Tags []string }
	if err := json.Unmarshal(w.get("tags/list").want(200).body, &list); err != nil || len(list.Tags) != 14 {
		t.Errorf("%d tags, %v", len(list.Tags), err)
	}
}
