package build

import (
	"errors"
	"net/http"
	"net/http/cgi"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
)

// gitServer serves the repositories in a directory; at /dumb/ only as files.
type gitServer struct {
	dir, url string
}

func newGitServer(t *testing.T) *gitServer {
	t.Helper()
	if _, err := exec.LookPath("git"); err != nil {
		t.Skip("needs git")
	}
	dir := t.TempDir()
	path, err := exec.Command("git", "--exec-path").Output()
	if err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	mux.Handle("/", &cgi.Handler{
		Path: filepath.Join(strings.TrimSpace(string(path)), "git-http-backend"),
		Env:  []string{"GIT_PROJECT_ROOT=" + dir, "GIT_HTTP_EXPORT_ALL=1"},
	})
	mux.Handle("/dumb/", http.StripPrefix("/dumb/", http.FileServer(http.Dir(dir))))
	srv := httptest.NewServer(mux)
	t.Cleanup(srv.Close)
	return &gitServer{dir, srv.URL}
}

// git runs git in the repository of that name.
func (s *gitServer) git(t *testing.T, repo string, args ...string) string {
	t.Helper()
	cmd := exec.Command("git", append([]string{"-C", filepath.Join(s.dir, repo)}, args...)...)
	cmd.Env = append(
		os.Environ(), "GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_NOSYSTEM=1", "GIT_AUTHOR_NAME=a", "GIT_AUTHOR_EMAIL=a@b", "GIT_COMMITTER_NAME=a",
		"GIT_COMMITTER_EMAIL=a@b", "GIT_COMMITTER_DATE=1000000000 +0000", "GIT_AUTHOR_DATE=1000000000 +0000", "GIT_ALLOW_PROTOCOL=file:http",
	)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("git %q: %v: %s", args, err, out)
	}
	return strings.TrimSpace(string(out))
}

// commit writes files, commits them and returns the commit.
func (s *gitServer) commit(t *testing.T, repo string, files ...string) string {
	t.Helper()
	dir := filepath.Join(s.dir, repo)
	if _, err := os.Stat(dir); err != nil {
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		s.git(t, repo, "init", "-q", "-b", "main")
	}
	writeFiles(t, dir, files...)
	s.git(t, repo, "add", "-A")
	s.git(t, repo, "commit", "-q", "--allow-empty", "-m", "m")
	return s.git(t, repo, "rev-parse", "HEAD")
}

func solveGit(t *testing.T, s *dirStore, g Git) (Result, []string, error) {
	t.Helper()
	res, err := NewSolver(Options{Store: s, Connect: connectTest}).Solve(t.Context(), &Vertex{Op: &g})
	if err != nil {
		return res, nil, err
	}
	return res, contents(t, s, res.Layers[0]), nil
}

func TestGit(t *testing.T) {
	srv := newGitServer(t)
	first := srv.commit(t, "r", "a data=1", "run mode=0755 data=2", "d/e/f data=3", "l -> /etc/passwd")
	srv.git(t, "r", "tag", "-a", "-m", "t", "v1")
	tag := srv.git(t, "r", "rev-parse", "v1")
	srv.git(t, "r", "branch", "side")
	second := srv.commit(t, "r", "a data=new")
	srv.git(t, "r", "update-server-info")
	old := []string{"a 644 data=1", "d/ 755", "d/e/ 755", "d/e/f 644 data=3", "l -> /etc/passwd", "run 755 data=2"}
	latest := slices.Concat([]string{"a 644 data=new"}, old[1:])
	remote := srv.url + "/r/.git"
	for _, tc := range []struct {
		name string
		git  Git
		want []string
		err  string
	}{
		{name: "default branch", git: Git{}, want: latest},
		{name: "branch", git: Git{Ref: "main"}, want: latest},
		{name: "annotated tag", git: Git{Ref: "v1"}, want: old},
		{name: "full ref", git: Git{Ref: "refs/heads/side"}, want: old},
		{name: "commit", git: Git{Ref: first}, want: old},
		{name: "checksum", git: Git{Ref: "main", Checksum: second[:10]}, want: latest},
		{name: "checksum of the tag", git: Git{Ref: "v1", Checksum: tag}, want: old},
		{name: "checksum of the tag's commit", git: Git{Ref: "v1", Checksum: first}, want: old},
		{name: "fetch by commit", git: Git{Ref: "gone", Checksum: first, FetchByCommit: true}, want: old},
		{name: "subdir", git: Git{Ref: "v1", Subdir: "d/e"}, want: []string{"f 644 data=3"}},
		{name: "dumb server", git: Git{Remote: srv.url + "/dumb/r/.git", Ref: "main"}, want: latest},
		{name: "dumb server, commit", git: Git{Remote: srv.url + "/dumb/r/.git", Ref: first}, want: old},
		{name: "no such ref", git: Git{Ref: "nothing"}, err: "repository does not contain ref nothing"},
		{name: "no such commit", git: Git{Ref: strings.Repeat("1", 40)}, err: "failed to fetch remote " + remote},
		{name: "no such repository", git: Git{Remote: srv.url + "/none"}, err: "failed to fetch remote " + srv.url + "/none"},
		{name: "wrong checksum", git: Git{Ref: "main", Checksum: first}, err: "expected checksum to match " + first + ", got " + second},
		{name: "wrong checksum of a commit", git: Git{Ref: second, Checksum: "abc"}, err: "expected checksum to match abc, got " + second},
		{name: "no checksum", git: Git{Ref: "main", Checksum: "v1"}, err: "invalid checksum v1 for Git URL, expected hex commit hash"},
		{name: "fetch by part of a commit", git: Git{Checksum: "abc", FetchByCommit: true}, err: `fetch-by-commit requires a full commit SHA checksum, got "abc"`},
		{name: "missing subdir", git: Git{Subdir: "d/x"}, err: "invalid subdir d/x"},
		{name: "CVE-2026-33748 subdir is a link", git: Git{Subdir: "l"}, err: `git subpath "l" contains non-directory "l"`},
		{name: "CVE-2026-33748 subdir leads out", git: Git{Ref: "v1", Subdir: "../../d/e"}, want: []string{"f 644 data=3"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			if tc.git.Remote == "" {
				tc.git.Remote = remote
			}
			_, got, err := solveGit(t, newDirStore(t), tc.git)
			if tc.err != "" {
				if err == nil || !strings.Contains(err.Error(), tc.err) || strings.Contains(err.Error(), "\n") {
					t.Fatalf("got error %v, want %q", err, tc.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// TestGitCache finds what a commit gave, by whatever name it is called.
func TestGitCache(t *testing.T) {
	srv := newGitServer(t)
	first := srv.commit(t, "r", "a data=1", ".gitmodules")
	s, g := newDirStore(t), Git{Remote: srv.url + "/r/.git"}
	if res, _, err := solveGit(t, s, g); err != nil || res.Cached {
		t.Fatal(res, err)
	}
	g.Ref = "main"
	if res, _, err := solveGit(t, s, g); err != nil || !res.Cached {
		t.Errorf("the same commit: %v %v", res, err)
	}
	srv.commit(t, "r", "a data=2")
	if res, _, err := solveGit(t, s, g); err != nil || res.Cached {
		t.Errorf("the branch moved: %v %v", res, err)
	}
	g.Remote, g.Ref = "http://127.0.0.1:1/none.git", first
	if res, _, err := solveGit(t, s, g); err != nil || !res.Cached {
		t.Errorf("a commit needs no server: %v %v", res, err)
	}
}

// A ref stands for the commit that it was, also where that is on no branch any more.
func TestGitMovedRef(t *testing.T) {
	srv := newGitServer(t)
	srv.commit(t, "r", "a data=1")
	srv.git(t, "r", "config", "uploadpack.allowAnySHA1InWant", "true")
	git := Git{Remote: srv.url + "/r/.git", Ref: "main"}
	var was *GitRef
	if _, err := NewSolver(Options{Store: newDirStore(t), Fetched: func(f Fetched) { was = f.Ref }}).Solve(t.Context(), &Vertex{Op: &git}); err != nil {
		t.Fatal(err)
	}
	srv.commit(t, "r", "a data=2")
	for _, how := range []string{"behind", "gone"} {
		if how == "gone" {
			srv.git(t, "r", "update-ref", "refs/heads/main", srv.git(t, "r", "commit-tree", "-m", "alone", "HEAD^{tree}"))
		}
		s := newDirStore(t)
		res, err := NewSolver(Options{Store: s, At: was}).Solve(t.Context(), &Vertex{Op: &git})
		if err != nil {
			t.Fatal(how, err)
		}
		if diff := cmp.Diff([]string{"a 644 data=1"}, contents(t, s, res.Layers[0])); diff != "" {
			t.Error(how, diff)
		}
	}
}

func TestGitKeepDir(t *testing.T) {
	srv := newGitServer(t)
	srv.commit(t, "r", "a data=1")
	g := Git{Remote: strings.Replace(srv.url, "http://", "http://user:secret@", 1) + "/r/.git", KeepGitDir: true, CommitTimes: true}
	s := newDirStore(t)
	res, got, err := solveGit(t, s, g)
	if err != nil {
		t.Fatal(err)
	}
	all := strings.Join(got, "\n")
	for _, want := range []string{".git/HEAD 644", ".git/refs/heads/main 644", ".git/config 644", "a 644 data=1"} {
		if !strings.Contains(all, want) {
			t.Errorf("no %s in\n%s", want, all)
		}
	}
	b, err := os.ReadFile(s.layers[res.Layers[0]].Tar)
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(b), "secret") {
		t.Error("the checkout holds the password")
	}
}

func TestGitSubmodules(t *testing.T) {
	srv := newGitServer(t)
	srv.commit(t, "sub", "s data=1")
	srv.commit(t, "r", "a data=2")
	srv.git(t, "r", "submodule", "add", "-q", srv.url+"/sub/.git", "vendor")
	srv.commit(t, "r")
	g := Git{Remote: srv.url + "/r/.git"}
	_, got, err := solveGit(t, newDirStore(t), g)
	if err != nil || !slices.Contains(got, "vendor/s 644 data=1") || slices.ContainsFunc(got, func(s string) bool { return strings.HasPrefix(s, "vendor/.git ") }) {
		t.Errorf("got %q %v", got, err)
	}
	g.SkipSubmodules = true
	_, got, err = solveGit(t, newDirStore(t), g)
	if err != nil || slices.Contains(got, "vendor/s 644 data=1") {
		t.Errorf("skipped: %q %v", got, err)
	}
}

// TestCVE_2022_39253 names a repository on this machine as a submodule.
func TestCVE_2022_39253(t *testing.T) {
	srv := newGitServer(t)
	srv.commit(t, "secret", "s data=host")
	srv.commit(t, "r", "a data=2")
	srv.git(t, "r", "-c", "protocol.file.allow=always", "submodule", "add", "-q", filepath.Join(srv.dir, "secret", ".git"), "vendor")
	srv.commit(t, "r")
	_, got, err := solveGit(t, newDirStore(t), Git{Remote: srv.url + "/r/.git"})
	if err == nil || !strings.Contains(err.Error(), "transport 'file' not allowed") {
		t.Errorf("got %q, %v", got, err)
	}
}

// TestCVE_2019_13139 gives git options for addresses and refs, and protocols
// that run programs.
func TestCVE_2019_13139(t *testing.T) {
	srv := newGitServer(t)
	srv.commit(t, "r", "a data=1")
	pwned := filepath.Join(t.TempDir(), "pwned")
	touch := "touch " + pwned
	for _, g := range []Git{
		{Remote: "--upload-pack=" + touch},
		{Remote: srv.url + "/r/.git", Ref: "--upload-pack=" + touch},
		{Remote: srv.url + "/r/.git", Ref: "--output=" + pwned},
		{Remote: "ext::sh -c " + touch},
		{Remote: "ssh://-oProxyCommand=" + strings.ReplaceAll(touch, " ", "$IFS") + "/x.git"},
		{Remote: "-oProxyCommand=" + touch + "@host:x"},
		{Remote: "file://" + filepath.Join(srv.dir, "r")},
		{Remote: filepath.Join(srv.dir, "r")},
	} {
		if _, got, err := solveGit(t, newDirStore(t), g); err == nil {
			t.Errorf("%+v: %q", g, got)
		}
	}
	if _, err := os.Stat(pwned); !errors.Is(err, os.ErrNotExist) {
		t.Error("the command was run:", err)
	}
}

// TestGitHooks has filters and hooks in a repository: none of them runs.
func TestGitHooks(t *testing.T) {
	srv := newGitServer(t)
	pwned := filepath.Join(t.TempDir(), "pwned")
	srv.commit(t, "r", "a data=1", ".gitattributes data=* filter=x\n", ".gitconfig data=[filter \"x\"]\n smudge = touch "+pwned+"\n",
		"hooks/post-checkout mode=0755 data=#!/bin/sh\ntouch "+pwned+"\n")
	home := t.TempDir()
	writeFiles(t, home, ".gitconfig data=[filter \"x\"]\n\tsmudge = touch "+pwned+"\n[core]\n\thooksPath = "+filepath.Join(srv.dir, "r", "hooks")+"\n")
	t.Setenv("HOME", home)
	if _, _, err := solveGit(t, newDirStore(t), Git{Remote: srv.url + "/r/.git"}); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(pwned); !errors.Is(err, os.ErrNotExist) {
		t.Error("something of the repository was run:", err)
	}
}

// TestCVE_2023_26054 fails with credentials in the address: nobody sees them.
func TestCVE_2023_26054(t *testing.T) {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if _, password, _ := r.BasicAuth(); password != "hunter2" {
			w.Header().Set("WWW-Authenticate", "Basic")
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		http.Error(w, "hunter2 is right", http.StatusForbidden)
	}))
	defer srv.Close()
	if _, err := exec.LookPath("git"); err != nil {
		t.Skip("needs git")
	}
	remote := strings.Replace(srv.URL, "http://", "http://user:hunter2@", 1) + "/x.git"
	_, _, err := solveGit(t, newDirStore(t), Git{Remote: remote})
	if err == nil || strings.Contains(err.Error(), "hunter2") || !strings.Contains(err.Error(), "403") {
		t.Errorf("got %v", err)
	}
}

func TestGitMissing(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	_, _, err := solveGit(t, newDirStore(t), Git{Remote: "http://127.0.0.1:1/x.git"})
	if err == nil || !strings.Contains(err.Error(), "failed to find git binary: install git") {
		t.Errorf("got %v", err)
	}
}

// TestLinkLocal fetches from where clouds keep their machines' credentials.
func TestLinkLocal(t *testing.T) {
	for _, host := range []string{"169.254.169.254", "[fe80::1]", "[::ffff:169.254.169.254]", "0.0.0.0"} {
		if _, _, err := solveGit(t, newDirStore(t), Git{Remote: "http://" + host + "/x.git"}); err == nil || !strings.Contains(err.Error(), "link-local") {
			t.Errorf("git from %s: %v", host, err)
		}
		op := &Copy{Sources: []Source{{URL: &URL{Address: "http://" + host + "/x", Name: "x", Checksum: digest.FromString("")}}}, Dest: "/"}
		_, err := NewSolver(Options{Store: newDirStore(t)}).Solve(t.Context(), &Vertex{Op: op, Inputs: []*Vertex{{Op: &Base{}}}})
		if err == nil || !strings.Contains(err.Error(), "link-local") {
			t.Errorf("URL at %s: %v", host, err)
		}
	}
}
