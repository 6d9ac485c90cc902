package build

import (
	"bytes"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestMask writes a log in pieces of any size: what is hidden does not depend on them.
func TestMask(t *testing.T) {
	secret := []byte("hunter2-hunter2\nsecond line, long\nno\n")
	const log = "a longest-hunter longest-hunter-of-all longest- hunter2-hunter2\nsecond line, long\nno b second line, long c hunter2-hunte d hunter2-hunter2 no hunter2-hunter2-hunter2\n"
	const want = "a **** **** longest- ****\n****\nno b **** c hunter2-hunte d **** no ****-hunter2\n"
	random := rand.New(rand.NewPCG(1, 2))
	for range 200 {
		var out bytes.Buffer
		m := &mask{w: &out, texts: masked([][]byte{secret, []byte("abc"), []byte("longest-hunter"), []byte("longest-hunter-of-all")})}
		for rest := []byte(log); len(rest) > 0; {
			n := min(len(rest), 1+random.IntN(20))
			if _, err := m.Write(rest[:n]); err != nil {
				t.Fatal(err)
			}
			rest = rest[n:]
		}
		if err := m.Flush(); err != nil || out.String() != want {
			t.Fatalf("got %q, want %q, %v", out.String(), want, err)
		}
	}
}

// TestFinder finds a text however it is cut, and only that.
func TestFinder(t *testing.T) {
	for _, size := range []int{1, 3, 7, 100} {
		for text, want := range map[string]bool{"xx a long secret xx": true, "xx a long secre t": false} {
			f := &finder{w: &bytes.Buffer{}, texts: whole([][]byte{[]byte(" a long secret\n"), []byte("short")})}
			for rest := text; rest != ""; rest = rest[min(size, len(rest)):] {
				if _, err := f.Write([]byte(rest[:min(size, len(rest))])); err != nil {
					t.Fatal(err)
				}
			}
			if f.found != want {
				t.Errorf("%q in pieces of %d: %v", text, size, f.found)
			}
		}
	}
}

func TestSecretFiles(t *testing.T) {
	dir := t.TempDir()
	files := map[string]string{ // content, and what it is taken for
		".env":                    "A=b|variables that are not for everybody",
		"app/.env.local":          "A=b|variables that are not for everybody",
		".env.example":            "A=b|",
		".environment":            "A=b|",
		".envrc":                  "A=b|",
		"empty/.env":              "|",
		"ssh/id_rsa":              "-----BEGIN OPENSSH PRIVATE KEY-----\nx|a private key",
		"ssh/id_rsa.pub":          "ssh-rsa AAAA|",
		"tls/server.pem":          "-----BEGIN CERTIFICATE-----\nx|",
		"tls/both.pem":            "-----BEGIN CERTIFICATE-----\nx\n-----BEGIN RSA PRIVATE KEY-----|a private key",
		"lang/en.key":             "greeting=hello|",
		".npmrc":                  "registry=https://registry.npmjs.org/|",
		"web/.npmrc":              "//registry.npmjs.org/:_authToken=npm_x|a token of npm",
		".aws/credentials":        "[default]\naws_secret_access_key = x|keys of AWS",
		"other/credentials":       "aws_secret_access_key = x|",
		".docker/config.json":     `{"auths":{"x":{"auth":"eDp5"}}}|passwords of registries`,
		"config.json":             `{"auth":"no"}|`,
		".netrc":                  "machine x login y password z|passwords",
		"node_modules/x/index.js": "const password = 1|",
	}
	for name, f := range files {
		content, _, _ := strings.Cut(f, "|")
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	c, err := LoadContext(t.Context(), ContextOptions{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	}()
	err = c.walk(".", func(n node) error {
		if !n.mode.IsRegular() {
			return nil
		}
		_, want, _ := strings.Cut(files[n.path], "|")
		got, err := secretIn(c, n)
		if got != want {
			t.Errorf("%s: %q, want %q", n.path, got, want)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}
