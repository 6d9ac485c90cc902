package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"strake/internal/auth"
	"strake/internal/hubdb"
)

// cmd runs a command to its end and returns what it printed.
func cmd(t *testing.T, code int, stdin string, args ...string) string {
	t.Helper()
	var out, errs bytes.Buffer
	if got := run(t.Context(), args, streams{strings.NewReader(stdin), &out, &errs}); got != code {
		t.Fatalf("%v: code %d, want %d: %s%s", args, got, code, &out, &errs)
	}
	return out.String() + errs.String()
}

// find returns the first group of a pattern in a text.
func find(t *testing.T, pattern, text string) string {
	t.Helper()
	m := regexp.MustCompile(pattern).FindStringSubmatch(text)
	if m == nil {
		t.Fatalf("no %s in:\n%s", pattern, text)
	}
	return m[1]
}

// people is a Hub that was initialised, with the administrator operator.
type people struct {
	dir, password, trust string
}

func initialisedHub(t *testing.T) people {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "hub")
	out := cmd(t, 0, "", "init", "--data", dir, "--host", "localhost")
	return people{dir, find(t, `Password: +(\S+)`, out), find(t, `(?m)^  (c=.*)$`, out)}
}

// startTLS serves an initialised Hub.
func startTLS(t *testing.T, args ...string) (host string, stop func()) {
	t.Helper()
	host, end := serveTLS(t, append([]string{"--addr", "127.0.0.1:0"}, args...)...)
	return host, func() {
		t.Helper()
		end()
	}
}

// serveTLS is startTLS at an address of 127.0.0.1 that args say; the end of it
// returns what it logged.
func serveTLS(t *testing.T, args ...string) (host string, stop func() string) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	r, w := io.Pipe()
	code := make(chan int, 1)
	var errs bytes.Buffer
	go func() {
		code <- run(ctx, append([]string{"serve"}, args...), streams{nil, w, &errs})
		_ = w.Close()
	}()
	line, err := bufio.NewReader(r).ReadString('\n')
	if err != nil {
		cancel()
		<-code
		t.Fatalf("%v: %s", err, &errs)
	}
	host = "localhost:" + find(t, `https://127\.0\.0\.1:(\d+)`, line)
	return host, func() string {
		t.Helper()
		cancel()
		if got := <-code; got != 0 {
			t.Errorf("exit code %d: %s", got, &errs)
		}
		return errs.String()
	}
}

// TestAnotherPort serves at another port than init was told of, and at that one.
func TestAnotherPort(t *testing.T) {
	p := initialisedHub(t) // port 5000
	host, end := serveTLS(t, "--data", p.dir, "--addr", "127.0.0.1:0")
	if log := end(); !strings.Contains(log, "names another port") || !strings.Contains(log, "localhost:5000") {
		t.Errorf("nobody is told of the other port: %s", log)
	}
	_, port, _ := strings.Cut(host, ":")
	dir := filepath.Join(t.TempDir(), "hub")
	cmd(t, 0, "", "init", "--data", dir, "--host", "localhost", "--port", port)
	for _, args := range [][]string{{"--addr", "127.0.0.1:" + port}, {"--addr", "127.0.0.1:0", "--url", "https://hub.example"}} {
		_, end := serveTLS(t, append(args, "--data", dir)...)
		if log := end(); strings.Contains(log, "names another port") {
			t.Errorf("%q: %s", args, log)
		}
	}
}

// client trusts the Hub's authority.
func (p people) client(t *testing.T) *http.Client {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(p.dir, "tls", "ca.crt"))
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(b) {
		t.Fatal("ca.crt holds no certificate")
	}
	tr := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}, ForceAttemptHTTP2: true}
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr}
}

func get(t *testing.T, c *http.Client, url, name, secret string) (int, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	if name != "" {
		req.SetBasicAuth(name, secret)
	}
	resp, err := c.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(resp.Body)
	if err := errors.Join(err, resp.Body.Close()); err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(b)
}

func TestInit(t *testing.T) {
	p := initialisedHub(t)
	if out := cmd(t, 1, "", "init", "--data", p.dir); !strings.Contains(out, "has accounts already") {
		t.Errorf("again: %s", out)
	}
	host, stop := startTLS(t, "--data", p.dir)
	defer stop()
	c := p.client(t)
	for want, secret := range map[int]string{200: p.password, 401: "wrong"} {
		if got, body := get(t, c, "https://"+host+"/v2/", "operator", secret); got != want {
			t.Errorf("login: %d %s, want %d", got, body, want)
		}
	}
	for _, path := range []string{"/livez", "/readyz"} {
		if got, body := get(t, c, "https://"+host+path, "", ""); got != 200 || body != "ok\n" {
			t.Errorf("%s: %d %s", path, got, body)
		}
	}
	if resp, err := http.Get("http://" + host + "/v2/"); err == nil {
		if err := resp.Body.Close(); err != nil || resp.StatusCode != http.StatusBadRequest {
			t.Errorf("plain HTTP: %s, %v", resp.Status, err)
		}
	}
	// The command that init shows, with the port that the server got.
	into := t.TempDir()
	line := strings.NewReplacer("localhost:5000/ca.crt -o", host+"/ca.crt -o", "/etc/docker/certs.d", into).Replace(p.trust)
	if out, err := exec.CommandContext(t.Context(), "sh", "-ec", line).CombinedOutput(); err != nil {
		t.Errorf("%s: %v: %s", line, err, out)
	}
	got, err := os.ReadFile(filepath.Join(into, "localhost:5000", "ca.crt"))
	want, err2 := os.ReadFile(filepath.Join(p.dir, "tls", "ca.crt"))
	if err := errors.Join(err, err2); err != nil || !bytes.Equal(got, want) {
		t.Errorf("trusted: %v", err)
	}
	// Somebody else's certificate is not taken.
	into = t.TempDir()
	bad := regexp.MustCompile(`"[0-9a-f]{64} `).ReplaceAllString(strings.ReplaceAll(line, filepath.Dir(into), into), `"`+strings.Repeat("0", 64)+` `)
	_ = exec.CommandContext(t.Context(), "sh", "-c", bad).Run()
	if _, err := os.Stat(filepath.Join(into, "localhost:5000", "ca.crt")); err == nil {
		t.Error("a certificate with another digest was taken")
	}
}

// A Hub that serves without logins ends when there are accounts, and says why.
func TestInitBesideOpenHub(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "hub")
	r, w := io.Pipe()
	var errs bytes.Buffer
	code := make(chan int, 1)
	go func() {
		code <- run(t.Context(), []string{"serve", "--addr", "127.0.0.1:0", "--data", dir}, streams{nil, w, &errs})
	}()
	if line, err := bufio.NewReader(r).ReadString('\n'); err != nil || !strings.Contains(line, "serving http://") {
		t.Fatalf("%q, %v", line, err)
	}
	if out := cmd(t, 0, "", "init", "--data", dir, "--host", "localhost"); !strings.Contains(out, "ends within seconds: start it again") {
		t.Errorf("init: %s", out)
	}
	select {
	case got := <-code:
		if got != 1 || !strings.Contains(errs.String(), "has accounts now") {
			t.Errorf("code %d: %s", got, &errs)
		}
	case <-time.After(time.Minute):
		t.Fatal("it serves on without logins")
	}
	host, stop := startTLS(t, "--data", dir)
	defer stop()
	if status, body := get(t, (people{dir: dir}).client(t), "https://"+host+"/v2/", "", ""); status != 401 {
		t.Errorf("started again: %d %s", status, body)
	}
}

// Without accounts nobody but this machine gets in.
func TestNoAccountsLoopbackOnly(t *testing.T) {
	for addr, want := range map[string]string{
		":0": "has no accounts", "0.0.0.0:0": "has no accounts", "[::]:0": "has no accounts", "192.0.2.1:0": "has no accounts", "example.com:0": "has no accounts",
		"127.0.0.1:x": "listen",
	} {
		if out := cmd(t, 1, "", "serve", "--data", t.TempDir(), "--addr", addr); !strings.Contains(out, want) {
			t.Errorf("%s: %s", addr, out)
		}
	}
}

func TestUserCommands(t *testing.T) {
	p := initialisedHub(t)
	host, stop := startTLS(t, "--data", p.dir)
	defer stop()
	c, base := p.client(t), "https://"+host+"/v2/"
	want := func(status int, name, secret string) {
		t.Helper()
		if got, body := get(t, c, base, name, secret); got != status {
			t.Errorf("%s: %d %s, want %d", name, got, body, status)
		}
	}
	ann := find(t, `Password of ann: (\S+)`, cmd(t, 0, "", "user", "add", "ann", "--data", p.dir, "--email", "ann@example.com"))
	want(200, "ann", ann)
	cmd(t, 0, "correct horse battery\n", "user", "add", "--password-stdin", "--data", p.dir, "bob")
	want(200, "bob", "correct horse battery")
	for _, bad := range [][]string{{"user", "add", "ann"}, {"user", "add", "admin"}, {"user", "passwd", "absent"}, {"user", "disable", "absent"}, {"token", "create", "ann", "X"}} {
		cmd(t, 1, "", append(bad, "--data", p.dir)...)
	}
	if out := cmd(t, 0, "", "user", "list", "--data", p.dir); !strings.Contains(out, "ann@example.com") || !strings.Contains(out, "admin,reviewer,verified") {
		t.Errorf("list: %s", out)
	}
	cmd(t, 0, "", "user", "disable", "ann", "--data", p.dir)
	want(401, "ann", ann)
	cmd(t, 0, "", "user", "enable", "ann", "--data", p.dir)
	want(200, "ann", ann)

	out := cmd(t, 0, "", "token", "create", "ann", "ci", "--robot", "--scope", "ann/*:write", "--expires", "1h", "--data", p.dir)
	name, secret := find(t, `User name: (\S+)`, out), find(t, `Token: +(\S+)`, out)
	want(200, name, secret)
	out = cmd(t, 0, "", "token", "list", "ann", "--data", p.dir)
	id := find(t, `(?m)^(\w{12}) +robot +ci .*ann/\*:write$`, out)
	cmd(t, 0, "", "token", "remove", "ann", id, "--data", p.dir)
	want(401, name, secret)

	for range 6 { // locked out
		_, _ = get(t, c, base, "operator", "wrong")
	}
	want(429, "operator", p.password)
	again := find(t, `Password of operator: (\S+)`, cmd(t, 0, "", "user", "passwd", "--reset", "operator", "--data", p.dir))
	want(200, "operator", again)
	want(401, "operator", p.password)
	if out := cmd(t, 2, "", "token", "create", "ann", "x", "--scope", "ann", "--data", p.dir); !strings.Contains(out, "REPOSITORY:ROLE") {
		t.Errorf("scope: %s", out)
	}
	cmd(t, 1, "", "user", "list", "--data", t.TempDir())
}

// The certificate is read again at SIGHUP, and renewed before it ends.
func TestCertificateReload(t *testing.T) {
	p := initialisedHub(t)
	host, stop := startTLS(t, "--data", p.dir)
	defer stop()
	serial := func() string {
		t.Helper()
		conn, err := (&tls.Dialer{Config: &tls.Config{InsecureSkipVerify: true}}).DialContext(t.Context(), "tcp", host)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		tc, ok := conn.(*tls.Conn)
		if !ok {
			t.Fatal("no TLS")
		}
		return tc.ConnectionState().PeerCertificates[0].SerialNumber.String()
	}
	first := serial()
	if err := makeCertificate(&place{data: p.dir}, time.Now()); err != nil {
		t.Fatal(err)
	}
	for try := 0; serial() == first; try++ {
		if try == 100 {
			t.Fatal("the old certificate is served still")
		}
		if err := syscall.Kill(os.Getpid(), syscall.SIGHUP); err != nil {
			t.Fatal(err)
		}
		time.Sleep(50 * time.Millisecond)
	}
	c := &certificate{cert: filepath.Join(p.dir, "tls", serverCert), own: &place{data: p.dir}, log: discard()}
	c.key = c.cert
	if err := c.load(time.Now()); err != nil {
		t.Fatal(err)
	}
	old := c.current.Load()
	later := time.Now().Add(serverLife - renewAt/2)
	if err := c.load(later); err != nil || c.current.Load() == old || c.current.Load().Leaf.NotAfter.Before(later.Add(renewAt)) {
		t.Errorf("not renewed: %v", err)
	}
}

// The authority is for the Hub's own names alone.
func TestAuthorityIsConstrained(t *testing.T) {
	p := &place{data: t.TempDir()}
	if err := makeAuthority(p, []string{"hub.example.com", "192.0.2.7"}, time.Now()); err != nil {
		t.Fatal(err)
	}
	if err := makeCertificate(p, time.Now()); err != nil {
		t.Fatal(err)
	}
	pair, err := tls.LoadX509KeyPair(p.file(serverCert), p.file(serverCert))
	if err != nil {
		t.Fatal(err)
	}
	ca, err := tls.LoadX509KeyPair(p.file(caCert), p.file(caKey))
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(ca.Leaf)
	for host, good := range map[string]bool{"hub.example.com": true, "192.0.2.7": true, "docker.io": false, "192.0.2.8": false} {
		_, err := pair.Leaf.Verify(x509.VerifyOptions{Roots: roots, DNSName: host})
		if (err == nil) != good {
			t.Errorf("%s: %v", host, err)
		}
	}
	if pair.Leaf.Subject.String() == pair.Leaf.Issuer.String() {
		t.Error("the certificate is called as its issuer, which OpenSSL takes for self-signed")
	}
	if info, err := os.Stat(p.file(caKey)); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("key: %v, %v", info, err)
	}
}

// skopeo logs in, pushes with a token of the Hub, and pulls what is private.
func TestSkopeoLogin(t *testing.T) {
	skopeo, err := exec.LookPath("skopeo")
	if err != nil {
		t.Skip("needs skopeo")
	}
	p := initialisedHub(t)
	host, stop := startTLS(t, "--data", p.dir)
	defer stop()
	dir := t.TempDir()
	writeImage(t, filepath.Join(dir, "in.tar"))
	tool := func(ok bool, args ...string) string {
		t.Helper()
		c := exec.CommandContext(t.Context(), skopeo, append([]string{"--insecure-policy"}, args...)...)
		c.Env = append(os.Environ(), "REGISTRY_AUTH_FILE="+filepath.Join(dir, "auth.json"))
		out, err := c.CombinedOutput()
		if (err == nil) != ok {
			t.Fatalf("skopeo %v: %v: %s", args, err, out)
		}
		return string(out)
	}
	certs := filepath.Join(dir, "certs")
	ca, err := os.ReadFile(filepath.Join(p.dir, "tls", caCert))
	if err := errors.Join(err, os.Mkdir(certs, 0o700), os.WriteFile(filepath.Join(certs, caCert), ca, 0o600)); err != nil {
		t.Fatal(err)
	}
	image := "docker://" + host + "/operator/app:1"
	tool(false, "copy", "--dest-cert-dir", certs, "docker-archive:"+filepath.Join(dir, "in.tar"), image)
	tool(false, "login", "--cert-dir", certs, "-u", "operator", "-p", "wrong", host)
	tool(true, "login", "--cert-dir", certs, "-u", "operator", "-p", p.password, host)
	tool(true, "copy", "--dest-cert-dir", certs, "docker-archive:"+filepath.Join(dir, "in.tar"), image)
	tool(true, "inspect", "--cert-dir", certs, image)
	tool(true, "delete", "--cert-dir", certs, image)
	tool(true, "logout", host)
	tool(false, "inspect", "--cert-dir", certs, image)
}

// What was changed by commands is in the audit log.
func TestCommandsAreAudited(t *testing.T) {
	p := initialisedHub(t)
	cmd(t, 0, "", "user", "add", "ann", "--data", p.dir)
	db, err := hubdb.Open(t.Context(), filepath.Join(p.dir, "hub.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	log, err := auth.AuditLog(system(t.Context()), db, auth.AuditFilter{Action: "account.", Limit: 10})
	if err != nil || len(log) != 2 || log[0].Object != "ann" || log[0].Address != "strake-hub" {
		t.Errorf("log: %+v, %v", log, err)
	}
	for _, e := range log {
		if strings.Contains(string(e.Detail), p.password) {
			t.Errorf("a password in the log: %s", e.Detail)
		}
	}
}

func discard() *slog.Logger { return slog.New(slog.DiscardHandler) }

// The API asks for logins where the Hub has accounts, and not where it has none.
func TestAPI(t *testing.T) {
	p := initialisedHub(t)
	host, stop := startTLS(t, "--data", p.dir)
	defer stop()
	c, url := p.client(t), "https://"+host+"/api/v1/"
	if status, body := get(t, c, url+"whoami", "operator", p.password); status != 200 || !strings.Contains(body, `"name":"operator","admin":true`) {
		t.Errorf("whoami: %d %s", status, body)
	}
	if status, body := get(t, c, url+"accounts", "", ""); status != 401 {
		t.Errorf("accounts: %d %s", status, body)
	}
	host, stopOpen := start(t, "--data", filepath.Join(t.TempDir(), "open"))
	defer stopOpen()
	if status, body := get(t, http.DefaultClient, "http://"+host+"/api/v1/accounts", "", ""); status != 200 {
		t.Errorf("without accounts: %d %s", status, body)
	}
}

// Metrics are for administrators, or have an address of their own; a
// configuration that is not understood keeps the server from starting.
func TestMetricsAndConfiguration(t *testing.T) {
	p := initialisedHub(t)
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(p.dir, "hub.toml"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for text, want := range map[string]string{
		"[oidc]\nissuer = 'http://idp.example.com'": "no https URL", "[oidc]\nissuerr = 'x'": `"oidc.issuerr"`, "[limits]\nwindow = 'x'": "limits.window", "[": "hub.toml",
		"[oidc]\nissuer = 'https://idp.example.com'\nclient_id='x'\nclient_secret_file='/absent'": "client_secret_file",
	} {
		write(text)
		if out := cmd(t, 1, "", "serve", "--data", p.dir, "--addr", "127.0.0.1:0"); !strings.Contains(out, want) {
			t.Errorf("%s: %s", text, out)
		}
	}
	write("[oidc]\nname = 'Example'\nissuer = 'https://idp.example.com'\nclient_id = 'x'\n[limits]\nanonymous_pulls = 1\nwindow = '1h'\n")
	host, stop := startTLS(t, "--data", p.dir)
	defer stop()
	c := p.client(t)
	if status, body := get(t, c, "https://"+host+"/login", "", ""); status != 200 || !strings.Contains(body, "Example") {
		t.Errorf("login page: %d %s", status, body)
	}
	if status, _ := get(t, c, "https://"+host+"/metrics", "", ""); status != 404 {
		t.Errorf("metrics for everybody: %d", status)
	}
	status, body := get(t, c, "https://"+host+"/metrics", "operator", p.password)
	if status != 200 || !strings.Contains(body, `strake_hub_requests_total{code="404",kind="health",method="GET"} 1`) || !strings.Contains(body, "go_goroutines") {
		t.Errorf("metrics: %d %s", status, body)
	}
	for _, want := range []int{404, 429} { // absent, and absent too often
		if status, _ := get(t, c, "https://"+host+"/v2/operator/none/manifests/x", "", ""); status != want && status != 401 {
			t.Errorf("limit: %d, want %d", status, want)
		}
	}
	if status, _ := get(t, c, "https://"+host+"/v2/operator/none/manifests/x", "", ""); status != 429 {
		t.Errorf("limit: %d, want 429", status)
	}
}

// At SIGTERM /readyz fails first, and what is under way finishes.
func TestDrain(t *testing.T) {
	began, finish := make(chan bool), make(chan bool)
	srv := &server{log: discard(), metrics: newMetrics()}
	mux := http.NewServeMux()
	mux.HandleFunc("/slow", func(w http.ResponseWriter, _ *http.Request) {
		began <- true
		<-finish
		plain(w, http.StatusOK, "done")
	})
	db, err := hubdb.Open(t.Context(), filepath.Join(t.TempDir(), "hub.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	mux.HandleFunc("/readyz", srv.ready(db))
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		ended <- srv.run(ctx, newServer(srv.watch(mux), usualPace, discard()), listener, 300*time.Millisecond)
	}()
	url := "http://" + listener.Addr().String()
	if status, _ := get(t, http.DefaultClient, url+"/readyz", "", ""); status != 200 {
		t.Errorf("ready: %d", status)
	}
	slow := make(chan string, 1)
	go func() {
		resp, err := http.Get(url + "/slow")
		if err != nil {
			slow <- err.Error()
			return
		}
		b, _ := io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		slow <- string(b)
	}()
	<-began
	cancel()
	for try := 0; ; try++ {
		status, _ := get(t, http.DefaultClient, url+"/readyz", "", "")
		if status == http.StatusServiceUnavailable {
			break
		}
		if try > 100 {
			t.Fatal("ready while it ends")
		}
	}
	time.Sleep(400 * time.Millisecond)
	close(finish)
	if got := <-slow; got != "done\n" {
		t.Errorf("the request that was under way: %s", got)
	}
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// The log has no query strings, no secrets, and is JSON where that is asked for.
func TestLog(t *testing.T) {
	var b bytes.Buffer
	log, err := newLog(streams{nil, nil, &b}, "json", slog.LevelInfo)
	if err != nil {
		t.Fatal(err)
	}
	srv := &server{log: log, metrics: newMetrics()}
	r := httptest.NewRequest(http.MethodGet, "/token?password=hunter2", nil)
	r.Header.Set("Authorization", "Bearer hunter2")
	r.Header.Set("X-Request-Id", "bad id\n")
	w := httptest.NewRecorder()
	srv.watch(http.NotFoundHandler()).ServeHTTP(w, r)
	var line map[string]any
	if err := json.Unmarshal(b.Bytes(), &line); err != nil || line["path"] != "/token" || line["status"] != 404.0 || line["id"] != w.Header().Get("X-Request-Id") {
		t.Errorf("log: %s, %v", &b, err)
	}
	if strings.Contains(b.String(), "hunter2") || w.Header().Get("X-Request-Id") == "bad id\n" {
		t.Errorf("log: %s", &b)
	}
}
