package remote

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"github.com/docker/cli/cli/config"
	"github.com/docker/cli/cli/config/configfile"
	"github.com/docker/cli/cli/config/types"
)

// dockerHubKey is what docker files the credential of its own registry under.
const dockerHubKey = "https://index.docker.io/v1/"

// Config is docker's config.json and the credential helpers that it names. The
// zero value is the file in DOCKER_CONFIG, or else in ~/.docker. It is read
// anew at every call, and safe for concurrent use.
type Config struct {
	Dir string // the directory that holds config.json
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
	return Credential{a.Username, a.Password, a.IdentityToken, a.RegistryToken}, nil
}

// Helper names the credential helper that keeps the credential of host; "" is
// config.json itself, where it is not encrypted.
func (c *Config) Helper(host string) (string, error) {
	f, err := c.load()
	if err != nil {
		return "", err
	}
	if h, ok := f.CredentialHelpers[credentialKey(host)]; ok {
		return h, nil
	}
	return f.CredentialsStore, nil
}

// Set stores the credential of host.
func (c *Config) Set(_ context.Context, host string, cred Credential) error {
	f, err := c.load()
	if err != nil {
		return err
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
	return nil
}

// Erase forgets the credential of host; having none is no error.
func (c *Config) Erase(_ context.Context, host string) error {
	f, err := c.load()
	if err != nil {
		return err
	}
	if err := f.GetCredentialsStore(credentialKey(host)).Erase(credentialKey(host)); err != nil {
		return fmt.Errorf("erase credential of %s: %w", host, err)
	}
	return nil
}

func credentialKey(host string) string {
	if host = CanonicalHost(host); host != "docker.io" {
		return host
	}
	return dockerHubKey
}
