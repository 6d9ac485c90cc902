package build

import (
	"bufio"
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"strake/internal/usertest"
)

func TestMain(m *testing.M) {
	if len(os.Args) == 4 && os.Args[1] == connectArg { // git or ssh runs it
		if err := Connect(context.Background(), os.Args[2], os.Args[3], os.Stdin, os.Stdout); err != nil {
			os.Stderr.WriteString(err.Error() + "\n")
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(usertest.Run(m))
}

const connectArg = "connect"

func connectTest() ([]string, error) {
	self, err := os.Executable()
	return []string{self, connectArg}, err
}

// setProxy gives the test a user with that proxy; "" for none.
func setProxy(t *testing.T, url string) {
	t.Helper()
	for _, name := range []string{"HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"} {
		t.Setenv(name, "")
		t.Setenv(strings.ToLower(name), "")
	}
	for _, name := range []string{"http_proxy", "https_proxy"} {
		t.Setenv(name, url)
	}
}

// linkLocal are repositories that lead to a link-local address: by a redirect, and by
// submodules of every protocol.
func linkLocal(t *testing.T, srv *gitServer) map[string]string {
	t.Helper()
	away := httptest.NewServer(http.RedirectHandler("http://169.254.169.254/x.git/info/refs?service=git-upload-pack", http.StatusFound))
	t.Cleanup(away.Close)
	remotes := map[string]string{"redirect": away.URL + "/x.git"}
	for name, url := range map[string]string{
		"http": "http://169.254.169.254/x", "https": "https://169.254.169.254/x", "git": "git://169.254.169.254/x",
		"ssh": "ssh://git@169.254.169.254/x", "scp": "git@169.254.169.254:x", "six": "git://[fe80::1]/x",
	} {
		srv.commit(t, name, "a data=1", ".gitmodules data=[submodule \"x\"]\n path = x\n url = "+url+"\n")
		srv.git(t, name, "update-index", "--add", "--cacheinfo", "160000,"+strings.Repeat("1", 40)+",x")
		srv.git(t, name, "commit", "-q", "-m", "m")
		remotes[name] = srv.url + "/" + name + "/.git"
	}
	return remotes
}

// TestGitLinkLocal comes to a link-local address by a redirect, and by submodules.
func TestGitLinkLocal(t *testing.T) {
	setProxy(t, "")
	for name, remote := range linkLocal(t, newGitServer(t)) {
		_, _, err := solveGit(t, newDirStore(t), Git{Remote: remote})
		if err == nil || !strings.Contains(err.Error(), ": nothing is fetched from link-local addresses") || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// userProxies is a proxy, as a user may have one, that sends every request to one server.
type userProxies struct {
	to    string
	mu    sync.Mutex
	asked []string
}

func (p *userProxies) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	p.mu.Lock()
	p.asked = append(p.asked, r.Method+" "+r.Host+" "+r.Header.Get("Proxy-Authorization"))
	p.mu.Unlock()
	server, err := net.Dial("tcp", p.to)
	if err != nil {
		w.WriteHeader(http.StatusBadGateway)
		return
	}
	defer server.Close()
	if r.Method != http.MethodConnect {
		r.Header.Del("Proxy-Authorization")
		r.URL.Scheme, r.URL.Host = "http", p.to
		(&httputil.ReverseProxy{Rewrite: func(*httputil.ProxyRequest) {}}).ServeHTTP(w, r)
		return
	}
	client, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return
	}
	defer client.Close()
	io.WriteString(client, "HTTP/1.1 200 OK\r\n\r\n")
	go io.Copy(server, client)
	io.Copy(client, server)
}

// TestGitUserProxy fetches by the user's proxies, which are not asked for a link-local address.
func TestGitUserProxy(t *testing.T) {
	srv := newGitServer(t)
	commit := srv.commit(t, "r", "a data=1")
	p := &userProxies{to: strings.TrimPrefix(srv.url, "http://")}
	user := httptest.NewServer(p)
	defer user.Close()
	setProxy(t, "http://me:secret@"+strings.TrimPrefix(user.URL, "http://"))
	_, files, err := solveGit(t, newDirStore(t), Git{Remote: "http://git.invalid/r/.git", Ref: commit})
	if err != nil || !slices.Equal(files, []string{"a 644 data=1"}) {
		t.Errorf("%q, %v", files, err)
	}
	if len(p.asked) == 0 || p.asked[0] != "GET git.invalid Basic bWU6c2VjcmV0" {
		t.Errorf("asked %q", p.asked)
	}
	// HTTPS is a tunnel: what answers speaks none, and is asked all the same.
	if _, _, err := solveGit(t, newDirStore(t), Git{Remote: "https://git.invalid/r/.git", Ref: commit}); err == nil {
		t.Error("no TLS, no error")
	}
	if last := p.asked[len(p.asked)-1]; last != "CONNECT git.invalid:443 Basic bWU6c2VjcmV0" {
		t.Errorf("asked %q", last)
	}
	p.asked = nil
	p.to = strings.TrimPrefix(srv.url, "http://")
	for name, remote := range linkLocal(t, srv) {
		if name != "http" && name != "https" {
			continue // no proxy is asked for them, and for what is at a loopback address
		}
		remote = strings.Replace(remote, strings.TrimPrefix(srv.url, "http://"), "git.invalid", 1)
		_, _, err := solveGit(t, newDirStore(t), Git{Remote: remote})
		if err == nil || !strings.Contains(err.Error(), ": nothing is fetched from link-local addresses") {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, asked := range p.asked {
		if !strings.Contains(asked, " git.invalid ") {
			t.Errorf("asked %s", asked)
		}
	}
}

// TestGitProtocol fetches from a server that speaks git's own protocol.
func TestGitProtocol(t *testing.T) {
	setProxy(t, "")
	srv := newGitServer(t)
	srv.commit(t, "r", "a data=1")
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			f, err := conn.(*net.TCPConn).File()
			if err == nil {
				daemon := exec.Command("git", "daemon", "--inetd", "--export-all", "--base-path="+srv.dir)
				daemon.Stdin, daemon.Stdout = f, f
				daemon.Run() // the client tells what it misses
				f.Close()
			}
			conn.Close()
		}
	}()
	_, files, err := solveGit(t, newDirStore(t), Git{Remote: "git://" + l.Addr().String() + "/r/.git"})
	if err != nil || !slices.Equal(files, []string{"a 644 data=1"}) {
		t.Errorf("%q, %v", files, err)
	}
}

// TestGitSSH: ssh comes to the server by way of the build.
func TestGitSSH(t *testing.T) {
	if _, err := exec.LookPath("ssh"); err != nil {
		t.Skip("needs ssh")
	}
	setProxy(t, "")
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	said := make(chan string, 2)
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			line, _ := bufio.NewReader(conn).ReadString('\n')
			said <- line
			conn.Close()
		}
	}()
	if _, _, err := solveGit(t, newDirStore(t), Git{Remote: "ssh://git@" + l.Addr().String() + "/x"}); err == nil {
		t.Error("no server, no error")
	}
	if line := <-said; !strings.HasPrefix(line, "SSH-2.0-") {
		t.Errorf("said %q", line)
	}
}

// TestDownloadProxyLinkLocal: the user's proxy is not asked for a link-local address, in a redirect either.
func TestDownloadProxyLinkLocal(t *testing.T) {
	away := httptest.NewServer(http.RedirectHandler("http://169.254.169.254/token", http.StatusFound))
	defer away.Close()
	p := &userProxies{to: strings.TrimPrefix(away.URL, "http://")}
	user := httptest.NewServer(p)
	defer user.Close()
	setProxy(t, user.URL)
	for _, address := range []string{"http://169.254.169.254/token", "http://files.invalid/x"} {
		v := &Vertex{Op: &Copy{Sources: []Source{{URL: &URL{Address: address, Name: "x"}}}, Dest: "/"}, Inputs: []*Vertex{{Op: &Base{}}}}
		_, err := NewSolver(Options{Store: newDirStore(t)}).Solve(t.Context(), v)
		if err == nil || !strings.Contains(err.Error(), "169.254.169.254: nothing is fetched from link-local addresses") {
			t.Errorf("%s: %v", address, err)
		}
	}
	if len(p.asked) != 1 || !strings.HasPrefix(p.asked[0], "GET files.invalid") {
		t.Errorf("asked %q", p.asked)
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
	setProxy(t, "")
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
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(10 * time.Millisecond) {
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
