package build

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"strake/internal/executor"
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

// streams is an executor whose command writes to both of its streams at once.
type streams struct{ stdout, stderr []string }

func (x streams) Run(_ context.Context, spec executor.Spec) (int, error) {
	var errs [2]error
	var writing sync.WaitGroup
	write := func(w io.Writer, pieces []string, err *error) {
		writing.Go(func() {
			for _, p := range pieces {
				_, wrong := io.WriteString(w, p)
				*err = errors.Join(*err, wrong)
			}
		})
	}
	write(spec.Stdout, x.stdout, &errs[0])
	write(spec.Stderr, x.stderr, &errs[1])
	writing.Wait()
	return 0, errors.Join(errs[:]...)
}

// lockedLog keeps the pieces that a Reporter would tell.
type lockedLog struct {
	mu     sync.Mutex
	pieces []string
}

func (l *lockedLog) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.pieces = append(l.pieces, string(b))
	return len(b), nil
}

// TestMaskStreams: a secret is hidden in each of two streams that are written at once, and the halves that they end with are none.
func TestMaskStreams(t *testing.T) {
	var x streams
	for range 500 {
		x.stdout = append(x.stdout, "out hunter2-", "hunter2\n")
		x.stderr = append(x.stderr, "err hunter2-hun", "ter2\n")
	}
	x.stdout, x.stderr = append(x.stdout, "hunter2-h"), append(x.stderr, "unter2")
	log := &lockedLog{}
	if _, err := logged(t.Context(), x, executor.Spec{}, log, [][]byte{[]byte("hunter2-hunter2")}); err != nil {
		t.Fatal(err)
	}
	text := strings.Join(log.pieces, "")
	for want, n := range map[string]int{"****": 1000, "out ": 500, "err ": 500} {
		if strings.Count(text, want) != n {
			t.Errorf("%d of %q, want %d", strings.Count(text, want), want, n)
		}
	}
	if !slices.Contains(log.pieces, "hunter2-h") || !strings.Contains(text, "unter2") {
		t.Error("the end of a stream is lost")
	}
}

// TestMaskedLines: a secret of many lines is looked for as one text.
func TestMaskedLines(t *testing.T) {
	line := "a line of the secret\n"
	for lines, want := range map[int]int{1: 1, maxLines: maxLines, maxLines + 1: 1, 10_000: 1} {
		got := masked([][]byte{[]byte(strings.Repeat(line, lines))})
		if len(got) != want {
			t.Errorf("%d lines: %d texts, want %d", lines, len(got), want)
		}
	}
	secret := strings.TrimSpace(strings.Repeat(line, maxLines+1))
	var out bytes.Buffer
	m := &mask{w: &out, texts: masked([][]byte{[]byte(secret)})}
	for piece := range strings.Lines("a\n" + secret + "\nb\n") {
		if _, err := io.WriteString(m, piece); err != nil {
			t.Fatal(err)
		}
	}
	if err := m.Flush(); err != nil || out.String() != "a\n****\nb\n" {
		t.Errorf("%q, %v", out.String(), err)
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
		".npmrc":                  "registry=https://registry.example/|",
		"web/.npmrc":              "//registry.example/:_authToken=npm_x|a token of npm",
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
