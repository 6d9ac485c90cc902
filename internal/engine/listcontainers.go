package engine

import (
	"cmp"
	"context"
	"fmt"
	"io/fs"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/docker/go-units"
	containertypes "github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"
	"github.com/opencontainers/go-digest"
)

// ListContainersOptions say which containers to list.
type ListContainersOptions struct {
	All     bool // also those that do not run
	Last    int  // the newest so many, running or not; 0: all
	Size    bool // measure what they wrote
	Filters map[string][]string
}

// ListContainers lists containers as docker does, the newest first.
func ListContainers(ctx context.Context, env *Env, opts ListContainersOptions) ([]containertypes.Summary, error) {
	all, err := containers(env).List(ctx)
	if err != nil {
		return nil, err
	}
	if err := showNetworks(ctx, env, all...); err != nil {
		return nil, err
	}
	keep, err := containerFilter(ctx, env, all, opts)
	if err != nil {
		return nil, err
	}
	names, err := namesOfImages(ctx, env)
	if err != nil {
		return nil, err
	}
	list := []containertypes.Summary{}
	for _, c := range all {
		if !keep(c) {
			continue
		}
		if opts.Last > 0 && len(list) == opts.Last {
			break
		}
		s := summarize(c, names)
		if opts.Size {
			if s.SizeRw, s.SizeRootFs, err = containerSize(ctx, env, c); err != nil {
				return nil, err
			}
		}
		list = append(list, s)
	}
	return list, nil
}

// namesOfImages are the IDs of images by their familiar names.
func namesOfImages(ctx context.Context, env *Env) (map[string]digest.Digest, error) {
	images, err := env.Store.Overview(ctx)
	if err != nil {
		return nil, err
	}
	names := map[string]digest.Digest{}
	for i := range images {
		for _, name := range FamiliarNames(images[i].Names) {
			names[name] = images[i].ID
		}
	}
	return names, nil
}

// summarize is docker's line of a container.
func summarize(c *Container, images map[string]digest.Digest) containertypes.Summary {
	s := containertypes.Summary{
		ID: c.ID, Names: []string{"/" + c.Name}, Image: c.Spec.Config.Image, ImageID: c.ImageID.String(), Command: commandText(c),
		Created: c.Created.Unix(), Labels: c.Spec.Config.Labels, State: c.State.Status, Status: statusText(c, time.Now()),
		Mounts: c.Spec.Mounts, Ports: portsOf(c), NetworkSettings: &containertypes.NetworkSettingsSummary{Networks: map[string]*network.EndpointSettings{}},
	}
	s.HostConfig.NetworkMode, s.HostConfig.Annotations = string(c.Spec.HostConfig.NetworkMode), c.Spec.HostConfig.Annotations
	maps.Copy(s.NetworkSettings.Networks, inspectNetwork(c).Networks)
	if s.Labels == nil {
		s.Labels = map[string]string{}
	}
	if h := c.State.Health; h != nil {
		s.Health = &containertypes.HealthSummary{Status: h.Status, FailingStreak: h.FailingStreak}
	}
	named, err := ParseName(c.Spec.Config.Image)
	switch {
	case strings.HasPrefix(c.ImageID.Encoded(), strings.TrimPrefix(s.Image, "sha256:")):
	case err != nil, images[named.Familiar().String()] != c.ImageID && named.Digest() == "":
		s.Image = c.ImageID.String() // the name is another image's by now
	}
	return s
}

// commandText is what a container runs, in one line.
func commandText(c *Container) string {
	words := []string{c.Spec.Path()}
	for _, arg := range c.Spec.Args() {
		if strings.Contains(arg, " ") {
			arg = "'" + arg + "'"
		}
		words = append(words, arg)
	}
	return strings.Join(words, " ")
}

// statusText is docker's text for a state.
func statusText(c *Container, now time.Time) string {
	s := &c.State
	ago := func(t time.Time) string { return units.HumanDuration(now.Sub(t)) }
	switch {
	case s.Status == containertypes.StatePaused:
		return "Up " + ago(s.Started) + " (Paused)"
	case s.Status == containertypes.StateRestarting:
		return fmt.Sprintf("Restarting (%d) %s ago", s.ExitCode, ago(s.Finished))
	case s.Status == containertypes.StateRunning && s.Health != nil:
		health := string(s.Health.Status)
		if s.Health.Status == containertypes.Starting {
			health = "health: starting"
		}
		return "Up " + ago(s.Started) + " (" + health + ")"
	case s.Status == containertypes.StateRunning:
		return "Up " + ago(s.Started)
	case s.Status == containertypes.StateRemoving:
		return "Removal In Progress"
	case s.Started.IsZero():
		return "Created"
	}
	return fmt.Sprintf("Exited (%d) %s ago", s.ExitCode, ago(s.Finished))
}

// portsOf lists the ports of a container: those that are published while it runs, and those that are only exposed.
func portsOf(c *Container) []containertypes.PortSummary {
	list := []containertypes.PortSummary{}
	if c.State.Status != containertypes.StateRunning && c.State.Status != containertypes.StatePaused {
		return list
	}
	published := inspectNetwork(c).Ports
	for port, bindings := range published {
		for _, b := range bindings {
			p := containertypes.PortSummary{IP: b.HostIP, PrivatePort: port.Num(), Type: string(port.Proto())}
			if _, err := fmt.Sscan(b.HostPort, &p.PublicPort); err == nil {
				list = append(list, p)
			}
		}
	}
	if !c.Spec.HostConfig.NetworkMode.IsHost() {
		for port := range c.Spec.Config.ExposedPorts {
			if len(published[port]) == 0 {
				list = append(list, containertypes.PortSummary{PrivatePort: port.Num(), Type: string(port.Proto())})
			}
		}
	}
	slices.SortFunc(list, func(a, b containertypes.PortSummary) int {
		return cmp.Or(cmp.Compare(a.PrivatePort, b.PrivatePort), cmp.Compare(a.Type, b.Type), a.IP.Compare(b.IP), cmp.Compare(a.PublicPort, b.PublicPort))
	})
	return list
}

// containerSize is how many bytes a container wrote, and how many it has with its image.
func containerSize(ctx context.Context, env *Env, c *Container) (rw, all int64, err error) {
	err = filepath.WalkDir(inDir(containers(env), c, "upper"), func(_ string, d fs.DirEntry, err error) error {
		if err != nil || ctx.Err() != nil || !d.Type().IsRegular() {
			return ctx.Err() // what is gone since has no size
		}
		if info, err := d.Info(); err == nil {
			rw += info.Size()
		}
		return nil
	})
	if err != nil {
		return 0, 0, err
	}
	all = rw
	for _, id := range c.Spec.Layers {
		size, err := env.Store.LayerSize(ctx, id)
		if err != nil {
			return 0, 0, err
		}
		all += size
	}
	return rw, all, nil
}
