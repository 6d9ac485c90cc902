package engine

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	containertypes "github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/registry"
	"github.com/moby/moby/api/types/swarm"
	"github.com/moby/moby/api/types/system"
	"golang.org/x/sys/unix"

	"strake/internal/build"
	"strake/internal/container"
	"strake/internal/executor"
	"strake/internal/mount"
	"strake/internal/rootfs"
	"strake/internal/userns"
)

// InfoResult describes this installation as docker does. Driver is how images become root file systems: erofs or unpacked. What is of a
// daemon, and of a swarm, is empty.
type InfoResult struct {
	system.Info
	RuntimeVersion string // what the default runtime says of itself
}

// Info describes the store, and what runs containers here and how. What is missing is left empty, and no error.
func Info(ctx context.Context, env *Env) (InfoResult, error) {
	images, err := env.Store.Overview(ctx)
	if err != nil {
		return InfoResult{}, err
	}
	list, err := containers(env).List(ctx)
	if err != nil {
		return InfoResult{}, err
	}
	info := InfoResult{Info: system.Info{
		Images:        len(images),
		ServerVersion: env.Version,
		OSType:        runtime.GOOS,
		Architecture:  runtime.GOARCH,
		NCPU:          runtime.NumCPU(),
		DockerRootDir: env.Store.Root(),
		LoggingDriver: "json-file",
		Plugins: system.PluginsInfo{
			Volume: []string{"local"}, Network: []string{"bridge", "host", "null"}, Log: []string{"json-file", "local", "none"},
		},
		IndexServerAddress: "https://index.docker.io/v1/",
		RegistryConfig: &registry.ServiceConfig{
			InsecureRegistryCIDRs: []netip.Prefix{netip.MustParsePrefix("::1/128"), netip.MustParsePrefix("127.0.0.0/8")},
			IndexConfigs:          map[string]*registry.IndexInfo{"docker.io": {Name: "docker.io", Mirrors: []string{}, Secure: true, Official: true}},
			Mirrors:               []string{},
		},
		Swarm:              swarm.Info{LocalNodeState: swarm.LocalNodeStateInactive},
		LiveRestoreEnabled: true, // no daemon ends that would take the containers along
		InitBinary:         "docker-init",
		CDISpecDirs:        executor.DeviceDirs(),
		SystemTime:         time.Now().Format(time.RFC3339Nano),
		Labels:             []string{},
	}}
	if info.Name, err = os.Hostname(); err != nil {
		return info, fmt.Errorf("host name: %w", err)
	}
	info.countContainers(list)
	name, reason := driver(ctx, env)
	info.Driver, info.DriverStatus = name, [][2]string{{"Reason", reason}}
	info.addRuntimes(ctx)
	info.addLimits(readKernelLimits())
	info.addSecurity()
	info.addHost()
	devices, _ := executor.Devices() // those that can be read
	for _, d := range devices {
		info.DiscoveredDevices = append(info.DiscoveredDevices, system.DeviceInfo{Source: "cdi", ID: d.Name})
	}
	return info, nil
}

func (i *InfoResult) countContainers(list []*container.Container) {
	i.Containers = len(list)
	for _, c := range list {
		switch {
		case c.State.Status == containertypes.StatePaused:
			i.ContainersPaused++
		case c.State.Running():
			i.ContainersRunning++
		default:
			i.ContainersStopped++
		}
	}
}

// addRuntimes names the runtimes that --runtime takes, and the one that is used without.
func (i *InfoResult) addRuntimes(ctx context.Context) {
	i.Runtimes = map[string]system.RuntimeWithStatus{}
	add := func(name, path string) {
		i.Runtimes[name] = system.RuntimeWithStatus{Runtime: system.Runtime{Path: path}}
	}
	for _, name := range runtimeNames {
		if path, err := exec.LookPath(name); err == nil {
			add(name, path)
		}
	}
	path, err := executor.FindRuntime()
	if err != nil {
		return
	}
	i.DefaultRuntime = filepath.Base(path)
	add(i.DefaultRuntime, path)
	if i.RuntimeVersion, err = executor.Version(ctx, path); err != nil {
		i.RuntimeVersion = "unknown"
	}
	if version, ok := strings.CutPrefix(i.RuntimeVersion, "runc version "); ok {
		i.RuncCommit.ID = version
	}
}

// addLimits tells what containers can be limited to, and warns of what they cannot.
func (i *InfoResult) addLimits(k kernelLimits) {
	i.MemoryLimit, i.SwapLimit, i.OomKillDisable = k["memory"], k["swap"], k["oom"]
	i.CPUCfsPeriod, i.CPUCfsQuota, i.CPUShares, i.CPUSet, i.PidsLimit = k["cfs"], k["cfs"], k["shares"], k["cpuset"], k["pids"]
	i.CgroupDriver, i.CgroupVersion = "cgroupfs", "1"
	if executor.UnifiedCgroups() {
		i.CgroupVersion = "2"
	}
	if !k.any() {
		i.CgroupDriver = "none"
	}
	for _, limit := range []struct {
		is   bool
		name string
	}{{i.MemoryLimit, "memory limit"}, {i.SwapLimit, "swap limit"}, {i.CPUCfsQuota, "cpu cfs quota"}, {i.CPUShares, "cpu shares"}, {i.CPUSet, "cpuset"}, {i.PidsLimit, "pids limit"}} {
		if !limit.is {
			i.Warnings = append(i.Warnings, "WARNING: No "+limit.name+" support")
		}
	}
}

func (i *InfoResult) addSecurity() {
	i.SecurityOptions = []string{"name=seccomp,profile=builtin"}
	if !userns.IsRoot() {
		i.SecurityOptions = append(i.SecurityOptions, "name=rootless")
	}
	if executor.UnifiedCgroups() {
		i.SecurityOptions = append(i.SecurityOptions, "name=cgroupns")
	}
}

// KernelVersion is the release of the kernel; "" where it says none.
func KernelVersion() string {
	var uts unix.Utsname
	if unix.Uname(&uts) != nil {
		return ""
	}
	return unix.ByteSliceToString(uts.Release[:])
}

// addHost describes the machine, and what its environment says of proxies.
func (i *InfoResult) addHost() {
	i.KernelVersion = KernelVersion()
	var uts unix.Utsname
	if unix.Uname(&uts) == nil {
		i.Architecture = unix.ByteSliceToString(uts.Machine[:])
	}
	var sys unix.Sysinfo_t
	if unix.Sysinfo(&sys) == nil {
		i.MemTotal = int64(sys.Totalram) * int64(sys.Unit)
	}
	release := readRelease()
	i.OperatingSystem, i.OSVersion = release["PRETTY_NAME"], release["VERSION_ID"]
	forwards, err := os.ReadFile("/proc/sys/net/ipv4/ip_forward")
	i.IPv4Forwarding = err == nil && strings.TrimSpace(string(forwards)) == "1"
	for variable, field := range map[string]*string{"HTTP_PROXY": &i.HTTPProxy, "HTTPS_PROXY": &i.HTTPSProxy, "NO_PROXY": &i.NoProxy} {
		*field = build.Redact(cmp.Or(os.Getenv(variable), os.Getenv(strings.ToLower(variable))))
	}
}

// readRelease reads os-release; what cannot be read is empty.
func readRelease() map[string]string {
	fields := map[string]string{}
	b, err := os.ReadFile("/etc/os-release")
	if err != nil {
		return fields
	}
	for line := range bytes.Lines(b) {
		if key, value, ok := strings.Cut(strings.TrimSpace(string(line)), "="); ok {
			fields[key] = strings.Trim(value, `"'`)
		}
	}
	return fields
}

// driver tells how a root file system would be made, and why that way.
func driver(ctx context.Context, env *Env) (name, reason string) {
	ns, err := mount.New(ctx)
	if err != nil {
		return "none", err.Error()
	}
	mounter, reason, err := rootfs.Pick(ctx, mounterOptions(env, ns))
	if err != nil {
		name, reason = "none", err.Error()
	} else {
		name = mounter.Name()
	}
	if closeErr := ns.Close(); err == nil {
		err = closeErr
	}
	if err != nil && reason == "" {
		reason = err.Error()
	}
	return name, reason
}
