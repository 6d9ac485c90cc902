package conformance

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"strings"
	"sync"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"strake/internal/auth"
	"strake/internal/image"
	"strake/internal/registry"
)

// caller is the context of a caller who may do everything.
func caller(t *testing.T) context.Context {
	return auth.With(t.Context(), auth.Identity{System: true})
}

// Registry tests what registry.Registry promises. newRegistry returns an empty
// registry.
func Registry(t *testing.T, newRegistry func(t *testing.T) registry.Registry) {
	for _, c := range []struct {
		name string
		run  func(t *testing.T, r registry.Registry)
	}{
		{"Blob", registryBlob},
		{"BlobEmpty", registryBlobEmpty},
		{"BlobMismatch", registryBlobMismatch},
		{"BlobOtherRepository", registryBlobOtherRepository},
		{"Unknown", registryUnknown},
		{"HostileNames", registryHostileNames},
		{"Upload", registryUpload},
		{"UploadResume", registryUploadResume},
		{"UploadMismatch", registryUploadMismatch},
		{"UploadCancel", registryUploadCancel},
		{"Mount", registryMount},
		{"Manifest", registryManifest},
		{"ManifestRefused", registryManifestRefused},
		{"Index", registryIndex},
		{"Referrers", registryReferrers},
		{"Lists", registryLists},
		{"Delete", registryDelete},
		{"Parallel", registryParallel},
	} {
		t.Run(c.name, func(t *testing.T) { c.run(t, newRegistry(t)) })
	}
}

const octets = "application/octet-stream"

// pushBlob pushes b and returns its descriptor.
func pushBlob(t *testing.T, r registry.Registry, repo string, b []byte) ocispec.Descriptor {
	t.Helper()
	d := image.Bytes(octets, b)
	if err := r.PushBlob(caller(t), repo, d, bytes.NewReader(b)); err != nil {
		t.Fatalf("push blob: %v", err)
	}
	return d
}

// pushImage pushes an image of one layer and tags it, unless tag is empty.
func pushImage(t *testing.T, r registry.Registry, repo, tag, text string) (ocispec.Descriptor, registry.Manifest) {
	t.Helper()
	config := pushBlob(t, r, repo, fmt.Appendf(nil, `{"architecture":"amd64","os":"linux","author":%q}`, text))
	config.MediaType = ocispec.MediaTypeImageConfig
	layer := pushBlob(t, r, repo, []byte("layer of "+text))
	layer.MediaType = ocispec.MediaTypeImageLayer
	m := encodeManifest(t, ocispec.Manifest{Config: config, Layers: []ocispec.Descriptor{layer}})
	d, err := r.PutManifest(caller(t), repo, tags(tag), m)
	if err != nil {
		t.Fatalf("put manifest: %v", err)
	}
	return d, m
}

// tags is a list of tag, or of nothing.
func tags(tag string) []string {
	if tag == "" {
		return nil
	}
	return []string{tag}
}

func encodeManifest(t *testing.T, m ocispec.Manifest) registry.Manifest {
	t.Helper()
	m.Versioned, m.MediaType = specs.Versioned{SchemaVersion: 2}, ocispec.MediaTypeImageManifest
	b, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return registry.Manifest{MediaType: m.MediaType, Bytes: b}
}

// wantCode fails the test unless err has one of the codes.
func wantCode(t *testing.T, what string, err error, codes ...registry.Code) {
	t.Helper()
	if err == nil {
		t.Errorf("%s: no error, want %v", what, codes)
		return
	}
	got := registry.ErrorOf(err).Code
	for _, c := range codes {
		if got == c {
			return
		}
	}
	t.Errorf("%s: %v (code %s), want %v", what, err, got, codes)
}

func readBlob(t *testing.T, r registry.Registry, repo string, dgst digest.Digest, offset int64) []byte {
	t.Helper()
	blob, err := r.OpenBlob(caller(t), repo, dgst, offset)
	if err != nil {
		t.Fatalf("open blob: %v", err)
	}
	b, err := io.ReadAll(blob)
	if err := errors.Join(err, blob.Close()); err != nil {
		t.Fatalf("read blob: %v", err)
	}
	return b
}

func registryBlob(t *testing.T, r registry.Registry) {
	b := bytes.Repeat([]byte("0123456789"), 100_000)
	d := pushBlob(t, r, "a/b", b)
	pushBlob(t, r, "a/b", b) // again
	got, err := r.StatBlob(caller(t), "a/b", d.Digest)
	if err != nil || got.Size != d.Size || got.Digest != d.Digest {
		t.Errorf("stat: %+v, %v", got, err)
	}
	for _, offset := range []int64{0, 1, 777_777, d.Size - 1} {
		if got := readBlob(t, r, "a/b", d.Digest, offset); !bytes.Equal(got, b[offset:]) {
			t.Errorf("from %d: %d other bytes", offset, len(got))
		}
	}
	blob, err := r.OpenBlob(caller(t), "a/b", d.Digest, d.Size+1)
	if err == nil {
		_ = blob.Close()
	}
	want(t, "open beyond the end", err, errdefs.IsOutOfRange)
}

func registryBlobEmpty(t *testing.T, r registry.Registry) {
	d := pushBlob(t, r, "a", nil)
	if got := readBlob(t, r, "a", d.Digest, 0); len(got) != 0 {
		t.Errorf("%d bytes", len(got))
	}
}

func registryBlobMismatch(t *testing.T, r registry.Registry) {
	d := image.Bytes(octets, []byte("expected"))
	err := r.PushBlob(caller(t), "a", d, strings.NewReader("anything"))
	wantCode(t, "push other bytes", err, registry.DigestInvalid)
	_, err = r.StatBlob(caller(t), "a", d.Digest)
	want(t, "stat", err, errdefs.IsNotFound)
}

// registryBlobOtherRepository is CVE-2024-39897 and CVE-2026-35172.
func registryBlobOtherRepository(t *testing.T, r registry.Registry) {
	d := pushBlob(t, r, "secret", []byte("secret"))
	pushBlob(t, r, "open", []byte("open"))
	_, err := r.StatBlob(caller(t), "open", d.Digest)
	want(t, "stat", err, errdefs.IsNotFound)
	_, err = r.OpenBlob(caller(t), "open", d.Digest, 0)
	want(t, "open", err, errdefs.IsNotFound)
	_, err = r.MountBlob(caller(t), "mine", "open", d.Digest)
	want(t, "mount", err, errdefs.IsNotFound)
	err = r.PushBlob(caller(t), "open", ocispec.Descriptor{Digest: d.Digest, Size: d.Size}, strings.NewReader("unseen"))
	wantCode(t, "claim by digest", err, registry.DigestInvalid)
	_, err = r.StatBlob(caller(t), "open", d.Digest)
	want(t, "stat after claim", err, errdefs.IsNotFound)
	config := d
	config.MediaType = ocispec.MediaTypeImageConfig
	m := encodeManifest(t, ocispec.Manifest{Config: config, Layers: []ocispec.Descriptor{}})
	_, err = r.PutManifest(caller(t), "open", []string{"t"}, m)
	wantCode(t, "manifest that refers to it", err, registry.ManifestBlobUnknown)
}

func registryUnknown(t *testing.T, r registry.Registry) {
	ctx, dgst := caller(t), digest.FromString("unknown")
	_, err := r.StatBlob(ctx, "a", dgst)
	want(t, "stat blob", err, errdefs.IsNotFound)
	_, err = r.OpenBlob(ctx, "a", dgst, 0)
	wantCode(t, "open blob", err, registry.BlobUnknown, registry.NameUnknown)
	_, err = r.StatManifest(ctx, "a", "tag")
	want(t, "stat tag", err, errdefs.IsNotFound)
	_, err = r.GetManifest(ctx, "a", "tag")
	wantCode(t, "get tag", err, registry.ManifestUnknown, registry.NameUnknown)
	_, err = r.GetManifest(ctx, "a", dgst.String())
	wantCode(t, "get manifest", err, registry.ManifestUnknown, registry.NameUnknown)
	_, err = collect(r.Tags(ctx, "a", ""))
	wantCode(t, "tags", err, registry.NameUnknown)
	_, err = r.ResumeUpload(ctx, "a", "L3YyL2EvYmxvYnMvdXBsb2Fkcy8w") // a client's for /v2/a/blobs/uploads/0
	wantCode(t, "resume", err, registry.BlobUploadUnknown)
	want(t, "delete blob", r.DeleteBlob(ctx, "a", dgst), errdefs.IsNotFound)
	want(t, "delete manifest", r.DeleteManifest(ctx, "a", dgst), errdefs.IsNotFound)
	want(t, "delete tag", r.DeleteTag(ctx, "a", "tag"), errdefs.IsNotFound)
}

func registryHostileNames(t *testing.T, r registry.Registry) {
	ctx, dgst := caller(t), digest.FromString("x")
	for _, repo := range []string{"", "..", "a/../b", "/a", "a/", "a//b", "A", "a b", "a%2e", "a\x00", "a/blobs/..", strings.Repeat("a", 256)} {
		_, err := r.StatBlob(ctx, repo, dgst)
		wantCode(t, fmt.Sprintf("repository %q", repo), err, registry.NameInvalid)
		_, err = r.StartUpload(ctx, repo)
		wantCode(t, fmt.Sprintf("upload to %q", repo), err, registry.NameInvalid)
	}
	for _, d := range []digest.Digest{
		"", "sha256:", "sha256:../../../../etc/passwd", "sha256:abc", "md5:d41d8cd98f00b204e9800998ecf8427e",
		digest.Digest("sha256:" + strings.Repeat("A", 64)), digest.Digest("sha256:" + strings.Repeat("a", 63) + "/"),
	} {
		_, err := r.OpenBlob(ctx, "a", d, 0)
		wantCode(t, fmt.Sprintf("digest %q", d), err, registry.DigestInvalid)
	}
	for _, tag := range []string{"", ".", "..", "-a", "a/b", "a b", strings.Repeat("a", 129)} {
		_, err := r.GetManifest(ctx, "a", tag)
		wantCode(t, fmt.Sprintf("tag %q", tag), err, registry.TagInvalid)
	}
}

func registryUpload(t *testing.T, r registry.Registry) {
	b := bytes.Repeat([]byte("chunk"), 2_000_000)
	d := image.Bytes(octets, b)
	up, err := r.StartUpload(caller(t), "a")
	if err != nil {
		t.Fatal(err)
	}
	for rest := b; len(rest) > 0; {
		n := min(len(rest), 999_999)
		if _, err := up.Write(rest[:n]); err != nil {
			t.Fatal(err)
		}
		rest = rest[n:]
	}
	if up.Offset() != d.Size {
		t.Errorf("offset %d, want %d", up.Offset(), d.Size)
	}
	got, err := up.Commit(caller(t), d.Digest)
	if err := errors.Join(err, up.Close()); err != nil || got.Size != d.Size {
		t.Fatalf("commit: %+v, %v", got, err)
	}
	if got := readBlob(t, r, "a", d.Digest, 0); !bytes.Equal(got, b) {
		t.Error("other bytes")
	}
}

func registryUploadResume(t *testing.T, r registry.Registry) {
	ctx, b := caller(t), []byte("one two three")
	up, err := r.StartUpload(ctx, "a")
	if err != nil {
		t.Fatal(err)
	}
	for i, part := range []string{"one ", "two ", "three"} {
		if i > 0 {
			if up, err = r.ResumeUpload(ctx, "a", up.ID()); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := up.Write([]byte(part)); err != nil {
			t.Fatal(err)
		}
		if err := up.Close(); err != nil {
			t.Fatal(err)
		}
	}
	_, err = r.ResumeUpload(ctx, "other", up.ID())
	wantCode(t, "resume in another repository", err, registry.BlobUploadUnknown, registry.BlobUploadInvalid)
	if up, err = r.ResumeUpload(ctx, "a", up.ID()); err != nil {
		t.Fatal(err)
	}
	if up.Offset() != int64(len(b)) {
		t.Errorf("offset %d, want %d", up.Offset(), len(b))
	}
	if _, err := up.Commit(ctx, digest.FromBytes(b)); err != nil {
		t.Fatal(err)
	}
	if err := up.Close(); err != nil {
		t.Fatal(err)
	}
	_, err = r.ResumeUpload(ctx, "a", up.ID())
	wantCode(t, "resume after commit", err, registry.BlobUploadUnknown)
}

func registryUploadMismatch(t *testing.T, r registry.Registry) {
	up, err := r.StartUpload(caller(t), "a")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := up.Write([]byte("bytes")); err != nil {
		t.Fatal(err)
	}
	dgst := digest.FromString("others")
	_, err = up.Commit(caller(t), dgst)
	wantCode(t, "commit", err, registry.DigestInvalid)
	if err := up.Close(); err != nil {
		t.Fatal(err)
	}
	_, err = r.StatBlob(caller(t), "a", dgst)
	want(t, "stat", err, errdefs.IsNotFound)
}

func registryUploadCancel(t *testing.T, r registry.Registry) {
	up, err := r.StartUpload(caller(t), "a")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := up.Write([]byte("bytes")); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(up.Cancel(caller(t)), up.Close()); err != nil {
		t.Fatal(err)
	}
	_, err = r.ResumeUpload(caller(t), "a", up.ID())
	wantCode(t, "resume", err, registry.BlobUploadUnknown)
}

func registryMount(t *testing.T, r registry.Registry) {
	b := []byte("mounted")
	d := pushBlob(t, r, "from/here", b)
	got, err := r.MountBlob(caller(t), "to/there", "from/here", d.Digest)
	if err != nil || got.Size != d.Size {
		t.Fatalf("mount: %+v, %v", got, err)
	}
	if err := r.DeleteBlob(caller(t), "from/here", d.Digest); err != nil {
		t.Fatal(err)
	}
	if got := readBlob(t, r, "to/there", d.Digest, 0); !bytes.Equal(got, b) {
		t.Error("other bytes")
	}
	if _, err := r.MountBlob(caller(t), "to/elsewhere", "", d.Digest); err != nil {
		t.Errorf("mount from wherever it is: %v", err)
	}
	if got := readBlob(t, r, "to/elsewhere", d.Digest, 0); !bytes.Equal(got, b) {
		t.Error("other bytes")
	}
	_, err = r.MountBlob(caller(t), "to/there", "", digest.FromString("x"))
	want(t, "mount what is nowhere", err, errdefs.IsNotFound)
	_, err = r.MountBlob(caller(t), "to/there", "nowhere", digest.FromString("x"))
	want(t, "mount what is not there", err, errdefs.IsNotFound)
}

func registryManifest(t *testing.T, r registry.Registry) {
	ctx := caller(t)
	d, m := pushImage(t, r, "a", "v1", "first")
	for _, ref := range []string{"v1", d.Digest.String()} {
		got, err := r.GetManifest(ctx, "a", ref)
		if err != nil {
			t.Fatal(err)
		}
		want := registry.Manifest{MediaType: m.MediaType, Bytes: m.Bytes, Digest: d.Digest}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s: %s", ref, diff)
		}
		desc, err := r.StatManifest(ctx, "a", ref)
		if err != nil || desc.Digest != d.Digest || desc.Size != d.Size || desc.MediaType != d.MediaType {
			t.Errorf("stat %s: %+v, %v", ref, desc, err)
		}
	}
	d2, _ := pushImage(t, r, "a", "v1", "second") // moves the tag
	if desc, err := r.StatManifest(ctx, "a", "v1"); err != nil || desc.Digest != d2.Digest {
		t.Errorf("moved tag: %+v, %v", desc, err)
	}
	if _, err := r.GetManifest(ctx, "a", d.Digest.String()); err != nil {
		t.Errorf("the first manifest: %v", err)
	}
	_, err := r.GetManifest(ctx, "b", d.Digest.String())
	want(t, "manifest through another repository", err, errdefs.IsNotFound)
}

func registryManifestRefused(t *testing.T, r registry.Registry) {
	config := pushBlob(t, r, "a", []byte("{}"))
	config.MediaType = ocispec.MediaTypeImageConfig
	good := string(encodeManifest(t, ocispec.Manifest{Config: config, Layers: []ocispec.Descriptor{}}).Bytes)
	for name, b := range map[string]string{
		"no JSON":          "x",
		"array":            "[]",
		"trailing data":    good + "{}",
		"both kinds":       strings.Replace(good, `"layers"`, `"manifests":[],"layers"`, 1),
		"key twice":        strings.Replace(good, `"layers"`, `"layers":[],"layers"`, 1),
		"key in two cases": strings.Replace(good, `"layers"`, `"Layers":[],"layers"`, 1),
		"other mediaType":  strings.Replace(good, ocispec.MediaTypeImageManifest, ocispec.MediaTypeImageIndex, 1),
		"digest":           strings.Replace(good, config.Digest.String(), "sha256:../../x", 1),
		"deep":             strings.Replace(good, `"layers"`, `"x":`+strings.Repeat("[", 5000)+strings.Repeat("]", 5000)+`,"layers"`, 1),
	} {
		_, err := r.PutManifest(caller(t), "a", []string{"t"}, registry.Manifest{MediaType: ocispec.MediaTypeImageManifest, Bytes: []byte(b)})
		wantCode(t, name, err, registry.ManifestInvalid)
	}
	lacking := image.Bytes(ocispec.MediaTypeImageLayer, []byte("lacking"))
	m := encodeManifest(t, ocispec.Manifest{Config: config, Layers: []ocispec.Descriptor{lacking}})
	_, err := r.PutManifest(caller(t), "a", []string{"t"}, m)
	wantCode(t, "blob that is not there", err, registry.ManifestBlobUnknown)
	_, err = r.StatManifest(caller(t), "a", "t")
	want(t, "tag after refusals", err, errdefs.IsNotFound)
}

func registryIndex(t *testing.T, r registry.Registry) {
	child, _ := pushImage(t, r, "a", "", "child")
	x := ocispec.Index{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex,
		Manifests: []ocispec.Descriptor{child},
	}
	put := func() error {
		b, err := json.Marshal(x)
		if err != nil {
			t.Fatal(err)
		}
		_, err = r.PutManifest(caller(t), "a", []string{"multi"}, registry.Manifest{MediaType: x.MediaType, Bytes: b})
		return err
	}
	if err := put(); err != nil {
		t.Fatal(err)
	}
	x.Manifests[0].Digest = digest.FromString("lacking")
	wantCode(t, "child that is not there", put(), registry.ManifestBlobUnknown)
}

func registryReferrers(t *testing.T, r registry.Registry) {
	subject, _ := pushImage(t, r, "a", "v1", "subject")
	empty := pushBlob(t, r, "a", []byte("{}"))
	empty.MediaType = ocispec.MediaTypeEmptyJSON
	m := encodeManifest(t, ocispec.Manifest{
		ArtifactType: "text/signature", Config: empty, Layers: []ocispec.Descriptor{}, Subject: &subject,
		Annotations: map[string]string{"k": "v", "K": "w"},
	})
	d, err := r.PutManifest(caller(t), "a", nil, m)
	if err != nil {
		t.Fatal(err)
	}
	for artifactType, n := range map[string]int{"": 1, "text/signature": 1, "text/other": 0} {
		got, err := collect(r.Referrers(caller(t), "a", subject.Digest, artifactType, ""))
		if err != nil || len(got) != n {
			t.Fatalf("type %q: %d, %v, want %d", artifactType, len(got), err, n)
		}
		if n == 1 && (got[0].Digest != d.Digest || got[0].ArtifactType != "text/signature" || got[0].Annotations["K"] != "w") {
			t.Errorf("type %q: %+v", artifactType, got[0])
		}
	}
	got, err := collect(r.Referrers(caller(t), "a", digest.FromString("nothing"), "", ""))
	if err != nil || len(got) != 0 {
		t.Errorf("of nothing: %v, %v", got, err)
	}
}

func registryLists(t *testing.T, r registry.Registry) {
	ctx := caller(t)
	_, m := pushImage(t, r, "b/c", "v1", "x")
	pushBlob(t, r, "a", []byte("a"))
	pushBlob(t, r, "z", []byte("z"))
	repos, err := collect(r.Repositories(ctx, ""))
	if diff := cmp.Diff([]string{"a", "b/c", "z"}, repos); err != nil || diff != "" {
		t.Errorf("repositories: %v %s", err, diff)
	}
	repos, err = collect(r.Repositories(ctx, "a"))
	if diff := cmp.Diff([]string{"b/c", "z"}, repos); err != nil || diff != "" {
		t.Errorf("repositories after a: %v %s", err, diff)
	}
	var all []string
	for i := range 30 {
		tag := fmt.Sprintf("t%03d", i)
		if _, err := r.PutManifest(ctx, "b/c", []string{tag}, m); err != nil {
			t.Fatal(err)
		}
		all = append(all, tag)
	}
	all = append(all, "v1")
	got, err := collect(r.Tags(ctx, "b/c", ""))
	if diff := cmp.Diff(all, got); err != nil || diff != "" {
		t.Errorf("tags: %v %s", err, diff)
	}
	got, err = collect(r.Tags(ctx, "b/c", "t028"))
	if diff := cmp.Diff([]string{"t029", "v1"}, got); err != nil || diff != "" {
		t.Errorf("tags after t028: %v %s", err, diff)
	}
}

// collect reads a sequence to its end.
func collect[T any](seq iter.Seq2[T, error]) ([]T, error) {
	var all []T
	for v, err := range seq {
		if err != nil {
			return all, err
		}
		all = append(all, v)
	}
	return all, nil
}

func registryDelete(t *testing.T, r registry.Registry) {
	ctx := caller(t)
	d, m := pushImage(t, r, "a", "v1", "x")
	if _, err := r.PutManifest(ctx, "a", []string{"v2"}, m); err != nil {
		t.Fatal(err)
	}
	if err := r.DeleteTag(ctx, "a", "v1"); err != nil {
		t.Fatal(err)
	}
	_, err := r.StatManifest(ctx, "a", "v1")
	want(t, "deleted tag", err, errdefs.IsNotFound)
	if _, err := r.StatManifest(ctx, "a", d.Digest.String()); err != nil {
		t.Errorf("manifest of a deleted tag: %v", err)
	}
	if err := r.DeleteManifest(ctx, "a", d.Digest); err != nil {
		t.Fatal(err)
	}
	for _, ref := range []string{"v2", d.Digest.String()} {
		_, err := r.StatManifest(ctx, "a", ref)
		want(t, "after deletion: "+ref, err, errdefs.IsNotFound)
	}
	layer := digest.FromString("layer of x")
	if err := r.DeleteBlob(ctx, "a", layer); err != nil {
		t.Fatal(err)
	}
	_, err = r.StatBlob(ctx, "a", layer)
	want(t, "deleted blob", err, errdefs.IsNotFound)
}

func registryParallel(t *testing.T, r registry.Registry) {
	b := bytes.Repeat([]byte("same"), 500_000)
	d := image.Bytes(octets, b)
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			repo := fmt.Sprintf("r%d", i%3)
			if err := r.PushBlob(context.WithoutCancel(caller(t)), repo, d, bytes.NewReader(b)); err != nil {
				t.Errorf("push: %v", err)
			}
		})
	}
	wg.Wait()
	for i := range 3 {
		if got := readBlob(t, r, fmt.Sprintf("r%d", i), d.Digest, 0); !bytes.Equal(got, b) {
			t.Errorf("r%d: other bytes", i)
		}
	}
}
