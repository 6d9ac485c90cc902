package main

import (
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// loginClient is a client with the commands that log in, push and pull. HOST is
// the Hub, REF the image.
type loginClient struct {
	tool
	load                      []string // before the first push
	login, logout, push, pull string
	forget                    string // before a pull
}

// do runs a command; stdin is what it reads.
func (c loginClient) do(ok bool, host, ref, stdin, command string) {
	c.Helper()
	if command == "" {
		return
	}
	cmd := c.command(strings.Fields(strings.NewReplacer("HOST", host, "REF", ref).Replace(command))...)
	cmd.Stdin = strings.NewReader(stdin)
	if out, err := cmd.CombinedOutput(); (err == nil) != ok {
		c.Fatalf("%s %s: %v: %s", filepath.Base(c.path), command, err, out)
	}
}

// loginClients are the clients that are tried, by the function that sets one up.
var loginClients = map[string]func(t *testing.T) loginClient{
	"docker": func(t *testing.T) loginClient {
		t.Helper()
		return likeDocker(startDocker(t), "", "")
	},
	"podman": func(t *testing.T) loginClient {
		t.Helper()
		c := installPodman(t)
		c.file("policy.json", `{"default":[{"type":"insecureAcceptAnything"}]}`)
		return likeDocker(c, " --cert-dir=certs", " --signature-policy=policy.json")
	},
	"skopeo": func(t *testing.T) loginClient {
		t.Helper()
		return loginClient{
			tool: installed(t, "skopeo", "--insecure-policy"), login: "login --cert-dir=certs --password-stdin HOST -u ", logout: "logout HOST",
			push: "copy --dest-cert-dir=certs docker-archive:in.tar docker://REF", pull: "copy --src-cert-dir=certs docker://REF dir:out",
		}
	},
	"strake": func(t *testing.T) loginClient {
		t.Helper()
		return likeDocker(strakeItself(t), "", "")
	},
}

// clientName is the name of the program as which the test binary is strake.
const clientName = "strake"

// strakeItself is the test binary as strake, without a build of its own. It goes by
// its name, not by a variable, so that strake may start itself again.
func strakeItself(t *testing.T) tool {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), clientName)
	if err := os.Link(self, path); err != nil { // another file system
		b, err := os.ReadFile(self)
		if err := errors.Join(err, os.WriteFile(path, b, 0o700)); err != nil {
			t.Fatal(err)
		}
	}
	return newTool(t, path)
}

// likeDocker is a client with docker's commands, and flags of its own: to trust the
// Hub, and for images.
func likeDocker(c tool, trust, flags string) loginClient {
	return loginClient{
		tool: c, load: []string{"load" + flags + " -i in.tar", "tag x:y REF"},
		login: "login" + trust + " --password-stdin HOST -u ", logout: "logout HOST",
		push: "push" + trust + flags + " REF", pull: "pull" + trust + flags + " REF", forget: "rmi -f REF",
	}
}

// TestLogins logs clients in with a personal token and with those of robots, to
// push and pull what is private; nobody else gets it.
func TestLogins(t *testing.T) {
	p := initialisedHub(t)
	host, stop := startTLS(t, "--data", p.dir)
	defer stop()
	ca, err := os.ReadFile(filepath.Join(p.dir, "tls", caCert))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"ann", "bob"} {
		cmd(t, 0, "correct horse battery\n", "user", "add", "--password-stdin", "--data", p.dir, name)
	}
	token := func(args ...string) [2]string {
		t.Helper()
		out := cmd(t, 0, "", append([]string{"token", "create", "--data", p.dir}, args...)...)
		return [2]string{find(t, `User name: (\S+)`, out), find(t, `Token: +(\S+)`, out)}
	}
	personal, stranger := token("ann", "laptop"), token("bob", "laptop")
	writer, reader := token("--robot", "--scope", "ann/*:write", "ann", "ci"), token("--robot", "--scope", "ann/*:read", "ann", "prod")
	for name, setUp := range loginClients {
		t.Run(name, func(t *testing.T) {
			c := setUp(t)
			writeImage(t, filepath.Join(c.dir, "in.tar"))
			for _, certs := range []string{filepath.Join(c.dir, "certs"), filepath.Join(c.dir, "docker", "certs.d", host)} {
				if err := os.MkdirAll(certs, 0o700); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(filepath.Join(certs, "ca.crt"), ca, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			ref := host + "/ann/" + name + ":1"
			as := func(who [2]string) { t.Helper(); c.do(true, host, ref, who[1], c.login+who[0]) }
			for _, command := range c.load {
				c.do(true, host, ref, "", command)
			}
			c.do(false, host, ref, "", c.push) // as nobody
			c.do(false, host, ref, "sth_wrong", c.login+"ann")
			as(reader)
			c.do(false, host, ref, "", c.push)
			for _, who := range [][2]string{personal, writer} {
				as(who)
				c.do(true, host, ref, "", c.push)
			}
			for who, ok := range map[[2]string]bool{personal: true, writer: true, reader: true, stranger: false} {
				as(who)
				c.do(true, host, ref, "", c.forget)
				c.do(ok, host, ref, "", c.pull)
			}
			c.do(true, host, ref, "", c.logout)
			c.do(true, host, ref, "", c.forget)
			c.do(false, host, ref, "", c.pull)
		})
	}
}

// TestReviewWarning pushes what is held for a review: strake says so, once. What is
// private needs no review.
func TestReviewWarning(t *testing.T) {
	p := initialisedHub(t)
	cmd(t, 0, "correct horse battery\n", "user", "add", "--password-stdin", "--data", p.dir, "ann")
	host, stop := startTLS(t, "--data", p.dir)
	defer stop()
	api := hubClient{t, p.client(t), "https://" + host + "/api/v1", p.password}
	api.call(http.MethodPost, "/repositories", `{"name":"ann/app","public":true}`, http.StatusCreated, nil)
	ca, err := os.ReadFile(filepath.Join(p.dir, "tls", caCert))
	if err != nil {
		t.Fatal(err)
	}
	c := strakeItself(t)
	certs := filepath.Join(c.dir, "docker", "certs.d", host)
	if err := errors.Join(os.MkdirAll(certs, 0o700), os.WriteFile(filepath.Join(certs, "ca.crt"), ca, 0o600)); err != nil {
		t.Fatal(err)
	}
	writeImage(t, filepath.Join(c.dir, "in.tar"))
	c.run("load", "-i", "in.tar")
	c.run("login", "-u", "ann", "-p", "correct horse battery", host)
	for repo, want := range map[string]int{"ann/app": 1, "ann/own": 0} {
		ref := host + "/" + repo
		for _, tag := range []string{":a", ":b"} {
			c.run("tag", "x:y", ref+tag)
		}
		if out := c.run("push", "--all-tags", ref); strings.Count(out, "waits for a review: until it is approved, only who may push to "+repo+" can pull it") != want {
			t.Errorf("%s: not told %d times of the review: %s", repo, want, out)
		}
	}
}
