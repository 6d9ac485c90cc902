package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/pelletier/go-toml/v2"

	"strake/internal/gate"
	"strake/internal/hub"
	"strake/internal/oidc"
)

// config is the file hub.toml of the data directory, or the one that --config
// names.
type config struct {
	OIDC struct {
		Name             string            `toml:"name"` // what the button of the login page says
		Issuer           string            `toml:"issuer"`
		ClientID         string            `toml:"client_id"`
		ClientSecretFile string            `toml:"client_secret_file"`
		Scopes           []string          `toml:"scopes"`
		NameClaim        string            `toml:"name_claim"`
		GroupsClaim      string            `toml:"groups_claim"`
		AdminGroup       string            `toml:"admin_group"`
		Teams            map[string]string `toml:"teams"` // by group
	} `toml:"oidc"`
	Limits struct {
		RequestsPerSecond float64 `toml:"requests_per_second"`
		Pulls             int     `toml:"pulls"`
		AnonymousPulls    int     `toml:"anonymous_pulls"`
		Window            string  `toml:"window"` // such as 6h
	} `toml:"limits"`
}

// readConfig reads the configuration. Where nobody named a file, there may be
// none. A key that is not known is an error.
func readConfig(name, data string) (c config, err error) {
	path := name
	if path == "" {
		path = filepath.Join(data, "hub.toml")
	}
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) && name == "" {
		return c, nil
	}
	if err != nil {
		return c, fmt.Errorf("configuration: %w", err)
	}
	if err := toml.NewDecoder(bytes.NewReader(b)).DisallowUnknownFields().Decode(&c); err != nil {
		if strict, ok := errors.AsType[*toml.StrictMissingError](err); ok && len(strict.Errors) > 0 {
			return c, fmt.Errorf("configuration %s: no key %q is known", path, strings.Join(strict.Errors[0].Key(), "."))
		}
		return c, fmt.Errorf("configuration %s: %w", path, err)
	}
	return c, nil
}

// limits are those of the configuration.
func (c config) limits() (gate.Limits, error) {
	l := gate.Limits{Requests: c.Limits.RequestsPerSecond, Pulls: c.Limits.Pulls, AnonymousPulls: c.Limits.AnonymousPulls}
	if c.Limits.Window == "" {
		return l, nil
	}
	var err error
	if l.Window, err = time.ParseDuration(c.Limits.Window); err != nil || l.Window < time.Second {
		return l, fmt.Errorf("configuration: limits.window %q is no duration of a second or more", c.Limits.Window)
	}
	return l, nil
}

// login is the login by OIDC; nil where none is configured.
func (s *site) login(c config) (*oidc.Login, error) {
	if c.OIDC.Issuer == "" {
		return nil, nil //nolint:nilnil // there is none
	}
	secret := ""
	if c.OIDC.ClientSecretFile != "" {
		b, err := os.ReadFile(c.OIDC.ClientSecretFile)
		if err != nil {
			return nil, fmt.Errorf("configuration: oidc.client_secret_file: %w", err)
		}
		secret = strings.TrimSpace(string(b))
	}
	return oidc.New(hub.DB(s.hub), oidc.Options{
		Issuer: c.OIDC.Issuer, ClientID: c.OIDC.ClientID, ClientSecret: secret, Scopes: c.OIDC.Scopes, NameClaim: c.OIDC.NameClaim,
		GroupsClaim: c.OIDC.GroupsClaim, AdminGroup: c.OIDC.AdminGroup, Teams: c.OIDC.Teams, URL: s.url, Log: s.log,
	})
}

// serveMetrics serves /metrics at an address of its own until ctx ends.
func (s *site) serveMetrics(ctx context.Context, addr string) (stop func() error, err error) {
	if addr == "" {
		return func() error { return nil }, nil
	}
	return s.server.listenMetrics(ctx, addr)
}
