package executor

import (
	"encoding/json"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	securejoin "github.com/cyphar/filepath-securejoin"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"strake/internal/userns"
)

// defaultPath is the PATH of a container whose environment has none, as docker's.
const defaultPath = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// terminals is the group that terminals belong to.
const terminals = 5

// defaultCapabilities are docker's.
func defaultCapabilities() []string {
	return []string{
		"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FSETID", "CAP_FOWNER", "CAP_MKNOD", "CAP_NET_RAW", "CAP_SETGID", "CAP_SETUID",
		"CAP_SETFCAP", "CAP_SETPCAP", "CAP_NET_BIND_SERVICE", "CAP_SYS_CHROOT", "CAP_KILL", "CAP_AUDIT_WRITE",
	}
}

// MaskedPaths are docker's: what is hidden from the container.
func MaskedPaths() []string {
	masked := []string{
		"/proc/acpi", "/proc/asound", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
		"/proc/sched_debug", "/proc/scsi", "/proc/timer_list", "/proc/timer_stats", "/sys/devices/virtual/powercap",
		"/sys/firmware",
	}
	throttles, err := filepath.Glob("/sys/devices/system/cpu/cpu[0-9]*/thermal_throttle")
	if err != nil {
		return masked
	}
	return append(masked, throttles...)
}

// ReadonlyPaths are docker's.
func ReadonlyPaths() []string {
	return []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"}
}

// defaultMounts are docker's, without the cgroups where there are none, and without what the kernel keeps from users' namespaces:
// groups that they have not, and the devices of a network that is not theirs but as the host shows them.
func defaultMounts(cgroups bool, network string) []Mount {
	mounts := []Mount{
		{Type: "proc", Source: "proc", Target: "/proc", Options: []string{"nosuid", "noexec", "nodev"}},
		{Type: "tmpfs", Source: "tmpfs", Target: "/dev", Options: []string{"nosuid", "strictatime", "mode=755", "size=65536k"}},
		{Type: "devpts", Source: "devpts", Target: "/dev/pts", Options: []string{
			"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", fmt.Sprintf("gid=%d", terminals),
		}},
		{Type: "sysfs", Source: "sysfs", Target: "/sys", Options: []string{"nosuid", "noexec", "nodev", "ro"}},
		{Type: "cgroup", Source: "cgroup", Target: "/sys/fs/cgroup", Options: []string{"ro", "nosuid", "noexec", "nodev"}},
		{Type: "mqueue", Source: "mqueue", Target: "/dev/mqueue", Options: []string{"nosuid", "noexec", "nodev"}},
		{Type: "tmpfs", Source: "shm", Target: "/dev/shm", Options: []string{
			"nosuid", "noexec", "nodev", "mode=1777", "size=67108864",
		}},
	}
	ids := userns.IDs()
	if ids > 0 && ids <= terminals {
		mounts[2].Options = slices.DeleteFunc(mounts[2].Options, func(o string) bool { return strings.HasPrefix(o, "gid=") })
	}
	if ids > 0 && network == NetworkHost {
		mounts[3].Type, mounts[3].Source = "none", "/sys"
		mounts[3].Options = append(mounts[3].Options, "rbind")
	}
	if !cgroups {
		mounts = slices.Delete(mounts, 4, 5)
	}
	return mounts
}

// allMounts puts extra in the places of the defaults with the same targets, and behind them.
func allMounts(defaults, extra []Mount) ([]Mount, error) {
	at := make(map[string]int, len(defaults))
	for i, m := range defaults {
		at[m.Target] = i
	}
	mounts := defaults
	for _, m := range extra {
		if !path.IsAbs(m.Target) || path.Clean(m.Target) == "/" {
			return nil, fmt.Errorf("mount at %q: not an absolute path below /: %w", m.Target, errdefs.ErrInvalidArgument)
		}
		m.Target = path.Clean(m.Target)
		if m.Target == "/proc" || strings.HasPrefix(m.Target, "/proc/") {
			return nil, fmt.Errorf("mount at %q: /proc is the kernel's: %w", m.Target, errdefs.ErrInvalidArgument)
		}
		if i, ok := at[m.Target]; ok {
			mounts[i] = m
			continue
		}
		at[m.Target] = len(mounts)
		mounts = append(mounts, m)
	}
	return mounts, nil
}

// checkTarget refuses a mount whose target leads into /proc over links of the root file system (CVE-2019-19921), or over a link in
// the mount that it lies in, which others may write to: runc refuses it too, crun does not.
func checkTarget(root string, m Mount, mounts []Mount) error {
	outer, inside := root, m.Target
	for _, other := range mounts {
		if rest, ok := strings.CutPrefix(m.Target, other.Target+"/"); ok && other.isBind() {
			outer, inside = other.Source, "/"+rest
		}
	}
	full, err := securejoin.SecureJoin(outer, inside)
	if err != nil {
		return fmt.Errorf("mount at %q: %w", m.Target, err)
	}
	rel, err := filepath.Rel(outer, full)
	if err != nil {
		return fmt.Errorf("mount at %q: %w", m.Target, err)
	}
	switch {
	case outer != root && "/"+rel != path.Clean(inside):
		return fmt.Errorf("mount at %q: it leads over a symbolic link in another mount: %w", m.Target, errdefs.ErrInvalidArgument)
	case outer == root && (rel == "proc" || strings.HasPrefix(rel, "proc/")):
		return fmt.Errorf("mount at %q: it leads to /proc, which is the kernel's: %w", m.Target, errdefs.ErrInvalidArgument)
	}
	return nil
}

// checkPlaces refuses a root file system in which /dev, /proc or /sys is a symbolic link: the runtimes follow it in the host's
// file system when they make what is in /dev (CVE-2026-41579).
func checkPlaces(root *os.File) error {
	for _, name := range []string{"dev", "proc", "sys"} {
		var st unix.Stat_t
		err := unix.Fstatat(int(root.Fd()), name, &st, unix.AT_SYMLINK_NOFOLLOW)
		if err == nil && st.Mode&unix.S_IFMT != unix.S_IFDIR {
			message := fmt.Sprintf("the image's /%s is no directory, but is needed as one", name)
			return &StartError{Code: CodeFailed, Message: message, Err: errdefs.ErrInvalidArgument}
		}
	}
	return nil
}

// checkCwd refuses a working directory that leads through the magic links of /proc, by name or by a symbolic link of the image
// (CVE-2024-21626). A missing one is left to the runtime, which makes it when nothing but the container can be reached.
func checkCwd(root, cwd string) error {
	refuse := func(why string) error {
		message := fmt.Sprintf("the working directory %q is invalid: %s", cwd, why)
		return &StartError{Code: CodeFailed, Message: message, Err: errdefs.ErrInvalidArgument}
	}
	if !path.IsAbs(cwd) {
		return refuse("it needs to be an absolute path")
	}
	full, err := securejoin.SecureJoin(root, cwd)
	if err != nil {
		return refuse(err.Error())
	}
	rel, err := filepath.Rel(root, full)
	if err != nil {
		return refuse(err.Error())
	}
	for _, lexical := range []string{path.Clean(cwd), "/" + rel} {
		if strings.HasPrefix(lexical, "/proc/") || strings.HasPrefix(lexical, "/dev/fd") {
			return refuse("it leads out of the container's file system")
		}
	}
	return nil
}

// newConfig returns the config.json of a container.
func (x *run) newConfig(a account, mounts []Mount) (*specs.Spec, error) {
	s, capabilities := x.spec, defaultCapabilities()
	config := &specs.Spec{
		Version:  "1.0.2",
		Hostname: s.Hostname,
		Root:     &specs.Root{Path: s.Rootfs, Readonly: s.ReadOnly},
		Process: &specs.Process{
			Terminal: s.Terminal, User: a.user, Args: s.Args, Env: environment(s.Env, a.home), Cwd: s.Cwd,
			Capabilities: &specs.LinuxCapabilities{Bounding: capabilities, Effective: capabilities, Permitted: capabilities},
		},
		Linux: &specs.Linux{
			MaskedPaths: MaskedPaths(), ReadonlyPaths: ReadonlyPaths(),
			Namespaces: []specs.LinuxNamespace{
				{Type: specs.MountNamespace}, {Type: specs.PIDNamespace}, {Type: specs.IPCNamespace}, {Type: specs.UTSNamespace},
			},
			Resources: &specs.LinuxResources{Devices: []specs.LinuxDeviceCgroup{{Allow: false, Access: "rwm"}}},
		},
	}
	if s.Terminal && s.Size != nil {
		config.Process.ConsoleSize = &specs.Box{Height: uint(s.Size.Height), Width: uint(s.Size.Width)}
	}
	for _, l := range s.Limits {
		config.Process.Rlimits = append(config.Process.Rlimits, specs.POSIXRlimit{
			Type: "RLIMIT_" + strings.ToUpper(l.Name), Soft: uint64(l.Soft), Hard: uint64(l.Hard),
		})
	}
	if x.runc.cgroups != cgroupNone && x.cgroup == "" && x.alone == nil {
		config.Linux.CgroupsPath = path.Join(x.runc.place.inner(s.CgroupParent), cgroupName(x.owner.dir, s.ID))
		if x.memory != nil && x.memory.outer != "" {
			config.Linux.CgroupsPath = path.Join(x.memory.outer, "step")
		}
	}
	if x.runc.cgroups == cgroupUnified {
		config.Linux.Namespaces = append(config.Linux.Namespaces, specs.LinuxNamespace{Type: specs.CgroupNamespace})
	}
	if s.Network == NetworkNone {
		config.Linux.Namespaces = append(config.Linux.Namespaces, specs.LinuxNamespace{Type: specs.NetworkNamespace, Path: s.NetNS})
		config.Linux.Sysctl = map[string]string{
			"net.ipv4.ip_unprivileged_port_start": "0", "net.ipv4.ping_group_range": fmt.Sprintf("0 %d", lastGroup()),
		}
	}
	for _, m := range mounts {
		config.Mounts = append(config.Mounts, specs.Mount{
			Destination: m.Target, Type: m.Type, Source: m.Source, Options: m.Options,
		})
	}
	if s.Isolation.Resources != nil {
		resources := *s.Isolation.Resources
		resources.Devices = config.Linux.Resources.Devices
		config.Linux.Resources = &resources
	}
	if s.Insecure {
		return config, makeInsecure(config)
	}
	return config, s.Isolation.apply(config)
}

// lastGroup returns the highest group id that a container can have.
func lastGroup() int {
	if ids := userns.IDs(); ids > 0 {
		return ids - 1
	}
	return 1<<31 - 1
}

// environment returns env with PATH and HOME.
func environment(env []string, home string) []string {
	hasPath, hasHome := false, false
	for _, e := range env {
		hasPath = hasPath || strings.HasPrefix(e, "PATH=")
		hasHome = hasHome || strings.HasPrefix(e, "HOME=")
	}
	full := make([]string, 0, len(env)+2)
	if !hasPath {
		full = append(full, defaultPath)
	}
	full = append(full, env...)
	if !hasHome {
		full = append(full, "HOME="+home)
	}
	return full
}

// writeConfig writes config.json into the bundle.
func writeConfig(bundle string, config *specs.Spec) error {
	data, err := json.Marshal(config)
	if err != nil {
		return fmt.Errorf("fill the bundle: %w", err)
	}
	return writeScratch(filepath.Join(bundle, "config.json"), data, 0o600)
}

// isDir reports whether a mount shows a directory.
func (m Mount) isDir() (bool, error) {
	if !m.isBind() {
		return true, nil
	}
	info, err := os.Stat(m.Source)
	if err != nil {
		return false, fmt.Errorf("mount at %s: %w", m.Target, err)
	}
	return info.IsDir(), nil
}

// isBind reports whether a mount shows something of the host.
func (m Mount) isBind() bool {
	for _, o := range m.Options {
		if o == "bind" || o == "rbind" {
			return true
		}
	}
	return m.Type == "bind"
}
