package remote

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"

	"github.com/docker/cli/cli/config"
	"github.com/docker/cli/cli/config/configfile"
	"github.com/docker/cli/cli/config/credentials"
	"github.com/docker/cli/cli/config/types"
)

// dockerHubKey is what docker files the credential of its own registry under.
const dockerHubKey = "https://index.docker.io/v1/"

// Config is docker's config.json, the credential helpers that it names, and
// beside it a file of Strake's own in which credentials are encrypted. The zero
// value is the directory DOCKER_CONFIG, or else ~/.docker. It is read anew at
// every call, and safe for concurrent use.
//
// A credential is kept by the helper that is configured for its host; where
// there is none, in the encrypted file, whose key is
// $XDG_STATE_HOME/strake/credentials.key; or, when that is asked for, in
// config.json as docker does without a helper, in the clear. What is in
// config.json counts before what is encrypted: storing the latter removes the
// former, so it is the newer one, of a docker login.
type Config struct {
	Dir string // the directory that holds config.json
}

// vault is the encrypted file.
func (c *Config) vault() (vault, error) {
	file, err := c.File()
	if err != nil {
		return vault{}, err
	}
	state := os.Getenv("XDG_STATE_HOME")
	if state == "" {
		home, err := os.UserHomeDir()
		if err != nil {
			return vault{}, fmt.Errorf("the key of the credentials: %w", err)
		}
		state = filepath.Join(home, ".local", "state")
	}
	return vault{
		file: filepath.Join(filepath.Dir(file), "strake-credentials.json"),
		key:  filepath.Join(state, "strake", "credentials.key"),
	}, nil
}

// File is the path of config.json.
func (c *Config) File() (string, error) {
	dir := c.Dir
	if dir == "" {
		dir = os.Getenv("DOCKER_CONFIG")
	}
	if dir == "" {
		home, err := os.UserHomeDir()
		if err != nil {
			return "", fmt.Errorf("docker's configuration: %w", err)
		}
		dir = filepath.Join(home, ".docker")
	}
	return filepath.Join(dir, config.ConfigFileName), nil
}

// ImagesFormat is how the user wants images listed, "" where they do not say.
func (c *Config) ImagesFormat() string {
	f, err := c.load()
	if err != nil {
		return "" // what needs the file tells of it; a list can be had without
	}
	return f.ImagesFormat
}

// PsFormat is how the user wants containers listed, "" where they do not say.
func (c *Config) PsFormat() string {
	f, err := c.load()
	if err != nil {
		return "" // as above
	}
	return f.PsFormat
}

// Proxies are the variables that containers are given: HTTP_PROXY and the like, in upper and in lower case. host is the address of
// docker's daemon, for which there may be others than the default ones.
func (c *Config) Proxies(host string) (map[string]string, error) {
	f, err := c.load()
	if err != nil {
		return nil, err
	}
	vars := map[string]string{}
	for name, value := range f.ParseProxyConfig(host, nil) {
		vars[name] = *value
	}
	return vars, nil
}

func (c *Config) load() (*configfile.ConfigFile, error) {
	file, err := c.File()
	if err != nil {
		return nil, err
	}
	f, err := config.Load(filepath.Dir(file))
	if err != nil {
		return nil, fmt.Errorf("docker's configuration: %w", err)
	}
	return f, nil
}

// Get returns the credential for host, the zero one if there is none. A helper
// that is configured and does not work is an error: without it the request
// would be another user's.
func (c *Config) Get(_ context.Context, host string) (Credential, error) {
	f, err := c.load()
	if err != nil {
		return Credential{}, err
	}
	a, err := f.GetAuthConfig(credentialKey(host))
	if err != nil {
		return Credential{}, fmt.Errorf("credential of %s: %w", host, err)
	}
	cred := Credential{a.Username, a.Password, a.IdentityToken, a.RegistryToken}
	if cred != (Credential{}) || helper(f, host) != "" {
		return cred, nil
	}
	v, err := c.vault()
	if err != nil {
		return Credential{}, err
	}
	return v.get(CanonicalHost(host))
}

// helper names the credential helper that keeps the credential of host; "" is
// none.
func helper(f *configfile.ConfigFile, host string) string {
	if h, ok := f.CredentialHelpers[credentialKey(host)]; ok {
		return h
	}
	return f.CredentialsStore
}

// Set stores the credential of host. plain says to store it in the clear, where
// docker finds it, if there is no helper.
func (c *Config) Set(_ context.Context, host string, cred Credential, plain bool) error {
	f, err := c.load()
	if err != nil {
		return err
	}
	v, err := c.vault()
	if err != nil {
		return err
	}
	if helper(f, host) == "" && !plain {
		if err := v.set(CanonicalHost(host), &cred); err != nil {
			return fmt.Errorf("store credential of %s: %w", host, err)
		}
		if err := eraseClear(f, host); err != nil {
			return fmt.Errorf("remove the older credential of %s from %s: %w", host, f.GetFilename(), err)
		}
		return nil
	}
	key := credentialKey(host)
	err = f.GetCredentialsStore(key).Store(types.AuthConfig{
		ServerAddress: key,
		Username:      cred.Username, Password: cred.Password,
		IdentityToken: cred.IdentityToken, RegistryToken: cred.RegistryToken,
	})
	if err != nil {
		return fmt.Errorf("store credential of %s: %w", host, err)
	}
	return v.set(CanonicalHost(host), nil) // the older one
}

// Erase forgets the credential of host; having none is no error.
func (c *Config) Erase(_ context.Context, host string) error {
	f, err := c.load()
	if err != nil {
		return err
	}
	v, err := c.vault()
	if err != nil {
		return err
	}
	err = errors.Join(v.set(CanonicalHost(host), nil), f.GetCredentialsStore(credentialKey(host)).Erase(credentialKey(host)), eraseClear(f, host))
	if err != nil {
		return fmt.Errorf("erase credential of %s: %w", host, err)
	}
	return nil
}

// eraseClear removes what config.json itself holds of host, under any of the
// names that docker finds it by. A file that holds nothing of it stays as it is.
func eraseClear(f *configfile.ConfigFile, host string) error {
	key, before := credentialKey(host), len(f.AuthConfigs)
	maps.DeleteFunc(f.AuthConfigs, func(name string, _ types.AuthConfig) bool {
		return name == key || credentials.ConvertToHostname(name) == key
	})
	if len(f.AuthConfigs) == before {
		return nil
	}
	return f.Save()
}

func credentialKey(host string) string {
	if host = CanonicalHost(host); host != "docker.io" {
		return host
	}
	return dockerHubKey
}
