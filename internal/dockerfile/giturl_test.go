package dockerfile

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/moby/buildkit/frontend/dockerfile/dfgitutil"
)

var gitURLs = []string{
	"https://example.com/", "https://example.com/foo.git", "https://example.com/foo.git#deadbeef", "https://example.com/foo.git/", ".git",
	"git://example.com/foo", "github.com/moby/buildkit", "github.com/moby/buildkit#master", "github.com/a/b?tag=v1", "custom.xyz/a/b.git",
	"https://foo:bar@h/b.git", "git@github.com:moby/buildkit", "git@h:a/b.git?subdir=/subdir#v1.0.0", "https://h/b.git#baz/qux:quux/quuz",
	"http://h/d.git:#branch", "https://h/d.git#:myfolder", "./.git", "https://h/d.git?ref=v1&subdir=/subdir", "https://h/b.git?subdir=/s#v1",
	"https://h/b.git?tag=v1", "https://h/b.git?branch=v1", "https://h/b.git?ref=v1#v2", "https://h/b.git?ref=v1&tag=v2", "ftp://x/y.git",
	"https://h/b.git?tag=v1&branch=v1", "https://h/b.git?mtime=commit", "https://h/b.git?mtime=invalid", "HTTPS://h/x.git", "a@b:p?q=1&ref=x",
	"https://h/b.git?fetch-by-commit=true&checksum=deadbeef#refs/heads/b", "https://h/b.git?fetch-by-commit&commit=d", "a-b_c@h.i-j:",
	"https://h/b.git?invalid=123", "ssh://h:22/x?keep-git-dir&submodules=0", "https://h/x.git?ref=", "https://h/x.git?ref=a&ref=b",
}

// FuzzParseGit reads addresses as BuildKit does, whose own reader takes more
// than a millisecond at every start of a program.
func FuzzParseGit(f *testing.F) {
	for _, s := range gitURLs {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		got, is, err := ParseGit(s)
		ref, wantIs, wantErr := dfgitutil.ParseGitRef(s)
		if wantErr == nil && strings.HasPrefix(ref.Ref, "-") {
			if err == nil { // BuildKit refuses it later
				t.Fatalf("%q: a ref that is an option", s)
			}
			return
		}
		if (is && err == nil) != (wantErr == nil) || (is && err != nil) != (wantIs && wantErr != nil) {
			t.Fatalf("%q: %v %v, want %v %v", s, is, err, wantIs, wantErr)
		}
		if !is || err != nil {
			return
		}
		want := GitURL{Keep: ref.KeepGitDir, Bare: ref.IndistinguishableFromLocal}
		want.Remote, want.Ref, want.Subdir, want.Checksum = ref.Remote, ref.Ref, ref.SubDir, ref.Checksum
		if want.Bare {
			want.Remote = "https://" + want.Remote
		}
		want.KeepGitDir = ref.KeepGitDir != nil && *ref.KeepGitDir
		want.SkipSubmodules = ref.Submodules != nil && !*ref.Submodules
		want.CommitTimes, want.FetchByCommit = ref.MTime == "commit", ref.FetchByCommit
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%q: %s", s, diff)
		}
	})
}
