package engine

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	containertypes "github.com/moby/moby/api/types/container"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"strake/internal/container"
	"strake/internal/executor"
	"strake/internal/userns"
)

// defaultShm is the size of /dev/shm, docker's.
const defaultShm = 64 << 20

// completeHost refuses what a container cannot be, fills in docker's defaults, and leaves out what the machine does not have.
func completeHost(ctx context.Context, table *container.Table, c *Container, warn func(string)) error {
	h := c.Spec.HostConfig
	if err := completeResources(&h.Resources, readKernelLimits(), warn); err != nil {
		return err
	}
	if h.PidsLimit != nil && *h.PidsLimit <= 0 {
		h.PidsLimit = nil // any of these is no limit
	}
	switch {
	case h.ShmSize < 0:
		return invalidText("SHM size can not be less than 0")
	case h.OomScoreAdj < -1000 || h.OomScoreAdj > 1000:
		return invalidText("Invalid value %d, range for oom score adj is [-1000, 1000]", h.OomScoreAdj)
	case !h.IpcMode.Valid():
		return invalidText("invalid IPC mode: %v", h.IpcMode)
	case !h.Isolation.IsDefault():
		return invalidText("invalid isolation (%s): linux only supports 'default'", h.Isolation)
	case c.Spec.Config.User != "" && strings.ContainsRune(c.Spec.Config.User, 0):
		return invalidText("invalid user")
	case len(h.StorageOpt) > 0:
		return invalidText("--storage-opt is supported only for overlay over xfs with 'pquota' mount option")
	}
	if _, err := runtimePath(h.Runtime); err != nil {
		return err
	}
	if h.ShmSize == 0 {
		h.ShmSize = defaultShm
	}
	if h.CgroupnsMode.IsEmpty() {
		h.CgroupnsMode = containertypes.CgroupnsModeHost
		if executor.UnifiedCgroups() {
			h.CgroupnsMode = containertypes.CgroupnsModePrivate
		}
	}
	if !h.Privileged {
		if h.MaskedPaths == nil {
			h.MaskedPaths = executor.MaskedPaths()
		}
		if h.ReadonlyPaths == nil {
			h.ReadonlyPaths = executor.ReadonlyPaths()
		}
	}
	if h.IpcMode.IsEmpty() {
		h.IpcMode = containertypes.IPCModePrivate
	}
	if err := checkDeviceRequests(h.DeviceRequests); err != nil {
		return err
	}
	for _, limit := range h.Ulimits {
		if limit.Soft > limit.Hard && limit.Hard != -1 {
			return invalidText("ulimit soft limit must be less than or equal to hard limit: %d > %d", limit.Soft, limit.Hard)
		}
	}
	if err := checkCapabilities(h); err != nil {
		return err
	}
	if _, err := securityOptions(h.SecurityOpt); err != nil {
		return err
	}
	return shareNamespaces(ctx, table, h)
}

// runtimeNames are those that --runtime takes.
var runtimeNames = []string{"crun", "runc"}

// runtimePath is where the runtime of that name is; "" for the one that is used without a name.
func runtimePath(name string) (string, error) {
	switch name {
	case "", "io.containerd.runc.v2":
		return "", nil
	}
	if slices.Contains(runtimeNames, name) {
		if path, err := exec.LookPath(name); err == nil {
			return path, nil
		}
	}
	return "", invalidText("unknown or invalid runtime name: %s", name)
}

// checkCapabilities refuses unknown ones, and gives the others their full names.
func checkCapabilities(h *containertypes.HostConfig) error {
	for _, list := range []struct {
		flag  string
		names []string
	}{{"CapAdd", h.CapAdd}, {"CapDrop", h.CapDrop}} {
		if _, err := executor.Capabilities(executor.KnownCapabilities(), list.names, nil); err != nil {
			text, _, _ := strings.Cut(err.Error(), ": invalid argument")
			return invalidText("invalid %s: %s", list.flag, text)
		}
		for i, name := range list.names {
			if name = strings.ToUpper(name); name != "ALL" && !strings.HasPrefix(name, "CAP_") {
				name = "CAP_" + name
			}
			list.names[i] = name
		}
	}
	return nil
}

// shareNamespaces writes the IDs of the containers whose namespaces are shared in the place of their names, which may change. One whose
// network is shared may be made later.
func shareNamespaces(ctx context.Context, table *container.Table, h *containertypes.HostConfig) error {
	for _, mode := range []struct {
		is    bool
		ref   string
		place *string
	}{
		{h.PidMode.IsContainer(), h.PidMode.Container(), (*string)(&h.PidMode)},
		{h.IpcMode.IsContainer(), h.IpcMode.Container(), (*string)(&h.IpcMode)},
		{h.NetworkMode.IsContainer(), h.NetworkMode.ConnectedContainer(), (*string)(&h.NetworkMode)},
	} {
		if !mode.is {
			continue
		}
		other, err := table.Get(ctx, mode.ref)
		if errdefs.IsNotFound(err) && mode.place == (*string)(&h.NetworkMode) {
			continue
		}
		if err != nil {
			return err
		}
		*mode.place = "container:" + other.ID
	}
	return nil
}

// securityOptions reads --security-opt as docker's daemon does.
func securityOptions(options []string) (i executor.Isolation, err error) {
	for _, o := range options {
		key, value, ok := strings.Cut(o, "=")
		if !ok {
			key, value, ok = strings.Cut(o, ":")
		}
		switch {
		case o == "no-new-privileges":
			i.NoNewPrivileges = true
		case o == "writable-cgroups":
			i.WritableCgroups = true
		case o == "disable" || o == "label=disable" || o == "label:disable":
		case ok && key == "label": // which mean nothing without SELinux
			if _, err := os.Stat("/sys/fs/selinux/enforce"); err == nil {
				return i, invalidText("--security-opt %q: SELinux's labels are not supported here, containers have none", o)
			}
		case !ok:
			return i, invalidText("invalid --security-opt 1: %q", o)
		case key == "apparmor":
			i.AppArmor = value
		case key == "seccomp":
			i.Seccomp = value
		case key == "no-new-privileges":
			i.NoNewPrivileges, err = strconv.ParseBool(value)
		case key == "writable-cgroups":
			i.WritableCgroups, err = strconv.ParseBool(value)
		default:
			err = errdefs.ErrInvalidArgument
		}
		if err != nil {
			return i, invalidText("invalid --security-opt 2: %q", o)
		}
	}
	return i, nil
}

// isolate says where a container differs from docker's defaults.
func isolate(ctx context.Context, table *container.Table, c *Container, spec *executor.Spec, others *joined) error {
	config, h := c.Spec.Config, c.Spec.HostConfig
	i, err := securityOptions(h.SecurityOpt)
	if err != nil {
		return err
	}
	i.Domainname, i.Groups, i.Umask, i.OOMScore = config.Domainname, h.GroupAdd, h.Umask, h.OomScoreAdj
	i.Init = h.Init != nil && *h.Init
	i.Privileged, i.CapAdd, i.CapDrop = h.Privileged, h.CapAdd, h.CapDrop
	i.MaskedPaths, i.ReadonlyPaths, i.Sysctls, i.Annotations = h.MaskedPaths, h.ReadonlyPaths, h.Sysctls, h.Annotations
	if i.Seccomp == "" && h.Privileged {
		i.Seccomp = "unconfined"
	}
	if err := setAppArmor(&i); err != nil {
		return err
	}
	if i.Resources, err = linuxResources(h.Resources); err != nil {
		return err
	}
	if err := addDevices(&i, h, spec); err != nil {
		return err
	}
	if err := joinNamespaces(ctx, table, &i, h, spec, others); err != nil {
		return err
	}
	for _, l := range h.Ulimits {
		spec.Limits = append(spec.Limits, executor.Limit{Name: l.Name, Soft: l.Soft, Hard: l.Hard})
	}
	spec.Isolation = i
	return nil
}

// setAppArmor leaves the profile out on a machine without AppArmor, as docker does.
func setAppArmor(i *executor.Isolation) error {
	enabled, err := os.ReadFile("/sys/module/apparmor/parameters/enabled")
	if err != nil || !strings.HasPrefix(string(enabled), "Y") || i.AppArmor == "unconfined" {
		i.AppArmor = ""
		if errors.Is(err, fs.ErrNotExist) {
			err = nil
		}
	}
	return err
}

// addDevices adds the devices that flags name, and the rules for them. In a user namespace, where none can be made, the host's are shown.
func addDevices(i *executor.Isolation, h *containertypes.HostConfig, spec *executor.Spec) error {
	for _, d := range h.Devices {
		host := d.PathOnHost
		if full, err := filepath.EvalSymlinks(host); err == nil {
			host = full
		}
		list, err := executor.DevicesBelow(host, path.Clean(d.PathInContainer))
		if err == nil && len(list) == 0 {
			err = errors.New("not a device node")
		}
		if pathErr, ok := errors.AsType[*fs.PathError](err); ok {
			err = pathErr.Err
		}
		if err != nil {
			return invalidText("error gathering device information while adding custom device \"%s\": %v", d.PathOnHost, err)
		}
		if userns.IDs() > 0 {
			spec.Mounts = append(spec.Mounts, executor.Mount{Type: "bind", Source: host, Target: d.PathInContainer, Options: []string{"rbind"}})
			continue
		}
		i.Devices = append(i.Devices, list...)
		for _, device := range list {
			i.DeviceRules = append(i.DeviceRules, specs.LinuxDeviceCgroup{
				Allow: true, Type: device.Type, Major: &device.Major, Minor: &device.Minor, Access: d.CgroupPermissions,
			})
		}
	}
	for _, rule := range h.DeviceCgroupRules {
		r, err := parseDeviceRule(rule)
		if err != nil {
			return err
		}
		i.DeviceRules = append(i.DeviceRules, r)
	}
	var err error
	spec.Devices, err = requestedDevices(h.DeviceRequests)
	return err
}

// parseDeviceRule reads "c 1:3 rwm", where * is any number.
func parseDeviceRule(rule string) (specs.LinuxDeviceCgroup, error) {
	bad := invalidText("invalid device cgroup rule format: '%s'", rule)
	words := strings.Fields(rule)
	if len(words) != 3 || !slices.Contains([]string{"a", "b", "c"}, words[0]) || strings.Trim(words[2], "rwm") != "" {
		return specs.LinuxDeviceCgroup{}, bad
	}
	r := specs.LinuxDeviceCgroup{Allow: true, Type: words[0], Access: words[2]}
	major, minor, ok := strings.Cut(words[1], ":")
	for _, number := range []struct {
		text  string
		place **int64
	}{{major, &r.Major}, {minor, &r.Minor}} {
		if number.text == "*" {
			*number.place = new(int64(-1))
			continue
		}
		n, err := strconv.ParseInt(number.text, 10, 32)
		if err != nil || n < 0 || !ok {
			return r, bad
		}
		*number.place = &n
	}
	return r, nil
}

// joinNamespaces chooses the namespaces besides that of the network, and what of the host's or another container's memory is shown.
func joinNamespaces(ctx context.Context, table *container.Table, i *executor.Isolation, h *containertypes.HostConfig, spec *executor.Spec, others *joined) error {
	namespace := func(of, kind string) (string, error) {
		other, err := table.Get(ctx, of)
		if err != nil {
			return "", err
		}
		if !other.State.Running() || other.State.Pid == 0 {
			return "", messageError{fmt.Sprintf("cannot join %s namespace of a non running container: %s", strings.ToUpper(kind), other.ID), errdefs.ErrConflict}
		}
		if userns.IDs() > 0 {
			return "", messageError{
				fmt.Sprintf("cannot join %s namespace of container %s: without root, each container has a user namespace of its own", strings.ToUpper(kind), other.ID),
				errdefs.ErrNotImplemented,
			}
		}
		return others.open(ctx, table, other, kind)
	}
	var err error
	switch {
	case h.PidMode.IsHost():
		i.PIDNamespace = executor.HostNamespace
	case h.PidMode.IsContainer():
		if i.PIDNamespace, err = namespace(h.PidMode.Container(), "pid"); err != nil {
			return err
		}
	}
	if h.UTSMode.IsHost() {
		i.UTSNamespace = executor.HostNamespace
	}
	switch {
	case h.CgroupnsMode.IsHost():
		i.CgroupNamespace = executor.HostNamespace
	case h.CgroupnsMode.IsPrivate():
		i.CgroupNamespace = "private"
	}
	shm := executor.Mount{
		Type: "tmpfs", Source: "shm", Target: "/dev/shm",
		Options: []string{"nosuid", "noexec", "nodev", "mode=1777", fmt.Sprintf("size=%d", h.ShmSize)},
	}
	switch {
	case h.IpcMode.IsHost():
		i.IPCNamespace = executor.HostNamespace
		shm = executor.Mount{Type: "bind", Source: "/dev/shm", Target: "/dev/shm", Options: []string{"rbind", "rprivate"}}
	case h.IpcMode.IsContainer():
		if other, err := table.Get(ctx, h.IpcMode.Container()); err == nil && !other.Spec.HostConfig.IpcMode.IsShareable() {
			return messageError{
				"failed to join IPC namespace: container " + other.ID + ": non-shareable IPC (hint: use IpcMode:shareable for the donor container)",
				errdefs.ErrInvalidArgument,
			}
		}
		if i.IPCNamespace, err = namespace(h.IpcMode.Container(), "ipc"); err != nil {
			return err
		}
	case h.IpcMode.IsNone():
		i.NoShm = true
		return nil
	}
	if h.ShmSize != defaultShm || h.IpcMode.IsHost() {
		spec.Mounts = append(spec.Mounts, shm)
	}
	return nil
}
