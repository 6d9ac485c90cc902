package cli

import (
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/netip"
	"strconv"
	"strings"

	"github.com/docker/go-units"
	"github.com/moby/moby/api/types/container"
	"github.com/spf13/pflag"
)

// containerFlags are the flags of run and create that say how a container runs. Most are read right into the place that docker's
// types have for them; read makes the rest of them.
type containerFlags struct {
	config container.Config
	host   container.HostConfig

	attach, envFiles, labels, labelFiles     []string
	volumes, tmpfs, publish, expose, devices []string
	logOptions, storageOptions               []string
	entrypoint, restart                      string
	stopTimeout                              int
	useInit, noHealthcheck                   bool
	health                                   container.HealthConfig
	ulimits                                  map[string]*container.Ulimit
	networks                                 []attachment // --network, in order
	firstNetwork                             attachment   // what the flags without a network's name say of the first
}

// newContainerFlags adds the flags.
func newContainerFlags(flags *pflag.FlagSet) *containerFlags {
	f := &containerFlags{ulimits: map[string]*container.Ulimit{}}
	for _, add := range []func(*pflag.FlagSet){
		f.addGeneral, f.addSecurity, f.addNetwork, f.addStorage, f.addHealth, f.addCPU, f.addMemory, f.addDevices, f.addNamespaces, addForeign,
	} {
		add(flags)
	}
	return f
}

func (f *containerFlags) addGeneral(flags *pflag.FlagSet) {
	each(flags, "list", "attach", "a", "Attach to STDIN, STDOUT or STDERR", f.addStream)
	each(flags, "list", "env", "e", "Set environment variables", func(v string) error {
		v, err := variable(v)
		f.config.Env = append(f.config.Env, v)
		return err
	})
	list(flags, &f.envFiles, "env-file", "", "Read in a file of environment variables")
	flags.StringVar(&f.entrypoint, "entrypoint", "", "Overwrite the default ENTRYPOINT of the image")
	list(flags, &f.host.GroupAdd, "group-add", "", "Add additional groups to join")
	flags.StringVarP(&f.config.Hostname, "hostname", "h", "", "Container host name")
	flags.StringVar(&f.config.Domainname, "domainname", "", "Container NIS domain name")
	flags.BoolVarP(&f.config.OpenStdin, "interactive", "i", false, "Keep STDIN open even if not attached")
	flags.VarP(listFlag{&f.labels, "list", checkLabel}, "label", "l", "Set meta data on a container")
	list(flags, &f.labelFiles, "label-file", "", "Read in a line delimited file of labels")
	flags.BoolVar(&f.host.ReadonlyRootfs, "read-only", false, "Mount the container's root filesystem as read only")
	flags.StringVar(&f.restart, "restart", "no", "Restart policy to apply when a container exits")
	flags.StringVar(&f.config.StopSignal, "stop-signal", "", "Signal to stop the container")
	flags.IntVar(&f.stopTimeout, "stop-timeout", 0, "Timeout (in seconds) to stop a container")
	pairs(flags, &f.host.Sysctls, "sysctl", "Sysctl options", checkSysctl)
	flags.BoolVarP(&f.config.Tty, "tty", "t", false, "Allocate a pseudo-TTY")
	each(flags, "ulimit", "ulimit", "", "Ulimit options", func(v string) error {
		limit, err := units.ParseUlimit(v)
		if err == nil {
			f.ulimits[limit.Name] = limit
		}
		return err
	})
	flags.StringVarP(&f.config.User, "user", "u", "", "Username or UID (format: <name|uid>[:<group|gid>])")
	flags.StringVarP(&f.config.WorkingDir, "workdir", "w", "", "Working directory inside the container")
	flags.BoolVar(&f.host.AutoRemove, "rm", false, "Automatically remove the container and its associated anonymous volumes when it exits")
	flags.StringVar(&f.host.ContainerIDFile, "cidfile", "", "Write the container ID to the file")
	flags.BoolVar(&f.useInit, "init", false, "Run an init inside the container that forwards signals and reaps processes")
	pairs(flags, &f.host.Annotations, "annotation", "Add an annotation to the container (passed through to the OCI runtime)", nil)
}

func (f *containerFlags) addSecurity(flags *pflag.FlagSet) {
	list(flags, &f.host.CapAdd, "cap-add", "", "Add Linux capabilities")
	list(flags, &f.host.CapDrop, "cap-drop", "", "Drop Linux capabilities")
	flags.BoolVar(&f.host.Privileged, "privileged", false, "Give extended privileges to this container")
	list(flags, &f.host.SecurityOpt, "security-opt", "", "Security Options")
	flags.StringVar((*string)(&f.host.UsernsMode), "userns", "", "User namespace to use")
	each(flags, "umask", "umask", "", "Set umask for the container", func(v string) error {
		mask, err := strconv.ParseUint(v, 8, 32)
		f.host.Umask = new(uint32(mask))
		return err
	})
}

func (f *containerFlags) addNetwork(flags *pflag.FlagSet) {
	each(flags, "list", "add-host", "", "Add a custom host-to-IP mapping (host:ip)", func(v string) error {
		host, err := extraHost(v)
		f.host.ExtraHosts = append(f.host.ExtraHosts, host)
		return err
	})
	each(flags, "list", "dns", "", "Set custom DNS servers", func(v string) error {
		ip, err := parseIP(v)
		f.host.DNS = append(f.host.DNS, ip)
		return err
	})
	for _, name := range []string{"dns-opt", "dns-option"} {
		list(flags, &f.host.DNSOptions, name, "", "Set DNS options")
	}
	each(flags, "list", "dns-search", "", "Set custom DNS search domains", func(v string) error {
		domain, err := searchDomain(v)
		f.host.DNSSearch = append(f.host.DNSSearch, domain)
		return err
	})
	list(flags, &f.expose, "expose", "", "Expose a port or a range of ports")
	first := &f.firstNetwork
	address(flags, &first.ipv4, "ip", "IPv4 address (e.g., 172.30.100.104)")
	address(flags, &first.ipv6, "ip6", "IPv6 address (e.g., 2001:db8::33)")
	flags.Var(listFlag{&f.host.Links, "list", checkLink}, "link", "Add link to another container")
	each(flags, "list", "link-local-ip", "", "Container IPv4/IPv6 link-local addresses", func(v string) error {
		if ip, err := netip.ParseAddr(v); err == nil { // docker passes others over
			first.linkLocal = append(first.linkLocal, ip)
		}
		return nil
	})
	flags.StringVar(&first.mac, "mac-address", "", "Container MAC address (e.g., 92:d0:c6:0a:29:33)")
	list(flags, &f.publish, "publish", "p", "Publish a container's port(s) to the host")
	flags.BoolVarP(&f.host.PublishAllPorts, "publish-all", "P", false, "Publish all exposed ports to random ports")
	for _, name := range []string{"net", "network"} {
		each(flags, "network", name, "", "Connect a container to a network", func(v string) error {
			a, err := parseAttachment(v)
			f.networks = append(f.networks, a)
			return err
		})
	}
	for _, name := range []string{"net-alias", "network-alias"} {
		list(flags, &first.aliases, name, "", "Add network-scoped alias for the container")
	}
	for _, old := range []string{"dns-opt", "net", "net-alias"} {
		flags.Lookup(old).Hidden = true
	}
}

func (f *containerFlags) addStorage(flags *pflag.FlagSet) {
	flags.StringVar(&f.host.LogConfig.Type, "log-driver", "", "Logging driver for the container")
	flags.StringVar(&f.host.VolumeDriver, "volume-driver", "", "Optional volume driver for the container")
	list(flags, &f.logOptions, "log-opt", "", "Log driver options")
	list(flags, &f.storageOptions, "storage-opt", "", "Storage driver options for the container")
	list(flags, &f.tmpfs, "tmpfs", "", "Mount a tmpfs directory")
	list(flags, &f.host.VolumesFrom, "volumes-from", "", "Mount volumes from the specified container(s)")
	list(flags, &f.volumes, "volume", "v", "Bind mount a volume")
	each(flags, "mount", "mount", "", "Attach a filesystem mount to the container", func(v string) error {
		m, err := parseMount(v)
		f.host.Mounts = append(f.host.Mounts, m)
		return err
	})
}

func (f *containerFlags) addHealth(flags *pflag.FlagSet) {
	each(flags, "string", "health-cmd", "", "Command to run to check health", func(v string) error {
		f.health.Test = nil
		if v != "" {
			f.health.Test = []string{"CMD-SHELL", v}
		}
		return nil
	})
	flags.DurationVar(&f.health.Interval, "health-interval", 0, "Time between running the check (ms|s|m|h) (default 0s)")
	flags.IntVar(&f.health.Retries, "health-retries", 0, "Consecutive failures needed to report unhealthy")
	flags.DurationVar(&f.health.Timeout, "health-timeout", 0, "Maximum time to allow one check to run (ms|s|m|h) (default 0s)")
	flags.DurationVar(&f.health.StartPeriod, "health-start-period", 0,
		"Start period for the container to initialize before starting health-retries countdown (ms|s|m|h) (default 0s)")
	flags.DurationVar(&f.health.StartInterval, "health-start-interval", 0,
		"Time between running the check during the start period (ms|s|m|h) (default 0s)")
	flags.BoolVar(&f.noHealthcheck, "no-healthcheck", false, "Disable any container-specified HEALTHCHECK")
}

func (f *containerFlags) addCPU(flags *pflag.FlagSet) {
	r := &f.host.Resources
	flags.StringVar(&r.CpusetCpus, "cpuset-cpus", "", "CPUs in which to allow execution (0-3, 0,1)")
	flags.StringVar(&r.CpusetMems, "cpuset-mems", "", "MEMs in which to allow execution (0-3, 0,1)")
	flags.Int64Var(&r.CPUPeriod, "cpu-period", 0, "Limit CPU CFS (Completely Fair Scheduler) period")
	flags.Int64Var(&r.CPUQuota, "cpu-quota", 0, "Limit CPU CFS (Completely Fair Scheduler) quota")
	flags.Int64Var(&r.CPURealtimePeriod, "cpu-rt-period", 0, "Limit CPU real-time period in microseconds")
	flags.Int64Var(&r.CPURealtimeRuntime, "cpu-rt-runtime", 0, "Limit CPU real-time runtime in microseconds")
	flags.Int64VarP(&r.CPUShares, "cpu-shares", "c", 0, "CPU shares (relative weight)")
	each(flags, "decimal", "cpus", "", "Number of CPUs", func(v string) (err error) {
		r.NanoCPUs, err = parseCPUs(v)
		return err
	})
}

func (f *containerFlags) addMemory(flags *pflag.FlagSet) {
	r := &f.host.Resources
	size := func(name, short, about string, place *int64) {
		each(flags, "bytes", name, short, about, func(v string) (err error) {
			*place, err = units.RAMInBytes(v)
			return err
		})
	}
	size("memory", "m", "Memory limit", &r.Memory)
	size("memory-reservation", "", "Memory soft limit", &r.MemoryReservation)
	size("shm-size", "", "Size of /dev/shm", &f.host.ShmSize)
	each(flags, "bytes", "memory-swap", "", "Swap limit equal to memory plus swap: '-1' to enable unlimited swap", func(v string) (err error) {
		if r.MemorySwap = -1; v != "-1" {
			r.MemorySwap, err = units.RAMInBytes(v)
		}
		return err
	})
	r.MemorySwappiness, r.OomKillDisable, r.PidsLimit = new(int64), new(bool), new(int64)
	flags.Int64Var(r.MemorySwappiness, "memory-swappiness", -1, "Tune container memory swappiness (0 to 100)")
	flags.BoolVar(r.OomKillDisable, "oom-kill-disable", false, "Disable OOM Killer")
	flags.IntVar(&f.host.OomScoreAdj, "oom-score-adj", 0, "Tune host's OOM preferences (-1000 to 1000)")
	flags.Int64Var(r.PidsLimit, "pids-limit", 0, "Tune container pids limit (set -1 for unlimited)")
	flags.String("kernel-memory", "", "Kernel memory limit (deprecated)")
	flags.Lookup("kernel-memory").Deprecated = "and no longer supported by the kernel"
	flags.Lookup("kernel-memory").Hidden = true
}

func (f *containerFlags) addDevices(flags *pflag.FlagSet) {
	r := &f.host.Resources
	flags.Var(listFlag{&r.DeviceCgroupRules, "list", checkDeviceRule}, "device-cgroup-rule", "Add a rule to the cgroup allowed devices list")
	list(flags, &f.devices, "device", "", "Add a host device to the container")
	each(flags, "gpu-request", "gpus", "", "GPU devices to add to the container ('all' to pass all GPUs)", func(v string) error {
		request, err := parseGPUs(v)
		r.DeviceRequests = append(r.DeviceRequests, request)
		return err
	})
	flags.Uint16Var(&r.BlkioWeight, "blkio-weight", 0, "Block IO (relative weight), between 10 and 1000, or 0 to disable (default 0)")
	each(flags, "list", "blkio-weight-device", "", "Block IO weight (relative device weight)", func(v string) error {
		device, err := parseWeight(v)
		r.BlkioWeightDevice = append(r.BlkioWeightDevice, device)
		return err
	})
	throttle(flags, &r.BlkioDeviceReadBps, "device-read-bps", "Limit read rate (bytes per second) from a device", parseByteRate)
	throttle(flags, &r.BlkioDeviceReadIOps, "device-read-iops", "Limit read rate (IO per second) from a device", parseRate)
	throttle(flags, &r.BlkioDeviceWriteBps, "device-write-bps", "Limit write rate (bytes per second) to a device", parseByteRate)
	throttle(flags, &r.BlkioDeviceWriteIOps, "device-write-iops", "Limit write rate (IO per second) to a device", parseRate)
}

func (f *containerFlags) addNamespaces(flags *pflag.FlagSet) {
	flags.StringVar(&f.host.CgroupParent, "cgroup-parent", "", "Optional parent cgroup for the container")
	flags.StringVar((*string)(&f.host.IpcMode), "ipc", "", "IPC mode to use")
	flags.StringVar((*string)(&f.host.Isolation), "isolation", "", "Container isolation technology")
	flags.StringVar((*string)(&f.host.PidMode), "pid", "", "PID namespace to use")
	flags.StringVar((*string)(&f.host.UTSMode), "uts", "", "UTS namespace to use")
	flags.StringVar(&f.host.Runtime, "runtime", "", "Runtime to use for this container")
	flags.StringVar((*string)(&f.host.CgroupnsMode), "cgroupns", "", `Cgroup namespace to use (host|private)
'host':    Run the container in the host's cgroup namespace
'private': Run the container in its own private cgroup namespace
'':        Use a private one where cgroups are of version 2 alone (default)`)
}

// addForeign takes the flags that docker refuses on Linux, and one that asks for what is not there without a daemon.
func addForeign(flags *pflag.FlagSet) {
	for _, name := range []string{"cpu-count", "cpu-percent", "io-maxbandwidth", "io-maxiops"} {
		each(flags, "string", name, "", "", func(string) error { return errors.New("it is only supported on Windows") })
		flags.Lookup(name).Hidden = true
	}
	flag := flags.VarPF(valueFlag{"bool", func(v string) error {
		if use, err := strconv.ParseBool(v); use || err != nil {
			return errors.New("there is no daemon whose socket a container could use")
		}
		return nil
	}}, "use-api-socket", "", "")
	flag.Hidden, flag.NoOptDefVal = true, "true"
}

// valueFlag is a flag whose values are handed to a function, and whose default is not shown.
type valueFlag struct {
	kind string // what the help calls a value
	set  func(string) error
}

func (f valueFlag) String() string { return "" }

func (f valueFlag) Type() string { return f.kind }

func (f valueFlag) Set(value string) error { return f.set(value) }

func each(flags *pflag.FlagSet, kind, name, short, about string, set func(string) error) {
	flags.VarP(valueFlag{kind, set}, name, short, about)
}

// pairs adds a flag whose values are KEY[=VALUE].
func pairs(flags *pflag.FlagSet, values *map[string]string, name, about string, check func(string) error) {
	*values = map[string]string{}
	each(flags, "map", name, "", about, func(v string) error {
		if check != nil {
			if err := check(v); err != nil {
				return err
			}
		}
		key, value, _ := strings.Cut(v, "=")
		(*values)[key] = value
		return nil
	})
}

func address(flags *pflag.FlagSet, place *netip.Addr, name, about string) {
	each(flags, "ip", name, "", about, func(v string) error {
		ip := net.ParseIP(strings.TrimSpace(v))
		if ip == nil {
			return fmt.Errorf("failed to parse IP: %q", v)
		}
		*place, _ = netip.AddrFromSlice(ip) // of a right length
		*place = place.Unmap()
		return nil
	})
}

func parseCPUs(v string) (int64, error) {
	cpus, ok := new(big.Rat).SetString(v)
	if !ok || strings.ContainsAny(v, "eEpP") { // an exponent may make the number as large as memory
		return 0, fmt.Errorf("failed to parse %s as a rational number", v)
	}
	nano := cpus.Mul(cpus, big.NewRat(1e9, 1))
	if !nano.IsInt() || !nano.Num().IsInt64() {
		return 0, errors.New("value is too precise")
	}
	return nano.Num().Int64(), nil
}
