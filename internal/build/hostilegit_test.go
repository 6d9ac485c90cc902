package build

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestGHSA_vp35_85q5_9f25 has a repository that borrows objects of one on this machine, and links to its files: no file of the host gets
// into the context.
func TestGHSA_vp35_85q5_9f25(t *testing.T) {
	srv := newGitServer(t)
	host := t.TempDir()
	writeFiles(t, host, "secret data=hunter2")
	srv.commit(t, "private", "s data=hunter2")
	srv.commit(t, "r", "l -> "+filepath.Join(host, "secret"), "d -> "+host)
	private := srv.git(t, "private", "rev-parse", "HEAD")
	objects := filepath.Join(srv.dir, "private", ".git", "objects")
	for _, name := range []string{"alternates", "http-alternates"} {
		if err := os.WriteFile(filepath.Join(srv.dir, "r", ".git", "objects", "info", name), []byte("file://"+objects+"\n"+objects+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	srv.git(t, "r", "update-server-info")
	for _, g := range []Git{
		{Remote: srv.url + "/dumb/r/.git"},
		{Remote: srv.url + "/dumb/r/.git", KeepGitDir: true},
		{Remote: srv.url + "/dumb/r/.git", Ref: private},
		{Remote: srv.url + "/r/.git", Subdir: "d"},
		{Remote: srv.url + "/r/.git", Subdir: "l"},
	} {
		if _, got, err := solveGit(t, newDirStore(t), g); err == nil && strings.Contains(strings.Join(got, "\n"), "hunter2") {
			t.Errorf("%+v: %q", g, got)
		}
	}
	_, got, err := solveGit(t, newDirStore(t), Git{Remote: srv.url + "/r/.git"})
	if want := "l -> " + filepath.Join(host, "secret"); err != nil || !strings.Contains(strings.Join(got, "\n"), want) {
		t.Errorf("the link itself: %q, %v", got, err)
	}
}

// TestGHSA_hw3h_2gp9_cxpv names bundles, and refs that a shell would run: neither is a repository's, and nothing runs.
func TestGHSA_hw3h_2gp9_cxpv(t *testing.T) {
	srv := newGitServer(t)
	srv.commit(t, "r", "a data=1")
	bundle := filepath.Join(srv.dir, "r.bundle")
	srv.git(t, "r", "bundle", "create", "-q", bundle, "HEAD", "main")
	pwned := filepath.Join(t.TempDir(), "pwned")
	for _, g := range []Git{
		{Remote: bundle},
		{Remote: "file://" + bundle},
		{Remote: srv.url + "/dumb/r.bundle"},
		{Remote: "docker-image+blob://example.com/r@sha256:" + strings.Repeat("0", 64)},
		{Remote: srv.url + "/r/.git", Ref: "$(touch " + pwned + ")"},
		{Remote: srv.url + "/r/.git", Ref: "main;touch " + pwned},
		{Remote: srv.url + "/r/.git", Ref: "main\ntouch " + pwned},
		{Remote: srv.url + "/r/.git", Ref: "main", Checksum: "--upload-pack=touch " + pwned},
		{Remote: srv.url + "/r/.git", Ref: "main", Subdir: "`touch " + pwned + "`"},
	} {
		if _, got, err := solveGit(t, newDirStore(t), g); err == nil {
			t.Errorf("%+v: %q", g, got)
		}
	}
	// Nor is a repository of this machine, asked for or as a submodule.
	local := filepath.Join(srv.dir, "r", ".git")
	srv.commit(t, "outer", ".gitmodules data=[submodule \"x\"]\n path = x\n url = "+local+"\n")
	srv.git(t, "outer", "update-index", "--add", "--cacheinfo", "160000,"+srv.git(t, "r", "rev-parse", "HEAD")+",x")
	srv.git(t, "outer", "commit", "-q", "-m", "m")
	for _, remote := range []string{local, "file://" + local, "ext::sh -c touch% " + pwned, srv.url + "/outer/.git"} {
		_, got, err := solveGit(t, newDirStore(t), Git{Remote: remote})
		if err == nil || !strings.Contains(err.Error(), "not allowed") {
			t.Errorf("%s: %q, %v", remote, got, err)
		}
	}
	if _, err := os.Lstat(pwned); err == nil {
		t.Error("the command was run")
	}
}
