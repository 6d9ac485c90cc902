package sshagent

import (
	"bytes"
	"crypto/ed25519"
	"encoding/pem"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"
)

// writeKey writes a private key, with a passphrase if there is one.
func writeKey(t *testing.T, passphrase string) (path string, public ssh.PublicKey) {
	t.Helper()
	_, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	block, err := ssh.MarshalPrivateKey(private, "")
	if passphrase != "" {
		block, err = ssh.MarshalPrivateKeyWithPassphrase(private, "", []byte(passphrase))
	}
	if err != nil {
		t.Fatal(err)
	}
	path = filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(path, pem.EncodeToMemory(block), 0o600); err != nil {
		t.Fatal(err)
	}
	signer, err := ssh.NewSignerFromKey(private)
	if err != nil {
		t.Fatal(err)
	}
	return path, signer.PublicKey()
}

// serve lends an agent on a socket until the test ends.
func serve(t *testing.T, agents *Agents, id string) (socket string) {
	t.Helper()
	dir, err := os.MkdirTemp("", "agent") //nolint:usetesting // the path of a socket is short
	if err != nil {
		t.Fatal(err)
	}
	socket = filepath.Join(dir, "s")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- agents.Serve(l, id) }()
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
		if err := <-done; err != nil {
			t.Error(err)
		}
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return socket
}

// TestLend lends a key in a file, and then the agent that does so by its socket: both list and sign, and nothing else.
func TestLend(t *testing.T) {
	path, public := writeKey(t, "")
	byFile, err := Open([]Source{{Paths: []string{path}}})
	if err != nil {
		t.Fatal(err)
	}
	socket := serve(t, byFile, "")
	bySocket, err := Open([]Source{{ID: "mine", Paths: []string{socket}}})
	if err != nil {
		t.Fatal(err)
	}
	if bySocket.Has("default") || !bySocket.Has("mine") || (*Agents)(nil).Has("mine") {
		t.Error("wrong IDs")
	}
	conn, err := net.Dial("unix", serve(t, bySocket, "mine"))
	if err != nil {
		t.Fatal(err)
	}
	c := agent.NewClient(conn)
	keys, err := c.List()
	if err != nil || len(keys) != 1 || !bytes.Equal(keys[0].Blob, public.Marshal()) {
		t.Fatalf("keys: %v, %v", keys, err)
	}
	sig, err := c.Sign(keys[0], []byte("data"))
	if err != nil || public.Verify([]byte("data"), sig) != nil {
		t.Errorf("signature: %v", err)
	}
	if c.RemoveAll() == nil || c.Lock([]byte("x")) == nil {
		t.Error("the agent did more than sign")
	}
	if keys, err := c.List(); err != nil || len(keys) != 1 {
		t.Errorf("keys afterwards: %v, %v", keys, err)
	}
}

func TestOpenFails(t *testing.T) {
	t.Setenv("SSH_AUTH_SOCK", "")
	locked, _ := writeKey(t, "open sesame")
	key, _ := writeKey(t, "")
	text := filepath.Join(t.TempDir(), "text")
	if err := os.WriteFile(text, []byte("no key"), 0o600); err != nil {
		t.Fatal(err)
	}
	for want, sources := range map[string][]Source{
		"make sure SSH_AUTH_SOCK is set":   {{}},
		"has a passphrase":                 {{Paths: []string{locked}}},
		"is no private key":                {{Paths: []string{text}}},
		"no such file":                     {{Paths: []string{text + "-"}}},
		`ssh agent "default" is given twi`: {{Paths: []string{key}}, {ID: "default", Paths: []string{key}}},
	} {
		if _, err := Open(sources); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v: %v, want %q", sources, err, want)
		}
	}
}
