package reference

import (
	"strings"
	"testing"

	peer "github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
)

const hex64 = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"

var seeds = []string{
	"", "/", "a", "A", "debian", "debian:12", "debian:", ":12", "library/debian", "library/a/b", "docker.io/debian", "index.docker.io/a/b", "docker.io/library/x/y",
	"localhost/a", "localhost", "localhost:5000/a:b", "Host/a", "host.example/a", "host.example/A", "foo_bar.com/x", "foo_X.com/y", "[::1]:5000/a", "[::1/a", "[]/a",
	"h.x:/a", "h.x:80a/a", "-h.x/a", "h-.x/a", "h..x/a", "a__b/c", "a___b/c", "a..b", "a--b---c", "a-", "-a", ".a", "a._b", "x/y//z", "x/", "a:b:c", "a@b", "a:t@b", "a:b/c",
	"a:" + strings.Repeat("t", 128), "a:" + strings.Repeat("t", 129), "a:.t", "a:-t", "a:_t-.", "a:t\n", "a\n", "\u212a", "a:\u212a", "Ä", "x.\u212a/y", "a\xff",
	strings.Repeat("a", 255), strings.Repeat("a", 256), "h.x/" + strings.Repeat("a", 256), hex64, strings.ToUpper(hex64), hex64[1:], "sha256:" + hex64,
	"a@sha256:" + hex64, "a:t@sha256:" + hex64, "a@sha256:" + hex64[1:], "a@sha256:" + strings.ToUpper(hex64), "a@SHA256:" + hex64, "a@md5:" + hex64[:32], "a@md5:" + hex64[:31],
	"a@x-y+z:" + hex64, "a@x--y:" + hex64, "a@x-:" + hex64, "a@1x:" + hex64, "a@x-1:" + hex64, "a@:" + hex64, "a@sha512:" + hex64 + hex64, "h.x:5@sha256:" + hex64, "h.x:5/a@b:c@d",
}

// FuzzParse holds names, their forms and the errors equal to those of distribution/reference.
func FuzzParse(f *testing.F) {
	for _, s := range seeds {
		f.Add(s, "tag")
		f.Add("a:t", s)
		f.Add("a@sha256:"+hex64, s)
	}
	f.Fuzz(func(t *testing.T, s, tag string) {
		got, err := Parse(s)
		want, wantErr := peer.ParseNormalizedNamed(s)
		if text(err) != text(wantErr) {
			t.Fatalf("Parse(%q): %v, want %v", s, err, wantErr)
		}
		if err != nil {
			return
		}
		compare(t, s, got, want)
		compare(t, s+" repository", got.Repository(), peer.TrimNamed(want))
		compare(t, s+" or latest", got.OrLatest(), peer.TagNameOnly(want))
		if is := peer.IsNameOnly(want); got.IsNameOnly() != is {
			t.Errorf("%q: IsNameOnly is %v", s, !is)
		}
		tagged, err := got.WithTag(tag)
		wantTagged, wantErr := peer.WithTag(want, tag)
		if text(err) != text(wantErr) {
			t.Fatalf("%q with tag %q: %v, want %v", s, tag, err, wantErr)
		}
		if err == nil {
			compare(t, s+" with "+tag, tagged, wantTagged)
		}
	})
}

func text(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

func compare(t *testing.T, what string, got Named, want peer.Named) {
	t.Helper()
	var tag, dgst string
	if tagged, ok := want.(peer.Tagged); ok {
		tag = tagged.Tag()
	}
	if digested, ok := want.(peer.Digested); ok {
		dgst = digested.Digest().String()
	}
	for _, c := range []struct{ name, got, want string }{
		{"string", got.String(), want.String()},
		{"name", got.Name(), want.Name()},
		{"domain", got.Domain(), peer.Domain(want)},
		{"path", got.Path(), peer.Path(want)},
		{"tag", got.Tag(), tag},
		{"digest", got.Digest().String(), dgst},
		{"familiar string", got.Familiar().String(), peer.FamiliarString(want)},
		{"familiar name", got.Familiar().Name(), peer.FamiliarName(want)},
	} {
		if c.got != c.want {
			t.Errorf("%q: the %s is %q, want %q", what, c.name, c.got, c.want)
		}
	}
}

// TestWithDigest compares which digests a name takes.
func TestWithDigest(t *testing.T) {
	name, err := Parse("a:t")
	if err != nil {
		t.Fatal(err)
	}
	peerName, err := peer.ParseNormalizedNamed("a:t")
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range seeds {
		_, d, _ := strings.Cut(s, "@")
		got, err := name.WithDigest(digest.Digest(d))
		want, wantErr := peer.WithDigest(peerName, digest.Digest(d))
		if text(err) != text(wantErr) {
			t.Errorf("with digest %q: %v, want %v", d, err, wantErr)
		} else if err == nil {
			compare(t, d, got, want)
		}
	}
}
