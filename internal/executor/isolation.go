package executor

import (
	"fmt"
	"os/exec"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// HostNamespace stands for the host's namespace in an Isolation.
const HostNamespace = "host"

// Isolation says in what a container differs from docker's defaults, which the zero value is.
type Isolation struct {
	Domainname string
	Groups     []string // more groups of the process: names of the image's group file, or ids
	Umask      *uint32
	OOMScore   int
	Init       bool // the first process is an init, which starts the command and reaps orphans

	Privileged      bool     // all capabilities and devices, no seccomp profile, nothing masked or read-only
	CapAdd, CapDrop []string // as docker's flags have them: NET_ADMIN, CAP_NET_ADMIN, ALL
	NoNewPrivileges bool
	Seccomp         string   // "" and "builtin" = docker's profile, "unconfined" = none, else a profile of docker's in JSON
	AppArmor        string   // profile; "" = none
	MaskedPaths     []string // nil = docker's
	ReadonlyPaths   []string // nil = docker's
	WritableCgroups bool

	Resources   *specs.LinuxResources // without devices; nil = none
	Devices     []specs.LinuxDevice
	DeviceRules []specs.LinuxDeviceCgroup // besides docker's
	Sysctls     map[string]string
	Annotations map[string]string // for the runtime

	// Namespaces: "" = one of its own, HostNamespace, or the path of one that is joined. "" of cgroups is the host's where these are
	// of version 1; "private" is one of its own in any case.
	PIDNamespace, IPCNamespace, UTSNamespace, CgroupNamespace string
}

// needsCgroups reports whether the runtime has to make the container's cgroups.
func (i *Isolation) needsCgroups() bool {
	return i.Privileged || i.Resources != nil || len(i.Devices)+len(i.DeviceRules) > 0 || i.CgroupNamespace != ""
}

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
