package build

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"

	"strake/internal/address"
)

// maxGitOutput bounds what is kept of what git says, in bytes.
const maxGitOutput = 16 << 20

// gitRun runs git for one repository. The checkout is dir/tree.
type gitRun struct {
	*Git
	dir     string
	log     io.Writer
	proxy   *gitProxy                // while git speaks to the repository
	connect func() ([]string, error) // Options.Connect
	auth    authorization
}

// bring fetches what ref names, and returns the commit.
func (g *gitRun) bring(ctx context.Context, ref gitRef) (commit string, err error) {
	format := "--object-format=sha1"
	if len(ref.object) == 64 {
		format = "--object-format=sha256"
	}
	if _, err := g.run(ctx, "init", "--quiet", "--template=", "--initial-branch=master", format); err != nil {
		return "", err
	}
	if _, err := g.run(ctx, "remote", "add", "origin", g.clean()); err != nil {
		return "", err
	}
	if err := g.fetch(ctx, ref); err != nil {
		return "", err
	}
	return g.verify(ctx, ref)
}

// checkout fetches what ref names and checks it out.
func (g *gitRun) checkout(ctx context.Context, ref gitRef) error {
	if _, err := g.bring(ctx, ref); err != nil {
		return err
	}
	if _, err := g.run(ctx, "checkout", "--quiet", "--detach", ref.object); err != nil {
		return fmt.Errorf("failed to checkout remote %s: %w", Redact(g.Remote), err)
	}
	if !g.SkipSubmodules {
		if _, err := os.Lstat(filepath.Join(g.dir, "tree", ".gitmodules")); err == nil {
			if _, err := g.remote(ctx, "submodule", "--quiet", "update", "--init", "--recursive", "--depth=1"); err != nil {
				return fmt.Errorf("failed to update submodules for %s: %w", Redact(g.Remote), err)
			}
		}
	}
	g.report("checked out " + ref.commit)
	for _, name := range []string{"FETCH_HEAD", "logs"} {
		if err := os.RemoveAll(filepath.Join(g.dir, "tree", ".git", name)); err != nil {
			return err
		}
	}
	return nil
}

// fetch brings one commit without its history; all of the repository where its
// server serves no single commits.
func (g *gitRun) fetch(ctx context.Context, ref gitRef) (err error) {
	specs := []string{ref.object} // where the ref was moved meanwhile
	if !isCommit(ref.name) {
		specs = []string{"+" + ref.name + ":" + ref.name, ref.object}
	}
	for _, spec := range specs {
		_, err = g.remote(ctx, "fetch", "--quiet", "--update-head-ok", "--no-tags", "--depth=1", "--", "origin", spec)
		if err == nil && g.has(ctx, ref) {
			return nil
		}
		if ctx.Err() != nil {
			return err
		}
		if err != nil {
			break
		}
	}
	// The server serves no single commits, or not that one.
	fetch := []string{"fetch", "--quiet", "--update-head-ok", "--tags"}
	if _, shallow := os.Lstat(filepath.Join(g.dir, "tree", ".git", "shallow")); shallow == nil {
		fetch = append(fetch, "--unshallow") // what a moved ref was is behind what it is
	}
	_, all := g.remote(ctx, append(fetch, "--", "origin", "+refs/heads/*:refs/remotes/origin/*")...)
	if all != nil {
		return errors.Join(err, all)
	}
	if !g.has(ctx, ref) {
		if err != nil {
			return err
		}
		return fmt.Errorf("fetched ref %s does not match expected commit %s and commit can not be found in the repository", ref.name, ref.object)
	}
	return nil
}

// has reports whether the object was fetched.
func (g *gitRun) has(ctx context.Context, ref gitRef) bool {
	_, err := g.run(ctx, "cat-file", "-e", ref.object+"^{commit}")
	return err == nil
}

// verify compares what was fetched with the checksum: of a tag that is its own or
// its commit's. It returns the commit.
func (g *gitRun) verify(ctx context.Context, ref gitRef) (string, error) {
	out, err := g.run(ctx, "rev-parse", ref.object+"^{commit}")
	if err != nil {
		return "", err
	}
	ref.commit = strings.TrimSpace(out)
	return ref.commit, g.check(ref)
}

// defaultBranch asks the repository which branch it shows first.
func (g *gitRun) defaultBranch(ctx context.Context) (string, error) {
	out, err := g.remote(ctx, "ls-remote", "--symref", "--", g.clean(), "HEAD")
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(out) {
		if name, ok := strings.CutPrefix(line, "ref: "); ok {
			name, _, _ = strings.Cut(name, "\t")
			if strings.HasPrefix(name, "refs/heads/") {
				return name, nil
			}
		}
	}
	return "", fmt.Errorf("could not find default branch for repository: %s", Redact(g.Remote))
}

// remote is run for a command that speaks to the repository.
func (g *gitRun) remote(ctx context.Context, args ...string) (string, error) {
	if err := g.checkHost(ctx); err != nil {
		return "", fmt.Errorf("failed to fetch remote %s: %w", Redact(g.Remote), err)
	}
	out, err := g.guarded(ctx, args...)
	if err != nil {
		return "", fmt.Errorf("failed to fetch remote %s: %w", Redact(g.Remote), err)
	}
	return out, nil
}

// guarded runs git with a gitProxy.
func (g *gitRun) guarded(ctx context.Context, args ...string) (string, error) {
	p, err := newGitProxy(ctx)
	if err != nil {
		return "", err
	}
	with := *g
	with.proxy = p
	if err := g.writeConnector(); err != nil {
		return "", errors.Join(err, p.close())
	}
	out, err := with.run(ctx, args...)
	if refused := p.close(); refused != nil && ctx.Err() == nil {
		return "", refused // which is why git fails
	}
	return out, err
}

// connector is a script that runs Connect with two arguments, for git takes no more.
func (g *gitRun) connector() string { return filepath.Join(g.dir, "connect") }

func (g *gitRun) writeConnector() error {
	if g.connect == nil {
		return nil
	}
	command, err := g.connect()
	if err != nil {
		return err
	}
	script := "#!/bin/sh\nexec"
	for _, arg := range command {
		script += " '" + strings.ReplaceAll(arg, "'", `'\''`) + "'"
	}
	return os.WriteFile(g.connector(), []byte(script+" \"$@\"\n"), 0o700)
}

// run runs git in the checkout and returns what it writes.
func (g *gitRun) run(ctx context.Context, args ...string) (string, error) {
	tree := filepath.Join(g.dir, "tree")
	if err := os.MkdirAll(tree, 0o700); err != nil {
		return "", err
	}
	cmd := exec.CommandContext(ctx, "git", args...) // what could be an option stands behind "--"
	cmd.Dir, cmd.Env = tree, g.environment()
	out, errs := &limited{max: maxGitOutput}, &limited{max: 64 << 10}
	cmd.Stdout, cmd.Stderr = out, errs
	cmd.SysProcAttr = gitProcess()
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = 5 * time.Second
	runtime.LockOSThread() // whose end is git's
	defer runtime.UnlockOSThread()
	err := cmd.Run()
	switch {
	case errors.Is(err, exec.ErrNotFound):
		return "", fmt.Errorf("failed to find git binary: install git, or copy the files into the build context: %w", err)
	case ctx.Err() != nil:
		return "", context.Cause(ctx)
	case err != nil:
		return "", fmt.Errorf("git %s: %w: %s", args[0], err, g.said(errs.String()))
	}
	return out.String(), nil
}

// said is what git said, in one line and without credentials.
func (g *gitRun) said(s string) string {
	s = strings.ReplaceAll(s, g.Remote, Redact(g.Remote))
	if g.auth.header != "" {
		s = strings.ReplaceAll(s, g.auth.header, "xxxxx")
		if strings.Contains(s, "returned error: 30") {
			s += "\ncredentials do not follow redirects: use the address that it redirects to"
		}
	}
	if u, err := url.Parse(g.Remote); err == nil && u.User != nil {
		if password, ok := u.User.Password(); ok && password != "" {
			s = strings.ReplaceAll(s, password, "xxxxx")
		}
	}
	return strings.Join(strings.FieldsFunc(s, func(r rune) bool { return r == '\n' || r == '\r' }), "; ")
}

// clean is the address without credentials: those are in the environment, where
// neither other users nor the checkout see them.
func (g *gitRun) clean() string {
	if u, err := url.Parse(g.Remote); err == nil && u.User != nil && (u.Scheme == "http" || u.Scheme == "https") {
		u.User = nil
		return u.String()
	}
	return g.Remote
}

// environment is all that git sees of ours. No configuration but this is read;
// nothing is asked; no protocol reaches files or programs of this machine.
func (g *gitRun) environment() []string {
	protocols := "http:https"
	if g.connect != nil {
		protocols += ":git:ssh"
	}
	env := []string{
		"PATH=" + os.Getenv("PATH"), "HOME=" + os.DevNull, "LC_ALL=C", "GIT_ADVICE=0",
		"GIT_CONFIG_NOSYSTEM=1", "GIT_CONFIG_GLOBAL=" + os.DevNull, "GIT_ATTR_NOSYSTEM=1",
		"GIT_TERMINAL_PROMPT=0", "GIT_ASKPASS=true", "SSH_ASKPASS=true",
		"GIT_ALLOW_PROTOCOL=" + protocols, "GIT_CEILING_DIRECTORIES=" + g.dir,
		"GIT_SSH_COMMAND=" + g.ssh(),
		"SSH_AUTH_SOCK=" + g.Agent,
	}
	config := [][2]string{
		{"core.hooksPath", os.DevNull},
		{"core.fsmonitor", "false"},
		{"credential.helper", ""},
		{"gc.auto", "0"},
		{"maintenance.auto", "false"},
	}
	if g.proxy != nil {
		env = append(env, connectVariable+"="+g.proxy.url(asksForAnyData), "GIT_PROXY_COMMAND="+g.connector())
		config = append(config, [2]string{"http.proxy", g.proxy.url(asksForHTTP)}, [2]string{"http.proxyAuthMethod", "basic"})
	}
	config = append(config, g.auth.gitConfig()...)
	if clean := g.clean(); clean != g.Remote {
		config = append(config, [2]string{"url." + g.Remote + ".insteadOf", clean})
	}
	for i, kv := range config {
		env = append(env, fmt.Sprintf("GIT_CONFIG_KEY_%d=%s", i, kv[0]), fmt.Sprintf("GIT_CONFIG_VALUE_%d=%s", i, kv[1]))
	}
	return append(env, fmt.Sprintf("GIT_CONFIG_COUNT=%d", len(config)))
}

// ssh is the command for it, as a shell reads it. It reads the user's known hosts;
// those that it learns are forgotten with the checkout.
func (g *gitRun) ssh() string {
	learnt := strings.NewReplacer("%", "%%", "'", `'\''`).Replace(filepath.Join(g.dir, "known_hosts"))
	return "ssh -F " + os.DevNull + " -o BatchMode=yes -o StrictHostKeyChecking=accept-new -o IdentityFile=none" +
		` -o 'UserKnownHostsFile="` + learnt + `"'` +
		` -o 'ProxyCommand="$GIT_PROXY_COMMAND" %h %p'` +
		" -o 'GlobalKnownHostsFile=~/.ssh/known_hosts ~/.ssh/known_hosts2 /etc/ssh/ssh_known_hosts /etc/ssh/ssh_known_hosts2'"
}

// checkHost refuses a repository at a link-local address, where clouds serve
// their machines' credentials.
func (g *gitRun) checkHost(ctx context.Context) error {
	host := ""
	if u, err := url.Parse(g.Remote); err == nil && u.Host != "" {
		host = u.Hostname()
	} else if _, rest, ok := strings.Cut(g.Remote, "@"); ok {
		host, _, _ = strings.Cut(rest, ":")
	}
	ips, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
	if err != nil {
		return nil //nolint:nilerr // a proxy may know it; git says what is wrong otherwise
	}
	for _, ip := range ips {
		if address.LinkLocal(ip) {
			return fmt.Errorf("%s is at %s: nothing is fetched from link-local addresses", host, ip.Unmap())
		}
	}
	return nil
}

// Redact hides the credentials of an address.
func Redact(s string) string {
	u, err := url.Parse(s)
	if err != nil || u.User == nil || u.Host == "" {
		return s
	}
	mask := url.User("xxxxx")
	if _, ok := u.User.Password(); ok {
		mask = url.UserPassword("xxxxx", "xxxxx")
	}
	u.User = mask
	return u.String()
}

// limited keeps the first max bytes.
type limited struct {
	bytes.Buffer
	max int
}

func (l *limited) Write(p []byte) (int, error) {
	l.Buffer.Write(p[:min(len(p), l.max-l.Len())])
	return len(p), nil
}
