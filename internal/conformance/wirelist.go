package conformance

import (
	"context"
	"fmt"
	"iter"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"strake/internal/registry"
)

type tagList struct {
	Name string
	Tags []string
}

// wireDiscovery is the category Content Discovery, docker's catalog and the
// extensions.
var wireDiscovery = []wireCase{
	{"Tags", func(t *testing.T, w *wire) { // end-8a
		_, b := w.image("v1", "x")
		for _, tag := range []string{"b", "B", "a", "C", "_x", "1", "10", "9"} {
			w.put(tag, b).want(201)
		}
		var list tagList
		w.get("tags/list").want(200).has("Content-Type", "application/json").decode(&list)
		want := tagList{w.repo, []string{"1", "10", "9", "_x", "a", "B", "b", "C", "v1"}} // lexical: by letters, whatever their case
		if diff := cmp.Diff(want, list); diff != "" {
			t.Error(diff)
		}
		w.do("HEAD", "tags/list", nil).want(200).is("")
	}},
	{"TagsOfNothing", func(t *testing.T, w *wire) {
		w.get("tags/list").want(404).code(registry.NameUnknown)
		w.blob("x")
		var list tagList
		w.get("tags/list").want(200).decode(&list)
		if list.Tags == nil || len(list.Tags) != 0 {
			t.Errorf("%+v", list)
		}
	}},
	{"TagPages", wireTagPages}, // end-8b
	{"Catalog", func(t *testing.T, w *wire) {
		for i := range 5 {
			other := *w
			other.repo = fmt.Sprintf("%s/r%d", w.repo, i)
			other.blob("x")
		}
		var all []string
		pages := 0
		for at := "/v2/_catalog?n=2"; at != ""; pages++ {
			a := w.get(at).want(200)
			var page struct{ Repositories []string }
			a.decode(&page)
			if len(page.Repositories) > 2 {
				t.Errorf("%d on a page of 2", len(page.Repositories))
			}
			all = append(all, page.Repositories...)
			at = a.next()
		}
		for i := range 5 {
			if !slices.Contains(all, fmt.Sprintf("%s/r%d", w.repo, i)) {
				t.Errorf("r%d is not in %q", i, all)
			}
		}
		if !slices.IsSorted(all) || pages < 3 {
			t.Errorf("%d pages: %q", pages, all)
		}
		w.do("HEAD", "/v2/_catalog", nil).want(200)
		for _, n := range []string{"-1", "x", "99999999999999999999"} {
			w.get("/v2/_catalog?n=" + n).want(400)
		}
		w.get("/v2/_catalog?n=1000000000").want(200) // CVE-2023-2253
	}},
	{"Referrers", wireReferrers}, // end-12a, end-12b
	{"ReferrersOfNothing", func(t *testing.T, w *wire) {
		missing := digest.FromString("missing")
		x, _ := w.referrers(missing, "") // not even a repository: never 404
		w.blob("x")
		y, _ := w.referrers(missing, "?artifactType=a")
		if len(x.Manifests)+len(y.Manifests) > 0 {
			t.Errorf("%+v, %+v", x, y)
		}
		w.get("referrers/sha256:bad").want(400).code(registry.DigestInvalid)
		w.get("referrers/tag").want(400)
	}},
	{"ReferrersBeforeSubject", func(t *testing.T, w *wire) {
		b := w.manifest("late", nil)
		subject := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: digest.FromBytes(b), Size: int64(len(b))}
		d, _ := w.artifact(subject, "text/x", "early")
		w.put("v1", b).want(201)
		if x, _ := w.referrers(subject.Digest, ""); len(x.Manifests) != 1 || x.Manifests[0].Digest != d.Digest {
			t.Errorf("%+v", x)
		}
	}},
	{"ReferrersTagSchema", func(t *testing.T, w *wire) {
		// A client that knows no referrers API lists them in an index with a tag.
		subject, _ := w.image("v1", "subject")
		d, _ := w.artifact(subject, "text/x", "listed")
		d.ArtifactType = "text/x"
		x := ocispec.Index{MediaType: ocispec.MediaTypeImageIndex, Manifests: []ocispec.Descriptor{d}}
		tag := strings.Replace(subject.Digest.String(), ":", "-", 1)
		w.put(tag, w.encode(&x, &x.Versioned)).want(201)
		w.get("manifests/" + tag).want(200)
		if x, _ := w.referrers(subject.Digest, ""); len(x.Manifests) != 1 || x.Manifests[0].Digest != d.Digest {
			t.Errorf("%+v", x)
		}
	}},
	{"ReferrersPages", wireReferrersPages},
	{"Discover", func(t *testing.T, w *wire) {
		var found struct {
			Extensions []struct {
				Name, URL, Description string
				Endpoints              []string
			}
		}
		w.get("/v2/_oci/ext/discover").want(200).has("Content-Type", "application/json").decode(&found)
		if len(found.Extensions) == 0 || found.Extensions[0].Name != "_oci" || found.Extensions[0].URL == "" || len(found.Extensions[0].Endpoints) == 0 {
			t.Errorf("%+v", found)
		}
		w.get("_oci/ext/discover").want(200)
	}},
}

func wireTagPages(t *testing.T, w *wire) {
	_, b := w.image("", "x")
	var all []string
	for i := range 25 {
		all = append(all, fmt.Sprintf("tag%02d", i))
		if i%2 == 0 {
			all[i] = strings.ToUpper(all[i])
		}
		w.put(all[i], b).want(201)
	}
	for _, n := range []int{1, 4, 24, 25, 26} {
		var got []string
		for at := fmt.Sprintf("tags/list?n=%d", n); at != ""; {
			a := w.get(at).want(200)
			var page tagList
			a.decode(&page)
			got = append(got, page.Tags...)
			if at = a.next(); at != "" && len(page.Tags) != n {
				t.Errorf("n=%d: a page of %d", n, len(page.Tags))
			}
		}
		if diff := cmp.Diff(all, got); diff != "" {
			t.Errorf("n=%d: %s", n, diff)
		}
	}
	var page tagList
	w.get("tags/list?n=0").want(200).lacks("Link").decode(&page)
	if page.Tags == nil || len(page.Tags) != 0 {
		t.Errorf("n=0: %+v", page)
	}
	w.get("tags/list?last=tag10").want(200).lacks("Link").decode(&page) // TAG10 comes before it, though it is not there
	if diff := cmp.Diff(all[11:], page.Tags); diff != "" {
		t.Errorf("last=tag10: %s", diff)
	}
	w.get("tags/list?last=zzz").want(200).decode(&page)
	if len(page.Tags) != 0 {
		t.Errorf("last=zzz: %q", page.Tags)
	}
	w.get("tags/list?n=-1").want(400)
	w.get("tags/list?n=x").want(400)
}

func wireReferrers(t *testing.T, w *wire) {
	subject, _ := w.image("v1", "subject")
	types := map[digest.Digest]string{}
	for i, artifactType := range []string{"text/a", "text/b", "text/a"} {
		d, _ := w.artifact(subject, artifactType, fmt.Sprintf("artifact %d", i))
		types[d.Digest] = artifactType
	}
	plain, _ := w.artifact(subject, "", "of its config's type")
	types[plain.Digest] = ocispec.MediaTypeImageConfig
	index := ocispec.Index{MediaType: ocispec.MediaTypeImageIndex, Manifests: []ocispec.Descriptor{}, Subject: &subject}
	b := w.encode(&index, &index.Versioned)
	w.put("", b).want(201).has("OCI-Subject", subject.Digest.String())
	types[digest.FromBytes(b)] = ""
	index.ArtifactType = "text/index"
	b = w.encode(&index, &index.Versioned)
	w.put("", b).want(201)
	types[digest.FromBytes(b)] = "text/index"

	x, a := w.referrers(subject.Digest, "")
	a.lacks("OCI-Filters-Applied").lacks("Link")
	got := map[digest.Digest]string{}
	for _, d := range x.Manifests {
		got[d.Digest] = d.ArtifactType
		if d.MediaType == ocispec.MediaTypeImageManifest && d.Annotations["text"] == "" {
			t.Errorf("no annotations: %+v", d)
		}
		if d.Size == 0 {
			t.Errorf("no size: %+v", d)
		}
	}
	if diff := cmp.Diff(types, got); diff != "" {
		t.Error(diff)
	}
	for artifactType, n := range map[string]int{"text/a": 2, "text/b": 1, ocispec.MediaTypeImageConfig: 1, "text/index": 1, "none": 0} {
		x, a := w.referrers(subject.Digest, "?artifactType="+url.QueryEscape(artifactType))
		a.has("OCI-Filters-Applied", "artifactType")
		if len(x.Manifests) != n {
			t.Errorf("%s: %d, want %d", artifactType, len(x.Manifests), n)
		}
	}
	w.do("HEAD", "referrers/"+subject.Digest.String(), nil).want(200).is("")
	w.do("DELETE", "manifests/"+plain.Digest.String(), nil).want(202)
	if x, _ := w.referrers(subject.Digest, ""); len(x.Manifests) != len(types)-1 {
		t.Errorf("%d after a deletion of %d", len(x.Manifests), len(types))
	}
	w.do("DELETE", "manifests/"+subject.Digest.String(), nil).want(202)
	if x, _ := w.referrers(subject.Digest, ""); len(x.Manifests) != len(types)-1 {
		t.Errorf("%d after the deletion of their subject", len(x.Manifests))
	}
}

// wireReferrersPages has more referrers than an index of 4 MiB holds.
func wireReferrersPages(t *testing.T, w *wire) {
	subject, _ := w.image("v1", "subject")
	want := map[digest.Digest]bool{}
	for i := range 3 {
		b := w.manifest("x", func(m *ocispec.Manifest) {
			m.Subject, m.ArtifactType = &subject, "text/x"
			m.Annotations = map[string]string{"a": strings.Repeat(fmt.Sprint(i), 1_500_000)}
		})
		w.put("", b).want(201)
		want[digest.FromBytes(b)] = true
	}
	for query, least := range map[string]int{"": 2, "?n=1": 3, "?artifactType=text/x": 2} {
		got, pages := map[digest.Digest]bool{}, 0
		for at := "referrers/" + subject.Digest.String() + query; at != ""; pages++ {
			a := w.get(at).want(200)
			if len(a.body) > 4<<20 {
				t.Errorf("an index of %d bytes", len(a.body))
			}
			if strings.Contains(query, "artifactType") {
				a.has("OCI-Filters-Applied", "artifactType")
			}
			var x ocispec.Index
			a.decode(&x)
			for _, d := range x.Manifests {
				got[d.Digest] = true
			}
			at = a.next()
		}
		if diff := cmp.Diff(want, got); diff != "" || pages < least {
			t.Errorf("%q: %d pages %s", query, pages, diff)
		}
	}
	w.get("referrers/" + subject.Digest.String() + "?n=0").want(400)
	w.get("referrers/" + subject.Digest.String() + "?last=x").want(400)
}

// wireManagement is the category Content Management.
var wireManagement = []wireCase{
	{"DeleteTag", func(_ *testing.T, w *wire) { // end-9
		d, _ := w.image("v1", "x")
		w.do("DELETE", "manifests/v1", nil).want(202)
		w.get("manifests/v1").want(404)
		w.do("DELETE", "manifests/v1", nil).want(404)
		w.get("manifests/" + d.Digest.String()).want(200)
	}},
	{"DeleteManifest", func(_ *testing.T, w *wire) {
		d, _ := w.image("v1", "x")
		w.do("DELETE", "manifests/"+d.Digest.String(), nil).want(202)
		w.get("manifests/v1").want(404)
		w.get("manifests/" + d.Digest.String()).want(404)
		w.do("DELETE", "manifests/"+d.Digest.String(), nil).want(404).code(registry.ManifestUnknown)
		w.repo += "/nothing"
		w.do("DELETE", "manifests/"+d.Digest.String(), nil).want(404)
	}},
	{"DeleteBlob", func(_ *testing.T, w *wire) { // end-10
		d := w.blob("x")
		w.do("DELETE", "blobs/"+d.Digest.String(), nil).want(202)
		w.do("HEAD", "blobs/"+d.Digest.String(), nil).want(404)
		w.do("DELETE", "blobs/"+d.Digest.String(), nil).want(404).code(registry.BlobUnknown)
		w.blob("x") // and again
		w.get("blobs/" + d.Digest.String()).want(200).is("x")
	}},
	{"DeleteDisabled", func(_ *testing.T, w *wire) { // CVE-2026-41888: tags too
		d, _ := w.image("v1", "x")
		layer := digest.FromString("layer of x").String()
		for _, opts := range []registry.Options{{NoDelete: true}, {ReadOnly: true}} {
			front := w.with(opts)
			for _, path := range []string{"manifests/v1", "manifests/" + d.Digest.String(), "blobs/" + layer} {
				front.do("DELETE", path, nil).want(405).code(registry.Unsupported)
				front.get(path).want(200)
			}
		}
		front := w.with(registry.Options{NoDelete: true})
		front.do("DELETE", front.start(), nil).want(204) // an upload may be cancelled
		front.do("DELETE", "manifests/v1", nil).has("Allow", "GET, HEAD, PUT")
		w.with(registry.Options{ReadOnly: true}).do("DELETE", "manifests/v1", nil).has("Allow", "GET, HEAD")
	}},
	{"ReadOnly", func(_ *testing.T, w *wire) {
		b := w.manifest("x", nil)
		at := w.start()
		front := w.with(registry.Options{ReadOnly: true})
		front.do("POST", "blobs/uploads/", nil).want(405).code(registry.Unsupported)
		front.text("PATCH", at, "x").want(405)
		front.text("PUT", withDigest(at, digest.FromString("x")), "x").want(405)
		front.put("v1", b).want(405)
		front.get(at).want(204)
	}},
}

// busy is a registry that has no time.
type busy struct {
	registry.Registry
	err error
}

// Tags implements registry.Lister.
func (b busy) Tags(context.Context, string, string) iter.Seq2[string, error] {
	return func(yield func(string, error) bool) { yield("", b.err) }
}

// wireErrors is what errors look like.
var wireErrors = []wireCase{
	{"Form", func(_ *testing.T, w *wire) {
		w.get("manifests/nothing").want(404).has("Content-Type", "application/json").has("X-Content-Type-Options", "nosniff")
		w.get("/v2/nothing").want(404)
		w.get("/nothing").want(404)
		w.do("PUT", "/v2/", nil).want(405).code(registry.Unsupported).has("Allow", "GET, HEAD")
	}},
	{"Names", func(_ *testing.T, w *wire) {
		for _, repo := range []string{"A", "a..b", "-a", "a-", "a/", "a//b", "a___b", "_catalog/x", strings.Repeat("a", 256)} {
			w.get("/v2/" + repo + "/tags/list").want(400).code(registry.NameInvalid)
		}
		for _, repo := range []string{"a", "a/b/c", "a.b", "a_b", "a__b", "a---b", "blobs/manifests/tags", "tags/list/list", strings.Repeat("a", 255)} {
			w.get("/v2/" + repo + "/tags/list").want(404).code(registry.NameUnknown)
		}
	}},
	{"TooManyRequests", func(_ *testing.T, w *wire) {
		e := registry.Errorf(registry.TooManyRequests, "too many requests")
		front := &wire{t: w.t, reg: busy{w.reg, e}, door: w.door, repo: w.repo}
		front.with(registry.Options{}).get("tags/list").want(429).code(registry.TooManyRequests).has("Retry-After", "1")
		e.RetryAfter = 1500 * time.Millisecond
		front.with(registry.Options{}).get("tags/list").want(429).has("Retry-After", "2")
		front.reg = busy{w.reg, registry.Errorf(registry.Unavailable, "starting")}
		front.with(registry.Options{}).get("tags/list").want(503).has("Retry-After", "1")
	}},
}
