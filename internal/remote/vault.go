package remote

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
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
	key  string // the file of the key, keySize bytes
}

// vaultFile is the JSON in the file.
type vaultFile struct {
	Version     int               `json:"version"`
	Credentials map[string][]byte `json:"credentials"` // nonce and ciphertext, by host
}

const (
	vaultVersion = 1
	keySize      = 32
)

// storedCredential is a Credential that its JSON shows.
type storedCredential Credential

// get returns the credential for host, the zero one if there is none.
func (v vault) get(host string) (Credential, error) {
	f, err := v.read()
	if err != nil || f.Credentials[host] == nil {
		return Credential{}, err
	}
	key, err := v.readKey()
	if err != nil {
		return Credential{}, fmt.Errorf("the key of %s: %w", v.file, err)
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
		key, err := v.makeKey(lock)
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
	if err := errors.Join(makeDir(filepath.Dir(v.key)), makeDir(filepath.Dir(v.file))); err != nil {
		return nil, err
	}
	f, err := v.openKey(os.O_CREATE | os.O_RDWR)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != nil {
		return nil, errors.Join(fmt.Errorf("lock %s: %w", v.key, err), f.Close())
	}
	return f, nil
}

// openKey opens the file of the key, which must be the user's alone: whoever
// else could write it would choose the key, and who could read it has it.
func (v vault) openKey(flags int) (*os.File, error) {
	f, err := os.OpenFile(v.key, flags|unix.O_NOFOLLOW|unix.O_CLOEXEC|unix.O_NONBLOCK, 0o600)
	if errors.Is(err, unix.ELOOP) {
		return nil, fmt.Errorf("%s is a symbolic link: put the file itself there, or remove the link and log in again: %w", v.key, errdefs.ErrPermissionDenied)
	}
	if err != nil {
		return nil, err
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return nil, errors.Join(fmt.Errorf("stat %s: %w", v.key, err), f.Close())
	}
	what := ""
	switch {
	case st.Mode&unix.S_IFMT != unix.S_IFREG:
		what = "is no regular file: remove it"
	case int(st.Uid) != os.Geteuid():
		what = fmt.Sprintf("belongs to the user %d, not to %d: remove it", st.Uid, os.Geteuid())
	case st.Mode&0o077 != 0:
		what = fmt.Sprintf("is open to other users (mode %04o): remove it, or if you trust it chmod it to 600,", st.Mode&0o7777)
	default:
		return f, nil
	}
	return nil, errors.Join(fmt.Errorf("%s %s and log in again: %w", v.key, what, errdefs.ErrPermissionDenied), f.Close())
}

// readKey reads the key, which must be there.
func (v vault) readKey() (key []byte, err error) {
	f, err := v.openKey(os.O_RDONLY)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w; log in again", err)
	}
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	return io.ReadAll(io.LimitReader(f, keySize+1)) // of another size it fits nothing
}

// makeKey reads the key, and makes it first in a file that is empty.
func (v vault) makeKey(f *os.File) ([]byte, error) {
	key := make([]byte, keySize)
	if n, err := f.ReadAt(key, 0); n == len(key) {
		return key, nil
	} else if n > 0 {
		return nil, fmt.Errorf("%s: no key: remove it and log in again: %w", f.Name(), errors.Join(err, errdefs.ErrDataLoss))
	}
	if _, err := rand.Read(key); err != nil {
		return nil, err
	}
	if _, err := f.WriteAt(key, 0); err != nil {
		return nil, err
	}
	return key, errors.Join(f.Sync(), syncDir(filepath.Dir(v.key)))
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

// replaceFile writes a file that only the user may read, at once and durably:
// where a symbolic link leads, that file.
func replaceFile(name string, b []byte) error {
	if target, err := filepath.EvalSymlinks(name); err == nil {
		name = target
	}
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
	return syncDir(filepath.Dir(name))
}

// makeDir makes a directory of the user's, and those above it, durably.
func makeDir(dir string) error {
	if _, err := os.Stat(dir); err == nil {
		return nil
	}
	if err := makeDir(filepath.Dir(dir)); err != nil {
		return err
	}
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return syncDir(filepath.Dir(dir))
}

// syncDir makes the names in a directory survive a loss of power.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
