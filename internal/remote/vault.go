package remote

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// vault keeps credentials encrypted in a file, each with AES-256-GCM under a key
// that lies elsewhere and bound to its host. It guards against the file getting
// out (in a backup, a repository of dotfiles, an image), not against who may
// read all that the user may.
type vault struct {
	file string
	key  string // the file of the key, 32 bytes
}

// vaultFile is the JSON in the file.
type vaultFile struct {
	Version     int               `json:"version"`
	Credentials map[string][]byte `json:"credentials"` // nonce and ciphertext, by host
}

const vaultVersion = 1

// storedCredential is a Credential that its JSON shows.
type storedCredential Credential

// get returns the credential for host, the zero one if there is none.
func (v vault) get(host string) (Credential, error) {
	f, err := v.read()
	if err != nil || f.Credentials[host] == nil {
		return Credential{}, err
	}
	key, err := os.ReadFile(v.key)
	if err != nil {
		return Credential{}, fmt.Errorf("the key of %s: %w; log in again", v.file, err)
	}
	var cred storedCredential
	text, err := open256(key, f.Credentials[host], host)
	if err == nil {
		err = json.Unmarshal(text, &cred)
	}
	if err != nil {
		return Credential{}, fmt.Errorf("%s: the credential of %s does not fit the key %s; log in again: %w", v.file, host, v.key, errdefs.ErrDataLoss)
	}
	return Credential(cred), nil
}

// set keeps the credential for host; nil forgets it.
func (v vault) set(host string, cred *Credential) (err error) {
	if _, err := os.Stat(v.file); cred == nil && errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	lock, err := v.lockKey()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, lock.Close()) }()
	f, err := v.read()
	if err != nil {
		return err
	}
	if f.Credentials == nil {
		f.Credentials = map[string][]byte{}
	}
	delete(f.Credentials, host)
	if cred != nil {
		key, err := readKey(lock)
		if err != nil {
			return err
		}
		text, err := json.Marshal((*storedCredential)(cred)) //nolint:gosec // to be encrypted
		if err != nil {
			return err
		}
		if f.Credentials[host], err = seal256(key, text, host); err != nil {
			return err
		}
	}
	b, err := json.MarshalIndent(vaultFile{vaultVersion, f.Credentials}, "", "\t")
	if err != nil {
		return err
	}
	return replaceFile(v.file, append(b, '\n'))
}

func (v vault) read() (vaultFile, error) {
	var f vaultFile
	b, err := os.ReadFile(v.file)
	if errors.Is(err, fs.ErrNotExist) {
		return f, nil
	}
	if err == nil {
		err = json.Unmarshal(b, &f)
	}
	if err == nil && f.Version != vaultVersion {
		err = fmt.Errorf("version %d: %w", f.Version, errdefs.ErrNotImplemented)
	}
	if err != nil {
		return f, fmt.Errorf("%s: %w", v.file, err)
	}
	return f, nil
}

// lockKey opens and locks the file of the key.
func (v vault) lockKey() (*os.File, error) {
	if err := errors.Join(os.MkdirAll(filepath.Dir(v.key), 0o700), os.MkdirAll(filepath.Dir(v.file), 0o700)); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(v.key, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != nil {
		return nil, errors.Join(fmt.Errorf("lock %s: %w", v.key, err), f.Close())
	}
	return f, nil
}

// readKey reads the key, and makes it first in a file that is empty.
func readKey(f *os.File) ([]byte, error) {
	key := make([]byte, 32)
	if n, err := f.ReadAt(key, 0); n == len(key) {
		return key, nil
	} else if n > 0 {
		return nil, fmt.Errorf("%s: no key: %w", f.Name(), errors.Join(err, errdefs.ErrDataLoss))
	}
	if _, err := rand.Read(key); err != nil {
		return nil, err
	}
	if _, err := f.WriteAt(key, 0); err != nil {
		return nil, err
	}
	return key, f.Sync()
}

func seal256(key, text []byte, host string) ([]byte, error) {
	aead, err := newAEAD(key)
	if err != nil {
		return nil, err
	}
	return aead.Seal(nil, nil, text, []byte(host)), nil //nolint:gosec // makes a random nonce itself
}

func open256(key, sealed []byte, host string) ([]byte, error) {
	aead, err := newAEAD(key)
	if err != nil {
		return nil, err
	}
	return aead.Open(nil, nil, sealed, []byte(host))
}

// newAEAD puts a random nonce before each ciphertext.
func newAEAD(key []byte) (cipher.AEAD, error) {
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCMWithRandomNonce(block)
}

// replaceFile writes a file that only the user may read, at once and durably.
func replaceFile(name string, b []byte) error {
	f, err := os.CreateTemp(filepath.Dir(name), filepath.Base(name)+".") // 0600
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	if err = errors.Join(err, f.Sync(), f.Close()); err == nil {
		err = os.Rename(f.Name(), name)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return nil
}
