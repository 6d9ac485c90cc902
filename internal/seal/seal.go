// Package seal encrypts what the Hub's database keeps for others: secrets that it
// has to be able to read again, as passwords of other registries. The key is in a
// file beside the database, not in it, so that a copy of the database alone gives
// nothing away.
package seal

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/containerd/errdefs"
)

// errNone is of secrets where there is no key.
var errNone = fmt.Errorf("secrets need a key: strake-hub serve --key-file: %w", errdefs.ErrFailedPrecondition)

// Key encrypts by AES-256-GCM. It is safe for concurrent use.
type Key struct{ aead cipher.AEAD }

// keySize is the size of a key, in bytes.
const keySize = 32

// Load reads the key in a file: 64 hexadecimal digits. A file that is not there is
// made, with mode 0600; of processes that make it at once, one does. Replicas of a
// Hub have the same file.
func Load(path string) (*Key, error) {
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		if err := create(path); err != nil {
			return nil, fmt.Errorf("make key file: %w", err)
		}
		b, err = os.ReadFile(path)
	}
	if err != nil {
		return nil, fmt.Errorf("read key file: %w", err)
	}
	raw, err := hex.DecodeString(strings.TrimSpace(string(b)))
	if err != nil || len(raw) != keySize {
		return nil, fmt.Errorf("key file %q: not %d hexadecimal digits: %w", path, 2*keySize, errdefs.ErrInvalidArgument)
	}
	return newKey(raw)
}

// create makes a key file unless there is one.
func create(path string) (err error) {
	f, err := os.CreateTemp(filepath.Dir(path), ".key-*") // of mode 0600
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.Remove(f.Name())) }()
	raw := make([]byte, keySize)
	_, _ = rand.Read(raw) // never fails
	_, err = f.WriteString(hex.EncodeToString(raw) + "\n")
	if err == nil {
		err = f.Sync()
	}
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err := os.Link(f.Name(), path); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return nil
}

func newKey(raw []byte) (*Key, error) {
	block, err := aes.NewCipher(raw)
	if err != nil {
		return nil, err
	}
	aead, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		return nil, err
	}
	return &Key{aead}, nil
}

// Seal encrypts text; without a key, nil, that fails with
// errdefs.ErrFailedPrecondition. about says what it is and whose, and has to be the same in
// Open: what is sealed for one purpose is of no use for another. "" stays "".
func (k *Key) Seal(text, about string) (string, error) {
	if text == "" {
		return "", nil
	}
	if k == nil {
		return "", errNone
	}
	return base64.StdEncoding.EncodeToString(k.aead.Seal(nil, nil, []byte(text), []byte(about))), nil //nolint:gosec // the nonce is made by the AEAD itself
}

// Open decrypts what Seal returned. It fails with errdefs.ErrFailedPrecondition
// for what another key sealed, or for another purpose.
func (k *Key) Open(sealed, about string) (string, error) {
	if sealed == "" {
		return "", nil
	}
	if k == nil {
		return "", errNone
	}
	b, err := base64.StdEncoding.DecodeString(sealed)
	if err == nil {
		b, err = k.aead.Open(nil, nil, b, []byte(about))
	}
	if err != nil {
		return "", fmt.Errorf("a sealed secret of %s does not open with this key: %w", about, errdefs.ErrFailedPrecondition)
	}
	return string(b), nil
}
