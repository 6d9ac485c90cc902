package image_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"strake/internal/conformance"
	"strake/internal/image"
	"strake/internal/layout"
)

var (
	someDigest = digest.FromString("some").String()
	goodDesc   = fmt.Sprintf(`{"mediaType":"application/x","digest":%q,"size":4}`, someDigest)
	good       = fmt.Sprintf(`{"schemaVersion":2,"mediaType":%q,"config":%s,"layers":[%s],"annotations":{"a":"1","A":"2"}}`,
		ocispec.MediaTypeImageManifest, goodDesc, goodDesc)
	goodIndex = fmt.Sprintf(`{"schemaVersion":2,"mediaType":%q,"manifests":[%s]}`, ocispec.MediaTypeImageIndex, goodDesc)
)

func TestParse(t *testing.T) {
	m, err := image.ParseManifest(ocispec.MediaTypeImageManifest, []byte(good+"\n"))
	if err != nil || len(m.Layers) != 1 || m.Annotations["A"] != "2" {
		t.Errorf("%+v, %v", m, err)
	}
	if _, err := image.ParseIndex(ocispec.MediaTypeImageIndex, []byte(goodIndex)); err != nil {
		t.Error(err)
	}
	unnamed := strings.Replace(good, fmt.Sprintf(`"mediaType":%q,`, ocispec.MediaTypeImageManifest), "", 1)
	for _, mt := range []string{ocispec.MediaTypeImageManifest, image.MediaTypeDockerManifest} {
		if _, err := image.ParseManifest(mt, []byte(unnamed)); err != nil {
			t.Errorf("%s without mediaType: %v", mt, err)
		}
	}
}

// TestCVE_2021_41190_Ambiguous (and GHSA-qq97-vm5h-rrhg, GHSA-77vh-xpmg-72qh) are bytes that two parsers could read in two ways.
func TestCVE_2021_41190_Ambiguous(t *testing.T) {
	replace := func(old, by string) string {
		s := strings.Replace(good, old, by, 1)
		if s == good {
			t.Fatalf("%q does not occur", old)
		}
		return s
	}
	for name, s := range map[string]string{
		"manifests too":     replace(`"layers"`, `"manifests":[],"layers"`),
		"schema 1 too":      replace(`"layers"`, `"fsLayers":[],"layers"`),
		"escaped key":       replace(`"layers"`, `"m\u0061nifests":[],"layers"`),
		"index's mediaType": replace(ocispec.MediaTypeImageManifest, ocispec.MediaTypeImageIndex),
		"docker's":          replace(ocispec.MediaTypeImageManifest, image.MediaTypeDockerManifest),
		"schemaVersion 1":   replace(`:2`, `:1`),
		"twice":             replace(`"layers"`, `"layers":[],"layers"`),
		"two cases":         replace(`"layers"`, `"LAYERS":[],"layers"`),
		"one wrong case":    replace(`"layers"`, `"Layers"`),
		"kelvin sign":       replace(`"layers"`, `"layerſ":[],"layers"`),
		"inner twice":       replace(`"size":4`, `"size":4,"size":5`),
		"inner two cases":   replace(`"size":4`, `"size":4,"Size":5`),
		"trailing object":   good + goodIndex,
		"trailing byte":     good + "x",
		"array":             "[" + good + "]",
		"string":            `"x"`,
		"null":              "null",
		"nothing":           "",
		"depth":             replace(`"layers"`, `"x":`+strings.Repeat("[", 100)+strings.Repeat("]", 100)+`,"layers"`),
		"depth bomb":        strings.Repeat(`{"a":`, 100_000),
		"digest":            replace(someDigest, "sha256:../../x"),
		"no digest":         replace(someDigest, ""),
		"upper-case digest": replace(someDigest, strings.ToUpper(someDigest)),
		"negative size":     replace(`"size":4`, `"size":-4`),
		"float size":        replace(`"size":4`, `"size":4.5`),
		"layer is an index": replace(`[{"mediaType":"application/x"`, fmt.Sprintf(`[{"mediaType":%q`, ocispec.MediaTypeImageIndex)),
	} {
		if _, err := image.ParseManifest(ocispec.MediaTypeImageManifest, []byte(s)); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, s := range map[string]string{
		"layers too": strings.Replace(goodIndex, `"manifests"`, `"layers":[],"manifests"`, 1),
		"config too": strings.Replace(goodIndex, `"manifests"`, `"config":{},"manifests"`, 1),
		"manifest":   good,
	} {
		if _, err := image.ParseIndex(ocispec.MediaTypeImageIndex, []byte(s)); !errdefs.IsInvalidArgument(err) {
			t.Errorf("index: %s: %v", name, err)
		}
	}
	big := good + strings.Repeat(" ", image.MaxManifestSize)
	if _, err := image.ParseManifest(ocispec.MediaTypeImageManifest, []byte(big)); !errdefs.IsResourceExhausted(err) {
		t.Errorf("too big: %v", err)
	}
}

func TestCVE_2024_3727_CheckDigest(t *testing.T) {
	for _, s := range []string{
		"", "x", "sha256", "sha256:", "sha256:../../x", someDigest + "/", someDigest + "\n", "sha1:" + strings.Repeat("a", 40),
		"md5:" + strings.Repeat("a", 32), strings.ToUpper(someDigest), "sha256:" + strings.Repeat("g", 64), "sha512:" + strings.Repeat("a", 64),
	} {
		if err := image.CheckDigest(digest.Digest(s)); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%q: %v", s, err)
		}
	}
}

func TestParseConfig(t *testing.T) {
	c, err := image.ParseConfig([]byte(`{"architecture":"amd64","os":"linux","config":{"Labels":{"k":"1","K":"2"},"OnBuild":["RUN x"]},"rootfs":{"type":"layers","diff_ids":[]}}`))
	if err != nil || c.Config.Labels["K"] != "2" || len(c.Config.OnBuild) != 1 {
		t.Errorf("%+v, %v", c, err)
	}
	for _, s := range []string{`{"rootfs":{"diff_ids":["x"]}}`, `{"os":"a","OS":"b"}`, `[]`, `{}{}`} {
		if _, err := image.ParseConfig([]byte(s)); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%s: %v", s, err)
		}
	}
}

func TestSelect(t *testing.T) {
	p := func(s string, annotations map[string]string) ocispec.Descriptor {
		d := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: digest.FromString(s), Annotations: annotations}
		if os, rest, ok := strings.Cut(s, "/"); ok {
			arch, variant, _ := strings.Cut(rest, "/")
			d.Platform = &ocispec.Platform{OS: os, Architecture: arch, Variant: variant}
		}
		return d
	}
	attestation := p("unknown/unknown", map[string]string{"vnd.docker.reference.type": "attestation-manifest"})
	for _, c := range []struct {
		have []ocispec.Descriptor
		want string
		got  string // "" is none
	}{
		{[]ocispec.Descriptor{p("linux/arm64", nil), p("linux/amd64", nil)}, "linux/amd64", "linux/amd64"},
		{[]ocispec.Descriptor{p("linux/arm/v6", nil), p("linux/arm/v7", nil)}, "linux/arm/v7", "linux/arm/v7"},
		{[]ocispec.Descriptor{p("linux/arm/v6", nil), p("linux/arm/v7", nil)}, "linux/arm/v6", "linux/arm/v6"},
		{[]ocispec.Descriptor{attestation, p("plain", nil)}, "linux/amd64", "plain"},
		{[]ocispec.Descriptor{attestation, p("linux/s390x", nil)}, "linux/amd64", ""},
		{nil, "linux/amd64", ""},
	} {
		got, err := image.Select(*p(c.want, nil).Platform)(ocispec.Index{Manifests: c.have})
		if c.got == "" {
			if !errdefs.IsNotFound(err) {
				t.Errorf("%s of %d: %v", c.want, len(c.have), err)
			}
			continue
		}
		if err != nil || len(got) != 1 || got[0].Digest != digest.FromString(c.got) {
			t.Errorf("%s: %+v, %v, want %s", c.want, got, err, c.got)
		}
	}
}

// source is an image.Source of a few bytes.
type source map[digest.Digest][]byte

func (s source) Resolve(context.Context, string) (ocispec.Descriptor, error) {
	return ocispec.Descriptor{}, errdefs.ErrNotFound
}

func (s source) Fetch(_ context.Context, d ocispec.Descriptor, offset int64) (io.ReadCloser, error) {
	b, ok := s[d.Digest]
	if !ok {
		return nil, fmt.Errorf("%s: %w", d.Digest, errdefs.ErrNotFound)
	}
	return io.NopCloser(bytes.NewReader(b[offset:])), nil
}

func TestReadAllVerifies(t *testing.T) {
	d := image.Bytes("x/y", []byte("right"))
	for _, b := range []string{"wrong", "righ", "right!", ""} {
		if _, err := image.ReadAll(t.Context(), source{d.Digest: []byte(b)}, d, 100); !errdefs.IsFailedPrecondition(err) {
			t.Errorf("%q: %v", b, err)
		}
	}
	d.Size = 1 << 40
	if _, err := image.ReadAll(t.Context(), source{}, d, 100); !errdefs.IsResourceExhausted(err) {
		t.Errorf("huge: %v", err)
	}
}

// endless is a source of blobs without an end, and counts what is read.
type endless struct {
	source
	read int64
}

func (e *endless) Fetch(context.Context, ocispec.Descriptor, int64) (io.ReadCloser, error) {
	return io.NopCloser(e), nil
}

func (e *endless) Read(p []byte) (int, error) {
	e.read += int64(len(p))
	return len(p), nil
}

// TestCVE_2024_29903_HugeAttachment has blobs that never end, and descriptors of
// exabytes: no more is read, and no more memory taken, than what may be there.
func TestCVE_2024_29903_HugeAttachment(t *testing.T) {
	d := image.Bytes("x/y", []byte("right"))
	src := &endless{}
	if _, err := image.ReadAll(t.Context(), src, d, 1<<20); !errdefs.IsFailedPrecondition(err) || src.read > 1<<10 {
		t.Errorf("without an end: %v after %d bytes", err, src.read)
	}
	for _, size := range []int64{1<<20 + 1, 1 << 40, 1<<63 - 1} {
		d.Size, src.read = size, 0
		if _, err := image.ReadAll(t.Context(), src, d, 1<<20); !errdefs.IsResourceExhausted(err) || src.read > 0 {
			t.Errorf("%d bytes: %v after %d bytes", size, err, src.read)
		}
	}
}

// TestCVE_2024_36623_Progress copies many blobs at once: one goroutine at a time
// is told how far they are, and nobody when the copy has ended.
func TestCVE_2024_36623_Progress(t *testing.T) {
	s := source{}
	m := ocispec.Manifest{MediaType: ocispec.MediaTypeImageManifest}
	m.SchemaVersion = 2
	for i := range 200 {
		b := fmt.Appendf(nil, "layer %d", i)
		m.Config = image.Bytes(ocispec.MediaTypeImageConfig, b)
		m.Layers = append(m.Layers, image.Bytes(ocispec.MediaTypeImageLayer, b))
		s[m.Config.Digest] = b
	}
	b, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	root := image.Bytes(m.MediaType, b)
	s[root.Digest] = b
	l, err := layout.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	var busy, overlaps, told atomic.Int32
	opts := image.CopyOptions{Concurrency: 8, Progress: func(image.Event) {
		defer busy.Add(-1)
		if busy.Add(1) > 1 {
			overlaps.Add(1)
		}
		told.Add(1)
		runtime.Gosched()
	}}
	if err := image.CopyGraph(t.Context(), s, l, root, opts); err != nil {
		t.Fatal(err)
	}
	if n := told.Load(); overlaps.Load() > 0 || n < 400 {
		t.Errorf("told %d times, %d of them at once", n, overlaps.Load())
	}
}

// nest returns indexes nested n deep around nothing.
func nest(t *testing.T, n int) (source, ocispec.Descriptor) {
	s := source{}
	x := ocispec.Index{MediaType: ocispec.MediaTypeImageIndex, Manifests: []ocispec.Descriptor{}}
	x.SchemaVersion = 2
	for range n {
		b, err := json.Marshal(x)
		if err != nil {
			t.Fatal(err)
		}
		d := image.Bytes(ocispec.MediaTypeImageIndex, b)
		s[d.Digest] = b
		x.Manifests = []ocispec.Descriptor{d}
	}
	return s, x.Manifests[0]
}

// refuser is a target that takes nothing.
type refuser struct{ image.Target }

func (refuser) Exists(context.Context, ocispec.Descriptor) (bool, error) { return false, nil }
func (refuser) Push(context.Context, ocispec.Descriptor, image.Opener) error {
	return errdefs.ErrPermissionDenied
}

func TestNesting(t *testing.T) {
	s, root := nest(t, 100)
	if err := image.Walk(t.Context(), s, root, func(ocispec.Descriptor, []byte) error { return nil }); !errdefs.IsResourceExhausted(err) {
		t.Errorf("walk: %v", err)
	}
	if err := image.CopyGraph(t.Context(), s, refuser{}, root, image.CopyOptions{}); !errdefs.IsResourceExhausted(err) {
		t.Errorf("copy: %v", err)
	}
	if _, err := image.FindManifest(t.Context(), s, root, ocispec.Platform{OS: "linux", Architecture: "amd64"}); err == nil {
		t.Error("found a manifest in nothing")
	}
}

func TestCopyErrorSide(t *testing.T) {
	g := conformance.NewGraph(100, "amd64")
	err := image.CopyGraph(t.Context(), g, refuser{}, g.Root, image.CopyOptions{})
	e, ok := errors.AsType[*image.CopyError](err)
	if !ok || e.Side != image.SideTarget || !errdefs.IsPermissionDenied(err) {
		t.Errorf("target: %v", err)
	}
	err = image.CopyGraph(t.Context(), source{}, refuser{}, g.Root, image.CopyOptions{})
	e, ok = errors.AsType[*image.CopyError](err)
	if !ok || e.Side != image.SideSource || !errdefs.IsNotFound(err) {
		t.Errorf("source: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := image.CopyGraph(ctx, g, refuser{}, g.Root, image.CopyOptions{}); !errors.Is(err, context.Canceled) {
		t.Errorf("canceled: %v", err)
	}
}

func TestSniffMediaType(t *testing.T) {
	for s, want := range map[string]string{
		good: ocispec.MediaTypeImageManifest, goodIndex: ocispec.MediaTypeImageIndex,
		`{"layers":[]}`: ocispec.MediaTypeImageManifest, `{"manifests":[]}`: ocispec.MediaTypeImageIndex,
		`{"layers":[],"manifests":[]}`: "", `{}`: "", `x`: "", `{"mediaType":"x/y","layers":[]}`: "",
	} {
		if diff := cmp.Diff(want, image.SniffMediaType([]byte(s))); diff != "" {
			t.Errorf("%s: %s", s, diff)
		}
	}
}

// FuzzParse holds what is accepted as one kind to be refused as the other, and
// to mean the same when it is written again.
func FuzzParse(f *testing.F) {
	f.Add([]byte(good))
	f.Add([]byte(goodIndex))
	f.Fuzz(func(t *testing.T, b []byte) {
		m, errM := image.ParseManifest(ocispec.MediaTypeImageManifest, b)
		_, errX := image.ParseIndex(ocispec.MediaTypeImageIndex, b)
		if errM == nil && errX == nil {
			t.Fatalf("both a manifest and an index: %q", b)
		}
		if errM != nil {
			return
		}
		again, err := json.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		m2, err := image.ParseManifest(ocispec.MediaTypeImageManifest, again)
		if err != nil || m2.Config.Digest != m.Config.Digest || len(m2.Layers) != len(m.Layers) {
			t.Fatalf("%q again: %v", b, err)
		}
	})
}
