package build

import (
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"
)

// noProxy is a test without the user's proxies.
func noProxy(t *testing.T) {
	t.Helper()
	for _, name := range proxyVariables {
		t.Setenv(name, "")
		t.Setenv(strings.ToLower(name), "")
	}
}

// TestGitLinkLocal comes to a link-local address by a redirect, and by a submodule.
func TestGitLinkLocal(t *testing.T) {
	noProxy(t)
	srv := newGitServer(t)
	srv.commit(t, "r", "a data=1", ".gitmodules data=[submodule \"x\"]\n path = x\n url = http://169.254.169.254/x\n")
	srv.git(t, "r", "update-index", "--add", "--cacheinfo", "160000,"+strings.Repeat("1", 40)+",x")
	srv.git(t, "r", "commit", "-q", "-m", "m")
	away := httptest.NewServer(http.RedirectHandler("http://169.254.169.254/x.git/info/refs?service=git-upload-pack", http.StatusFound))
	defer away.Close()
	for name, remote := range map[string]string{"submodule": srv.url + "/r/.git", "redirect": away.URL + "/x.git"} {
		_, _, err := solveGit(t, newDirStore(t), Git{Remote: remote})
		if err == nil || !strings.Contains(err.Error(), "169.254.169.254: nothing is fetched from link-local addresses") || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestGitProxyToken asks the proxy without its token.
func TestGitProxyToken(t *testing.T) {
	p, err := newGitProxy(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer p.close()
	for _, method := range []string{http.MethodGet, http.MethodConnect} {
		w := httptest.NewRecorder()
		r := httptest.NewRequestWithContext(t.Context(), method, "http://127.0.0.1:1/", nil)
		r.Header.Set("Proxy-Authorization", "Basic Z2l0Og==")
		if p.ServeHTTP(w, r); w.Code != http.StatusProxyAuthRequired {
			t.Errorf("%s: %d", method, w.Code)
		}
	}
}

// TestGitEndsWithUs kills a process that fetches: neither git nor what it started
// goes on.
func TestGitEndsWithUs(t *testing.T) {
	const variable = "STRAKE_TEST_GIT_REMOTE"
	if remote := os.Getenv(variable); remote != "" {
		_, _, err := solveGit(t, newDirStore(t), Git{Remote: remote})
		t.Fatal("not killed:", err)
	}
	if runtime.GOOS != "linux" {
		t.Skip("other systems have no signal for it")
	}
	noProxy(t)
	newGitServer(t)
	asked, gone := make(chan struct{}, 1), make(chan struct{})
	srv := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		asked <- struct{}{}
		<-r.Context().Done()
		close(gone)
	}))
	t.Cleanup(srv.CloseClientConnections)
	bin, path := t.TempDir(), os.Getenv("PATH")
	git, err := exec.LookPath("git")
	if err != nil {
		t.Fatal(err)
	}
	pid := filepath.Join(bin, "pid")
	writeFiles(t, bin, "git mode=0755 data=#!/bin/sh\necho $$ >"+pid+"\nexec "+git+" \"$@\"\n")
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestGitEndsWithUs$")
	cmd.Env = append(os.Environ(), variable+"="+srv.URL+"/x.git", "PATH="+bin+":"+path, "TMPDIR="+bin)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	<-asked
	if err := cmd.Process.Kill(); err != nil {
		t.Error(err)
	}
	cmd.Wait() // // it was killed
	select {
	case <-gone:
	case <-time.After(10 * time.Second):
		t.Error("something goes on with the download")
	}
	b, err := os.ReadFile(pid)
	if err != nil {
		t.Fatal(err)
	}
	proc := "/proc/" + strings.TrimSpace(string(b))
	for deadline := time.Now().Add(5 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		stat, err := os.ReadFile(proc + "/stat")
		if err != nil || strings.Contains(string(stat), ") Z ") {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("git goes on")
		}
	}
}

// TestGitKnownHosts: what ssh learns of hosts is written to the scratch; what the user
// knows of them is read.
func TestGitKnownHosts(t *testing.T) {
	if _, err := exec.LookPath("ssh"); err != nil {
		t.Skip("needs ssh")
	}
	g := gitRun{Git: &Git{}, dir: filepath.Join(t.TempDir(), "it's 100%d b")}
	out, err := exec.CommandContext(t.Context(), "sh", "-c", g.ssh()+" -G example.com").CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	for _, want := range []string{"userknownhostsfile " + g.dir + "/known_hosts\n", "globalknownhostsfile ", "/.ssh/known_hosts ", " /etc/ssh/ssh_known_hosts "} {
		if !strings.Contains(string(out), want) {
			t.Errorf("no %q in\n%s", want, out)
		}
	}
}
