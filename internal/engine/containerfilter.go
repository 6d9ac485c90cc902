package engine

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	containertypes "github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"
	"github.com/opencontainers/go-digest"
)

// containerTest tests one container by one value of a filter.
type containerTest func(c *Container, value string) bool

// containerFilter makes one test of docker's filters: values of one are alternatives, labels all must hold, and all filters must.
func containerFilter(ctx context.Context, env *Env, all []*Container, opts ListContainersOptions) (func(*Container) bool, error) {
	var tests []func(*Container) bool
	if !opts.All && opts.Last == 0 && len(opts.Filters["status"]) == 0 && len(opts.Filters["exited"]) == 0 {
		tests = append(tests, func(c *Container) bool { return c.State.Running() })
	}
	for _, name := range slices.Sorted(maps.Keys(opts.Filters)) {
		values := opts.Filters[name]
		var match containerTest
		var err error
		switch name {
		case "label":
			tests = append(tests, func(c *Container) bool {
				return !slices.ContainsFunc(values, func(v string) bool { return !matchLabel(c.Spec.Config.Labels, v) })
			})
			continue
		case "ancestor":
			match, err = ancestorTest(ctx, env, values)
		case "before", "since":
			match, err = orderTest(all, name, values)
		default:
			match, err = simpleTest(name, values)
		}
		if err != nil {
			return nil, err
		}
		tests = append(tests, func(c *Container) bool {
			return slices.ContainsFunc(values, func(v string) bool { return match(c, v) })
		})
	}
	return func(c *Container) bool {
		return !slices.ContainsFunc(tests, func(test func(*Container) bool) bool { return !test(c) })
	}, nil
}

// simpleTest is the test of a filter that looks at the container alone.
func simpleTest(name string, values []string) (containerTest, error) {
	invalid := func(v string) error {
		return messageError{fmt.Sprintf("invalid filter '%s=%s'", name, v), errdefs.ErrInvalidArgument}
	}
	check := func(valid func(string) error) error {
		for _, v := range values {
			if valid(v) != nil {
				return invalid(v)
			}
		}
		return nil
	}
	switch name {
	case "id":
		return func(c *Container, v string) bool { return matchText(c.ID, v) }, nil
	case "name":
		return func(c *Container, v string) bool { return matchText("/"+c.Name, v) || matchText(c.Name, v) }, nil
	case "status":
		return func(c *Container, v string) bool { return string(c.State.Status) == v }, check(func(v string) error {
			return containertypes.ValidateContainerState(containertypes.ContainerState(v))
		})
	case "exited":
		return func(c *Container, v string) bool {
			code, _ := strconv.Atoi(v) // checked
			return !c.State.Running() && !c.State.Started.IsZero() && c.State.ExitCode == code
		}, check(func(v string) error { _, err := strconv.Atoi(v); return err })
	case "health":
		return matchHealth, check(func(v string) error {
			if !slices.Contains([]string{"starting", "healthy", "unhealthy", "none"}, v) {
				return errdefs.ErrInvalidArgument
			}
			return nil
		})
	case "network":
		return func(c *Container, v string) bool {
			networks := inspectNetwork(c).Networks
			endpoint, ok := networks[v]
			return ok || endpoint != nil || string(c.Spec.HostConfig.NetworkMode) == v ||
				slices.ContainsFunc(slices.Collect(maps.Values(networks)), func(e *network.EndpointSettings) bool { return e != nil && e.NetworkID == v })
		}, nil
	case "volume":
		return func(c *Container, v string) bool {
			return slices.ContainsFunc(c.Spec.Mounts, func(m containertypes.MountPoint) bool { return m.Name == v || m.Destination == v || m.Source == v })
		}, nil
	case "publish", "expose":
		return matchPorts(name == "publish"), check(func(v string) error { _, err := network.ParsePortRange(v); return err })
	case "is-task":
		noTask := func(_ *Container, v string) bool { return v == "false" || v == "0" } // there is no swarm
		for _, v := range values {
			if v != "true" && v != "1" && v != "false" && v != "0" {
				return nil, messageError{fmt.Sprintf("invalid filter 'is-task=%v'", values), errdefs.ErrInvalidArgument}
			}
		}
		return noTask, nil
	case "isolation":
		return func(_ *Container, v string) bool { return v == "default" || v == "" }, nil // of Windows
	}
	return nil, messageError{fmt.Sprintf("invalid filter '%s'", name), errdefs.ErrInvalidArgument}
}

// matchText reports whether text is, or matches as a regular expression, what a filter says.
func matchText(text, value string) bool {
	if text == value {
		return true
	}
	re, err := regexp.Compile(value)
	return err == nil && re.MatchString(text)
}

func matchHealth(c *Container, value string) bool {
	health := "none"
	if h := c.State.Health; h != nil && h.Status != "" {
		health = string(h.Status)
	}
	return health == value
}

// matchPorts tests whether a port of a range is published, or exposed.
func matchPorts(published bool) containerTest {
	return func(c *Container, value string) bool {
		r, err := network.ParsePortRange(value)
		if err != nil {
			return false
		}
		within := func(n uint16) bool { return n >= r.Start() && n <= r.End() }
		if !published {
			for port := range c.Spec.Config.ExposedPorts {
				if port.Proto() == r.Proto() && within(port.Num()) {
					return true
				}
			}
			return false
		}
		return slices.ContainsFunc(portsOf(c), func(p containertypes.PortSummary) bool {
			return p.Type == string(r.Proto()) && p.IP != (netip.Addr{}) && within(p.PublicPort)
		})
	}
}

// ancestorTest finds containers of an image, and of images that were made of it.
func ancestorTest(ctx context.Context, env *Env, values []string) (containerTest, error) {
	layers := map[string][]digest.Digest{}
	ids := map[string]digest.Digest{}
	for _, v := range values {
		img, err := env.Store.Image(ctx, v)
		if errdefs.IsNotFound(err) || errdefs.IsInvalidArgument(err) {
			continue // docker finds nothing then
		}
		if err != nil {
			return nil, err
		}
		config, err := readConfig(ctx, env, img)
		if err != nil {
			return nil, err
		}
		ids[v], layers[v] = img.ID, config.RootFS.DiffIDs
	}
	return func(c *Container, v string) bool {
		base, ok := layers[v]
		return ok && (c.ImageID == ids[v] || len(base) > 0 && len(base) <= len(c.Spec.Layers) && slices.Equal(c.Spec.Layers[:len(base)], base))
	}, nil
}

// orderTest finds containers that were made before, or since, another one.
func orderTest(all []*Container, name string, values []string) (containerTest, error) {
	others := map[string]*Container{}
	for _, v := range values {
		i := slices.IndexFunc(all, func(c *Container) bool { return c.Name == strings.TrimPrefix(v, "/") || strings.HasPrefix(c.ID, v) })
		if i < 0 {
			return nil, NoSuchContainer(v)
		}
		others[v] = all[i]
	}
	return func(c *Container, v string) bool {
		if name == "before" {
			return c.Created.Before(others[v].Created)
		}
		return c.Created.After(others[v].Created)
	}, nil
}
