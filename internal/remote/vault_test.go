package remote_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"strake/internal/remote"
)

// TestVault is what a credential without a helper is kept in: nothing of it is
// legible, and only the host that it is of gets it.
func TestVault(t *testing.T) {
	dir, state := t.TempDir(), t.TempDir()
	t.Setenv("XDG_STATE_HOME", state)
	c := &remote.Config{Dir: dir}
	ctx := t.Context()
	token := remote.Credential{IdentityToken: "t0ken-of-identity"}
	for host, cred := range map[string]remote.Credential{"a.example": secret, "b.example:5000": token, "docker.io": secret} {
		if err := c.Set(ctx, host, cred, false); err != nil {
			t.Fatal(err)
		}
		if got, err := c.Get(ctx, host); err != nil || got != cred {
			t.Errorf("%s: %v, %v", host, got, err)
		}
	}
	file, key := filepath.Join(dir, "strake-credentials.json"), filepath.Join(state, "strake", "credentials.key")
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for _, leak := range []string{secret.Username, secret.Password, "czNjcjN0", "dXNlcjpz", token.IdentityToken} {
		if bytes.Contains(text, []byte(leak)) {
			t.Errorf("%s holds %q:\n%s", file, leak, text)
		}
	}
	for _, name := range []string{file, key} {
		if info, err := os.Stat(name); err != nil || info.Mode() != 0o600 {
			t.Errorf("%s: %v, %v", name, info.Mode(), err)
		}
	}
	if _, err := os.Stat(filepath.Join(dir, "config.json")); err == nil {
		t.Error("config.json was written")
	}

	// An entry that is moved to another host is of no use there.
	moved := strings.ReplaceAll(string(text), "a.example", "evil.example")
	if err := os.WriteFile(file, []byte(moved), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Get(ctx, "evil.example"); !errdefs.IsDataLoss(err) {
		t.Errorf("moved: %v", err)
	}
	// Nor is one without its key; logging in again mends it.
	if err := os.Remove(key); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Get(ctx, "docker.io"); err == nil || !strings.Contains(err.Error(), "log in again") {
		t.Errorf("without a key: %v", err)
	}
	if err := c.Set(ctx, "docker.io", secret, false); err != nil {
		t.Fatal(err)
	}
	if got, err := c.Get(ctx, "index.docker.io"); err != nil || got != secret {
		t.Errorf("after another login: %v, %v", got, err)
	}
	if err := c.Erase(ctx, "docker.io"); err != nil {
		t.Fatal(err)
	}
	if got, err := c.Get(ctx, "docker.io"); err != nil || got != (remote.Credential{}) {
		t.Errorf("after logout: %v, %v", got, err)
	}
}

// TestPlain is docker's file: read when it is there, written when it is asked
// for.
func TestPlain(t *testing.T) {
	t.Setenv("XDG_STATE_HOME", t.TempDir())
	dir := writeConfig(t, `{"auths":{"old.example":{"auth":"dXNlcjpzM2NyM3QtdzByZA=="}}}`)
	c := &remote.Config{Dir: dir}
	if got, err := c.Get(t.Context(), "old.example"); err != nil || got != secret {
		t.Errorf("docker's: %v, %v", got, err)
	}
	newer := remote.Credential{Username: "newer", Password: "x"}
	for _, plain := range []bool{false, true} {
		if err := c.Set(t.Context(), "old.example", newer, plain); err != nil {
			t.Fatal(err)
		}
		if got, err := c.Get(t.Context(), "old.example"); err != nil || got != newer {
			t.Errorf("%v: %v, %v", plain, got, err)
		}
	}
	text, err := os.ReadFile(filepath.Join(dir, "config.json"))
	if err != nil || !bytes.Contains(text, []byte("bmV3ZXI6eA==")) {
		t.Errorf("config.json: %s, %v", text, err)
	}
}

// TestClearIsRemoved is a login where docker's file holds an older credential in
// the clear: that goes, and what docker writes there later counts.
func TestClearIsRemoved(t *testing.T) {
	t.Setenv("XDG_STATE_HOME", t.TempDir())
	const entry = `{"auths":{"%s":{"auth":"dXNlcjpzM2NyM3QtdzByZA=="},"other.example":{"auth":"eDp5"}}}`
	newer := remote.Credential{Username: "newer", Password: "x"}
	for name, host := range map[string]string{
		"old.example": "old.example", "https://old.example/v1/": "old.example", "https://index.docker.io/v1/": "docker.io",
	} {
		dir := writeConfig(t, strings.ReplaceAll(entry, "%s", name))
		file := filepath.Join(dir, "config.json")
		c := &remote.Config{Dir: dir}
		if err := c.Set(t.Context(), host, newer, false); err != nil {
			t.Fatal(err)
		}
		text, err := os.ReadFile(file)
		if err != nil || bytes.Contains(text, []byte("dXNlcjpzM2")) || !bytes.Contains(text, []byte("eDp5")) {
			t.Errorf("%s: %s, %v", name, text, err)
		}
		if got, err := c.Get(t.Context(), host); err != nil || got != newer {
			t.Errorf("%s: %v, %v", name, got, err)
		}
		if err := os.WriteFile(file, []byte(strings.ReplaceAll(entry, "%s", name)), 0o600); err != nil {
			t.Fatal(err)
		}
		if got, err := c.Get(t.Context(), host); err != nil || got != secret {
			t.Errorf("%s: after docker login: %v, %v", name, got, err)
		}
		if err := c.Erase(t.Context(), host); err != nil {
			t.Fatal(err)
		}
		if got, err := c.Get(t.Context(), host); err != nil || got != (remote.Credential{}) {
			t.Errorf("%s: after logout: %v, %v", name, got, err)
		}
	}
}

// TestVaultKeyIsOwn is a key that others could have read or put there, and a
// vault that lies elsewhere.
func TestVaultKeyIsOwn(t *testing.T) {
	dir, elsewhere, state := t.TempDir(), filepath.Join(t.TempDir(), "kept.json"), t.TempDir()
	t.Setenv("XDG_STATE_HOME", state)
	if err := os.WriteFile(elsewhere, []byte(`{"version":1}`), 0o600); err != nil {
		t.Fatal(err)
	}
	file, key := filepath.Join(dir, "strake-credentials.json"), filepath.Join(state, "strake", "credentials.key")
	if err := os.Symlink(elsewhere, file); err != nil {
		t.Fatal(err)
	}
	c := &remote.Config{Dir: dir}
	if err := c.Set(t.Context(), "a.example", secret, false); err != nil {
		t.Fatal(err)
	}
	if to, err := os.Readlink(file); err != nil || to != elsewhere {
		t.Errorf("the link was replaced: %q, %v", to, err)
	}
	moved := key + ".moved"
	for want, spoil := range map[string]func() error{
		"chmod it to 600":    func() error { return os.Chmod(key, 0o644) },
		"is a symbolic link": func() error { return errors.Join(os.Rename(key, moved), os.Symlink(moved, key)) },
		"is no regular file": func() error { return errors.Join(os.Rename(key, moved), unix.Mkfifo(key, 0o600)) },
	} {
		if err := spoil(); err != nil {
			t.Fatal(err)
		}
		_, err := c.Get(t.Context(), "a.example")
		for _, err := range []error{err, c.Set(t.Context(), "a.example", secret, false)} {
			if !errdefs.IsPermissionDenied(err) || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), key) || !strings.Contains(err.Error(), "log in again") {
				t.Errorf("%s: %v", want, err)
			}
		}
		if _, err := os.Lstat(moved); err == nil {
			if err := os.Rename(moved, key); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.Chmod(key, 0o600); err != nil {
			t.Fatal(err)
		}
		if got, err := c.Get(t.Context(), "a.example"); err != nil || got != secret {
			t.Errorf("%s, mended: %v, %v", want, got, err)
		}
	}
}
