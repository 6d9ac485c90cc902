package executor

import (
	"fmt"
	"os/exec"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
)

// initTarget is where the init lies in a container, as docker's.
const initTarget = "/sbin/docker-init"

// addInit has the command started by an init of this machine: docker's, or one that needs no libraries either. A container in a PID
// namespace of others has their first process.
func (s *Spec) addInit() error {
	if !s.Isolation.Init || s.Isolation.PIDNamespace != "" {
		return nil
	}
	for _, name := range []string{"docker-init", "tini-static", "catatonit"} {
		if path, err := exec.LookPath(name); err == nil {
			s.Args = append([]string{initTarget, "--"}, s.Args...)
			s.Mounts = append(slices.Clone(s.Mounts), Mount{Type: "bind", Source: path, Target: initTarget, Options: []string{"bind", "ro"}})
			return nil
		}
	}
	return fmt.Errorf("find an init for the container: neither docker-init, tini-static nor catatonit is in PATH: %w", errdefs.ErrNotFound)
}

// allCapabilities is docker's word for them.
const allCapabilities = "ALL"

// Capabilities returns docker's default capabilities with add and without drop, which are names with or without CAP_, in any case, or ALL
// of those in all. It fails with errdefs.ErrInvalidArgument for a name that the kernel has not.
func Capabilities(all, add, drop []string) ([]string, error) {
	add, err := normalCapabilities(all, add)
	if err != nil {
		return nil, err
	}
	if drop, err = normalCapabilities(all, drop); err != nil {
		return nil, err
	}
	base := defaultCapabilities()
	switch {
	case slices.Contains(add, allCapabilities):
		base, add = slices.Clone(all), nil
	case slices.Contains(drop, allCapabilities):
		base = nil
	}
	base = slices.DeleteFunc(base, func(c string) bool { return slices.Contains(drop, c) })
	for _, c := range add {
		if !slices.Contains(base, c) {
			base = append(base, c)
		}
	}
	return base, nil
}

// normalCapabilities returns the names as the kernel's headers have them.
func normalCapabilities(all, names []string) ([]string, error) {
	normal := make([]string, 0, len(names))
	for _, name := range names {
		c := strings.ToUpper(name)
		if c != allCapabilities && !strings.HasPrefix(c, "CAP_") {
			c = "CAP_" + c
		}
		switch {
		case c == allCapabilities || slices.Contains(all, c):
			normal = append(normal, c)
		case slices.Contains(capabilityNames(), strings.TrimPrefix(c, "CAP_")):
			return nil, fmt.Errorf("capability not supported by your kernel or not available in the current environment: %q: %w", c, errdefs.ErrInvalidArgument)
		default:
			return nil, fmt.Errorf("unknown capability: %q: %w", c, errdefs.ErrInvalidArgument)
		}
	}
	return normal, nil
}

// KnownCapabilities are all that the kernel may have.
func KnownCapabilities() []string {
	names := capabilityNames()
	for i, name := range names {
		names[i] = "CAP_" + name
	}
	return names
}
