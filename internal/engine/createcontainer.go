package engine

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	imagespec "github.com/moby/docker-image-spec/specs-go/v1"
	containertypes "github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"

	"strake/internal/container"
)

// CreateOptions say what a container is to be, in docker's types. What is unset in Config is the image's.
type CreateOptions struct {
	Name       string // "" is made up
	Ref        string // of the image
	Platform   string // which image of an index; "" is the one that stands for it
	Config     *containertypes.Config
	HostConfig *containertypes.HostConfig
	Endpoints  map[string]*network.EndpointSettings // by network

	// Warn, when not nil, is told what a user should know.
	Warn func(text string)
}

// CreateContainer makes a container, which is not started, and returns its ID. It fails with errdefs.ErrNotFound where the image
// is not here, and with errdefs.ErrConflict where the name is taken.
func CreateContainer(ctx context.Context, env *Env, opts CreateOptions) (id string, err error) {
	c, lock, err := createContainer(ctx, env, opts, false)
	if lock != nil {
		defer closing(&err, lock.Close)
	}
	if err != nil {
		return "", err
	}
	return c.ID, nil
}

// createContainer makes a container. With hold, nobody else starts it as long as the lock is not closed.
func createContainer(ctx context.Context, env *Env, opts CreateOptions, hold bool) (*Container, *os.File, error) {
	if err := checkContainer(opts); err != nil {
		return nil, nil, err
	}
	img, err := use(ctx, env, opts.Ref, opts.Platform)
	if err != nil {
		return nil, nil, err
	}
	if err := runnable(img, opts); err != nil {
		return nil, nil, err
	}
	image, err := readConfig(ctx, env, img)
	if err != nil {
		return nil, nil, err
	}
	if opts.Name != "" {
		opts.Name = strings.TrimPrefix(opts.Name, "/")
		if err := container.CheckName(opts.Name); err != nil {
			return nil, nil, err
		}
	}
	id, err := container.NewID()
	if err != nil {
		return nil, nil, err
	}
	c := &Container{
		ID: id, Name: opts.Name, ImageID: img.ID, Created: time.Now().UTC(),
		Spec: container.Spec{
			Config: opts.Config, HostConfig: opts.HostConfig, Endpoints: opts.Endpoints, Layers: image.RootFS.DiffIDs, Platform: "linux",
		},
	}
	c.Spec.Config.Image = opts.Ref
	if err := addProxies(env, c.Spec.Config); err != nil {
		return nil, nil, err
	}
	mergeConfig(c.Spec.Config, image.Config)
	chooseNetwork(c.Spec.HostConfig, opts.Warn)
	if err := completeContainer(c); err != nil {
		return nil, nil, err
	}
	table := containers(env)
	warn := opts.Warn
	if warn == nil {
		warn = func(string) {}
	}
	if err := completeHost(ctx, table, c, warn); err != nil {
		return nil, nil, err
	}
	if err := checkLinks(ctx, table, c.Spec.HostConfig); err != nil {
		return nil, nil, err
	}
	if err := resolveMounts(ctx, env, table, c); err != nil {
		return nil, nil, err
	}
	lock, err := insertContainer(ctx, table, c, hold)
	return c, lock, err
}

// insertContainer makes up names until one is free.
func insertContainer(ctx context.Context, table *container.Table, c *Container, hold bool) (*os.File, error) {
	if c.Name != "" {
		return table.Create(ctx, c, hold)
	}
	for try := 0; ; try++ {
		c.Name = container.RandomName(try)
		lock, err := table.Create(ctx, c, hold)
		if !errdefs.IsConflict(err) || ctx.Err() != nil {
			return lock, err
		}
	}
}

// dockerHost is where docker's daemon listens.
const dockerHost = "unix:///var/run/docker.sock"

// addProxies gives a container the proxies of docker's configuration, but those that it was told of itself.
func addProxies(env *Env, c *containertypes.Config) error {
	if env.Credentials == nil {
		return nil
	}
	vars, err := env.Credentials.Proxies(dockerHost)
	if err != nil {
		return err
	}
	var list []string
	for _, name := range slices.Sorted(maps.Keys(vars)) {
		if !slices.ContainsFunc(c.Env, func(e string) bool { return e == name || strings.HasPrefix(e, name+"=") }) {
			list = append(list, name+"="+vars[name])
		}
	}
	c.Env = append(list, c.Env...)
	return nil
}

// mergeConfig fills in what an image says, as docker does.
func mergeConfig(c *containertypes.Config, image imagespec.DockerOCIImageConfig) {
	c.User, c.WorkingDir, c.StopSignal = cmp.Or(c.User, image.User), cmp.Or(c.WorkingDir, image.WorkingDir), cmp.Or(c.StopSignal, image.StopSignal)
	for _, e := range image.Env {
		key, _, _ := strings.Cut(e, "=")
		if !slices.ContainsFunc(c.Env, func(own string) bool { return own == key || strings.HasPrefix(own, key+"=") }) {
			c.Env = append(c.Env, e)
		}
	}
	if len(image.Labels) > 0 && c.Labels == nil {
		c.Labels = map[string]string{}
	}
	for key, value := range image.Labels {
		if _, ok := c.Labels[key]; !ok {
			c.Labels[key] = value
		}
	}
	for port := range image.ExposedPorts {
		if p, err := network.ParsePort(port); err == nil {
			if c.ExposedPorts == nil {
				c.ExposedPorts = network.PortSet{}
			}
			c.ExposedPorts[p] = struct{}{}
		}
	}
	if len(c.Volumes) == 0 {
		c.Volumes = nil // as docker shows none
	}
	for path := range image.Volumes {
		if c.Volumes == nil {
			c.Volumes = map[string]struct{}{}
		}
		c.Volumes[path] = struct{}{}
	}
	if len(c.Entrypoint) == 0 {
		if len(c.Cmd) == 0 {
			c.Cmd = image.Cmd
		}
		if c.Entrypoint == nil {
			c.Entrypoint = image.Entrypoint
		}
	}
	if len(c.Entrypoint) == 1 && c.Entrypoint[0] == "" {
		c.Entrypoint = nil
	}
	if len(c.Shell) == 0 {
		c.Shell = image.Shell
	}
	mergeHealthcheck(c, image.Healthcheck)
}

func mergeHealthcheck(c *containertypes.Config, image *imagespec.HealthcheckConfig) {
	if image == nil {
		return
	}
	if c.Healthcheck == nil {
		c.Healthcheck = image
		return
	}
	h := c.Healthcheck
	if len(h.Test) == 0 {
		h.Test = image.Test
	}
	for _, d := range []struct{ own, images *time.Duration }{
		{&h.Interval, &image.Interval}, {&h.Timeout, &image.Timeout}, {&h.StartPeriod, &image.StartPeriod}, {&h.StartInterval, &image.StartInterval},
	} {
		if *d.own == 0 {
			*d.own = *d.images
		}
	}
	if h.Retries == 0 {
		h.Retries = image.Retries
	}
}

// completeContainer refuses an impossible container, and fills in docker's defaults.
func completeContainer(c *Container) error {
	config, host := c.Spec.Config, c.Spec.HostConfig
	if len(config.Entrypoint)+len(config.Cmd) == 0 {
		return messageError{"no command specified", errdefs.ErrInvalidArgument}
	}
	if config.WorkingDir != "" && !filepath.IsAbs(config.WorkingDir) {
		return messageError{fmt.Sprintf("the working directory '%s' is invalid, it needs to be an absolute path", config.WorkingDir), errdefs.ErrInvalidArgument}
	}
	if config.StopSignal != "" {
		if _, err := container.ParseSignal(config.StopSignal); err != nil {
			return err
		}
	}
	if err := containertypes.ValidateRestartPolicy(host.RestartPolicy); err != nil {
		return messageError{err.Error(), errdefs.ErrInvalidArgument}
	}
	if host.AutoRemove && !host.RestartPolicy.IsNone() {
		return messageError{"can't create 'AutoRemove' container with restart policy", errdefs.ErrInvalidArgument}
	}
	switch host.LogConfig.Type {
	case "":
		host.LogConfig.Type = "json-file"
	case "json-file", "local", "none":
	default:
		return messageError{fmt.Sprintf("logger: no log driver named '%s' is registered", host.LogConfig.Type), errdefs.ErrInvalidArgument}
	}
	if _, _, err := container.ParseLogOptions(host.LogConfig.Config); err != nil {
		return err
	}
	return completeHostname(c)
}

// completeHostname gives the container its host name.
func completeHostname(c *Container) error {
	config := c.Spec.Config
	if config.Hostname != "" {
		return nil
	}
	config.Hostname = c.ID[:12]
	if c.Spec.HostConfig.NetworkMode.IsHost() {
		name, err := os.Hostname()
		if err != nil {
			return fmt.Errorf("name container: %w", err)
		}
		config.Hostname = name
	}
	return nil
}
