package executor

import (
	"fmt"
	"os"
	"slices"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"strake/internal/userns"
)

// capabilityNames are the kernel's capabilities by number.
func capabilityNames() []string {
	return []string{
		"CHOWN", "DAC_OVERRIDE", "DAC_READ_SEARCH", "FOWNER", "FSETID", "KILL", "SETGID", "SETUID", "SETPCAP", "LINUX_IMMUTABLE",
		"NET_BIND_SERVICE", "NET_BROADCAST", "NET_ADMIN", "NET_RAW", "IPC_LOCK", "IPC_OWNER", "SYS_MODULE", "SYS_RAWIO", "SYS_CHROOT",
		"SYS_PTRACE", "SYS_PACCT", "SYS_ADMIN", "SYS_BOOT", "SYS_NICE", "SYS_RESOURCE", "SYS_TIME", "SYS_TTY_CONFIG", "MKNOD", "LEASE",
		"AUDIT_WRITE", "AUDIT_CONTROL", "SETFCAP", "MAC_OVERRIDE", "MAC_ADMIN", "SYSLOG", "WAKE_ALARM", "BLOCK_SUSPEND", "AUDIT_READ",
		"PERFMON", "BPF", "CHECKPOINT_RESTORE",
	}
}

// ownCapabilities are the effective capabilities of the calling thread.
func ownCapabilities() ([]string, error) {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&header, &data[0]); err != nil {
		return nil, fmt.Errorf("look at the capabilities: %w", err)
	}
	var own []string
	for i, name := range capabilityNames() {
		if data[i/32].Effective&(1<<(i%32)) != 0 {
			own = append(own, "CAP_"+name)
		}
	}
	return own, nil
}

// makeInsecure takes away from a config all that keeps its process from the kernel, as BuildKit does for RUN --security=insecure.
func makeInsecure(config *specs.Spec) error {
	own, err := ownCapabilities()
	if err != nil {
		return err
	}
	config.Process.Capabilities = &specs.LinuxCapabilities{
		Bounding: own, Effective: own, Permitted: own, Inheritable: own, Ambient: own,
	}
	config.Linux.MaskedPaths, config.Linux.ReadonlyPaths = nil, nil
	config.Linux.Resources.Devices = []specs.LinuxDeviceCgroup{
		{Allow: true, Type: "c", Access: "rwm"}, {Allow: true, Type: "b", Access: "rwm"},
	}
	for i, m := range config.Mounts {
		if m.Type == "sysfs" || m.Type == "cgroup" {
			config.Mounts[i].Options = slices.DeleteFunc(slices.Clone(m.Options), func(o string) bool { return o == "ro" })
		}
	}
	for _, d := range []specs.LinuxDevice{
		{Path: "/dev/kmsg", Major: 1, Minor: 11},
		{Path: "/dev/cuse", Major: 10, Minor: 203},
		{Path: "/dev/fuse", Major: 10, Minor: 229},
		{Path: "/dev/kvm", Major: 10, Minor: 232},
		{Path: "/dev/net/tun", Major: 10, Minor: 200},
		{Path: "/dev/loop-control", Major: 10, Minor: 237},
	} {
		d.Type = "c"
		config.Linux.Devices = append(config.Linux.Devices, d)
	}
	for i := range loopDevices() {
		config.Linux.Devices = append(config.Linux.Devices, specs.LinuxDevice{
			Path: fmt.Sprintf("/dev/loop%d", i), Type: "b", Major: 7, Minor: int64(i),
		})
	}
	if userns.IDs() > 0 { // where the runtime can make none, but show those of the host
		config.Linux.Devices = slices.DeleteFunc(config.Linux.Devices, func(d specs.LinuxDevice) bool { return !exists(d.Path) })
	}
	return nil
}

// loopDevices is how many loop devices a process that may do anything is given: those in use, and some more.
func loopDevices() int {
	const spare = 8
	control, err := os.OpenFile("/dev/loop-control", os.O_RDWR, 0)
	if err != nil {
		return spare
	}
	defer func() { _ = control.Close() }() // nothing was written
	free, err := unix.IoctlRetInt(int(control.Fd()), unix.LOOP_CTL_GET_FREE)
	if err != nil {
		return spare
	}
	return free + spare
}
